"""Taylor scores and importance propagation once more: slow, in float64, not from bipcore.

Nothing here may import bipcore.
"""

import copy

import torch
from torch import Tensor, nn

from tests.helpers.reference import reference_scores
from tests.helpers.reference_blocks import ReferenceBlock, reference_block


def sample_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """The mean over positions of -log p(next token), of one sample (T,), position by position."""
    log_p = torch.log_softmax(model(tokens[None]).logits[0].double(), dim=-1)
    terms = [-log_p[t, tokens[t + 1]] for t in range(len(tokens) - 1)]
    return torch.stack(terms).mean()


def sample_gradients(model: nn.Module, tokens: Tensor) -> list[dict[str, Tensor]]:
    """For each of the samples (N, T) the gradient of every matrix of the model, one at a time."""
    matrices = {name: weight for name, weight in model.named_parameters() if weight.dim() == 2}
    found = []
    for sample in tokens:
        loss = sample_loss(model, sample)
        found.append({})
        for name, weight in matrices.items():
            (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True)
            found[-1][name] = torch.zeros_like(weight) if gradient is None else gradient
    return found


def pruner_scores(
    model: nn.Module, gradients: list[dict[str, Tensor]], order: int
) -> list[dict[str, Tensor]]:
    """The Taylor scores of every block from the samples' gradients, which ``model`` has given."""
    changes: dict[int, Tensor] = {}
    for name, weight in model.named_parameters():
        if name not in gradients[0]:
            continue
        of_samples = [sample[name].double() for sample in gradients]
        w = weight.detach().double()
        change = -w * (sum(of_samples) / len(of_samples))  # of the loss when w goes to 0
        if order == 2:
            fisher = sum(g * g for g in of_samples) / len(of_samples)
            change = change + w * w * fisher / 2
        changes[id(weight)] = change
    return [
        # summing |change| over the coupled weights is what magnitude does with |w|
        reference_scores(
            reference_block(model, index, read=lambda weight: changes[id(weight)]), "magnitude"
        )
        for index in range(model.config.num_hidden_layers)
    ]


def in_float64(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in float64."""
    return copy.deepcopy(model).double()


def propagated_scores(model: nn.Module) -> list[dict[str, Tensor]]:
    """Importance propagation as the derivative that it is.

    In the linear network of the absolute weights, an importance vector sent back from ones is
    the derivative of the sum of the output. Each block's scores are divided by the mean of the
    derivatives at its output.
    """
    blocks = [reference_block(model, i) for i in range(model.config.num_hidden_layers)]
    hidden = [torch.ones(blocks[0].up.shape[1], dtype=torch.float64, requires_grad=True)]
    channels = []
    for block in blocks:
        output, attention, ffn = _run_absolute(block, hidden[-1])
        channels.append((attention, ffn))
        hidden.append(output)
    total = hidden[-1].sum()
    outputs = torch.autograd.grad(total, hidden[1:], retain_graph=True)
    found = []
    for block, units, at_output in zip(blocks, channels, outputs, strict=True):
        scores = torch.autograd.grad(total, units, retain_graph=True)
        attention, ffn = (score / at_output.mean() for score in scores)
        heads = attention.view(block.heads, block.width).sum(1)
        groups = heads.view(block.kv_heads, -1).sum(1)
        found.append({"attention": attention, "heads": heads, "kv_groups": groups, "ffn": ffn})
    return found


def _run_absolute(block: ReferenceBlock, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The output of a block of absolute weights, each head attending to its own token alone;
    and the inputs of o and down in it."""
    values = block.v.abs() @ x
    read = []
    for head in range(block.heads):
        start = block.group_of(head) * block.width
        read.append(values[start : start + block.width])
    attention = torch.cat(read)
    after = x + block.factor * block.o.abs() @ attention
    seen = x if block.parallel else after
    ffn = block.up.abs() @ seen
    if block.gate is not None:
        ffn = ffn + block.gate.abs() @ seen
    return after + block.factor * block.down.abs() @ ffn, attention, ffn
