"""What an export format is: how a pruned model is put in a folder, and how it is loaded from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .number_types import Written, as_one_type


@dataclass(frozen=True)
class Format:
    """A named way to write a pruned model. All that is said and done about a format is here.

    ``name`` is what options and manifests say, ``title`` is for people. ``tier``: 1 where stock
    `transformers` loads it by its name alone, 2 where that needs code, 3 where another program
    runs it.
    ``problem(plan, config, model=None)``: why it cannot hold what the plan leaves of a model, in
    a sentence; None where it can. ``config`` is that of the dense or of the pruned model,
    ``model`` the pruned one where it is there.
    ``form(model, plan)``: the pruned model as the module whose weights are written; it shares
    the tensors of ``model`` under the same names, and need not run.
    ``rounded(form, dtype)``: the same with its weights as they are written, where ``dtype`` is
    that of `save_pruned`.
    ``write(form, tokenizer, place)``: writes what that gave and the tokenizer to the folder
    ``place``, or where the format has a ``suffix`` to the file ``place``.
    ``read_back(place, form)``: the model that is there, which must run, with the dtypes and, bit
    for bit, the state dict of ``form``. Raises InputError where it is not what was written.
    ``loading_code(place)``: the lines of ``language`` that load it.
    ``card``: what the model card says below them, in Markdown, with {name}, {model_class} and
    {reason}, which says why a format before it in the list cannot hold the plan. ``notice``:
    what a page says beforehand, with {reason}. ``caption``: what it says below the lines of
    Python afterwards, with {folder}.
    ``tolerance``: by how much the logits of what is read back may differ from those of the same
    weights in memory, as a share of the largest; None: by what the order of sums does. A format
    that rounds the weights by itself says more.
    ``suffix``: what the name of the file ends in, where an export is a file with its plan and card
    beside it, not a folder; ``mark``: bytes among its first 4,096 by which a file of ours is known.
    ``kinds``: the types that weights can be quantised to, and ``quantised(kind)`` the format that
    does so; without any the number type says all. ``tokenizer_problem(tokenizer, config)``: why it
    cannot hold a tokenizer, in a sentence. ``reader_class(form, plan)``: what the model is called
    there, where that is not the class of ``form``. ``library``: what runs it, as model cards have
    it. ``on_request``: "auto" never means it. ``in_memory``: it needs the whole model in memory.
    ``smaller_code(place)``: the command by which another tool makes a smaller file of the export.
    """

    name: str
    title: str
    tier: int
    problem: Callable[..., str | None]
    form: Callable[..., nn.Module]
    write: Callable[[nn.Module, object, Path], None]
    read_back: Callable[[Path, nn.Module], nn.Module]
    loading_code: Callable[[str], str]
    card: str
    notice: str
    caption: str = ""
    tolerance: float | None = None
    rounded: Callable[[nn.Module, torch.dtype], Written] = as_one_type
    language: str = "python"
    library: str = "transformers"
    suffix: str = ""
    mark: bytes = b""
    kinds: Sequence[str] = ()
    quantised: Callable[[str], "Format"] | None = None
    tokenizer_problem: Callable[..., str | None] | None = None
    reader_class: Callable[..., str] | None = None
    on_request: bool = False
    in_memory: bool = False
    smaller_code: Callable[[str], str] | None = None
