"""Choosing one head or channel, in the address too, and showing it from near by."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import streamlit as st

from bipcore.criteria import Scores
from bipcore.errors import InputError
from bipcore.evaluation.closeups import (
    CHANNEL_CLOSE_UPS,
    HEAD_CLOSE_UPS,
    ChannelCloseUp,
    HeadCloseUp,
    Promoted,
    Silenced,
)
from bipcore.models.shapes import ModelShape, check_unit
from bipcore.pipeline.closeups import channel_identity, head_identity, standings
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.standing import fate
from bipcore.specs import EvaluationSpec, ScoreSpec
from bipcore.store.kinds import Kind, digest
from bipcore.store.runs import RunStore
from bipcore.views.closeups import (
    histogram_chart,
    histogram_frame,
    pattern_chart,
    pattern_frame,
    peaks_frame,
    promoted_frame,
    standings_frame,
    strongest_frame,
)

from .address import here, read_view, write_view
from .figures import metric_row, show_chart
from .forms import Form
from .jobs import DONE, FAILED, Job, worker
from .results import error_box, show_progress, stored_scores_of
from .settings import Settings
from .words import plain
from .work import close_up_of_channel, close_up_of_head

KINDS = {"head": "Attention head", "channel": "FFN channel"}
TEXT = (
    "The Eiffel Tower in Paris was finished in 1889. For forty years the Eiffel Tower was the "
    "tallest structure in the world."
)
SPEC = EvaluationSpec()
"""How a text of the user's own is read."""

MOST_CHARACTERS = 2000
"""So long a text may be typed on the page."""

_SEEN = "closeup-address"


@dataclass(frozen=True)
class Unit:
    """The head or channel that is looked at: its kind, one of `KINDS`, its block, its number."""

    kind: str
    block: int
    number: int


def choose(scores: Scores) -> tuple[Unit, str, bool]:
    """The widgets that choose a unit and a text: both, and whether the button was pressed. Where
    the address says another unit than before, that is shown."""
    shape = scores.shape
    start = {"kind": "head", "block": 0, "head": 0, "channel": 0}
    form = Form("closeup", start | {"text": TEXT}, unsaid=start)
    _adopt(form, shape)
    places = st.columns([2, 1, 1])
    kinds = tuple(KINDS)
    kind = form.field(places[0].selectbox, "What", "kind", kinds, format_func=KINDS.get)
    _bounded(form, "block", len(shape.blocks))
    form.number(places[1], "Block", "block", 0, len(shape.blocks) - 1)
    widths = shape.blocks[form.values["block"]]
    count = widths.heads if kind == "head" else widths.channels
    if not count:
        st.info(f"Block {form.values['block']} has no {kind}s.")
        st.stop()
    _bounded(form, kind, count)
    form.number(places[2], f"{kind.capitalize()} (0 to {count - 1:,})", kind, 0, count - 1)
    unit = Unit(kind, form.values["block"], form.values[kind])
    write_view(asdict(unit))
    st.session_state[_SEEN] = read_view()
    with st.form("closeup-text-form"):
        text = form.field(st.text_area, "Text", "text", height=100, max_chars=MOST_CHARACTERS)
        pressed = st.form_submit_button("Compute", type="primary", key="closeup")
    return unit, text, pressed


def _adopt(form: Form, shape: ModelShape) -> None:
    """Fill in what the address says, where the page did not write it itself."""
    said = read_view()
    if not said or said == st.session_state.get(_SEEN):
        return
    try:
        kind = said.get("kind", form.values["kind"])
        if kind not in KINDS:
            raise InputError(f"The address says kind={kind}; it is one of {', '.join(KINDS)}.")
        block = _whole("block", said.get("block", form.values["block"]))
        number = _whole("number", said.get("number", form.values[kind]))
        check_unit(shape.blocks, block, kind, number)
    except InputError as error:
        st.error(plain(error))
    else:
        form.fill({"kind": kind, "block": block, kind: number})


def _whole(name: str, text: str | int) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"The address says {name}={text}, which is no whole number.") from None


def _bounded(form: Form, name: str, count: int) -> None:
    """See that what stands in a field of numbers is below ``count``, as of another model before."""
    key = f"set-closeup-{name}"
    if st.session_state.get(key, form.values[name]) >= count:
        form.fill({name: count - 1})


def show_place(settings: Settings, scores: Scores, plan: PruningPlan, unit: Unit) -> None:
    """What the plan does with the unit, and its rank by every criterion that was scored."""

    def find(spec: ScoreSpec) -> Scores | None:
        return scores if spec == settings.score_spec else stored_scores_of(spec)

    place = unit.block, unit.kind, unit.number
    with error_box():
        found = fate(plan, *place, scores)
        ranks = standings(find, settings.score_spec, *place)
    icon = ":material/content_cut:" if found.goes else ":material/check:"
    st.info(plain(found.sentence), icon=icon)
    with st.expander("Its rank by every criterion that was scored", expanded=True):
        st.caption(
            "Rank 1 has the highest score in its block. Only stored scores are read: choose "
            "another criterion in the sidebar to have its scores here."
        )
        columns = {"score": st.column_config.NumberColumn("Score", format="%.4g")}
        _table(standings_frame(ranks), "closeup-ranks", columns)


