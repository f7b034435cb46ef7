"""Write a random LLaMA of a real shape as a folder, for the benchmarks that need a large one.

    python benchmarks/random_model.py out/llama-1.1b --size 1.1b

bfloat16, one block at a time, so that little memory is needed; the tokenizer knows bytes only.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

SIZES = {
    "tiny": {"layers": 3, "hidden": 128, "ffn": 352, "heads": 8, "kv_heads": 4, "words": 512},
    "0.3b": {"layers": 22, "hidden": 1024, "ffn": 2816, "heads": 16, "kv_heads": 2},
    "0.6b": {"layers": 22, "hidden": 1536, "ffn": 4224, "heads": 24, "kv_heads": 3},
    "1.1b": {"layers": 22, "hidden": 2048, "ffn": 5632, "heads": 32, "kv_heads": 4},
    "7b": {"layers": 32, "hidden": 4096, "ffn": 11008, "heads": 32, "kv_heads": 32},
}
"""TinyLlama-1.1B, two that are narrower, LLaMA-7B, and one to try things with."""


def config_of(size: str, blocks: int | None = None) -> LlamaConfig:
    """The configuration of a size, with so many ``blocks``, by default all of them."""
    shape = SIZES[size]
    return LlamaConfig(
        num_hidden_layers=min(blocks or shape["layers"], shape["layers"]),
        hidden_size=shape["hidden"],
        intermediate_size=shape["ffn"],
        vocab_size=shape.get("words", 32_000),
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["hidden"] // shape["heads"],
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def write(folder: Path, size: str, blocks: int | None = None) -> Path:
    """Write the model, with so many ``blocks``, by default all of them; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config, generator = config_of(size, blocks), torch.Generator().manual_seed(0)
    d, f = config.hidden_size, config.intermediate_size
    kv = config.num_key_value_heads * config.head_dim

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * shape[-1] ** -0.5).bfloat16()

    ones = torch.ones(d, dtype=torch.bfloat16)
    names: dict[str, str] = {}

    def save(file: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / file, {"format": "pt"})
        names.update(dict.fromkeys(tensors, file))

    ends = {"model.embed_tokens.weight": random(config.vocab_size, d), "model.norm.weight": ones}
    save("ends.safetensors", ends | {"lm_head.weight": random(config.vocab_size, d)})
    for index in range(config.num_hidden_layers):
        block = {
            "self_attn.q_proj": random(d, d),
            "self_attn.k_proj": random(kv, d),
            "self_attn.v_proj": random(kv, d),
            "self_attn.o_proj": random(d, d),
            "mlp.gate_proj": random(f, d),
            "mlp.up_proj": random(f, d),
            "mlp.down_proj": random(d, f),
            "input_layernorm": ones.clone(),
            "post_attention_layernorm": ones.clone(),
        }
        tensors = {f"model.layers.{index}.{name}.weight": value for name, value in block.items()}
        save(f"block-{index:02}.safetensors", tensors)
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="1.1b")
    options = parser.parse_args()
    print(write(options.folder, options.size))
