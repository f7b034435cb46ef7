"""Driving the app without a browser."""

import re
import time
from functools import cache
from pathlib import Path

from streamlit.components.v2.component_manager import BidiComponentManager
from streamlit.testing.v1 import AppTest

from ui.jobs import worker

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"samples": "4", "seq_len": "64"}
"""Settings in the address that keep calibration short."""


@cache
def _components() -> BidiComponentManager:
    """The components of installed packages, of which there are none: to look takes half a second,
    and otherwise every `AppTest` would."""
    manager = BidiComponentManager()
    manager.discover_and_register_components(start_file_watching=False)
    return manager


def visit(page: str, **address: str) -> AppTest:
    """The page as a deep link opens it, nothing pressed."""
    app = AppTest.from_file(str(ROOT / page), default_timeout=60)
    app._bidi_component_manager = _components()
    for name, value in {**SMALL, **address}.items():
        app.query_params[name] = value
    return app.run()


def start(page: str, **address: str) -> AppTest:
    """The page behind a deep link whose settings are loaded, the button pressed that it asks for:
    what the page needs may still be computed."""
    app = visit(page, **address)
    for asked in [button for button in app.button if button.key == "load-link"]:
        asked.click().run()
    return app


def open_page(page: str = "app.py", **address: str) -> AppTest:
    """The page behind a deep link, once nothing is being computed any more (see `start`)."""
    return settle(start(page, **address))


def settle(app: AppTest, *, timeout: float = 240) -> AppTest:
    """Run the page again, as its fragments would, until the worker has nothing left to do."""
    limit = time.monotonic() + timeout
    while worker().active():
        assert time.monotonic() < limit, "the job did not end in time"
        time.sleep(0.1)
    app.run()
    assert not app.exception, app.exception
    return app


def errors(app: AppTest) -> list[str]:
    """The texts of the error boxes, as they are read."""
    return [read(box.value) for box in app.error]


def read(markdown: str) -> str:
    """What one reads of a text that `ui.words.plain` made."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown).replace("\N{WORD JOINER}", "")


def metric(app: AppTest, label: str) -> str:
    """The value of the metric with that label."""
    return next(m.value for m in app.metric if m.label == label)


def charts(app: AppTest) -> int:
    """How many plotly charts the page shows."""
    return len(app.get("plotly_chart"))


def button(app: AppTest, label: str):
    """The button that says so."""
    return next(b for b in app.button if b.label == label)


def field(app: AppTest, label: str):
    """The text input whose label begins so."""
    return next(f for f in app.text_input if f.label.startswith(label))
