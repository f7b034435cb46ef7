"""Tiny models with every kind of rotary embedding, as older readers have to be told of them."""

from torch import nn

from bipcore.criteria import score
from bipcore.export.export import save_pruned
from bipcore.models.families import check_supported
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.tiny import CONFIGS, MORE_CONFIGS, random_model, word_tokenizer

_LONG = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.1, 2.2, 2.3]}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
_WINDOW, _NO_WINDOW = {"rope_type": "default", "rope_theta": 100.0}, "full_attention"


def _rope(kind: str, **fields) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **fields}}


def _gemma3(**fields) -> dict:
    full = {"rope_type": "default", "rope_theta": 5000.0, **fields}
    return {
        "rope_parameters": {"sliding_attention": _WINDOW, _NO_WINDOW: full},
        "layer_types": ["sliding_attention", _NO_WINDOW, "sliding_attention"],
    }


ROPES = {
    "base": ("llama", _rope("default")),
    "llama3": ("llama", _rope("llama3", factor=8.0, **_LLAMA3)),
    "yarn": ("llama", _rope("yarn", factor=4.0, original_max_position_embeddings=8)),
    "linear": ("llama-gqa", _rope("linear", factor=3.0)),
    "dynamic": ("llama", {"max_position_embeddings": 8, **_rope("dynamic", factor=3.0)}),
    "longrope": ("llama", _rope("longrope", original_max_position_embeddings=8, **_LONG)),
    "longrope-factor": (
        "qwen3",
        _rope(
            "longrope",
            factor=5.0,
            original_max_position_embeddings=8,
            **{name: [*values, *values] for name, values in _LONG.items()},
        ),
    ),
    "mistral-yarn": ("mistral", _rope("yarn", factor=4.0, original_max_position_embeddings=8)),
    "qwen2-yarn": ("qwen2", _rope("yarn", factor=4.0, original_max_position_embeddings=8)),
    "phi3-longrope": (
        "phi3",
        {"original_max_position_embeddings": 8, **_rope("longrope", **_LONG)},
    ),
    "phi3-partial": ("phi3", _rope("default", partial_rotary_factor=0.5)),
    "neox-partial": ("neox", _rope("default", partial_rotary_factor=0.5)),
    "neox-linear": ("neox-sequential", _rope("linear", factor=2.0, partial_rotary_factor=0.25)),
    "gemma3-two": ("gemma3", _gemma3()),
    "gemma3-linear": ("gemma3", _gemma3(rope_type="linear", factor=8.0)),
    "gemma2": ("gemma2", _rope("default")),
    "opt": ("opt", {}),
}
"""For each name that of a tiny model, and what is changed of its configuration."""

OTHERS = {
    name: (name, {})
    for name, make in MORE_CONFIGS.items()
    if check_supported(make().model_type).known_before_5
}
"""The same of the other families that older readers know."""


def model_with_rope(name: str) -> nn.Module:
    """The tiny model of one of `ROPES` or `OTHERS`."""
    base, fields = (ROPES | OTHERS)[name]
    config = (CONFIGS | MORE_CONFIGS)[base]()
    return random_model(type(config)(**{**config.to_dict(), **fields}))


def plans_for(model: nn.Module) -> dict[int, PruningPlan]:
    """By its tier, a plan that a stock class can hold, and one that none can."""
    scores = score(model, None, "random", seed=3)
    return {
        1: make_plan(scores, sparsity=0.3, unit="none"),
        2: make_plan(scores, sparsity=0.34, protect_first=1),
    }


def export_all(model: nn.Module, folder, **options) -> dict[int, nn.Module]:
    """Export ``model`` in both tiers to the folders ".1" and ".2" of that name; what was pruned."""
    pruned = {}
    for tier, plan in plans_for(model).items():
        pruned[tier] = apply_plan(model, plan)
        target = folder.with_name(f"{folder.name}.{tier}")
        done = save_pruned(pruned[tier], word_tokenizer(94), target, plan=plan, **options)
        assert (done.tier, done.max_logit_difference) == (tier, 0.0)
    return pruned
