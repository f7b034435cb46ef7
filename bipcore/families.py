"""The supported architectures: where each keeps the projections of a decoder block.

The only file that knows module names. To support another architecture, add a `Family` here;
its layout of query, key and value rows must be one of the three that `adapters.Block` reads.
"""

from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class Family:
    """One architecture. Paths run from the model (`blocks`) or from a block (the others).

    ``qkv_layout`` says how query, key and value rows lie: in three modules (``separate``), one
    after the other in one module (``concatenated``), or by head (``interleaved``).
    ``reloads_heads``: the stock class can be built with fewer heads of the same width.
    ``runs_without_heads``: its attention runs with no head at all.
    ``heads_divide_hidden``: its configuration insists that H divides d.
    """

    title: str
    blocks: str = "model.layers"
    attention: str = "self_attn"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    qkv_layout: str = "separate"
    output: str = "self_attn.o_proj"
    ffn: str | None = "mlp"
    ffn_in: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    gated: bool = True
    channels_field: str = "intermediate_size"
    reloads_heads: bool = True
    runs_without_heads: bool = True
    heads_divide_hidden: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family("LLaMA", heads_divide_hidden=True),
    "mistral": Family("Mistral"),
    "qwen2": Family("Qwen2"),
    "qwen3": Family("Qwen3"),
    "gemma2": Family("Gemma 2", heads_divide_hidden=True),
    "gemma3_text": Family("Gemma 3 (text)", heads_divide_hidden=True),
    "phi3": Family(
        "Phi-3",
        qkv=("self_attn.qkv_proj",),
        qkv_layout="concatenated",
        ffn_in=("mlp.gate_up_proj",),
    ),
    "opt": Family(
        "OPT",
        blocks="model.decoder.layers",
        output="self_attn.out_proj",
        ffn=None,
        ffn_in=("fc1",),
        down="fc2",
        gated=False,
        channels_field="ffn_dim",
        reloads_heads=False,
        runs_without_heads=False,
    ),
    "gpt_neox": Family(
        "GPT-NeoX",
        blocks="gpt_neox.layers",
        attention="attention",
        qkv=("attention.query_key_value",),
        qkv_layout="interleaved",
        output="attention.dense",
        ffn_in=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        gated=False,
        reloads_heads=False,
    ),
}


def family_of(config) -> Family:
    """The family of a `transformers` configuration; raises InputError if there is none."""
    return check_supported(getattr(config, "model_type", None))


def check_supported(model_type: object) -> Family:
    """The family of a `model_type`; raises InputError if there is none."""
    if model_type not in FAMILIES:
        known = ", ".join(f"{family.title} ({name})" for name, family in FAMILIES.items())
        raise InputError(
            f"The architecture {model_type!r} is not supported; supported are {known}, "
            "without mixture of experts."
        )
    return FAMILIES[model_type]
