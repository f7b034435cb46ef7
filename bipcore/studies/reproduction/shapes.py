"""The sizes of a reproduction's models, from configurations alone: nothing is loaded or run."""

from ...errors import InputError
from ...models.adapters import Adapter
from ...models.loading import empty_model, load_config
from ...models.shapes import ModelShape
from ...pruning.allocation import allocated_shape, resolve_unit
from ...pruning.plan import resolve_allocation
from ...specs import ModelSpec
from ..sweep_specs import DENSE
from .rows import Row, count_cells
from .spec import Reproduction, RowKey


def sizes_of(model: ModelSpec) -> ModelShape:
    """The sizes of a model from its configuration alone; raises InputError."""
    return Adapter(empty_model(load_config(model.name))).shape


def pruned_shape(spec: Reproduction, shape: ModelShape, key: RowKey) -> ModelShape | None:
    """The sizes of the row's model, as if all its blocks were given the same widths; None where
    no plan can have them."""
    if key.method == DENSE:
        return shape
    plan = spec.plan_spec(key)
    allocation = resolve_allocation(plan.allocation, key.method)
    by_width = allocation if allocation in ("uniform", "paper") else "uniform"
    settings = plan.choice | {"allocation": by_width}
    del settings["floor"]
    try:
        settings["unit"] = resolve_unit(plan.unit, shape)
        return allocated_shape(shape, **settings)
    except InputError:
        return None


def counted_rows(spec: Reproduction, shape: ModelShape) -> list[Row]:
    """Of a table of counts, the rows as far as they can be had without running anything."""
    rows, seq_len = [], spec.calibration.seq_len
    for key in spec.rows if spec.kind == "compression" else ():
        pruned = pruned_shape(spec, shape, key)
        if pruned is not None:
            rows.append(Row(key, count_cells(pruned.parameters, pruned.macs(seq_len), seq_len)))
    return rows
