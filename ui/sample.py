"""Scores that come with the app: what there is to look at until a fresh machine has its own."""

import json
from functools import cache
from pathlib import Path

import streamlit as st
from safetensors.torch import load_file

from bipcore.criteria import Scores
from bipcore.pipeline.plans import plan_of
from bipcore.views.scores import channel_distributions

from .results import error_box
from .settings import Settings
from .summary import plan_metrics

_FOLDER = Path(__file__).parent / "sample_scores"


@cache
def sample_scores() -> Scores:
    """The demo model's, as the default settings ask for them and another machine found them."""
    data = json.loads((_FOLDER / "data.json").read_text())
    return Scores.from_stored(load_file(_FOLDER / "data.safetensors"), data)


def show_sample(settings: Settings) -> None:
    """Draw what the plan of the settings is by the sample, where that is what they ask for."""
    spec, plan = settings.score_spec, settings.plan_spec
    if spec != Settings().score_spec or plan.source or plan.propagation != "dense":
        return
    st.info(
        "Meanwhile a sample: the demo model's scores as they were found on another machine. Yours "
        "take their place when they are there.",
        icon=":material/image:",
    )
    scores = sample_scores()
    with error_box():
        cut = plan_of(scores, spec, plan)
    plan_metrics(cut)
    st.plotly_chart(channel_distributions(scores, cut), key="sample")
