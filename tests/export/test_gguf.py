"""GGUF files: what stands in them, and that they are whole or not there."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer
from torch import nn

from bipcore.errors import InputError
from bipcore.export.export import Export, read_export, same_export, save_pruned
from bipcore.export.formats import choose_format
from bipcore.export.gguf import format as gguf_format
from bipcore.export.gguf.rope import rope_factors
from bipcore.export.gguf.tokens import token_keys, tokenizer_problem
from bipcore.models.adapters import Adapter
from bipcore.models.loading import load_model
from bipcore.pruning.editing import drop_attention, drop_ffn
from bipcore.pruning.plan import PruningPlan, load_plan
from bipcore.pruning.slicing import apply_plan, shallow_clone
from bipcore.specs import RecoverySpec
from tests.helpers.folders import text_tokenizer, tree
from tests.helpers.gguf import (
    CUTS,
    merging_tokenizer,
    piece_tokenizer,
    plan_of,
    readable_model,
    trained_tokenizer,
)
from tests.helpers.tiny import one_thread as one_thread
from tests.helpers.tiny import word_tokenizer

UNIFORM, MIXED = {"sparsity": 0.5}, {"sparsity": 0.4, "protect_first": 1}


def made(name: str = "llama", **options) -> tuple[nn.Module, PruningPlan]:
    """A pruned model and its plan."""
    model = readable_model(name)
    plan = plan_of(model, **options)
    return apply_plan(model, plan), plan


def save(file, model: nn.Module, plan: PruningPlan, **options) -> Export:
    options = {"format": "gguf", **options}
    return save_pruned(model, merging_tokenizer(), file, plan=plan, **options)


def read(file) -> tuple[dict, dict]:
    """The keys of a file, and its tensors as the package reads them, in float32."""
    reader = gguf.GGUFReader(file)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {each.name: gguf.dequantize(each.data, each.tensor_type) for each in reader.tensors}
    return keys, tensors


def turned(rows: np.ndarray, heads: int) -> np.ndarray:
    """Row by row: of each head the first of either half, then the second of either, and so on."""
    width = len(rows) // heads
    order = [
        head * width + half * width // 2 + pair
        for head in range(heads)
        for pair in range(width // 2)
        for half in range(2)
    ]
    return rows[order]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "out" / "model.gguf"


@pytest.mark.parametrize(("options", "architecture"), [(UNIFORM, "llama"), (MIXED, "deci")])
def test_every_tensor_is_that_of_the_model(file, options, architecture):
    model, plan = made("llama-gqa", **options)
    done = save(file, model, plan)
    assert (done.model_class, done.dtype, done.max_logit_difference) == (architecture, "f32", 0.0)
    keys, tensors = read(file)
    assert keys["general.architecture"] == architecture
    said = {name: value.numpy() for name, value in model.state_dict().items()}
    found = {
        "token_embd.weight": said["model.embed_tokens.weight"],
        "output.weight": said["lm_head.weight"],
        "output_norm.weight": said["model.norm.weight"],
    }
    for index, shape in enumerate(plan.pruned_shape.blocks):
        old, new = f"model.layers.{index}", f"blk.{index}"
        found[f"{new}.attn_norm.weight"] = said[f"{old}.input_layernorm.weight"]
        found[f"{new}.ffn_norm.weight"] = said[f"{old}.post_attention_layernorm.weight"]
        for kind in ("weight", "bias"):
            attention = {x: said[f"{old}.self_attn.{x}_proj.{kind}"] for x in "qkvo"}
            found[f"{new}.attn_q.{kind}"] = turned(attention["q"], shape.heads)
            found[f"{new}.attn_k.{kind}"] = turned(attention["k"], shape.kv_heads)
            found[f"{new}.attn_v.{kind}"] = attention["v"]
            found[f"{new}.attn_output.{kind}"] = attention["o"]
            for name in ("gate", "up", "down"):
                found[f"{new}.ffn_{name}.{kind}"] = said[f"{old}.mlp.{name}_proj.{kind}"]
    assert sorted(tensors) == sorted(found)
    for name, value in found.items():
        np.testing.assert_array_equal(tensors[name], value, err_msg=name)


def test_widths_are_one_number_each_or_one_for_every_block(file):
    save(file, *made("llama-gqa", **UNIFORM))
    keys, _ = read(file)
    names = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    assert [keys[f"llama.{name}"] for name in names] == [4, 2, 42]
    assert keys["llama.attention.key_length"] == keys["llama.attention.value_length"] == 8
    save(file, *made("llama-gqa", **MIXED))
    keys, _ = read(file)
    found = [keys[f"deci.{name}"] for name in names]
    assert found == [[8, 4, 4], [2, 2, 2], [96, 27, 27]]


def test_what_is_gone_has_no_heads_or_channels_of_zeros(file):
    plan = drop_ffn(drop_attention(plan_of(readable_model("llama")), 1), 2)
    save(file, apply_plan(readable_model("llama"), plan), plan)
    keys, tensors = read(file)
    assert keys["deci.attention.head_count"][1:] == [0, 4]
    assert keys["deci.feed_forward_length"][2] == 32
    assert [name for name in tensors if name.startswith("blk.1.attn")] == []
    assert tensors["blk.2.ffn_down.weight"].shape == (64, 32)
    assert not any(tensors[f"blk.2.ffn_{name}.weight"].any() for name in ("gate", "up", "down"))


def test_a_tied_head_is_not_written_twice(file):
    save(file, *made("qwen3", **UNIFORM))
    assert "output.weight" not in read(file)[1]


def test_gemmas_norms_are_written_with_their_one(file):
    model, plan = made("gemma3", **UNIFORM)
    save(file, model, plan)
    _, tensors = read(file)
    written = torch.tensor(tensors["output_norm.weight"])
    torch.testing.assert_close(written, model.model.norm.weight.detach() + 1, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_matrices_are_rounded_and_vectors_are_not(file, kind):
    model, plan = made(sparsity=0.5, round_to=32)
    done = save(file, model, plan, quantize=kind)
    assert done.dtype == kind
    assert 0 < done.max_logit_difference < 2
    _, tensors = read(file)
    down = model.model.layers[0].mlp.down_proj.weight.detach()
    assert tensors["blk.0.ffn_norm.weight"].dtype == np.float32
    found = torch.from_numpy(tensors["blk.0.ffn_down.weight"].copy())
    if kind == "q8_0":
        for row, own in zip(found, down, strict=True):
            for part in range(0, len(own), 32):
                step = own[part : part + 32].abs().max() / 127
                steps = own[part : part + 32] / step
                expected = steps.abs().add(0.5).floor() * steps.sign() * step.half().float()
                torch.testing.assert_close(row[part : part + 32], expected)
    else:
        dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[kind]
        assert torch.equal(found, down.to(dtype).float())
    card = (file.parent / "model.md").read_text()
    assert f"{kind}, rounded after it was measured" in card.replace("\\_", "_")


def test_the_type_of_the_model_is_kept_where_none_is_said(file):
    model, plan = made(**UNIFORM)
    assert save(file, model, plan, save_dtype="bfloat16").dtype == "bf16"


def test_llama3_divides_the_frequencies_as_transformers_does():
    model = readable_model("llama3")
    inverse = 500.0 ** -(torch.arange(4) / 4)
    torch.testing.assert_close(
        inverse / rope_factors(model.config), model.model.rotary_emb.inv_freq
    )


def test_the_plan_and_the_card_lie_beside_the_file(tmp_path, file):
    model, plan = made(**UNIFORM)
    done = save(file, model, plan, source="abc", base_model="owner/name")
    names = ["model.bipcore.json", "model.gguf", "model.md", "model.plan.json"]
    assert tree(tmp_path) == ["out", *(f"out/{name}" for name in names)]
    assert load_plan(file.parent / "model.plan.json").blocks == plan.blocks
    card = (file.parent / "model.md").read_text()
    assert "llama-cli -m path/to/model.gguf" in card
    assert "`model.plan.json` lists" in card
    assert "README" not in card
    assert (done.format, done.tier, done.folder) == ("gguf", 3, str(file))
    assert read_export(file) == done == same_export(file, "abc")
    assert done.bytes == sum(
        (file.parent / name).stat().st_size for name in names if name != "model.bipcore.json"
    )


def test_a_file_that_was_changed_is_not_the_same_export(file):
    save(file, *made(**UNIFORM), source="abc")
    with file.open("r+b") as opened:
        opened.seek(-1, 2)
        opened.write(b"\x01")
    assert same_export(file, "abc") is None


def test_a_recovered_model_has_no_adapter_beside_its_file(file):
    save(file, *made(**UNIFORM), recovery=RecoverySpec(source="builtin", train="lora"))
    card = (file.parent / "model.md").read_text()
    assert "the adapter is merged into the weights" in card
    assert "adapter/" not in card


def test_an_earlier_export_is_replaced_and_others_beside_it_are_left(tmp_path, file):
    save(file, *made(**UNIFORM))
    (file.parent / "notes.txt").write_text("mine")
    save(file.with_name("other.gguf"), *made(**UNIFORM))
    before = file.read_bytes()
    save(file, *made(**MIXED))
    assert file.read_bytes() != before
    assert len(tree(file.parent)) == 9


@pytest.mark.parametrize("name", ["model.gguf", "model.md", "model.plan.json"])
def test_what_is_not_ours_is_not_overwritten(file, name):
    file.parent.mkdir()
    (file.parent / name).write_text("something else")
    with pytest.raises(InputError, match=f"{name} is no part of an export of bipcore"):
        save(file, *made(**UNIFORM))
    assert tree(file.parent) == [name]


def test_another_file_in_its_place_does_not_count_as_ours(file):
    file.parent.mkdir()
    writer = gguf.GGUFWriter(file, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"model\.gguf is no part of an export"):
        save(file, *made(**UNIFORM))


@pytest.mark.parametrize("what", ["a weight", "a tensor", "a key"])
def test_what_is_read_back_and_differs_is_not_kept(tmp_path, file, monkeypatch, what):
    save(file, *made(**UNIFORM))
    before = {path: (tmp_path / path).read_bytes() for path in tree(tmp_path) if "." in path}
    if what == "a weight":

        def damaged(read_back, found, form):
            again = shallow_clone(read_back(found, form))
            with torch.no_grad():
                again.lm_head.weight.data = again.lm_head.weight + 1e-6
            return again

        old = gguf_format.FORMAT.read_back
        changed = replace(
            gguf_format.FORMAT, read_back=lambda found, form: damaged(old, found, form)
        )
        monkeypatch.setitem(save_pruned.__globals__["FORMATS"], "gguf", changed)
    else:
        reader = gguf.GGUFReader

        class Damaged(reader):
            def __init__(self, path):
                super().__init__(path)
                if what == "a key":
                    self.fields.pop("deci.block_count")
                else:
                    self.tensors.pop()

        monkeypatch.setattr(gguf, "GGUFReader", Damaged)
    with pytest.raises(InputError, match="The export was not kept"):
        save(file, *made(**MIXED))
    assert {p: (tmp_path / p).read_bytes() for p in tree(tmp_path) if "." in p} == before


def _long_rope(config) -> None:
    config.rope_parameters = {**config.rope_parameters, "rope_type": "dynamic", "factor": 2.0}


def _relu(config) -> None:
    config.hidden_act = "relu"


REFUSED = {
    "a family": ("opt", UNIFORM, {}, None, "GGUF files of OPT are not written"),
    "widths": ("qwen3", MIXED, {}, None, "same widths in every block.*--allocation uniform"),
    "heads": ("phi3-partial", UNIFORM, {}, None, "turns all of a head.*keeps all heads"),
    "biases": (
        "qwen3",
        {**UNIFORM, "spec": {"compensation": "bias"}},
        {},
        None,
        "reads no biases.*--compensation least-squares",
    ),
    "rope": ("llama", UNIFORM, {}, _long_rope, "of the kind dynamic are not written"),
    "activation": ("llama", UNIFORM, {}, _relu, "no FFN with the activation relu"),
    "rows": ("llama", UNIFORM, {"kind": "q8_0"}, None, "48 channels are none; give --round-to 32"),
    "head rows": (
        "gemma2",
        {**UNIFORM, "round_to": 32},
        {"kind": "q8_0"},
        None,
        "4 heads of 12 are none",
    ),
    "no such type": ("llama", UNIFORM, {"kind": "q4_k"}, None, "does not quantise to 'q4_k'"),
    "no quantised folder": (
        "llama",
        UNIFORM,
        {"kind": "q8_0", "name": "stock"},
        None,
        "Only the format gguf quantises",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_written_is_known_from_plan_and_configuration(case):
    name, options, how, change, sentence = REFUSED[case]
    model, options = readable_model(name), dict(options)
    spec = options.pop("spec", {})
    plan = plan_of(model, **options)
    plan = replace(plan, spec={**plan.spec, **spec})
    if change is not None:
        change(model.config)
    with pytest.raises(InputError, match=sentence):
        choose_format(plan, model.config, **{"name": "gguf", **how})


def test_a_gemma_whose_scale_llama_cpp_takes_for_another_is_refused():
    model = readable_model("gemma2")
    model.config.query_pre_attn_scalar = 256
    with pytest.raises(InputError, match=r"by 1/sqrt\(12\), and this model says 256"):
        choose_format(plan_of(model), model.config, name="gguf")


def test_biases_are_refused_where_the_model_has_them(file):
    model, plan = made("qwen3", **UNIFORM)
    down = Adapter(model).blocks[1].down
    down.bias = nn.Parameter(torch.zeros(down.out_features))
    with pytest.raises(InputError, match="reads no biases of output projections"):
        save(file, model, plan)


def test_auto_is_never_a_gguf_file():
    model = readable_model("llama")
    for options in (UNIFORM, MIXED):
        assert choose_format(plan_of(model, **options), model.config)[0].name != "gguf"


NAMES = {
    "folder": ({"format": "gguf"}, "a name that ends in .gguf"),
    "": ({"format": "gguf"}, "has no name"),
    "x.gguf": ({"format": "stock"}, "give --format gguf, or the name of a folder"),
    "y.gguf": ({"format": "gguf", "quantize": "f16", "save_dtype": "float32"}, "not both"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_and_types_that_contradict_each_other_are_refused(tmp_path, name):
    options, sentence = NAMES[name]
    with pytest.raises(InputError, match=sentence):
        save(tmp_path / name if name else "", *made(**UNIFORM), **options)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("tokenizer", "sentence"),
    [
        (word_tokenizer(94), "it is a WordLevel, and only BPE"),
        (text_tokenizer(), "it merges nothing"),
    ],
)
def test_a_tokenizer_that_llama_cpp_has_not_is_refused(tmp_path, tokenizer, sentence):
    model, plan = made(**UNIFORM)
    with pytest.raises(InputError, match=f"no tokenizer like this model's: {sentence}"):
        save_pruned(model, tokenizer, tmp_path / "x.gguf", plan=plan, format="gguf")
    assert tree(tmp_path) == []


@pytest.mark.parametrize("cut", CUTS)
def test_a_pre_tokenizer_is_named_by_its_regular_expressions(cut):
    tokenizer = trained_tokenizer(cut)
    config = readable_model("llama", vocabulary=len(tokenizer)).config
    keys = {name: value for name, _, value in token_keys(tokenizer, config)}
    assert keys["tokenizer.ggml.pre"] == cut
    assert len(keys["tokenizer.ggml.tokens"]) == len(tokenizer)


def test_rows_of_the_embedding_without_a_token_are_not_used():
    tokenizer = merging_tokenizer()
    config = readable_model("llama", vocabulary=len(tokenizer) + 2).config
    keys = {name: value for name, _, value in token_keys(tokenizer, config)}
    assert keys["tokenizer.ggml.tokens"][-2:] == ["[PAD260]", "[PAD261]"]
    assert keys["tokenizer.ggml.token_type"][-3:] == [3, 5, 5]
    assert keys["tokenizer.ggml.eos_token_id"] == 259


def test_pieces_are_worth_the_more_the_earlier_they_are_merged():
    tokenizer = piece_tokenizer()
    config = readable_model("llama", vocabulary=len(tokenizer)).config
    assert tokenizer_problem(tokenizer, config) is None
    keys = {name: value for name, _, value in token_keys(tokenizer, config)}
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    kinds, texts = keys["tokenizer.ggml.token_type"], keys["tokenizer.ggml.tokens"]
    assert (kinds[0], kinds[1], kinds[texts.index("<0x41>")]) == (2, 3, 6)
    first = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"][0]
    assert keys["tokenizer.ggml.scores"][texts.index("".join(first))] == 0


def test_merges_that_do_not_follow_from_scores_are_refused():
    tokenizer = piece_tokenizer()
    said = json.loads(tokenizer.backend_tokenizer.to_str())
    said["model"]["merges"] = said["model"]["merges"][:5]
    own = tf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(said)))
    config = readable_model("llama", vocabulary=len(tokenizer)).config
    assert "do not follow from a score" in tokenizer_problem(own, config)


def test_a_file_is_no_model_to_load(file):
    save(file, *made(**UNIFORM))
    with pytest.raises(InputError):
        load_model(str(file), device="cpu")
    json.loads((file.parent / "model.bipcore.json").read_text())
