"""How far the blocks of pruned models are from those of the dense one, block by block.

With f_l the dense block l, f̂_l the pruned one, X the hidden states of the dense model and X̂
those of the pruned model, the reconstruction error of block l (figure 3 of arXiv 2412.06419) is
the mean over tokens and hidden units of |f_l(X) − f̂_l(X̂)|. *Accumulated*: each model runs on its
own hidden states. *Local*: both blocks receive the dense hidden state, X̂ = X.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy
import torch
from torch import Tensor, nn

from ..criteria import Scores
from ..criteria.statistics import check_length
from ..data.samples import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.devices import widest
from ..models.finite import check_finite
from ..models.running import enter_blocks, evaluation_mode, shelf
from ..models.streaming import is_streamed, present
from ..progress import Progress, tracked
from ..pruning.plan import PruningPlan
from ..store.kinds import Kind


@dataclass(frozen=True)
class ReconstructionErrors:
    """The reconstruction errors of one pruned model, one number a block.

    All in the units of the hidden states: means over all tokens and the d hidden units of
    |f_l(X) − f̂_l(X̂)| (``accumulated``), |f_l(X) − f̂_l(X)| (``local``) and |f_l(X)|
    (``dense_mean_abs``).
    """

    accumulated: tuple[float, ...]
    local: tuple[float, ...]
    dense_mean_abs: tuple[float, ...]

    @property
    def accumulated_relative(self) -> tuple[float, ...]:
        """``accumulated`` as a share of ``dense_mean_abs``; nan where that is 0."""
        return _ratios(self.accumulated, self.dense_mean_abs)

    @property
    def local_relative(self) -> tuple[float, ...]:
        """``local`` as a share of ``dense_mean_abs``; nan where that is 0."""
        return _ratios(self.local, self.dense_mean_abs)


RECONSTRUCTION = Kind(
    "reconstruction",
    "reconstruction errors block by block",
    version=3,
    write=lambda errors: ({}, asdict(errors)),
    read=lambda tensors, data: ReconstructionErrors(**{k: tuple(v) for k, v in data.items()}),
)


def _ratios(errors: tuple[float, ...], sizes: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(e / size if size else math.nan for e, size in zip(errors, sizes, strict=True))


@torch.no_grad()
def reconstruction_errors(
    dense: nn.Module,
    pruned: Mapping[str, nn.Module],
    calibration: CalibrationSet,
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> dict[str, ReconstructionErrors]:
    """The errors of every model of ``pruned``, under its name, over all of ``calibration``.

    ``pruned`` are models that `apply_plan` made from ``dense``, on the same devices, compensated
    or not. One pass: the dense hidden states of a batch go through the blocks once, and beside
    them those of every pruned model, so that memory is that of one batch (B, T, d) a model. Of
    streamed models all batches go through a block before the next, so that each is read once.
    ``batch_size`` is in samples. Differences are taken in float32 and summed in float64; no
    model is changed.
    Raises InputError for no tokens, samples longer than the model can read, a batch size below
    1, or a pruned model that is not of this dense one.
    """
    reference = Adapter(dense)
    adapters = {name: Adapter(model) for name, model in pruned.items()}
    _check(reference, adapters, calibration, batch_size)
    report = tracked(progress)
    comparison = _Comparison(reference, adapters)
    parts = calibration.tokens.split(batch_size)
    groups = [list(parts)] if is_streamed(dense) else [[part] for part in parts]
    with ExitStack() as modes:
        for model in (dense, *pruned.values()):
            modes.enter_context(evaluation_mode(model))
        for index, group in enumerate(groups):
            with report.share(index, len(groups)):
                comparison.add(group, report)
    report(1.0, _MESSAGE)
    for name, sums in comparison.accumulated.items():
        check_finite(sums, "The output of a block", pruned[name])
    return comparison.result(calibration.tokens.numel())


_MESSAGE = "Reconstruction error"


class _Comparison:
    """Running sums over the batches, for every block: Σ |difference| over tokens and units.

    They are scalars in float64 on the device, float32 on one that has none.
    """

    def __init__(self, dense: Adapter, pruned: Mapping[str, Adapter]) -> None:
        self.dense, self.pruned = dense, pruned
        wide = widest(dense.input_device)
        zeros = partial(torch.zeros, len(dense.blocks), dtype=wide, device=dense.input_device)
        self.size = zeros()  # (L,) each
        self.accumulated = {name: zeros() for name in pruned}
        self.local = {name: zeros() for name in pruned}

    def add(self, batches: Sequence[Tensor], progress: Progress) -> None:
        """Advance the hidden states (B, T, d) of all models, for tokens (B, T) of each batch, by
        every block."""
        with present(self.dense.model.get_input_embeddings()):
            entrances = [enter_blocks(self.dense, tokens) for tokens in batches]
        shelves = {name: shelf(self.dense, batches) for name in ("", *self.pruned)}
        for number, entrance in enumerate(entrances):
            for held in shelves.values():
                held.put(number, entrance.hidden)
        entrances = [replace(one, hidden=one.hidden[:0].clone()) for one in entrances]
        for index, block in enumerate(self.dense.blocks):
            progress(index / len(self.dense.blocks), _MESSAGE)
            modules = {name: one.blocks[index].module for name, one in self.pruned.items()}
            with present(block.module, *modules.values()):
                for number, entrance in enumerate(entrances):
                    run = partial(entrance.run, index)
                    states = {name: held.get(number) for name, held in shelves.items()}
                    for name, after in self._step(index, run, block.module, modules, states):
                        shelves[name].put(number, after)

    def _step(
        self,
        index: int,
        run: Callable[[nn.Module, Tensor], Tensor],
        dense: nn.Module,
        pruned: Mapping[str, nn.Module],
        states: dict[str, Tensor],
    ) -> Iterator[tuple[str, Tensor]]:
        """Count one batch in block ``index``; what comes out of it, by name, the dense one's ""."""
        hidden = states[""]
        exact = run(dense, hidden)
        self.size[index] += _sum_abs(exact)
        for name, module in pruned.items():
            after = run(module, states.pop(name))
            accumulated = local = _sum_abs(exact, after)
            if index:  # in block 0 both are the same
                local = _sum_abs(exact, run(module, hidden))
            self.accumulated[name][index] += accumulated.to(self.size.device)
            self.local[name][index] += local.to(self.size.device)
            yield name, after
        yield "", exact

    def result(self, tokens: int) -> dict[str, ReconstructionErrors]:
        """The means over ``tokens`` tokens and d hidden units."""
        values = tokens * _hidden_size(self.dense)

        def means(sums: Tensor) -> tuple[float, ...]:
            return tuple((sums.cpu().double() / values).tolist())

        size = means(self.size)
        return {
            name: ReconstructionErrors(means(self.accumulated[name]), means(self.local[name]), size)
            for name in self.pruned
        }


