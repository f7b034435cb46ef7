"""A chart's downloads hold what it shows."""

import io

import pandas as pd
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from ui import figures

FRAME = pd.DataFrame({"block": [0, 1], "model": ["llm-bip", "edited, by hand"], "local": [0.25, 2]})


@pytest.fixture
def downloads(monkeypatch):
    """What `show_chart` hands to streamlit, by file name."""
    given: dict[str, dict] = {}

    def keep(label, data, file, **options):
        given[file] = {"data": data, **options}

    monkeypatch.setattr(figures.st, "download_button", keep)
    monkeypatch.setattr(figures.st, "plotly_chart", lambda figure, **options: None)
    figures.show_chart(go.Figure(go.Scatter(x=[0, 1], y=[0.25, 2], name="ours")), FRAME, "errors")
    return given


def test_the_csv_file_is_the_frame(downloads):
    assert downloads["errors.csv"]["mime"] == "text/csv"
    read = pd.read_csv(io.StringIO(downloads["errors.csv"]["data"]()))
    pd.testing.assert_frame_equal(read, FRAME)


def test_the_html_page_has_the_chart_and_needs_nothing_else(downloads):
    page = downloads["errors.html"]["data"]()
    assert downloads["errors.html"]["mime"] == "text/html"
    assert '"name":"ours"' in page
    assert "Plotly.newPlot" in page
    assert '<script src="http' not in page
    assert '"format": "svg"' in page or '"format":"svg"' in page


def test_two_charts_stand_side_by_side():
    def page():
        import pandas as pd
        import plotly.graph_objects as go

        from ui.figures import show_chart

        for name in ("one", "two"):
            show_chart(go.Figure(), pd.DataFrame({"x": [1]}), name)

    app = AppTest.from_function(page).run()
    assert not app.exception
    assert len(app.get("plotly_chart")) == 2
    assert [b.label for b in app.get("download_button")] == ["CSV", "HTML"] * 2
