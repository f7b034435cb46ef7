"""The format for every plan: the widths stand in config.json, and a file of code reads them."""

from functools import partial
from pathlib import Path

from torch import nn

from ..errors import InputError
from ..models.adapters import Adapter
from ..models.pruned_classes import MODELLING_FILE, block_configs, classes_of, layout_of
from ..models.streaming import is_streamed
from ..pruning.plan import PruningPlan
from .base import Format
from .folder import loading_code, write_folder
from .forms import added_biases, plain_fields, rebuilt
from .streamed import read_streamed


def _no_problem(plan: PruningPlan, config, model: nn.Module | None = None) -> None:
    """It can hold every plan."""


def pruned_form(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """``model`` as the class of the modelling file, whose configuration says all widths.

    It is there to be saved, and `transformers` saves that file with it, and names two of its
    classes; the third, of the model without its head, is named here. It shares the tensors of
    ``model``, and does not run. ``plan`` is not looked at.
    """
    shapes, added = Adapter(model).shape.blocks, added_biases(model)
    classes = classes_of(model.config.model_type)
    config = classes.config.from_dict(
        plain_fields(model.config)
        | {
            "block_configs": block_configs(model.config.model_type, shapes),
            "output_biases": added if any(map(any, added)) else None,
            "block_layout": layout_of(model.config.model_type),
            "auto_map": {"AutoModel": f"{MODELLING_FILE.stem}.{classes.base.__name__}"},
        }
    )
    return rebuilt(model, classes.model, config)


def _read_back(folder: Path, form: nn.Module) -> nn.Module:
    """The model in ``folder``, by bipcore's own copy of the modelling file.

    Raises InputError where the two are not the same, byte for byte.
    """
    if (folder / MODELLING_FILE.name).read_bytes() != MODELLING_FILE.read_bytes():
        raise InputError(
            "The export was not kept: its modelling file, read back, is not the one written."
        )
    kind = classes_of(form.config.model_type).model
    if is_streamed(form):
        return read_streamed(folder, form, lambda: kind(kind.config_class.from_pretrained(folder)))
    return kind.from_pretrained(folder, dtype=form.dtype, local_files_only=True)


_NAME = MODELLING_FILE.name

FORMAT = Format(
    name="modelling-file",
    title="Stock transformers class with a modelling file",
    tier=2,
    problem=_no_problem,
    form=pruned_form,
    write=write_folder,
    read_back=_read_back,
    loading_code=partial(loading_code, trust=True),
    card=f"""{{reason}} So this folder has
[`{_NAME}`]({_NAME}): the stock class of `transformers`, cut down to the widths that
`config.json` says. `trust_remote_code=True` lets `transformers` run that file; it is short, read
it first. It needs no bipcore; with bipcore, `bipcore.load_pruned(folder)` loads the same model and
runs no code from this folder.""",
    notice="Tier 2, a folder with a modelling file. {reason} So a short Python file goes along, "
    "and `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` loads it.",
    caption="`trust_remote_code=True` lets `transformers` run the modelling file of the folder. "
    "`bipcore.load_pruned(folder)` loads the same model without running it.",
)
