"""Tiny random models of every supported family, and tiny tokenizers: no downloads."""

import copy
from functools import cache

import pytest
import torch
import transformers as tf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

VOCABULARY = 97
LAYERS = 3
_BASE = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "hidden_size": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FFN = {"intermediate_size": 96}
_GEMMA = {"num_key_value_heads": 2, "head_dim": 12, "sliding_window": 16}

CONFIGS = {
    "llama": lambda: tf.LlamaConfig(**_BASE, **_FFN, num_key_value_heads=8),
    "llama-gqa": lambda: tf.LlamaConfig(
        **_BASE, **_FFN, num_key_value_heads=2, attention_bias=True, mlp_bias=True
    ),
    "mistral": lambda: tf.MistralConfig(**_BASE, **_FFN, num_key_value_heads=4),
    "qwen2": lambda: tf.Qwen2Config(**_BASE, **_FFN, num_key_value_heads=4),
    "qwen3": lambda: tf.Qwen3Config(
        **_BASE, **_FFN, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True
    ),
    "gemma2": lambda: tf.Gemma2Config(**_BASE, **_FFN, **_GEMMA),
    "gemma3": lambda: tf.Gemma3TextConfig(**_BASE, **_FFN, **_GEMMA),
    "phi3": lambda: tf.Phi3Config(**_BASE, **_FFN, num_key_value_heads=4),
    "phi3-mha": lambda: tf.Phi3Config(**_BASE, **_FFN, num_key_value_heads=8),
    "opt": lambda: tf.OPTConfig(**_BASE, ffn_dim=96, word_embed_proj_dim=64),
    "neox": lambda: tf.GPTNeoXConfig(**_BASE, **_FFN),
    "neox-sequential": lambda: tf.GPTNeoXConfig(**_BASE, **_FFN, use_parallel_residual=False),
}
"""A configuration for each name; every query-head group can lose half of its heads."""

_FAR_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "llama_4_scaling_beta": 0.5,
}
_ALPHA_ROPE = {"rope_type": "dynamic", "rope_theta": 500.0, "alpha": 50.0, "factor": 1.0}

MORE_CONFIGS = {
    "smollm3": lambda: tf.SmolLM3Config(
        **_BASE, **_FFN, num_key_value_heads=2, no_rope_layers=[1, 0, 1]
    ),
    "granite": lambda: tf.GraniteConfig(
        **_BASE,
        **_FFN,
        num_key_value_heads=4,
        embedding_multiplier=3.0,
        residual_multiplier=0.6,
        attention_multiplier=0.2,
        logits_scaling=2.0,
    ),
    "gemma": lambda: tf.GemmaConfig(**_BASE, **_FFN, num_key_value_heads=1, head_dim=12),
    "ministral3": lambda: tf.Ministral3Config(
        **_BASE, **_FFN, num_key_value_heads=4, head_dim=16, rope_parameters=dict(_FAR_ROPE)
    ),
    "seed_oss": lambda: tf.SeedOssConfig(**_BASE, **_FFN, num_key_value_heads=2, head_dim=12),
    "ernie4_5": lambda: tf.Ernie4_5Config(
        **_BASE, **_FFN, num_key_value_heads=2, head_dim=12, use_bias=True
    ),
    "hunyuan": lambda: tf.HunYuanDenseV1Config(
        **_BASE, **_FFN, num_key_value_heads=4, head_dim=16, rope_parameters=dict(_ALPHA_ROPE)
    ),
    "starcoder2": lambda: tf.Starcoder2Config(
        **_BASE, **_FFN, num_key_value_heads=2, sliding_window=8
    ),
    "glm": lambda: tf.GlmConfig(**_BASE, **_FFN, num_key_value_heads=2, head_dim=12),
    "glm4": lambda: tf.Glm4Config(**_BASE, **_FFN, num_key_value_heads=4, head_dim=16),
    "olmo2": lambda: tf.Olmo2Config(**_BASE, **_FFN, num_key_value_heads=4),
    "olmo3": lambda: tf.Olmo3Config(
        **_BASE,
        **_FFN,
        num_key_value_heads=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "cohere2": lambda: tf.Cohere2Config(
        **_BASE,
        **_FFN,
        num_key_value_heads=2,
        logit_scale=0.3,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "phi": lambda: tf.PhiConfig(**_BASE, **_FFN, num_key_value_heads=4),
    "stablelm": lambda: tf.StableLmConfig(
        **_BASE, **_FFN, num_key_value_heads=4, use_qkv_bias=True
    ),
    "stablelm-parallel": lambda: tf.StableLmConfig(
        **_BASE, **_FFN, num_key_value_heads=8, use_parallel_residual=True
    ),
}
"""The same for families whose blocks are like those of another: `test_more_families` is theirs."""

FAMILIES = tuple(CONFIGS)
MORE_FAMILIES = tuple(MORE_CONFIGS)
HEADS_STAY = ("olmo2", "olmo3")
"""The names whose heads are normalised all together, so that single ones stay."""
GQA = ("llama-gqa", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
"""The names whose query heads share key/value heads."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Run the tests of a module that imports this on one thread, then put the number back.

    In models this small, threads only wait for each other; on a busy machine, for minutes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_model(name: str, *, seed: int = 0) -> nn.Module:
    """The model called ``name`` in evaluation mode, float32: one of the caller's own.

    Weights are wide enough for outputs to differ from token to token; biases and the gains of
    the norms are not the neutral ones that initialisation leaves.
    """
    return copy.deepcopy(_built(name, seed))


@cache
def _built(name: str, seed: int) -> nn.Module:
    return random_model((CONFIGS | MORE_CONFIGS)[name](), seed=seed)


def random_model(config: tf.PreTrainedConfig, *, seed: int = 0) -> nn.Module:
    """A model of ``config``, as `tiny_model` makes them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tf.AutoModelForCausalLM.from_config(config).eval()
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
            elif key.endswith("bias"):
                nn.init.normal_(parameter, std=0.3)
            else:
                nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def tiny_tokens(samples: int = 6, seq_len: int = 24, *, seed: int = 1) -> Tensor:
    """Random token ids (samples, seq_len), none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (samples, seq_len), generator=generator)


def padded_batch() -> tuple[Tensor, Tensor]:
    """Token ids (3, 18) and their attention mask: the rows padded on the left by 0, 4 and 9."""
    tokens = tiny_tokens(3, 18, seed=2)
    mask = torch.ones_like(tokens)
    for row, padding in enumerate((0, 4, 9)):
        mask[row, :padding] = 0
        tokens[row, :padding] = 0
    return tokens, mask


def word_tokenizer(words: int = 2000, *, eos: bool = True) -> tf.PreTrainedTokenizerFast:
    """Reads "w0 w1 w2" as the ids 3, 4, 5; 0 is an unknown word, 1 the end of a text."""
    vocabulary = {"<unk>": 0, "</s>": 1, "<s>": 2} | {f"w{i}": i + 3 for i in range(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    names = {"unk_token": "<unk>", "bos_token": "<s>"} | ({"eos_token": "</s>"} if eos else {})
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def byte_tokenizer() -> tf.PreTrainedTokenizerFast:
    """A token for every byte of any text, so that nothing is unknown."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
