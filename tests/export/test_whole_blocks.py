"""What loses whole blocks is exported as a stock model of fewer."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from bipcore.export.export import load_pruned, save_pruned
from bipcore.export.stock import stock_problem
from bipcore.models.adapters import Adapter
from bipcore.models.loading import load_model
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.folders import model_folder, text_tokenizer
from tests.helpers.tiny import FAMILIES, MORE_FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

BIASED = ("llama-gqa", "opt", "neox", "neox-sequential", "ernie4_5", "starcoder2", "phi")
UNBIASED = [(name, "auto") for name in FAMILIES + MORE_FAMILIES if name not in BIASED]
UNBIASED += [(name, "bfloat16") for name in FAMILIES if name not in BIASED]
TOKENS = tiny_tokens(2, 20)


def without(model, gone: int, *, heads: int | None = None) -> PruningPlan:
    """The plan that removes the block ``gone``, and leaves so many heads of the others."""
    shape = Adapter(model).shape
    blocks = [
        BlockPlan(tuple(range(heads or was.heads)), tuple(range(was.channels)))
        for was in shape.blocks
    ]
    blocks[gone] = BlockPlan((), ())
    return PruningPlan(shape, tuple(blocks))


@pytest.mark.parametrize(("name", "dtype"), UNBIASED)
def test_a_stock_class_of_fewer_blocks_gives_the_same_logits(tmp_path, name, dtype):
    model = tiny_model(name)
    plan = without(model, 0)
    pruned = apply_plan(model, plan)
    out = str(tmp_path / "out")
    made = save_pruned(pruned, text_tokenizer(), out, plan=plan, save_dtype=dtype)
    assert (made.format, made.tier) == ("stock", 1)
    with torch.no_grad():
        expected = pruned(input_ids=TOKENS).logits
        again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        assert again.config.num_hidden_layers == len(plan.left) == len(plan.blocks) - 1
        got = again(input_ids=TOKENS).logits
        torch.testing.assert_close(got, expected, atol=1e-4 if dtype == "auto" else 0.3, rtol=0)
        cached = again.generate(TOKENS[:1], max_new_tokens=4, do_sample=False)
        afresh = again.generate(TOKENS[:1], max_new_tokens=4, do_sample=False, use_cache=False)
        assert torch.equal(cached, afresh)
    assert Adapter(load_pruned(out, dtype="float32")[0]).shape.blocks == again_shape(plan)


def again_shape(plan: PruningPlan) -> tuple:
    return tuple(plan.pruned_shape.blocks[index] for index in plan.left)


@pytest.mark.parametrize("name", BIASED)
def test_where_output_biases_stay_the_blocks_do_too(name):
    model = tiny_model(name)
    plan = without(model, 0)
    assert "output biases" in stock_problem(plan, model.config)
    assert stock_problem(plan, model.config, apply_plan(model, plan)) is not None


def test_blocks_of_other_widths_are_no_hindrance_where_those_left_are_alike(tmp_path):
    model = tiny_model("qwen3")
    shape = Adapter(model).shape
    narrow = BlockPlan((0, 4), tuple(range(10)))
    plan = PruningPlan(shape, (narrow, BlockPlan((), ()), narrow))
    made = save_pruned(apply_plan(model, plan), text_tokenizer(), tmp_path / "out", plan=plan)
    assert made.format == "stock"
    plan = PruningPlan(shape, (narrow, BlockPlan((), ()), BlockPlan((0, 4), tuple(range(9)))))
    assert "different widths" in stock_problem(plan, model.config)
    plan = PruningPlan(shape, (BlockPlan((), (1,)), BlockPlan((), ()), BlockPlan((), (2,))))
    assert "whole sublayers" in stock_problem(plan, model.config)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_streamed_model_is_written_so_too(tmp_path, dtype):
    folder = str(model_folder(tmp_path / "model"))
    model, tokenizer = load_model(folder, device="cpu", dtype="float32", memory="1MB")
    plan = without(model, 1)
    made = save_pruned(apply_plan(model, plan), tokenizer, tmp_path / "out", plan=plan)
    assert made.format == "stock"
    expected = apply_plan(load_model(folder, device="cpu", dtype="float32")[0], plan)
    with torch.no_grad():
        got = load_pruned(made.folder)[0](input_ids=TOKENS).logits
        torch.testing.assert_close(got, expected(input_ids=TOKENS).logits)
