"""Reports: one page that holds everything, and nothing that it was not given."""

import re
from html.parser import HTMLParser

import pandas as pd
import plotly.graph_objects as go
import pytest

from bipcore.errors import InputError
from bipcore.studies.points import SweepSpec
from bipcore.views.report import facts_table, report_html, versions, write_report
from bipcore.views.sweep import opening, sweep_html
from tests.views.test_sweep_charts import SPEC, points

EVIL = '</script><script>alert("x")</script>&'


class Page(HTMLParser):
    """The tags of a page, what its elements point to, and its text outside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        if self.tags[-1:] and self.tags[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def figure(name: str = "a line") -> go.Figure:
    return go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name=name))


def sections(word: str = "word") -> list:
    table = pd.DataFrame({"name": [word], "value": [1.5]})
    return [("First", [f"Text, {word}.", figure(word)]), ("Second", [table, figure()])]


def test_the_page_fetches_nothing():
    page = Page(report_html("Title", sections()))
    assert page.references == []
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"@import|url\(", report_html("Title", [("A", ["b"])]))


def test_plotly_stands_in_it_once():
    text = report_html("Title", sections())
    assert len(text) < 8e6
    sizes = [len(script) for script in re.findall(r"<script.*?</script>", text, re.DOTALL)]
    assert len([size for size in sizes if size > 1e6]) == 1
    assert text.count("Plotly.newPlot(") >= 2


def test_without_a_plot_the_page_is_small():
    assert len(report_html("Title", [("First", ["Text."])])) < 5000


def test_the_opening_comes_first():
    page = Page(report_html("Title", sections(), opening="What was measured."))
    assert page.text.index("What was measured.") < page.text.index("First")


def test_everything_is_escaped():
    text = report_html(EVIL, sections(EVIL), opening=EVIL)
    assert EVIL not in text
    assert '<script>alert("x")' not in text
    page = Page(report_html("Title", [(EVIL, [EVIL, facts_table({EVIL: EVIL})])]))
    assert "script" not in page.tags
    assert EVIL in page.text


def test_missing_values_are_dashes():
    table = pd.DataFrame({"name": ["a"], "value": [None]})
    assert "<td>-</td>" in report_html("Title", [("A", [table])])


def test_the_versions_name_what_ran():
    assert {"Python", "torch", "transformers", "plotly", "system"} <= set(versions())


def test_a_report_is_written_whole(tmp_path):
    write_report(tmp_path / "out.html", "Title", sections())
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]
    assert "<h2>Second</h2>" in (tmp_path / "out.html").read_text()


@pytest.mark.parametrize("name", ["nowhere/out.html", ".", "/proc/out.html"])
def test_a_report_that_cannot_be_written_is_refused(tmp_path, name):
    with pytest.raises(InputError):
        write_report(tmp_path / name, "Title", sections())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "out.html"
    file.write_text("before")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bipcore.store.files.os.replace", full)
    with pytest.raises(InputError, match="No space left"):
        write_report(file, "Title", sections())
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]
    assert file.read_text() == "before"


def test_the_opening_of_a_sweep_says_what_was_measured_on_what():
    assert opening(SPEC) == (
        "Perplexity of HuggingFaceTB/SmolLM2-135M-Instruct on wikitext2 (window 1024, first "
        "8,192 tokens), after Magnitude, LLM-BIP and the preset recommended removed 20 % and "
        "50 % of the parameters of its decoder blocks, calibrated on builtin with 8 and 32 "
        "samples of 256 tokens, seeds 0 and 1."
    )
    assert "calibrated" not in opening(SweepSpec(criteria=("magnitude",)))


def test_the_report_of_a_sweep_has_its_figures_its_settings_and_the_versions():
    page = Page(sweep_html(SPEC, points()))
    assert page.references == []
    for word in ("25.75\u00a0±\u00a00.71", "Settings", "wikitext2", "torch", "preset recommended"):
        assert word in page.text
    assert "What could not be done" not in page.text
