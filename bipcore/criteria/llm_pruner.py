"""LLM-Pruner: the change of the loss when a weight is set to zero, by Taylor expansion."""

from torch import Tensor, nn

from ..data.calibration import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.shapes import ModelShape
from ..progress import Progress
from .base import ChannelScores, Criterion, sum_coupled
from .gradients import WeightGradient, collect_gradients


def score_model(
    adapter: Adapter, calibration: CalibrationSet, progress: Progress, *, order: int = 1
) -> list[ChannelScores]:
    """Σ over the coupled weights of the expected change of the loss (arXiv 2305.11627, "Param").

    L is the mean over the samples of their mean negative log-likelihood of a token; g_n the
    gradient of sample n's, g the mean of g_n. ``order`` 1: |w·g|. ``order`` 2:
    |w·g - ½·w²·mean_n g_n²|, the Hessian's diagonal taken as that of the empirical Fisher matrix
    (the paper's equations 4 and 5; their ½ Σ is that of the mean over samples here).
    Raises InputError for another order, or samples of one token.
    """
    _check_order(order)
    gradients = collect_gradients(adapter, calibration, progress, squares=order == 2)
    found = []
    for block in adapter.blocks:
        of_block = gradients.pop(0)  # freed block by block
        changes = [_change(*pair) for pair in zip(block.linears, of_block, strict=True)]
        found.append(sum_coupled(block.split(changes)))
    return found


def _change(linear: nn.Linear, gradient: WeightGradient) -> Tensor:
    """By how much the loss falls when each weight is set to zero, signed, (out, in)."""
    weight = linear.weight.detach().float()
    change = weight * gradient.mean
    if gradient.mean_square is not None:
        change -= weight.square().mul_(gradient.mean_square).div_(2)
    return change


def memory(shape: ModelShape, seq_len: int, *, order: int = 1) -> int:
    """Bytes beside the model: the gradients of all prunable weights, and one sample's activations.

    A float32 model takes 4 bytes a weight in order 1 (the running sum); 12 in order 2 (the sum,
    that of the squares, and the sample's own). A bfloat16 model takes 6 and 10.
    Activations are an estimate from above of what autograd keeps for the way back, in float32:
    for each token and block 12·d (norms and residuals), 3·(H·h + K·h) (q, k, v and the
    attention's output, turned and repeated) and F times 4, 2 without a gate; for each token 4
    copies of the logits. The H·T × T matrix that an unfused attention keeps (Gemma 2) is not in
    it. Raises InputError.
    """
    _check_order(order)
    gated = shape.channel_cost.weights > 2 * shape.hidden
    weights = width = 0
    for block in shape.blocks:
        weights += block.heads * shape.head_cost.weights
        weights += block.kv_heads * shape.kv_head_cost.weights
        weights += block.channels * shape.channel_cost.weights
        width += 12 * shape.hidden + 3 * (block.heads + block.kv_heads) * shape.head_dim
        width += (4 if gated else 2) * block.channels
    vocabulary = shape.other_weights // shape.hidden
    return (4 if order == 1 else 12) * weights + 4 * seq_len * (width + 4 * vocabulary)


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise InputError(f"The order of the Taylor expansion is 1 or 2, not {order}.")


CRITERION = Criterion(
    name="llm-pruner",
    title="LLM-Pruner (Taylor)",
    formula="Σ |w · ∂L/∂w| over the channel's coupled weights; order 2: |w·g - ½·w²·mean g²|",
    reference="https://arxiv.org/abs/2305.11627",
    needs="gradients",
    score_model=score_model,
    options={"order": 1},
    memory=memory,
)
