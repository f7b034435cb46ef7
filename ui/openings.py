"""Which page shows a stored run, and what has to be set there for it."""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

from bipcore.criteria import find_criterion
from bipcore.data.texts import NAMED
from bipcore.errors import InputError
from bipcore.evaluation.closeups import MOST_TOKENS
from bipcore.models.devices import resolve_device
from bipcore.models.identity import DEMO, DEMO_HUB
from bipcore.pipeline.recoveries import RECOVERIES
from bipcore.specs import PERPLEXITY, CalibrationSpec, PlanSpec
from bipcore.specs.recovery import AS_BEFORE
from bipcore.specs.texts import calibration_of
from bipcore.store.kinds import digest
from bipcore.studies.runs import FINISHED, UNFINISHED, Run

from .closeups import MOST_CHARACTERS, SPEC
from .links import adopt
from .navigation import PAGES, page_link
from .recoveries import choose
from .settings import SETTINGS, Settings, to_query, write_settings
from .state_perplexities import WINDOWS, ask_for

Edited = Mapping[str, str]
"""The names of the plans that are kept in the store, by the digest that other results know them
by."""


class _CannotOpen(Exception):
    """No page shows a run; the message says why."""


@dataclass(frozen=True)
class Opening:
    """A page, the settings of the sidebar there, and values of the session that fill in its form.
    ``recovery``: the one that is chosen. ``pressed``: whether a button has to be pressed there."""

    page: str
    settings: Settings
    form: Mapping[str, Any] = field(default_factory=dict)
    recovery: str = ""
    pressed: str = ""


def opening(run: Run, edited: Edited) -> Opening | str:
    """Where the run is shown, or why nowhere. ``edited`` is what `kept_plans` gives."""
    if run.state not in (FINISHED, UNFINISHED):
        return f"What is {run.state} cannot be opened."
    if run.kind not in _OPEN:
        return "No page shows this by itself: others are made from it."
    try:
        return _OPEN[run.kind](run, edited)
    except _CannotOpen as error:
        return str(error)
    except InputError as error:
        return f"The pages cannot be set to it: {error}"
    except (LookupError, TypeError, ValueError, AttributeError):
        return "It does not say what it was made with."


def kept_plans(runs: list[Run]) -> Edited:
    """The `Edited` plans among the runs."""
    plans = (run.entry for run in runs if run.kind == "plans" and run.state == FINISHED)
    return {digest(plan.spec["plan"]): plan.digest for plan in plans}


def follow(found: Opening) -> None:
    """Go to the page, with everything set there."""
    write_settings(found.settings)
    adopt(found.settings)
    for name, value in found.form.items():
        st.session_state[name] = value
    if found.recovery:
        choose(found.recovery)
    try:
        st.switch_page(found.page, query_params=to_query(found.settings))
    except StreamlitAPIException:  # this page is run alone
        page_link(*next(page for page in PAGES if page[0] == found.page))


def _of_model(identity: Mapping[str, Any]) -> Settings:
    """The settings of a model; its type is left to the device where that gives the same."""
    dtype = identity["dtype"]
    automatic = "float32" if resolve_device("auto") == "cpu" else "auto"
    return Settings(model=identity["name"], dtype="auto" if dtype == automatic else dtype)


def _calibrated(settings: Settings, said: Mapping[str, Any] | CalibrationSpec | None) -> Settings:
    """The settings of a calibration set, which is checked; of none the settings as they are."""
    if said is None:
        return settings
    names = [one.name for one in fields(CalibrationSpec)]
    if not isinstance(said, CalibrationSpec):
        said = CalibrationSpec(**{name: said[name] for name in names if name in said})
    values = {name: getattr(said, name) for name in names if name != "source"}
    return replace(settings, text=said.source, **values)


def _criterion(settings: Settings, name: str, options: Mapping[str, Any]) -> Settings:
    if dict(options) != find_criterion(name).resolve({}):
        raise _CannotOpen("It was made with options of its criterion that the pages do not have.")
    return replace(settings, criterion=name)


