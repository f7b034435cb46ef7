"""Curves: what each sublayer loses at every width, from the second moments of one pass.

A sublayer's projection (o or down) loses inputs one by one, and the columns that stay are refitted
after each (see `elimination`). The curve is the error that stays then, as the refit counts it: the
mean squared change of the projection's output, and the ridge on the change of its weights. The
ridge is one for the whole curve, where least squares chooses one for each projection and width on
tokens held out: the error could not be taken forward from width to width otherwise, and the curves
of two sublayers not compared.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter, BlockWeights
from ..models.batches import rows_for
from ..models.shapes import ModelShape
from ..progress import Progress
from ..store.kinds import Kind
from .base import BlockCurves, CurveSettings
from .elimination import Elimination, eliminate_inputs, eliminate_units, held_back
from .fisher import Fisher, collect_fisher
from .moments import SecondMoments, second_moments_by_block


@dataclass(frozen=True, eq=False)
class Curves:
    """The curves of every block of a model of the sizes ``shape``.

    `relative` compares sublayers; with ``settings.fisher`` the errors themselves can be compared.
    """

    blocks: tuple[BlockCurves, ...]
    settings: CurveSettings
    shape: ModelShape


def relative(errors: Tensor) -> Tensor:
    """The errors of a curve as shares of all there is to lose, from 0 to 1."""
    return errors / errors[-1].clamp_min(torch.finfo(errors.dtype).tiny)


def curves_of_block(
    weights: BlockWeights,
    moments: Mapping[str, Tensor],
    settings: CurveSettings,
    fisher: Fisher | None = None,
) -> BlockCurves:
    """The curves of a block from its weights and the second moments of its inputs "o" and "down";
    ``fisher`` where the settings ask for it. Raises InputError."""
    o, down = (_problem(weights, moments, site, settings, fisher) for site in ("o", "down"))
    heads, groups, width = weights.heads, weights.kv_heads, weights.head_dim
    inputs, group = torch.arange(heads * width), heads // max(groups, 1)
    of_group = inputs.reshape(1, groups, group * width)
    shared = group > 1
    of_head = inputs.reshape(groups if shared else 1, group if shared else heads, width)
    grouped = {"grouped": settings.grouped}
    by_group = eliminate_units(*o, of_group, **grouped)
    by_head = eliminate_units(*o, of_head, **grouped) if shared else by_group
    together = {"together": _at_once} if settings.grouped else {}
    return BlockCurves(by_head, by_group, eliminate_inputs(*down, **together))


def _problem(
    weights: BlockWeights,
    moments: Mapping[str, Tensor],
    site: str,
    settings: CurveSettings,
    fisher: Fisher | None,
) -> tuple[Tensor, Tensor]:
    """The products of the columns of one projection, and the moments of its inputs, held back."""
    weight = getattr(weights, site)
    held = held_back(moments[site].to(weight.device), settings.ridge)
    weight = weight.to(held)
    if not settings.fisher:
        return weight.T @ weight, held
    return weight.T @ (fisher[site].to(held) @ weight) / 2, held


def _at_once(left: int) -> int:
    """How many channels go at once with SlimGPT's grouping: half of what is left above 512, from
    64 to 1,024."""
    return max(64, min((left - 512) // 2, 1024))


def collect_curves(
    adapter: Adapter,
    calibration: CalibrationSet,
    settings: CurveSettings,
    *,
    progress: Progress,
    moments: SecondMoments | None = None,
) -> Curves:
    """The curves of a model, block by block: only one block's matrices are held at a time.

    ``moments`` are the second moments of ``calibration``, which is run through the model for them
    where they are not given; for a Fisher matrix some of it is run forwards and backwards. Raises
    InputError.
    """
    fishers = None
    if settings.fisher:
        samples = max(settings.tokens // calibration.seq_len, 1)
        fishers = collect_fisher(adapter, calibration.only(slice(samples)), progress)
    found = []
    for index, of_block in enumerate(_moments_of(adapter, calibration, moments)):
        progress(index / len(adapter.blocks), "Curves of the sublayers")
        weights = adapter.blocks[index].weights()
        fisher = fishers[index] if fishers else None
        found.append(curves_of_block(weights, of_block, settings, fisher))
    return Curves(tuple(found), settings, adapter.shape)


def _moments_of(
    adapter: Adapter, calibration: CalibrationSet, moments: SecondMoments | None
) -> Iterator[Mapping[str, Tensor]]:
    """The second moments of one block after the other, by site."""
    if moments is not None:
        for index in range(len(adapter.blocks)):
            yield {site: moments.of(index, site) for site in ("o", "down")}
        return
    rows = rows_for(adapter.model, calibration.seq_len)
    walked = second_moments_by_block(adapter.model, calibration, batch_size=rows)
    for index, tensors in enumerate(walked):
        yield {site: tensors[f"{index}.{site}"] for site in ("o", "down")}


_SUBLAYERS = tuple(BlockCurves.__dataclass_fields__)
_PARTS = tuple(Elimination.__dataclass_fields__)


def _write(curves: Curves) -> tuple[dict[str, Tensor], dict]:
    tensors = {
        f"{index}.{sublayer}.{part}": getattr(getattr(block, sublayer), part).contiguous()
        for index, block in enumerate(curves.blocks)
        for sublayer in _SUBLAYERS
        for part in _PARTS
    }
    # what two names share is written twice: safetensors takes no tensor by two names
    return {name: value.clone() for name, value in tensors.items()}, {
        "settings": asdict(curves.settings),
        "shape": curves.shape.to_dict(),
    }


def _read(tensors: dict[str, Tensor], data: dict) -> Curves:
    shape = ModelShape.from_dict(data["shape"])
    blocks = tuple(
        BlockCurves(
            *(
                Elimination(*(tensors[f"{index}.{sublayer}.{part}"] for part in _PARTS))
                for sublayer in _SUBLAYERS
            )
        )
        for index in range(len(shape.blocks))
    )
    return Curves(blocks, CurveSettings(**data["settings"]), shape)


CURVES = Kind(
    "curves", "what each sublayer loses at every width", version=3, write=_write, read=_read
)
