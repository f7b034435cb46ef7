"""Changing the plan by hand: the session's edits, one after the other, and how they are undone.

The functions that need no session are pure, and tested without a browser.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import streamlit as st

from bipcore.criteria import Scores
from bipcore.errors import InputError, explain
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning import editing
from bipcore.pruning.plan import PruningPlan
from bipcore.store.kinds import digest

from .settings import Settings, write_settings
from .words import plain

_KEY = "plan-editor"
_PROBLEM = "plan-problem"
_UNDO = 50  # edits that can be undone one by one
_MODEL_FIELDS = ("model", "device", "dtype", "text", "samples", "seq_len", "seed", "criterion")


@dataclass(frozen=True)
class Editor:
    """The plan it started from, the plans after each edit, and whose settings they belong to.

    ``source``: the source of the plan it started from. ``used``: the name under which `use` last
    stored one of the plans, and ``in_use`` that plan. ``revision`` counts all changes.
    """

    identity: str
    source: str
    base: PruningPlan
    history: tuple[PruningPlan, ...] = ()
    used: str = ""
    in_use: PruningPlan | None = None
    revision: int = 0

    @property
    def plan(self) -> PruningPlan:
        """The plan as it is now."""
        return self.history[-1] if self.history else self.base

    def edited(self, plan: PruningPlan) -> "Editor":
        """With ``plan`` as the newest; itself where nothing changed."""
        if plan is self.plan:
            return self
        history = (*self.history, plan)[-_UNDO:]
        return replace(self, history=history, revision=self.revision + 1)

    def undone(self) -> "Editor":
        """Without the last edit."""
        return replace(self, history=self.history[:-1], revision=self.revision + 1)

    def reset(self) -> "Editor":
        """Without any edit."""
        return replace(self, history=(), revision=self.revision + 1)


def identity_of(settings: Settings) -> str:
    """What a session's edits belong to: the settings that decide which plan they start from.

    Where a stored plan is in use, the plan's settings do not count.
    """
    values = asdict(settings)
    if settings.source:
        values = {name: values[name] for name in (*_MODEL_FIELDS, "source")}
    return digest([values, settings.model_spec.identity()])


def continued(held: Editor | None, settings: Settings, plan: PruningPlan) -> Editor:
    """``held`` where it belongs to ``settings``, else a new one that starts from their ``plan``.

    To use one of its own plans is no change of settings.
    """
    if held is not None:
        own = held.used and settings.source == held.used
        expected = replace(settings, source=held.source) if own else settings
        if held.identity == identity_of(expected):
            return held
    return Editor(identity_of(settings), settings.source, plan)


def clicked(event: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """The block and head of the point that was clicked in a `plan_map`; None for none."""
    points = ((event or {}).get("selection") or {}).get("points") or []
    if not points:
        return None
    data = points[-1].get("customdata")
    values = list(data.values()) if isinstance(data, Mapping) else list(data or ())
    return (int(values[0]), int(values[1])) if len(values) == 2 else None


def toggled(plan: PruningPlan, block: int, head: int, scores: Scores) -> PruningPlan:
    """``plan`` without the head where it keeps it, else with it."""
    edit = editing.drop_head if head in plan.blocks[block].heads else editing.keep_head
    return edit(plan, block, head, scores)


def with_heads(
    plan: PruningPlan, block: int, wanted: Collection[int], scores: Scores
) -> PruningPlan:
    """``plan`` with the heads of a block changed towards ``wanted``: one edit for each head that
    is to go or come, unless it went or came with another."""
    before = set(plan.blocks[block].heads)
    for head in sorted(before - set(wanted)):
        if head in plan.blocks[block].heads:
            plan = editing.drop_head(plan, block, head, scores)
    for head in sorted(set(wanted) - before):
        if head not in plan.blocks[block].heads:
            plan = editing.keep_head(plan, block, head, scores)
    return plan


def read_plan(content: bytes, plan: PruningPlan) -> PruningPlan:
    """The plan in an uploaded file, for the model that ``plan`` is of. Raises InputError."""
    try:
        uploaded = PruningPlan.from_json(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError("This is not a pruning plan: it is not text.") from None
    if name := uploaded.shape.differs_in(plan.shape):
        raise InputError(
            f"This plan was made for a model of another shape (its {name}); choose that model in "
            "the sidebar first."
        )
    return uploaded


def current_editor(settings: Settings, plan: PruningPlan) -> Editor:
    """The session's editor, started anew where the settings have changed."""
    editor = continued(st.session_state.get(_KEY), settings, plan)
    st.session_state[_KEY] = editor
    return editor


def change(edit: Callable[[Editor], Editor]) -> None:
    """Change the session's editor; what cannot be done is shown by `show_problem`."""
    try:
        st.session_state[_KEY] = edit(st.session_state[_KEY])
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        st.session_state[_PROBLEM] = sentence


def show_problem() -> None:
    """An error box with what could not be done, once."""
    if sentence := st.session_state.pop(_PROBLEM, None):
        st.error(plain(sentence))


def use(settings: Settings) -> None:
    """Store the plan and make it the one that all pages take."""

    def stored(editor: Editor) -> Editor:
        name = Pipeline().keep_plan(editor.plan)
        write_settings(replace(settings, source=name))
        return replace(editor, used=name, in_use=editor.plan)

    change(stored)
