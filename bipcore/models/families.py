"""The supported architectures: where each keeps the projections of a decoder block.

The only file that knows module names. To support another architecture, add a `Family` here;
its layout of query, key and value rows must be one of the three that `adapters.Block` reads.
"""

from dataclasses import dataclass

from ..errors import InputError, short


@dataclass(frozen=True)
class Family:
    """One architecture. Paths run from the model (`blocks`) or from a block (the others).

    ``qkv_layout`` says how query, key and value rows lie: in three modules (``separate``), one
    after the other in one module (``concatenated``), or by head (``interleaved``).
    ``reloads_heads``: the stock class can be built with fewer heads of the same width.
    ``output_biases``: whether the attention's and the FFN's output projections have a bias in
    the stock class, or the field of the configuration that says so.
    ``heads_divide_hidden``: its configuration insists that H divides d.
    ``heads_stay``: its heads are normalised all together, so that none can go and leave the others
    what they were: a plan keeps all heads of a block, or none.
    ``parallel``: the FFN reads what the attention reads, in every model of the family; where that
    is a matter of its configuration, the blocks say it themselves (`use_parallel_residual`).
    ``norms_of_heads``: the field of its configuration that gives heads norms which nothing here
    cuts: one for each, or of a width that stock classes work out from the number of heads.
    ``ffn_norm``: the norm whose output the FFN reads; ``ffn_norm_if_after``: the same where a
    model of the family normalises after its sublayers, not before. A norm multiplies with its
    weight plus ``norm_offset``. ``output_norms``: the norms that what the attention and what the
    FFN puts out goes through before it joins the residual, where there are any.
    ``attention_norm``: the norm whose output the attention reads; ``head_norms``: those of the
    query and the key of each head, where there are any; ``final_norm``: that behind the blocks.
    ``leans_on_beginning``: it is far off in a window without the beginning-of-text token.
    ``rope_base_field`` and ``rope_share_field``: what configurations called these two numbers of
    the rotary embedding before transformers 5; ``longrope_fields``: those that its scaling had,
    where the class insists that there are no others.
    ``block_lists``: the fields of its configuration that hold one value for every block.
    ``known_before_5``: whether the transformers before 5 that exports are read with has its class.
    ``models``: published ones that people look for by other names. ``quirk``: what a user of the
    family should know of it, a sentence or more.
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
    output_biases: tuple[bool | str, bool | str] = (False, False)
    heads_divide_hidden: bool = False
    heads_stay: bool = False
    parallel: bool = False
    norms_of_heads: str | None = None
    ffn_norm: str | None = "post_attention_layernorm"
    ffn_norm_if_after: str | None = None
    norm_offset: float = 0.0
    output_norms: tuple[str, str] | None = None
    attention_norm: str | None = "input_layernorm"
    head_norms: tuple[str, str] | None = None
    final_norm: str = "model.norm"
    leans_on_beginning: bool = False
    rope_base_field: str = "rope_theta"
    rope_share_field: str = "partial_rotary_factor"
    longrope_fields: tuple[str, ...] = ()
    block_lists: tuple[str, ...] = ("layer_types",)
    known_before_5: bool = True
    models: tuple[str, ...] = ()
    quirk: str = ""


_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")

_GEMMA = {
    "heads_divide_hidden": True,
    "output_biases": ("attention_bias", False),
    "ffn_norm": "pre_feedforward_layernorm",
    "norm_offset": 1.0,
    "output_norms": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "leans_on_beginning": True,
}

_OLMO = {
    "reloads_heads": False,
    "heads_stay": True,
    "output_biases": ("attention_bias", False),
    "ffn_norm": None,
    "attention_norm": None,
    "output_norms": ("post_attention_layernorm", "post_feedforward_layernorm"),
}

_GLM = {"ffn_in": ("mlp.gate_up_proj",)}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LLaMA",
        heads_divide_hidden=True,
        output_biases=("attention_bias", "mlp_bias"),
        models=(
            *("Llama 2", "Llama 3", "Llama 3.1", "Llama 3.2 (text)", "Vicuna", "TinyLlama"),
            *("SmolLM2", "Yi", "DeepSeek-R1-Distill-Llama"),
        ),
        quirk="Where the number of heads that are left does not divide the hidden size, it is "
        "exported as a Mistral: the same mathematics under the same names.",
    ),
    "mistral": Family(
        "Mistral",
        models=("Mistral 7B", "Mistral NeMo", "Zephyr", "Mistral Small 3.1 (text)"),
        quirk="Of a Mistral 3 that reads pictures, the language model is read.",
    ),
    "qwen2": Family(
        "Qwen2",
        models=("Qwen2.5", "QwQ", "DeepSeek-R1-Distill-Qwen"),
        quirk="Queries, keys and values have biases; they go with their heads.",
    ),
    "qwen3": Family(
        "Qwen3",
        output_biases=("attention_bias", False),
        head_norms=_HEAD_NORMS,
        quirk="Queries and keys are normalised by head, by weights that all heads share and that "
        "stay. Without mixture of experts.",
    ),
    "gemma2": Family(
        "Gemma 2",
        **_GEMMA,
        quirk="Norms behind its sublayers, which scores count in; it is far off without the "
        "beginning-of-text token, which every window is given.",
    ),
    "gemma3_text": Family(
        "Gemma 3 (text)",
        **_GEMMA,
        head_norms=_HEAD_NORMS,
        models=("Gemma 3 1B", "Gemma 3 4B (text)"),
        quirk="As Gemma 2, with norms by head; of one that reads pictures, the language model is "
        "read.",
    ),
    "phi3": Family(
        "Phi-3",
        qkv=("self_attn.qkv_proj",),
        qkv_layout="concatenated",
        ffn_in=("mlp.gate_up_proj",),
        longrope_fields=("type", "short_factor", "long_factor"),
        models=("Phi-3.5-mini", "Phi-4", "Phi-4-mini"),
        quirk="Query, key and value are one tensor, and so are gate and up. With longrope, a stock "
        "class is not built with fewer heads; then fewer channels fit it.",
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
        output_biases=("enable_bias", "enable_bias"),
        ffn_norm="final_layer_norm",
        ffn_norm_if_after="self_attn_layer_norm",
        attention_norm="self_attn_layer_norm",
        final_norm="model.decoder.final_layer_norm",
        quirk="An FFN without a gate, and biases everywhere; those of output projections stay.",
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
        output_biases=("attention_bias", True),
        final_norm="gpt_neox.final_layer_norm",
        rope_base_field="rotary_emb_base",
        rope_share_field="rotary_pct",
        models=("Pythia",),
        quirk="The FFN reads what the attention reads (a parallel residual), so LLM-BIP carries "
        "nothing of the attention on through it.",
    ),
    "smollm3": Family(
        "SmolLM3",
        output_biases=("attention_bias", "mlp_bias"),
        block_lists=("layer_types", "no_rope_layers"),
        quirk="Every fourth block has no rotary embedding; which, follows the blocks that stay.",
    ),
    "granite": Family(
        "Granite",
        output_biases=("attention_bias", "mlp_bias"),
        models=("Granite 3",),
        quirk="Embedding, residual, attention and logits are multiplied by numbers of its "
        "configuration, which stay. Without mixture of experts.",
    ),
    "gemma": Family(
        "Gemma",
        output_biases=("attention_bias", False),
        norm_offset=1.0,
        leans_on_beginning=True,
        models=("CodeGemma",),
        quirk="Far off without the beginning-of-text token, which every window is given.",
    ),
    "ministral3": Family(
        "Ministral 3",
        known_before_5=False,
        quirk="Queries are scaled by their position; the language model of a Mistral 3 that reads "
        "pictures.",
    ),
    "seed_oss": Family(
        "Seed-OSS",
        output_biases=("attention_out_bias", "mlp_bias"),
        quirk="Queries, keys and values have biases, and may have a width that is not the hidden "
        "size.",
    ),
    "ernie4_5": Family(
        "ERNIE 4.5",
        output_biases=("use_bias", "use_bias"),
        quirk="Rotary embeddings turn neighbouring rows. Without mixture of experts.",
    ),
    "hunyuan_v1_dense": Family(
        "Hunyuan (dense)",
        output_biases=("attention_bias", False),
        quirk="Queries and keys are normalised by head, behind the rotary embedding. Without "
        "mixture of experts.",
    ),
    "starcoder2": Family(
        "StarCoder2",
        ffn_in=("mlp.c_fc",),
        down="mlp.c_proj",
        gated=False,
        output_biases=("use_bias", "use_bias"),
        quirk="An FFN without a gate, and biases everywhere; those of output projections stay.",
    ),
    "glm": Family(
        "GLM",
        **_GLM,
        models=("GLM-4-9B-hf",),
        quirk="Gate and up are one tensor; rotary embeddings turn neighbouring rows, half a head.",
    ),
    "glm4": Family(
        "GLM-4",
        **_GLM,
        output_norms=("post_self_attn_layernorm", "post_mlp_layernorm"),
        models=("GLM-4-0414",),
        quirk="As GLM, with norms behind its sublayers, which scores count in.",
    ),
    "cohere2": Family(
        "Cohere 2",
        parallel=True,
        output_biases=("attention_bias", False),
        ffn_norm="input_layernorm",
        models=("Command R7B", "Command A"),
        quirk="Attention and FFN read one norm (a parallel residual). Only the blocks with a "
        "window have a rotary embedding; which, follows the blocks that stay.",
    ),
    "phi": Family(
        "Phi",
        parallel=True,
        output="self_attn.dense",
        ffn_in=("mlp.fc1",),
        down="mlp.fc2",
        gated=False,
        output_biases=(True, True),
        ffn_norm="input_layernorm",
        norms_of_heads="qk_layernorm",
        final_norm="model.final_layernorm",
        models=("Phi-1.5", "Phi-2"),
        quirk="Attention and FFN read one norm (a parallel residual), the FFN has no gate, and "
        "there are biases everywhere; those of output projections stay. Without norms of heads.",
    ),
    "stablelm": Family(
        "StableLM",
        reloads_heads=False,
        norms_of_heads="qk_layernorm",
        models=("StableLM 3B", "StableLM 2 1.6B"),
        quirk="With or without a parallel residual. Those with a norm of its own for each head, as "
        "StableLM 2 12B, are refused.",
    ),
    "olmo2": Family(
        "OLMo 2",
        **_OLMO,
        quirk="Queries and keys are normalised over all heads together, so single heads stay: FFN "
        "channels go, and whole attentions. Norms only behind its sublayers; scores count them in.",
    ),
    "olmo3": Family(
        "OLMo 3",
        **_OLMO,
        quirk="As OLMo 2, with blocks that look back over a window.",
    ),
}

PRUNED = "pruned_"
"""What stands before the `model_type` of a stock class with widths of its own in every block."""


TEXT_HALVES = {"gemma3": ("gemma3_text",), "mistral3": ("mistral", "ministral3")}
"""By the `model_type` of a model that reads pictures, too: those that the language model in it can
have. The first is that of one which does not say it."""

TEXT_HALF_NAMES = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}
"""What the tensors of such a language model are called, and what by themselves."""

STORED_NAMES = TEXT_HALF_NAMES | {r"^embed_out\.": "lm_head."}
"""What tensors are called in files, and what in modules of `transformers`, where they differ."""


def family_of(config) -> Family:
    """The family of a `transformers` configuration; raises InputError if there is none."""
    return check_supported(getattr(config, "model_type", None))


def base_type(model_type: str) -> str:
    """The stock `model_type` behind ``model_type``: that without `PRUNED`."""
    return model_type.removeprefix(PRUNED)


def check_supported(model_type: object) -> Family:
    """The family of a `model_type`, pruned or not; raises InputError if there is none."""
    stock = base_type(model_type) if isinstance(model_type, str) else model_type
    if not isinstance(stock, str) or stock not in FAMILIES:
        known = ", ".join(f"{family.title} ({name})" for name, family in FAMILIES.items())
        raise InputError(
            f"The architecture {short(model_type)!r} is not supported; supported are {known}, "
            "without mixture of experts."
        )
    return FAMILIES[stock]
