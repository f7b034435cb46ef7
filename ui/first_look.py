"""What the start page shows while a server that has just been started loads all it needs.

That takes seconds, most of them for torch, so nothing of it is imported here. The figure is that
of `sample.py` for the default settings, as `channel_distributions` draws it; a test says when it is
not.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

FIGURE = Path(__file__).parent / "sample_scores" / "figure.json"
_LOADED = "ui.overview"
_SENT = 0.2  # seconds in which it reaches the browser: what comes then leaves the server no time

TITLE = "What a language model can do without"
EXPLANATION = (
    "LLM-BIP scores every attention head and feed-forward channel from one forward pass; the least "
    "important are cut out, and you see what that did."
)


@contextmanager
def first_look() -> Iterator[None]:
    """Within it the page is loaded: the first time the sample is shown until it is."""
    if _LOADED in sys.modules:
        yield
        return
    st.set_page_config(page_title="bipcore", page_icon="✂️", layout="wide")
    place = st.empty()
    with place.container():
        draw()
    time.sleep(_SENT)
    yield
    place.empty()


def draw() -> None:
    """The sample, named as such."""
    st.title(TITLE)
    st.caption(EXPLANATION)
    st.info(
        "The app is loading; meanwhile a sample: the demo model's channels as another machine "
        "scored them, and what the least important fifth of each block is.",
        icon=":material/image:",
    )
    st.plotly_chart(json.loads(FIGURE.read_text()), key="first-look")
