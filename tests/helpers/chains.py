"""Models that continue a text in one known way: real LLaMAs whose weights say what follows."""

import itertools

import torch
from torch import nn

from tests.helpers.folders import VOCABULARY, byte_model, text_tokenizer

ENDS = 256
"""The end-of-text token of `text_tokenizer`."""


@torch.no_grad()
def chain_model(text: str) -> nn.Module:
    """A model that after each byte of ``text`` predicts the next, and after the last the end.

    No byte may occur twice. The blocks add nothing; the head reads the embedding of the last
    token, and the embeddings of different tokens are orthogonal.
    """
    model = byte_model()
    ids = [*text_tokenizer()(text)["input_ids"], ENDS]
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(parameter)
    embedding = torch.zeros(VOCABULARY, model.config.hidden_size)
    head = torch.zeros_like(embedding)
    for axis, (token, following) in enumerate(itertools.pairwise(ids)):
        embedding[token, axis] = 1
        head[following, axis] = 1
    model.get_input_embeddings().weight.copy_(embedding)
    model.get_output_embeddings().weight.copy_(head)
    return model
