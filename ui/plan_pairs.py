"""Two plans beside each other: what either removes, and what each costs and is worth."""

from collections.abc import Mapping
from functools import partial

import pandas as pd
import streamlit as st

from bipcore.criteria import CRITERIA
from bipcore.evaluation.metrics import METRICS
from bipcore.pipeline.plan_names import named_plans
from bipcore.pruning.comparison import compare_plans, head_classes
from bipcore.pruning.plan import PruningPlan
from bipcore.store.kinds import digest
from bipcore.store.runs import RunStore
from bipcore.views.plans import class_bars, class_map

from .asking import offer
from .exports import export_text, measured_names
from .figures import show_chart
from .results import error_box, need, stored_plan_of
from .settings import Settings
from .summary import widths
from .words import plain
from .work import measure_plans

_IN_USE = "the plan in use"

Plans = Mapping[str, PruningPlan]


def show_pair(settings: Settings, criteria: Plans) -> None:
    """A choice of two plans: those of ``criteria``, the one in use where that was edited, and those
    of this model that have a name; and what tells them apart."""
    st.subheader("Two plans, head by head")
    with error_box():
        offered = _offered(settings, criteria)
    left, right = st.columns(2)
    first = left.selectbox("Plan", tuple(offered), key="compare-first", format_func=_title)
    others = [name for name in offered if name != first]
    second = right.selectbox("and", others, key="compare-second", format_func=_title)
    if first is None or second is None:
        st.info("There is only one plan to look at.")
        return
    plans = {name: offered[name] for name in (first, second)}
    with error_box():
        classes, differences = head_classes(*plans.values()), compare_plans(*plans.values())
    st.dataframe(_costs(plans), hide_index=True)
    place = st.columns(2)
    titles = [_title(name) for name in plans]
    with place[0]:
        show_chart(class_map(classes, *titles), classes, "head-classes")
    with place[1]:
        show_chart(class_bars(differences, *titles), differences, "channel-classes")
    _measured(settings, plans)


def _offered(settings: Settings, criteria: Plans) -> dict[str, PruningPlan]:
    found = dict(criteria)
    if settings.source and (own := stored_plan_of(settings)) is not None:
        found[_IN_USE] = own[1]
    shape = next(iter(criteria.values())).shape
    for named in named_plans(RunStore()):
        if not named.plan.shape.differs_in(shape):
            found[f"“{named.name}”"] = named.plan
    return found


def _title(name: str) -> str:
    return CRITERIA[name].title if name in CRITERIA else name


def _costs(plans: Plans) -> pd.DataFrame:
    """A row a plan: what it removes, and what is left."""
    rows = []
    for name, plan in plans.items():
        whole, small = plan.shape, plan.pruned_shape
        heads, _, channels = widths(small.blocks)
        rows.append(
            {
                "Plan": _title(name),
                "Removed, of the blocks": f"{plan.realised:.1%}",
                "Parameters": f"{small.parameters / 1e6:,.1f} M",
                "of": f"{whole.parameters / 1e6:,.1f} M",
                "Heads of a block": heads,
                "Channels of a block": channels,
                "Compensation": str(plan.spec.get("compensation", "none")),
            }
        )
    return pd.DataFrame(rows)


def _measured(settings: Settings, plans: Plans) -> None:
    """What the models of both plans are worth, once that is asked for."""
    model, text = settings.model_spec, export_text(next(iter(plans.values())))
    with error_box():
        made = [model.identity(), *(plan.to_json() for plan in plans.values())]
        key = "pair-" + digest(made)
    offer(
        [key],
        f"The {measured_names()} of both models on the builtin text are measured when asked for.",
        "Measure both",
    )
    found = need(key, "Measuring two plans", partial(measure_plans, model, text, dict(plans)))
    table = {"Model": ["Original", *map(_title, plans)]}
    for name, metric in METRICS.items():
        said = [metric.say(one[name], grouped=True) for one in found.values()]
        table[metric.heading] = said
    st.dataframe(pd.DataFrame(table), hide_index=True)
    tokens = found["dense"]["tokens"]
    st.caption(plain(f"On the {text.text} text, first {tokens:,} tokens, window {text.window}."))
