"""The format GGUF: a file that llama.cpp runs."""

import shlex
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ...models.streaming import check_whole
from ...pruning.plan import PruningPlan
from ..base import Format
from ..number_types import Written
from .architectures import architecture_of, choose
from .files import read_file, write_file
from .keys import MARK, keys_of
from .kinds import KINDS, as_kind, kind_of, row_problem
from .tokens import tokenizer_problem

_AUTO = "auto"


def gguf_problem(
    plan: PruningPlan, config, model: nn.Module | None = None, *, kind: str = _AUTO
) -> str | None:
    """Why a GGUF file, with weights of ``kind``, cannot hold what ``plan`` leaves of a model, in a
    sentence; None where it can. The arguments are those of a format's ``problem``."""
    chosen, problem = choose(plan, config, model)
    if chosen is None:
        return problem
    if kind == _AUTO:
        return None
    sizes = {"hidden": plan.shape.hidden, "width": plan.shape.head_dim}
    return row_problem(KINDS[kind], plan.pruned_shape.blocks, **sizes)


def _form(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """``model`` itself: what is gone of it is left out when it is written."""
    check_whole(model, "The format gguf")
    return model


def _rounded(form: nn.Module, dtype: torch.dtype, *, kind: str) -> Written:
    chosen = kind_of(dtype) if kind == _AUTO else KINDS[kind]
    return as_kind(form, chosen, architecture_of(form))


def _write(form: nn.Module, tokenizer, file: Path, *, kind: str) -> None:
    architecture = architecture_of(form)
    held = form.get_input_embeddings().weight.dtype
    chosen = kind_of(held) if kind == _AUTO else KINDS[kind]
    keys = keys_of(form, tokenizer, architecture, chosen.file_type)
    write_file(file, form, keys, architecture, chosen)


def _read_back(file: Path, form: nn.Module) -> nn.Module:
    return read_file(file, form, architecture_of(form))


def _reader_class(form: nn.Module, plan: PruningPlan) -> str:
    """What llama.cpp calls the architecture."""
    return architecture_of(form).name


def _loading_code(file: str) -> str:
    return f"llama-cli -m {shlex.quote(file)}"


def quantising_code(file: str) -> str:
    """The command of llama.cpp's own tool that makes a file of a K-quant of ``file``."""
    smaller = f"{file.removesuffix('.gguf')}-Q4_K_M.gguf"
    return f"llama-quantize {shlex.quote(file)} {shlex.quote(smaller)} Q4_K_M"


def _quantised(kind: str) -> Format:
    """The format with weights of ``kind``, "auto" for that of the number type."""
    return Format(
        name="gguf",
        title="GGUF file for llama.cpp",
        tier=3,
        problem=partial(gguf_problem, kind=kind),
        form=_form,
        rounded=partial(_rounded, kind=kind),
        write=partial(_write, kind=kind),
        read_back=_read_back,
        loading_code=_loading_code,
        card="""llama.cpp, or a program that is built on it, runs the file; there its architecture
is `{model_class}`. Smaller types than Q8_0 are llama.cpp's own: `llama-quantize` makes them of this
file, best of one in f16 or f32, and where the widths are multiples of 256.""",
        notice="A GGUF file, with its plan and card beside it: llama.cpp runs it. Smaller types "
        "than q8_0 are made of it by llama.cpp's own llama-quantize.",
        caption="`llama-quantize` of llama.cpp makes smaller types of the file. Rows that are no "
        "multiple of 256 get a larger one there; widths rounded to 256 avoid that.",
        language="bash",
        library="gguf",
        suffix=".gguf",
        mark=MARK.encode(),
        kinds=tuple(KINDS),
        quantised=_quantised,
        tokenizer_problem=tokenizer_problem,
        reader_class=_reader_class,
        on_request=True,
        in_memory=True,
        smaller_code=quantising_code,
    )


FORMAT = _quantised(_AUTO)
