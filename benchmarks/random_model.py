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
    "0.3b": {"num_hidden_layers": 22, "hidden_size": 1024, "intermediate_size": 2816},
    "0.6b": {"num_hidden_layers": 22, "hidden_size": 1536, "intermediate_size": 4224},
    "1.1b": {"num_hidden_layers": 22, "hidden_size": 2048, "intermediate_size": 5632},
}
HEAD = 64


def config_of(size: str) -> LlamaConfig:
    """The configuration of a size: the widths of TinyLlama-1.1B, scaled down for the others."""
    heads = SIZES[size]["hidden_size"] // HEAD
    return LlamaConfig(
        **SIZES[size],
        vocab_size=32_000,
        num_attention_heads=heads,
        num_key_value_heads=heads // 8,
        head_dim=HEAD,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def write(folder: Path, size: str) -> Path:
    """Write the model; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config, generator = config_of(size), torch.Generator().manual_seed(0)
    d, f = config.hidden_size, config.intermediate_size
    kv = config.num_key_value_heads * HEAD

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