def _planned(settings: Settings, spec: Mapping[str, Any]) -> Settings:
    """The settings of a plan; raises where the sidebar cannot be set to them."""
    names = {one.name for one in fields(PlanSpec)} - {"source"}
    plan = PlanSpec(**{name: spec[name] for name in names if name in spec})
    percent = 100 * plan.sparsity
    least, most = SETTINGS["sparsity"].offered
    if not math.isclose(percent, round(percent)) or not least <= plan.sparsity <= most:
        raise _CannotOpen(f"The sidebar has whole per cents, and this is {percent:.4g} %.")
    return replace(settings, **{name: getattr(plan, name) for name in names})


def _state(spec: Mapping, run: Run, edited: Edited) -> tuple[Settings, str]:
    """The settings of a model in the state that the entry is of, and the name of its recovery."""
    settings = _of_model(spec["model"])
    if spec.get("plan") is None:
        return settings, ""
    said = {name: spec[name] for name in ("model", "plan", "recovery") if name in spec}
    recovery = _recovery_name(said) if "recovery" in said else ""
    plan = run.entry.made["plan"]["spec"] if "plan" in run.entry.made else None
    try:
        if plan is None:
            raise _CannotOpen("It was stored by a version that did not say with which plan.")
        return _said(settings, plan), recovery
    except (_CannotOpen, InputError):
        if spec["plan"] not in edited:
            raise
    return _kept(settings, plan or {}, edited[spec["plan"]]), recovery


def _said(settings: Settings, plan: Mapping[str, Any]) -> Settings:
    """The settings that make a plan; raises where there are none that do."""
    if plan.get("edited") or plan.get("allocation") == "budget":
        raise _CannotOpen("Its plan was edited or made for a target, and is not kept.")
    return _planned(_scored(settings, plan), plan)


def _kept(settings: Settings, plan: Mapping[str, Any], name: str) -> Settings:
    """The settings for a plan that is kept by that name, with the scores it was made from as far
    as they can be set."""
    with contextlib.suppress(_CannotOpen, InputError, LookupError):
        settings = _scored(settings, plan)
    return replace(settings, source=name)


def _scored(settings: Settings, plan: Mapping[str, Any]) -> Settings:
    """The settings of the scores that a plan was made from."""
    settings = _criterion(settings, plan["criterion"], plan["options"])
    text = plan.get("compensation_calibration") or calibration_of(plan["calibration_text"])
    return _calibrated(settings, text)


def _recovery_name(identity: Mapping[str, Any]) -> str:
    return digest(identity, version=RECOVERIES.version)


def _scores(run: Run, edited: Edited) -> Opening:
    spec = run.entry.spec
    if "depth" in spec:
        raise _CannotOpen("It is opened with a plan of its allocation, not by itself.")
    settings = _criterion(_of_model(spec["model"]), spec["criterion"], spec["options"])
    settings = _calibrated(settings, spec["calibration"])
    if "propagated" in spec:
        settings = replace(_planned(settings, spec["propagated"]), propagation="pruned")
    return Opening("pages/scores.py", settings)


def _evaluation(run: Run, edited: Edited) -> Opening:
    spec = run.entry.spec
    settings, recovery = _state(spec, run, edited)
    text = spec["evaluation"]
    if text["text"] not in NAMED or text["window"] not in WINDOWS:
        offered = ", ".join(map(str, WINDOWS))
        raise _CannotOpen(f"The page Recover measures {', '.join(NAMED)}, in windows of {offered}.")
    metric = spec.get("metric", PERPLEXITY)
    form = ask_for(text["text"], text["window"], text["max_tokens"] or 0, metric)
    return Opening("pages/recover.py", settings, form, recovery)


def _reconstruction(run: Run, edited: Edited) -> Opening:
    spec = run.entry.spec
    settings, _ = _state(spec, run, edited)
    text = spec["evaluation"]
    tokens = text["max_tokens"] or 0
    if text["text"] not in NAMED or tokens < 256 or text["window"] != 256:
        raise _CannotOpen("The page Reconstruction error measures named texts in windows of 256.")
    form = {"reconstruction-text": text["text"], "reconstruction-tokens": tokens}
    form["reconstruction-criteria"] = [] if settings.source else [settings.criterion]
    return Opening("pages/reconstruction.py", settings, form)


