"""Which architecture of llama.cpp can hold what a plan leaves, and why the others cannot.

What each reads was taken from the sources of llama.cpp v0.5.0 (`src/models/NAME.cpp`), and tried
with that release.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ...models.adapters import Adapter
from ...models.families import base_type, family_of
from ...models.shapes import BlockShape
from ...pruning.plan import PruningPlan
from ..forms import stock_biases
from .rope import rope_problem, turned_share

ZEROS = 32
"""The zero channels that stand for an FFN that is gone: where a block has none at all, llama.cpp
leaves out what its attention adds, too."""


@dataclass(frozen=True)
class Architecture:
    """What an architecture of llama.cpp can hold.

    ``by_block``: every block has widths of its own. ``square``: its heads together are as wide as
    the hidden size. ``output_biases``: it reads biases of both output projections.
    ``neighbours``: RoPE turns neighbouring rows of a head, not the halves against each other.
    ``fused``: query, key and value are one tensor, and so are gate and up. ``partial``: RoPE may
    leave a part of each head as it is. ``windows``: blocks may look back over a window.
    ``tied``: its head is the embedding. ``activation``: how configurations call that of its FFN.
    """

    name: str
    by_block: bool = False
    square: bool = False
    output_biases: bool = False
    neighbours: bool = False
    fused: bool = False
    partial: bool = False
    windows: bool = False
    tied: bool = False
    activation: tuple[str, ...] = ("silu", "swish")


_GELU = ("gelu_pytorch_tanh",)
_LLAMA = Architecture("llama", output_biases=True, neighbours=True)
_DECI = Architecture("deci", by_block=True, output_biases=True, neighbours=True)
_LIKE_LLAMA = (_LLAMA, _DECI)

ARCHITECTURES: dict[str, tuple[Architecture, ...]] = {
    "llama": _LIKE_LLAMA,
    "mistral": _LIKE_LLAMA,
    "qwen2": (Architecture("qwen2", square=True), *_LIKE_LLAMA),
    "qwen3": (Architecture("qwen3"),),
    "gemma2": (Architecture("gemma2", windows=True, tied=True, activation=_GELU),),
    "gemma3_text": (Architecture("gemma3", windows=True, activation=_GELU),),
    "phi3": (Architecture("phi3", square=True, fused=True, partial=True), *_LIKE_LLAMA),
}
"""By the `model_type` of a family those of llama.cpp that have its mathematics, the plainest first:
without its fused tensors Phi-3 is a LLaMA, and so is Qwen2, whose biases `llama` reads."""

_LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}
"""The blocks by which llama.cpp knows Gemma's 27B, whose attention it scales in another way."""


def choose(plan: PruningPlan, config, model: nn.Module | None) -> tuple[Architecture | None, str]:
    """The first architecture that can hold what ``plan`` leaves, or None and why the last cannot,
    in a sentence. ``config`` and ``model`` are those of a format's ``problem``."""
    shapes = plan.pruned_shape.blocks
    biases = _expected_biases(plan, config) if model is None else output_biases(model)
    return _choose(shapes, config, biases, hidden=plan.shape.hidden, width=plan.shape.head_dim)


def architecture_of(model: nn.Module) -> Architecture:
    """That of a pruned model which one can hold."""
    shape = Adapter(model).shape
    sizes = {"hidden": shape.hidden, "width": shape.head_dim}
    chosen, _ = _choose(shape.blocks, model.config, output_biases(model), **sizes)
    assert chosen is not None
    return chosen


def output_biases(model: nn.Module) -> list[tuple[bool, bool]]:
    """For each block whether the output projections of attention and FFN have a bias."""
    blocks = Adapter(model).blocks
    return [(block.o.bias is not None, block.down.bias is not None) for block in blocks]


def _expected_biases(plan: PruningPlan, config) -> list[tuple[bool, bool]]:
    """The same of what pruning by ``plan`` leaves: the compensation adds some to what it cuts."""
    added = plan.spec.get("compensation") == "bias"
    has = stock_biases(config)
    pairs = zip(plan.pruned_shape.blocks, plan.shape.blocks, strict=True)
    return [
        (
            has[0] or (added and now.heads < was.heads),
            has[1] or (added and now.channels < was.channels),
        )
        for now, was in pairs
    ]


