"""A pruning plan: for every block, which query heads and which FFN channels stay.

A plan is data. It knows the sizes of the model, but no module; it is made from scores, survives
JSON, and says what it realises before anything is cut.
"""

import contextlib
import json
import operator
import os
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from ..criteria import BlockScores, Scores, find_criterion
from ..errors import InputError
from ..models.shapes import BlockShape, ModelShape
from ..store.kinds import Kind
from .allocation import UNITS, BlockBudget, allocate, check_settings, resolve_unit
from .ranking import Kept, keep_globally, keep_sublayers

FORMAT = "bipcore-plan/1"


@dataclass(frozen=True)
class BlockPlan:
    """What stays of one block: query heads and FFN channels, ascending indices.

    An empty list means that the sublayer is gone. The key/value heads that stay are those that
    a kept query head reads.
    """

    heads: tuple[int, ...]
    channels: tuple[int, ...]

    def shape(self, before: BlockShape) -> BlockShape:
        """The widths that remain of ``before``."""
        kv_heads = len({head // before.group for head in self.heads})
        return BlockShape(len(self.heads), kv_heads, len(self.channels))


@dataclass(frozen=True)
class PruningPlan:
    """Kept heads and channels of every block of a model of sizes ``shape``.

    ``spec`` says where the plan came from (criterion, sparsity, unit, ...): plain JSON types.
    """

    shape: ModelShape
    blocks: tuple[BlockPlan, ...]
    spec: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def pruned_shape(self) -> ModelShape:
        """The sizes of the pruned model."""
        kept = (plan.shape(was) for plan, was in zip(self.blocks, self.shape.blocks, strict=True))
        return self.shape.with_blocks(tuple(kept))

    @property
    def realised(self) -> float:
        """The share of the parameters of all decoder blocks that the plan removes, 0 to 1."""
        return 1 - self.pruned_shape.block_parameters / self.shape.block_parameters

    @property
    def realised_total(self) -> float:
        """The share of all parameters, embeddings included, that the plan removes, 0 to 1."""
        return 1 - self.pruned_shape.parameters / self.shape.parameters

    @property
    def uniform(self) -> bool:
        """Whether all blocks have the same widths, so that a stock configuration can say them."""
        return len(set(self.pruned_shape.blocks)) == 1

    def to_json(self) -> str:
        """The plan as JSON text; `from_json` reads it back."""
        blocks = [{"heads": list(b.heads), "channels": list(b.channels)} for b in self.blocks]
        return json.dumps(
            {
                "format": FORMAT,
                "spec": dict(self.spec),
                "realised": {"block": self.realised, "total": self.realised_total},
                "shape": self.shape.to_dict(),
                "blocks": blocks,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "PruningPlan":
        """The plan in ``text``; raises InputError when it is not a plan, or contradicts itself."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise InputError(f"This plan has the format {data['format']!r}, not {FORMAT!r}.")
            blocks = tuple(
                BlockPlan(tuple(block["heads"]), tuple(block["channels"]))
                for block in data["blocks"]
            )
            shape, spec = ModelShape.from_dict(data["shape"]), dict(data["spec"])
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"This is not a pruning plan: {error}.") from None
        return cls(shape=shape, blocks=blocks, spec=spec)


PLANS = Kind(
    "plans",
    "plans that were edited by hand",
    write=lambda plan: ({}, {"plan": plan.to_json()}),
    read=lambda tensors, data: PruningPlan.from_json(data["plan"]),
)


def _validate(plan: PruningPlan) -> None:
    if len(plan.blocks) != len(plan.shape.blocks):
        raise InputError(
            f"The plan has {len(plan.blocks)} blocks, its model {len(plan.shape.blocks)}."
        )
    for index, (block, was) in enumerate(zip(plan.blocks, plan.shape.blocks, strict=True)):
        for name, kept, limit in (
            ("heads", block.heads, was.heads),
            ("channels", block.channels, was.channels),
        ):
            if not _ascending_indices(kept):
                raise InputError(f"Block {index}: kept {name} are ascending indices, each once.")
            if kept and not (kept[0] >= 0 and kept[-1] < limit):
                raise InputError(f"Block {index}: kept {name} go beyond the {limit} there are.")
        of_group = Counter(head // was.group for head in block.heads)
        if len(set(of_group.values())) > 1:
            raise InputError(
                f"Block {index}: every key/value head that stays needs the same number of "
                "query heads."
            )


def _ascending_indices(kept: tuple[int, ...]) -> bool:
    """Whether ``kept`` are whole numbers, each larger than the one before: there are hundreds of
    thousands of channels, so no loop in Python."""
    return set(map(type, kept)) <= {int} and all(map(operator.lt, kept, kept[1:]))


def make_plan(
    scores: Scores,
    *,
    sparsity: float,
    unit: str = "auto",
    allocation: str = "auto",
    protect_first: int = 0,
    protect_last: int = 0,
    round_to: int = 1,
    floor: float = 0.0,
) -> PruningPlan:
    """Choose what stays: the highest scores, as many of each block as the allocation gives it.

    ``sparsity``: the share of the decoder blocks' parameters to remove, at least 0, below 1.
    ``unit`` of attention: "head" (every query head has its own key/value head), "query-head"
    (the same number of query heads out of every KV group), "kv-group" (a key/value head with
    its query heads), "none" (attention is kept whole), or "auto", the first that fits.
    ``allocation``: "uniform" rounds the number of heads to remove down and lets the channels
    make up the difference; "paper" takes the share of the heads and of the channels, rounded
    separately; both give every block the same widths. "global" compares standardised scores
    across blocks (see `ranking.keep_globally`), and "sublayer" removes whole sublayers, for a
    criterion that ranks them. "auto" takes what the criterion's authors use.
    ``protect_first`` and ``protect_last`` blocks keep everything; the others give up more.
    ``round_to``: FFN widths become multiples of it. ``floor``: the share of its heads and of its
    channels that every block keeps at least, with "global". Raises InputError when it cannot be
    done.
    """
    unit = resolve_unit(unit, scores.shape)
    settings = {
        "sparsity": sparsity,
        "unit": unit,
        "allocation": resolve_allocation(allocation, scores.criterion),
        "protect_first": protect_first,
        "protect_last": protect_last,
        "round_to": round_to,
        "floor": floor,
    }
    check_settings(scores.shape, **settings)
    blocks = tuple(BlockPlan(*kept) for kept in _kept(scores, settings))
    spec = {
        "criterion": scores.criterion,
        "options": dict(scores.options),
        "calibration": scores.fingerprint,
        **settings,
        "sparsity": float(sparsity),
        "floor": float(floor),
    }
    return PruningPlan(shape=scores.shape, blocks=blocks, spec=spec)


def resolve_allocation(allocation: str, criterion: str) -> str:
    """``allocation`` with "auto" replaced by the criterion's own; raises InputError where the
    two do not go together."""
    own = find_criterion(criterion).allocation
    if allocation == "auto":
        return own
    if (allocation == "sublayer") != (own == "sublayer"):
        ranks = "ranks whole sublayers" if own == "sublayer" else "does not rank whole sublayers"
        raise InputError(
            f"The criterion {criterion!r} {ranks}, which the allocation {allocation!r} does not "
            "go with; use the allocation auto."
        )
    return allocation


def _kept(scores: Scores, settings: dict[str, Any]) -> tuple[Kept, ...]:
    allocation = settings["allocation"]
    wanted = dict(settings)
    if allocation == "sublayer":
        names = ("sparsity", "unit", "protect_first", "protect_last")
        return keep_sublayers(scores, **{name: settings[name] for name in names})
    if allocation == "global":
        del wanted["allocation"]
        return keep_globally(scores, **wanted)
    del wanted["floor"]
    budgets = allocate(scores.shape, **wanted)
    return tuple(
        choose(of_block, budget, was, wanted["unit"])
        for of_block, budget, was in zip(scores.blocks, budgets, scores.shape.blocks, strict=True)
    )


def choose(scores: BlockScores, budget: BlockBudget, was: BlockShape, unit: str) -> Kept:
    """The highest-scoring units and channels of one block; of equal scores the earlier goes."""
    group = was.group
    if unit == UNITS.KV_GROUP:
        groups = _keep(scores.kv_groups, budget.attention)
        heads = tuple(g * group + i for g in groups for i in range(group))
    elif unit == UNITS.QUERY_HEAD:
        by_group = scores.heads.view(was.kv_heads, group)
        heads = tuple(
            g * group + i for g in range(was.kv_heads) for i in _keep(by_group[g], budget.attention)
        )
    else:
        heads = _keep(scores.heads, budget.attention)
    return heads, _keep(scores.ffn, budget.channels)


def _keep(scores: Tensor, count: int) -> tuple[int, ...]:
    if not torch.isfinite(scores).all():
        raise InputError("The scores are not finite numbers; score the model again.")
    if not count:
        return ()
    values = scores.numpy()
    lowest = numpy.sort(values)[len(values) - count]
    stay = values >= lowest
    too_many = int(stay.sum()) - count
    stay[numpy.flatnonzero(values == lowest)[:too_many]] = False
    return tuple(numpy.flatnonzero(stay).tolist())


def check_plan_file(path: str | Path) -> Path:
    """``path`` as an absolute path, if a plan may be written there.

    It may be missing, in a folder that is there, or be a plan file. Raises InputError.
    """
    if not str(path).strip():
        raise InputError("The output file has no name; give one.")
    try:
        target = Path(path).expanduser().resolve()
        if target.is_dir():
            raise InputError(f"{target} is a folder; give a file to write to.")
        if target.exists() and not _is_plan(target):
            raise InputError(f"{target} is not a plan; give a new file, it is not overwritten.")
        if not target.parent.is_dir():
            raise InputError(f"The folder {target.parent} does not exist; make it first.")
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)[:200]!r} cannot be written: {reason}.") from None
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target} cannot be written: no permission in {target.parent}.")
    return target


def _is_plan(file: Path) -> bool:
    """Whether it begins as the text of a plan does."""
    with file.open("rb") as text:
        return f'"format": "{FORMAT}"'.encode() in text.read(200)


def write_plan(plan: PruningPlan, path: str | Path) -> Path:
    """Write ``plan`` under a temporary name and rename it; the file. Raises InputError."""
    target = check_plan_file(path)
    unfinished = target.with_name(f".unfinished-{uuid.uuid4().hex[:12]}")
    try:
        unfinished.write_text(plan.to_json(), encoding="utf-8")
        os.replace(unfinished, target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}.") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return target


def load_plan(folder: str | Path) -> PruningPlan:
    """The plan of an exported folder, or of a plan file. Raises InputError."""
    try:
        path = Path(folder).expanduser()
        path = path / "plan.json" if path.is_dir() else path
        text = path.read_text(encoding="utf-8")
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The plan {str(folder)[:200]} cannot be read: {reason}.") from None
    return PruningPlan.from_json(text)