def _sum_abs(exact: Tensor, other: Tensor | None = None) -> Tensor:
    """Σ |exact − other|, or Σ |exact|, over (B, T, d): float32 in a token, float64 over tokens
    where the device has it."""
    if other is None:
        by_token = exact.float().abs().sum(-1)  # (B, T)
    else:
        by_token = (exact.float() - other.to(exact.device).float()).abs_().sum(-1)  # (B, T)
    return by_token.sum(dtype=widest(by_token.device))


def _hidden_size(adapter: Adapter) -> int:
    return adapter.blocks[0].down.out_features


def _check(
    dense: Adapter, pruned: Mapping[str, Adapter], calibration: CalibrationSet, batch_size: int
) -> None:
    if calibration.tokens.numel() == 0:
        raise InputError("The calibration set is empty; give at least one token.")
    check_length(dense, calibration)
    if batch_size < 1:
        raise InputError(f"The batch size is at least 1, not {batch_size}.")
    expected = _facts(dense)
    for name, adapter in pruned.items():
        for fact, value in _facts(adapter).items():
            if value != expected[fact]:
                raise InputError(
                    f"The {fact} of the pruned model {name!r} is {value}, of the dense one "
                    f"{expected[fact]}; compare models that were pruned from the same one."
                )


def _facts(adapter: Adapter) -> dict[str, object]:
    """What pruning leaves as it is, and blocks that share hidden states and masks must share."""
    return {
        "number of blocks": len(adapter.blocks),
        "hidden size": _hidden_size(adapter),
        "data type": str(adapter.blocks[0].down.weight.dtype).removeprefix("torch."),
        "attention implementation": getattr(adapter.model.config, "_attn_implementation", None),
    }


def llm_bip_bound(scores: Scores, plan: PruningPlan) -> tuple[float, ...]:
    """LLM-BIP's bound on the mean absolute change of every block's output under ``plan``.

    (Σ s^H_j over the removed attention output channels + Σ s^F_j over the removed FFN channels)
    / d, with the scores of equations 8 and 9 of arXiv 2412.06419, in the units of the hidden
    states. Removing the inputs j of a linear layer changes its output i at token t by
    Σ_j X_tj·W_ij, whose mean over t and i is at most Σ_j mean_t|X_tj|·Σ_i|W_ij| / d.

    It bounds the *local* error, of the plan applied without compensation, over the tokens that
    the scores are from; these come from the dense model, not from pruned propagation. It holds
    (up to the rounding of the model's data type):

    - for FFN channels, gated or not, where nothing but the residual follows `down_proj`;
    - for heads, where the FFN does not read the attention's output (parallel residuals, p = 0).

    Elsewhere it is an estimate, loose or violated: the factor 1 + p carries the change of the
    attention through the FFN as if that were linear, with neither norm nor gate before it; and a
    norm after a sublayer (Gemma 2 and 3, OPT with `do_layer_norm_before=False`) divides the
    change by a root mean square that no score knows.
    Raises InputError for scores of another criterion, or a plan for a model of another shape.
    """
    return tuple(heads + ffn for heads, ffn in llm_bip_parts(scores, plan))


def llm_bip_parts(scores: Scores, plan: PruningPlan) -> tuple[tuple[float, float], ...]:
    """`llm_bip_bound` of every block in its two parts: what the removed heads add to it, and what
    the removed FFN channels do."""
    if scores.criterion != "llm-bip":
        raise InputError(
            f"The bound is made of llm-bip scores; these are {scores.criterion} scores."
        )
    if name := scores.shape.differs_in(plan.shape):
        raise InputError(f"The scores are of a model of another shape than the plan's ({name}).")
    d = plan.shape.hidden
    return tuple(
        (_removed(block.heads, keep.heads) / d, _removed(block.ffn, keep.channels) / d)
        for block, keep in zip(scores.blocks, plan.blocks, strict=True)
    )


def _removed(values: Tensor, kept: tuple[int, ...]) -> float:
    """Σ of the scores of what is not ``kept``; a head's is the sum of its channels' scores."""
    gone = torch.ones(len(values), dtype=torch.bool)
    gone[torch.from_numpy(numpy.fromiter(kept, numpy.int64, len(kept)))] = False
    return values[gone].double().sum().item()