def _close_up(run: Run, edited: Edited) -> Opening:
    spec = run.entry.spec
    settings = _calibrated(_of_model(spec["model"]), spec.get("calibration"))
    if "own" not in spec or len(spec["own"]) > MOST_CHARACTERS:
        raise _CannotOpen(f"The page Close-up reads a text of at most {MOST_CHARACTERS:,} letters.")
    if (spec["max_tokens"], spec["beginning"]) != (MOST_TOKENS, SPEC.beginning):
        raise _CannotOpen("The page Close-up reads a text in another way.")
    kind = "head" if "head" in spec else "channel"
    place = {"kind": kind, "block": spec["block"], kind: spec[kind], "text": spec["own"]}
    return Opening("pages/closeup.py", settings, {"closeup-form": place})


def _task(run: Run, edited: Edited) -> Opening:
    spec = run.entry.spec
    settings, recovery = _state(spec, run, edited)
    rows = spec["limit"] or 0
    form = {"tasks": [spec["task"]], "rows": rows, "shots": spec["num_fewshot"]}
    filled = {"zero-shot-form": form}
    return Opening("pages/zero_shot.py", settings, filled, recovery, pressed="Start")


def _point(run: Run, edited: Edited) -> Opening:
    spec = run.entry.spec
    plan, scores = spec["plan"], spec["scores"] if spec["plan"] is not None else spec
    settings, form = _of_model(scores["model"]), {}
    if plan is not None:
        settings = _criterion(settings, scores["criterion"], scores["options"])
        text = scores["calibration"] or plan["compensation_calibration"]
        settings = _calibrated(settings, text)
        own = {name: value for name, value in plan.items() if name != "sparsity"}
        settings = _planned(settings, own | {"sparsity": 0.0})
        form = {"criteria": [scores["criterion"]], "presets": []}
        form |= {"percents": f"{100 * plan['sparsity']:g}"}
        form |= {"seeds": str(settings.seed), "sizes": str(settings.samples)}
        settings = replace(settings, sparsity=Settings().sparsity)
    texts = list(run.entry.made.get("texts", {}).values())
    if len({(text["window"], text["max_tokens"]) for text in texts}) != 1:
        raise _CannotOpen("It does not say on which texts, as the page Sweep asks for them.")
    form |= {"texts": [text["text"] for text in texts], "window": texts[0]["window"]}
    form |= {"tokens": texts[0]["max_tokens"] or 0, "profile": bool(spec["profile"])}
    form["metrics"] = list(dict.fromkeys(name.partition(", ")[0] for name in run.figures))
    return Opening("pages/sweep.py", settings, {"sweep-form": form}, pressed="Start")


def _recovery(run: Run, edited: Edited) -> Opening:
    settings, _ = _state(run.entry.spec, run, edited)
    return Opening("pages/recover.py", settings, recovery=run.name)


def _checkpoint(run: Run, edited: Edited) -> Opening:
    settings, _ = _state(run.entry.spec["of"], run, edited)
    said = AS_BEFORE | dict(run.entry.made["recovery"])
    form = {"recovery-form": said | {"targets": ", ".join(said["targets"])}}
    return Opening("pages/recover.py", settings, form, pressed="Start")


def _plan(run: Run, edited: Edited) -> Opening:
    model = DEMO if run.model == DEMO_HUB else run.model
    said = json.loads(run.entry.spec["plan"])["spec"]
    return Opening("pages/plan.py", _kept(Settings(model=model), said, run.name))


def _row(run: Run, edited: Edited) -> Opening:
    spec = run.entry.spec
    form = {"paper-form": {"name": spec["reproduction"]}}
    return Opening("pages/paper.py", _of_model(spec["settings"]["model"]), form)


_OPEN: Mapping[str, Callable[[Run, Edited], Opening]] = {
    "scores": _scores,
    "evaluations": _evaluation,
    "reconstruction": _reconstruction,
    "head-close-ups": _close_up,
    "channel-close-ups": _close_up,
    "zero-shot": _task,
    "points": _point,
    "recoveries": _recovery,
    "checkpoints": _checkpoint,
    "plans": _plan,
    "reproductions": _row,
}
"""How each kind that a page shows is opened."""
