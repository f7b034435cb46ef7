"""What programs with an attention of their own rely on in an export with a modelling file, as that
of vLLM's Transformers backend does: the model without its head, and attention it can replace.

vLLM itself is not run here. What is asked is what its documentation asks of custom models.
"""

import json
from functools import cache

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bipcore.export.export import load_pruned, save_pruned
from bipcore.export.modelling_file import pruned_form
from bipcore.models.adapters import Adapter
from bipcore.models.pruned_classes import classes_of
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.folders import edit_json, without_checksums
from tests.helpers.fresh import run_fresh
from tests.helpers.pruning import mixed_plan, scores_of
from tests.helpers.tiny import FAMILIES, MORE_FAMILIES, tiny_model, tiny_tokens, word_tokenizer
from tests.helpers.tiny import one_thread as one_thread

NAMES = FAMILIES + MORE_FAMILIES
each_family = pytest.mark.parametrize("name", NAMES)
NOT_PASSED_ON = ("stablelm", "stablelm-parallel")
"""Those whose stock blocks do not pass on to their attention what the model is handed, as their
class says."""
TOKENS = tiny_tokens(2, 20, seed=4)


def _plan(name: str) -> PruningPlan:
    """The first block stays whole, the second has no attention, the third is narrower."""
    first, second, third = mixed_plan(name).blocks
    return PruningPlan(scores_of(name).shape, (first, BlockPlan((), second.channels), third))


@cache
def _pruned(name: str) -> nn.Module:
    return apply_plan(tiny_model(name), _plan(name))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with an export of every family."""
    root = tmp_path_factory.mktemp("exported")
    for name in NAMES:
        save_pruned(_pruned(name), word_tokenizer(94), root / name, plan=_plan(name))
    return root


def _base(root, name: str, **options) -> nn.Module:
    """The export of a family without its head, by bipcore's own copy of the modelling file."""
    kind = classes_of(tiny_model(name).config.model_type).base
    return kind.from_pretrained(root / name, **options).eval()


@torch.no_grad()
def _hidden(base: nn.Module, **options) -> Tensor:
    return base(input_ids=TOKENS, use_cache=False, **options).last_hidden_state


class OwnAttention:
    """An attention function that notes for which blocks it was called, with which widths, and what
    was passed down to it."""

    def __init__(self):
        self.widths: dict[int, tuple[int, int]] = {}
        self.passed: list[object] = []

    def __call__(self, module, query, key, value, attention_mask, scaling, **options):
        """What `transformers` calls: query (B, H, T, h), key and value (B, K, T, h)."""
        assert module.layer_idx not in self.widths
        assert attention_mask is None  # whoever brings attention brings its masks
        self.widths[module.layer_idx] = (query.shape[1], key.shape[1])
        self.passed.append(options.get("instances"))
        group, length = query.shape[1] // key.shape[1], query.shape[2]
        logits = query @ key.repeat_interleave(group, 1).transpose(2, 3) * scaling
        if options.get("softcap"):
            logits = options["softcap"] * torch.tanh(logits / options["softcap"])
        ago = torch.arange(length)[:, None] - torch.arange(length)
        seen = (ago >= 0) & (ago < (options.get("sliding_window") or length))
        weights = logits.masked_fill(~seen, float("-inf")).softmax(-1)
        return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2), None


@pytest.fixture
def own():
    """The function, known to `transformers` as "own"."""
    attention = OwnAttention()
    tf.AttentionInterface.register("own", attention)
    yield attention
    tf.AttentionInterface._global_mapping.pop("own")


@each_family
def test_every_block_that_attends_calls_the_attention_function_that_was_registered(root, name, own):
    expected = _hidden(_base(root, name))
    instances = {0: "of block 0"}
    found = _hidden(_base(root, name, attn_implementation="own"), instances=instances)
    blocks = Adapter(_pruned(name)).shape.blocks
    assert own.widths == {i: (b.heads, b.kv_heads) for i, b in enumerate(blocks) if b.heads}
    assert len(own.widths) == 2
    handed_on = None if name in NOT_PASSED_ON else instances
    assert all(passed is handed_on for passed in own.passed)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@each_family