def stays(shape: BlockShape, biases: tuple[bool, bool]) -> bool:
    """Whether a block adds anything: it has a head, a channel, or a bias behind what is gone."""
    return bool(shape.heads or shape.channels or any(biases))


def _choose(
    shapes: Sequence[BlockShape],
    config,
    biases: Sequence[tuple[bool, bool]],
    *,
    hidden: int,
    width: int,
) -> tuple[Architecture | None, str]:
    family = family_of(config)
    candidates = ARCHITECTURES.get(base_type(config.model_type), ())
    problem = (
        f"GGUF files of {family.title} are not written here; --format stock or modelling-file "
        "writes a folder."
    )
    left = [index for index in range(len(shapes)) if stays(shapes[index], biases[index])]
    for one in candidates:
        found = _model_problem(one, config) or _width_problem(
            one, [shapes[index] for index in left], hidden=hidden, width=width
        )
        found = found or _bias_problem(one, [biases[index] for index in left])
        found = found or _scale_problem(one, config, [shapes[index] for index in left], width)
        if found is None:
            return one, ""
        problem = found
    return None, problem


def _model_problem(one: Architecture, config) -> str | None:
    """What of the model itself, whatever the plan, llama.cpp does not compute."""
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in one.activation:
        return f"llama.cpp's architecture {one.name} has no FFN with the activation {activation}."
    if getattr(config, "use_bidirectional_attention", None):
        return f"llama.cpp's architecture {one.name} does not look ahead, as this model does."
    if one.name == "gemma3" and getattr(config, "attn_logit_softcapping", None):
        return "llama.cpp does not cap the attention's logits in its architecture gemma3."
    if one.tied and not config.tie_word_embeddings:
        return f"llama.cpp's architecture {one.name} has no head that is not its embedding."
    if turned_share(config) != 1 and not one.partial:
        return (
            f"llama.cpp's architecture {one.name} turns all of a head by RoPE, and this model a "
            "part; a plan that keeps all heads, with the same channels in every block, can be "
            "written."
        )
    return rope_problem(config)


def _width_problem(
    one: Architecture, shapes: Sequence[BlockShape], *, hidden: int, width: int
) -> str | None:
    if one.by_block:
        return None
    if len(set(shapes)) > 1:
        return (
            f"llama.cpp's architecture {one.name} has the same widths in every block, and the "
            "blocks of this plan do not; give --allocation uniform without protected blocks, or "
            "export with --format modelling-file."
        )
    if not shapes[0].heads or not shapes[0].channels:
        return (
            f"llama.cpp's architecture {one.name} has attention and FFN in every block, and this "
            "plan removes whole sublayers; take one that keeps some of each."
        )
    if one.square and shapes[0].heads * width != hidden:
        return (
            f"llama.cpp's architecture {one.name} needs all heads; take a plan that removes "
            "channels only (--unit none)."
        )
    return None


def _bias_problem(one: Architecture, biases: Sequence[tuple[bool, bool]]) -> str | None:
    if one.output_biases or not any(map(any, biases)):
        return None
    return (
        f"llama.cpp's architecture {one.name} reads no biases of output projections, which this "
        "model has; where they come from the compensation, give --compensation least-squares or "
        "none."
    )


def _scale_problem(
    one: Architecture, config, shapes: Sequence[BlockShape], width: int
) -> str | None:
    """Gemma's attention is scaled by a number of its configuration; llama.cpp works it out."""
    said = getattr(config, "query_pre_attn_scalar", None)
    if said is None:
        return None
    largest = _LARGEST_GEMMA[one.name] == len(shapes)
    worked_out = config.hidden_size // shapes[0].heads if largest else width
    if worked_out == said:
        return None
    return (
        f"llama.cpp scales the attention of a {one.name} with {len(shapes)} blocks and "
        f"{shapes[0].heads} heads by 1/sqrt({worked_out}), and this model says {said}; take a plan "
        "that keeps all blocks and heads."
    )
