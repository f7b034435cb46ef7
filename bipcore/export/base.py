"""What an export format is: how a pruned model is put in a folder, and how it is loaded from it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn


@dataclass(frozen=True)
class Format:
    """A named way to write a pruned model. All that is said and done about a format is here.

    ``name`` is what options and manifests say, ``title`` is for people. ``tier``: 1 where stock
    `transformers` loads it by its name alone, else 2.
    ``problem(plan, config, model=None)``: why it cannot hold what the plan leaves of a model, in
    a sentence; None where it can. ``config`` is that of the dense or of the pruned model,
    ``model`` the pruned one where it is there.
    ``form(model, plan)``: the pruned model as the module whose weights are written; it shares
    the tensors of ``model`` under the same names, and need not run. Where another number type is
    to be written, it is rounded to that first.
    ``write(form, tokenizer, folder)``: writes that and the tokenizer.
    ``read_back(folder, form)``: the model that the folder holds, which must run, with the dtype
    and, bit for bit, the state dict of ``form``. Raises InputError where it is not what was
    written.
    ``loading_code(folder)``: the lines of Python that load it.
    ``card``: what the model card says below them, in Markdown, with {name}, {model_class} and
    {reason}, which says why a format before it in the list cannot hold the plan. ``notice``:
    what a page says beforehand, with {reason}. ``caption``: what it says below the lines of
    Python afterwards, with {folder}.
    ``tolerance``: by how much the logits of what is read back may differ from those of the same
    weights in memory, as a share of the largest; None: by what the order of sums does. A format
    that rounds the weights by itself says more.
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
