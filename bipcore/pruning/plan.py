"""A pruning plan: for every block, which query heads and which FFN channels stay.

A plan is data. It knows the sizes of the model, but no module; it is made from scores, survives
JSON, and says what it realises before anything is cut.
"""

import json
import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, reason_of, short
from ..models.shapes import BlockShape, ModelShape
from ..store.files import check_file, write_text
from ..store.inputs import named_path, parse_json, read_text
from ..store.kinds import Kind

PLAN_FORMAT = "bipcore-plan/1"
NOTHING = (
    "The plan removes nothing, so what it leaves is the dense model; ask for a higher sparsity, or "
    "round widths to less."
)


HEADS_STAY = (
    "the heads of this model are normalised all together, so none goes alone; a plan keeps all "
    "heads of a block, or none."
)

Kept = tuple[tuple[int, ...], tuple[int, ...]]
"""The query heads and the FFN channels that stay of a block, ascending."""


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
    def left(self) -> tuple[int, ...]:
        """The numbers of the blocks of which a head or a channel stays."""
        return tuple(index for index, kept in enumerate(self.blocks) if kept.heads or kept.channels)

    @property
    def uniform(self) -> bool:
        """Whether the blocks that are `left` have the same widths, so that a stock configuration
        can say them."""
        return len({self.pruned_shape.blocks[index] for index in self.left}) == 1

    @property
    def removes_nothing(self) -> bool:
        """Whether what it leaves is the dense model, as after much rounding of little sparsity."""
        return self.pruned_shape.blocks == self.shape.blocks

    def to_json(self) -> str:
        """The plan as JSON text; `from_json` reads it back."""
        blocks = [{"heads": list(b.heads), "channels": list(b.channels)} for b in self.blocks]
        return json.dumps(
            {
                "format": PLAN_FORMAT,
                "spec": dict(self.spec),
                "realised": {"block": self.realised, "total": self.realised_total},
                "shape": self.shape.to_dict(),
                "blocks": blocks,
            }
        )

    @classmethod
    def from_json(cls, text: str, what: str = "This") -> "PruningPlan":
        """The plan in ``text``; raises InputError, saying ``what`` is no plan or contradicts
        itself."""
        try:
            data = parse_json(text, what)
            if data["format"] != PLAN_FORMAT:
                raise InputError(
                    f"This plan has the format {short(repr(data['format']))}, not {PLAN_FORMAT!r}."
                )
            blocks = tuple(
                BlockPlan(tuple(block["heads"]), tuple(block["channels"]))
                for block in data["blocks"]
            )
            shape, spec = ModelShape.from_dict(data["shape"]), dict(data["spec"])
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{what} is not a pruning plan: {reason_of(error)}.") from None
        return cls(shape=shape, blocks=blocks, spec=spec)


PLANS = Kind(
    "plans",
    "plans that were edited by hand, or chosen for a target",
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
        if plan.shape.heads_stay and len(block.heads) not in (0, was.heads):
            raise InputError(f"Block {index}: {HEADS_STAY}")
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


def check_plan_file(path: str | Path, *, force: bool = False) -> Path:
    """``path`` as an absolute path, if a plan may be written there: a new file, or one that is a
    plan, or with ``force`` any. Raises InputError."""
    return check_file(path, kind="a plan", ours=_is_plan, force=force)


def _is_plan(file: Path) -> bool:
    """Whether it begins as the text of a plan does."""
    with file.open("rb") as text:
        return f'"format": "{PLAN_FORMAT}"'.encode() in text.read(200)


def write_plan(plan: PruningPlan, path: str | Path, *, force: bool = False) -> Path:
    """Write ``plan`` to a file, whole or not at all; the file. Raises InputError."""
    return write_text(check_plan_file(path, force=force), plan.to_json())


def load_plan(folder: str | Path) -> PruningPlan:
    """The plan of an exported folder, or of a plan file. Raises InputError."""
    path = named_path(folder, "The plan")
    path = path / "plan.json" if path.is_dir() else path
    return PruningPlan.from_json(read_text(path, "The plan"), f"The plan {short(path)}")