def _identity(settings: Settings, unit: Unit, text: str) -> tuple[Kind, dict]:
    """The kind of the close-up, and what it is found by. Raises InputError."""
    model, place = settings.model_spec, (unit.block, unit.number)
    if unit.kind == "head":
        return HEAD_CLOSE_UPS, head_identity(model, *place, SPEC, text)
    calibration = settings.score_spec.calibration
    return CHANNEL_CLOSE_UPS, channel_identity(model, calibration, *place, SPEC, text)


def close_up_job(settings: Settings, unit: Unit, text: str, *, pressed: bool) -> Job | None:
    """The job that makes the close-up: started when the button is ``pressed``."""
    with error_box():
        kind, identity = _identity(settings, unit, text)
    key, model = f"{kind.name}-{digest(identity)}", settings.model_spec
    calibration, place = settings.score_spec.calibration, (unit.block, unit.number)
    if unit.kind == "head":
        work = partial(close_up_of_head, model, *place, SPEC, text)
    else:
        work = partial(close_up_of_channel, model, calibration, *place, SPEC, text)
    if not pressed:
        return worker().find(key)
    worker().forget(key)
    title = f"Close-up of {unit.kind} {unit.number} of block {unit.block}"
    return worker().submit(key, title, work, here())


def show_close_up(settings: Settings, unit: Unit, text: str, job: Job | None) -> None:
    """The close-up as it is stored; where it is not, how its job goes, or how to start it."""
    if job is not None and job.active:
        show_progress(job)
        return
    with error_box():
        found = RunStore().stored(*_identity(settings, unit, text))
    if found is not None:
        _show_head(found) if unit.kind == "head" else _show_channel(found)
    elif job is None or job.state == DONE:
        st.info("Press Compute: the model reads the text a few times.")
    else:
        (st.error if job.state == FAILED else st.info)(plain(job.error or "Stopped."))


def _show_head(found: HeadCloseUp) -> None:
    metric = _losses(found.silenced, len(found.tokens))
    about = "Of its attention, the mean over the positions past the first."
    metric("On the first token", f"{found.first_share:.1%}", help=about)
    left, right = st.columns([3, 2])
    with left:
        show_chart(pattern_chart(found), lambda: pattern_frame(found), "attention-pattern")
    with right:
        st.markdown("**Strongest attention**, the first token left out")
        percent = {"share": st.column_config.NumberColumn("Share", format="percent")}
        _table(strongest_frame(found), "closeup-strongest", percent)
    _show_promoted(
        found.promoted,
        "Of what the head adds to the residual stream, the mean over the text's positions past the "
        "first, through the final norm's gain and the unembedding. Later blocks and the norm's "
        "division are left out, so the values tell tokens apart, and are no logits.",
    )


def _show_channel(found: ChannelCloseUp) -> None:
    metric = _losses(found.silenced, found.tokens)
    about = f"Over the {found.positions:,} tokens of the calibration set."
    metric("Mean activation", f"{found.mean:.4g}", help=about)
    st.markdown("**Strongest activations** in the calibration set")
    number = {"activation": st.column_config.NumberColumn("Activation", format="%.3f")}
    _table(peaks_frame(found.peaks), "closeup-peaks", number)
    frame = histogram_frame(found.histogram)
    show_chart(histogram_chart(found.histogram), frame, "channel-activations")
    _show_promoted(
        found.promoted,
        "Of the channel's column of down_proj, for an activation of 1 (one below 0 does the "
        "opposite), through the final norm's gain and the unembedding. Later blocks and the "
        "norm's division are left out, so the values tell tokens apart, and are no logits.",
    )


def _losses(silenced: Silenced, tokens: int) -> Any:
    """The loss on the text and how it rises; what draws another metric beside it."""
    metric = metric_row()
    about = f"The original's mean −log p of the next token, over the text's {tokens:,} tokens."
    metric("Loss", f"{silenced.loss:.3f} nats", help=about)
    about = "By how much the loss on this text rises where it gives {} at every position."
    for said, value, how in (
        ("Rise, silenced by zero", silenced.by_zero, "zero"),
        ("Rise, silenced by its mean", silenced.by_mean, "its mean over the text"),
    ):
        metric(said, f"{value:+.4f} nats", help=about.format(how))
    return metric


def _show_promoted(found: Promoted, about: str) -> None:
    st.subheader("Tokens it promotes and demotes")
    st.caption(about)
    number = {"adds": st.column_config.NumberColumn("Adds", format="%+.3f")}
    left, right = st.columns(2)
    with left:
        st.markdown("**Promotes most**")
        _table(promoted_frame(found.up), "closeup-up", number)
    with right:
        st.markdown("**Demotes most**")
        _table(promoted_frame(found.down), "closeup-down", number)


def _table(frame: Any, key: str, columns: dict[str, Any]) -> None:
    named = {name: name.replace("_", " ").capitalize() for name in frame.columns}
    st.dataframe(frame, hide_index=True, column_config=named | columns, key=key)