def test_the_class_says_what_such_programs_ask_it(name):
    classes = classes_of(tiny_model(name).config.model_type)
    stock = tf.MODEL_MAPPING[classes.config.__mro__[2]]
    assert classes.base.__mro__[2] is stock
    for one in (classes.base, classes.model):
        assert one.is_backend_compatible() == (name not in NOT_PASSED_ON)
    plans = ("base_model_tp_plan", "base_model_pp_plan")
    for plan in plans:
        assert getattr(classes.config, plan) == getattr(stock.config_class, plan)
    with torch.device("meta"):
        base = classes.base(pruned_form(_pruned(name), _plan(name)).config)
    assert base.supports_tp_plan == bool(classes.config.base_model_tp_plan)


_READER = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

sys.modules["bipcore"] = None  # importing it fails, installed or not
torch.set_num_threads(1)
root, trust = Path(sys.argv[1]), {"trust_remote_code": True}
tokens, outputs, facts = load_file(root / "tokens.safetensors")["tokens"], {}, {}
for folder in sorted(path for path in root.iterdir() if (path / "config.json").is_file()):
    model = AutoModelForCausalLM.from_pretrained(folder, **trust)
    fact = {"head": type(model).__name__}
    if "AutoModel" in model.config.auto_map:
        base, report = AutoModel.from_pretrained(folder, output_loading_info=True, **trust)
        with torch.device("meta"):
            built = AutoModel.from_config(AutoConfig.from_pretrained(folder, **trust), **trust)
        fact |= {"base": type(base).__name__, "built": type(built).__name__}
        fact |= {"module": type(base).__module__, "missing": sorted(report["missing_keys"])}
        fact["plan"] = base.supports_tp_plan
    else:
        base = model.base_model
    with torch.no_grad():
        outputs[folder.name] = base(tokens).last_hidden_state
        same = torch.equal(model.base_model(tokens).last_hidden_state, outputs[folder.name])
    facts[folder.name] = fact | {"same": same}
save_file(outputs, root / "outputs.safetensors")
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def read(root) -> tuple[dict, dict[str, Tensor]]:
    """What a process without bipcore says of the exports: facts and hidden states by family, and of
    "older", an export that does not name the model without its head."""
    older = root / "older"
    save_pruned(_pruned("llama"), word_tokenizer(94), older, plan=_plan("llama"))
    without_checksums(older)
    named = json.loads((older / "config.json").read_text())["auto_map"]
    del named["AutoModel"]
    edit_json(older / "config.json", auto_map=named)
    save_file({"tokens": TOKENS}, root / "tokens.safetensors")
    done = run_fresh(root, _READER, str(root))
    assert done.status == 0, done.err
    return json.loads(done.out), load_file(root / "outputs.safetensors")


@each_family
def test_a_fresh_process_loads_the_model_without_its_head(root, read, name):
    fact, classes = read[0][name], classes_of(tiny_model(name).config.model_type)
    assert fact["base"] == fact["built"] == classes.base.__name__
    assert fact["head"] == classes.model.__name__
    assert fact["module"].startswith("transformers_modules.")
    assert fact["missing"] == []
    assert fact["same"]
    assert fact["plan"] == bool(classes.config.base_model_tp_plan)
    expected = _hidden(load_pruned(root / name, device="cpu")[0].base_model)
    torch.testing.assert_close(read[1][name], expected, rtol=0, atol=1e-4)


def test_an_export_that_does_not_name_the_model_without_its_head_is_loaded(root, read):
    facts, outputs = read
    assert facts["older"] == {"head": "PrunedLlamaForCausalLM", "same": True}
    assert torch.equal(outputs["older"], outputs["llama"])
    model, tokenizer = load_pruned(root / "older", device="cpu")
    torch.testing.assert_close(_hidden(model.base_model), outputs["llama"], rtol=0, atol=1e-4)
    shape = Adapter(model).shape
    blocks = [BlockPlan(tuple(range(b.heads)), tuple(range(b.channels))) for b in shape.blocks]
    blocks[0] = BlockPlan(blocks[0].heads, (0, 1))
    plan = PruningPlan(shape, tuple(blocks))
    save_pruned(apply_plan(model, plan), tokenizer, root / "again", plan=plan)
    named = json.loads((root / "again" / "config.json").read_text())["auto_map"]
    assert named["AutoModel"] == "modeling_pruned.PrunedLlamaModel"
