"""Which programs take a plan: what is said of those that are here is what their formats do."""

import pytest

from bipcore.export.formats import FORMATS
from bipcore.export.modelling_file import pruned_form
from bipcore.export.runtimes import runtimes
from bipcore.pruning.editing import drop_ffn
from bipcore.pruning.slicing import apply_plan
from bipcore.views.runtimes import runtimes_frame
from tests.helpers.gguf import plan_of, readable_model
from tests.helpers.tiny import FAMILIES, tiny_model
from tests.helpers.tiny import one_thread as one_thread

OF = {"transformers 5": "stock", "llama.cpp": "gguf"}
PLANS = {
    "same": {"sparsity": 0.5},
    "channels": {"sparsity": 0.3, "unit": "none"},
    "mixed": {"sparsity": 0.4, "protect_first": 1},
}


def _verdicts(name: str, **options) -> dict:
    model = readable_model(name)
    return {one.program: one for one in runtimes(plan_of(model, **options), model.config)}


@pytest.mark.parametrize("how", PLANS)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_said_is_what_the_format_takes(name, how):
    model = readable_model(name)
    plan = plan_of(model, **PLANS[how])
    said = {one.program: one for one in runtimes(plan, model.config)}
    for program, wanted in OF.items():
        problem = FORMATS[wanted].problem(plan, model.config)
        assert (said[program].takes, said[program].reason) == (problem is None, problem or "")
    assert said["transformers 5, running code"].takes


def test_the_nearest_plan_of_mixed_widths_is_taken():
    mixed, same = (_verdicts("llama", **PLANS[how]) for how in ("mixed", "same"))
    assert "--allocation uniform" in mixed["transformers 5"].nearest
    for program in ("transformers 5", "vLLM", "MLX"):
        assert not mixed[program].takes
        assert same[program].takes
    assert mixed["llama.cpp"].takes


def test_fewer_heads_do_not_fit_a_program_that_divides_the_hidden_size():
    fewer, all_heads = (_verdicts("qwen2", **PLANS[how]) for how in ("same", "channels"))
    for program in ("vLLM", "MLX"):
        assert "width of a head" in fewer[program].reason
        assert "--unit none" in fewer[program].nearest
        assert all_heads[program].takes
    assert fewer["llama.cpp"].takes


def test_with_the_modelling_file_vllm_takes_channels_that_differ_but_no_heads_that_do():
    program = "vLLM, running code"
    mixed, same = (_verdicts("qwen2", **PLANS[how])[program] for how in ("mixed", "same"))
    assert not mixed.takes
    assert "the number of heads" in mixed.reason
    assert (same.takes, same.format, same.tried) == (True, "modelling-file", False)
    assert not _verdicts("opt", **PLANS["same"])[program].takes
    channels = _verdicts("qwen2", sparsity=0.3, unit="none", protect_first=1)
    stablelm = tiny_model("stablelm")
    plan = plan_of(stablelm, sparsity=0.3, unit="none")
    said = {one.program: one for one in runtimes(plan, stablelm.config)}[program]
    assert (said.takes, "passes nothing on" in said.reason) == (False, True)
    assert not channels["vLLM"].takes
    assert channels[program].takes


@pytest.mark.parametrize("how", PLANS)
@pytest.mark.parametrize("name", FAMILIES)
def test_heads_that_vllm_takes_with_the_modelling_file_are_those_of_its_configuration(name, how):
    model = readable_model(name)
    plan = plan_of(model, **PLANS[how])
    said = pruned_form(apply_plan(model, plan), plan).config
    fits = {block.heads for block in plan.pruned_shape.blocks} == {said.num_attention_heads}
    verdict = {one.program: one for one in runtimes(plan, model.config)}["vLLM, running code"]
    assert verdict.takes == fits


def test_rotary_embeddings_that_came_later_need_the_newer_transformers():
    config = readable_model("gemma3-linear").config
    config.rope_parameters["sliding_attention"]["rope_type"] = "linear"
    config.rope_parameters["sliding_attention"]["factor"] = 2.0
    said = {one.program: one for one in runtimes(plan_of(readable_model("gemma3")), config)}
    assert not said["transformers 4.57"].takes
    assert not said["llama.cpp"].takes


def test_the_table_says_what_was_not_run():
    model = readable_model("llama")
    plan = drop_ffn(plan_of(model), 1)
    frame = runtimes_frame(runtimes(plan, model.config)).set_index("program")
    assert frame.run_here["llama.cpp"] == "yes"
    others = ["vLLM", "MLX", "ONNX (Optimum)", "vLLM, running code"]
    assert set(frame.run_here[others]) == {"no, read in its sources"}
    assert frame.format["llama.cpp"] == "gguf"
    assert "different widths" in frame.why_not["transformers 5"]
