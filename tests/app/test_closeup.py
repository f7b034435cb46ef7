"""The page Close-up: its unit in the address, nothing computed before its button, then all."""

from dataclasses import replace

import pytest

from bipcore.kinds import KINDS
from bipcore.store.runs import RunStore
from bipcore.studies.runs import list_runs
from tests.helpers.apptest import charts, errors, open_page, read, settle, visit
from tests.helpers.folders import model_folder
from tests.helpers.tiny import one_thread as one_thread
from ui.openings import opening
from ui.settings import to_query

PAGE = "pages/closeup.py"
START = "Press Compute: the model reads the text a few times."


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model", "llama-gqa"))


def infos(app) -> list[str]:
    return [read(box.value) for box in app.info]


def stored(model: str, kind: str) -> list:
    """The close-ups of this model in the store."""
    runs = list_runs(RunStore(), KINDS, kind=f"{kind}-close-ups")
    return [run for run in runs if run.model == model]


def compute(app, text: str = "A <b>text</b> of one's own."):
    app.text_area(key="set-closeup-text").set_value(text)
    app.button(key="closeup").click().run()
    return settle(app)


def test_a_head_is_computed_when_the_button_is_pressed(model):
    app = open_page(PAGE, model=model, sparsity="0.5", kind="head", block="1", number="3")
    sentence, start = infos(app)
    assert sentence.startswith("Head 3 of block 1 ")
    assert start == START
    assert stored(model, "head") == []
    compute(app)
    assert START not in infos(app)
    figures = {metric.label: metric.value for metric in app.metric}
    assert figures["On the first token"].endswith("%")
    assert float(figures["Rise, silenced by zero"].removesuffix(" nats")) != 0
    assert charts(app) == 1
    ranks, strongest, up, down = (one.value for one in app.dataframe)
    assert ranks["criterion"].tolist() == ["LLM-BIP"]
    assert strongest["share"].is_monotonic_decreasing
    assert up["adds"].is_monotonic_decreasing
    assert down["adds"].is_monotonic_increasing


def test_a_channel_shows_its_contexts_and_how_its_activations_are_spread(model):
    app = open_page(PAGE, model=model, sparsity="0.5", kind="channel", block="2", number="40")
    compute(app)
    assert infos(app)[0].startswith("Channel 40 of block 2 ")
    peaks = next(one.value for one in app.dataframe if "activation" in one.value)
    assert peaks["activation"].abs().is_monotonic_decreasing
    assert len(peaks) == 10
    assert charts(app) == 1
    assert len(stored(model, "channel")) == 1


def test_a_link_brings_back_the_same_view_and_what_is_stored_is_shown_at_once(model):
    app = open_page(PAGE, model=model, sparsity="0.5")
    assert dict(view(app)) == {"kind": "head", "block": "0", "number": "0"}
    app.number_input(key="set-closeup-block").set_value(2).run()
    app.number_input(key="set-closeup-head").set_value(5).run()
    assert view(app) == {"kind": "head", "block": "2", "number": "5"}
    app.button(key="closeup").click().run()
    settle(app)
    figures = [metric.value for metric in app.metric]
    address = {name: app.query_params[name] for name in app.query_params}
    again = open_page(PAGE, **address)
    assert view(again) == view(app)
    assert [metric.value for metric in again.metric] == figures
    assert START not in infos(again)
    again.selectbox(key="set-closeup-kind").set_value("channel").run()
    assert view(again) == {"kind": "channel", "block": "2", "number": "0"}
    assert infos(again)[0].startswith("Channel 0 of block 2 ")


@pytest.mark.parametrize("kind", ["head", "channel"])
def test_the_page_runs_opens_what_is_stored(model, kind):
    app = open_page(PAGE, model=model, sparsity="0.5", kind=kind, block="1", number="4")
    compute(app)
    (run,) = stored(model, kind)
    where = opening(run, {})
    assert (where.page, where.settings.model) == (PAGE, model)
    small = replace(where.settings, samples=4, seq_len=64)  # no head depends on them
    again = visit(PAGE, **to_query(small))
    for name, value in where.form.items():
        again.session_state[name] = value
    again.button(key="load-link").click().run()
    settle(again)
    assert view(again) == {"kind": kind, "block": "1", "number": "4"}
    assert again.text_area(key="set-closeup-text").value == "A <b>text</b> of one's own."
    assert START not in infos(again)


def view(app) -> dict[str, str]:
    return {name: app.query_params[name] for name in ("kind", "block", "number")}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ({"kind": "row"}, "The address says kind=row; it is one of head, channel."),
        ({"block": "x"}, "The address says block=x, which is no whole number."),
        ({"block": "9"}, "There is no block 9; the blocks are 0 to 2."),
        ({"number": "8"}, "Block 0 has no head 8; it has 8, counted from 0."),
    ],
)
def test_an_address_that_names_what_there_is_not_is_an_error_box(model, address, said):
    app = open_page(PAGE, model=model, sparsity="0.5", **address)
    assert errors(app) == [said]
    assert infos(app)[-1] == START


def test_no_text_is_an_error_box(model):
    app = open_page(PAGE, model=model, sparsity="0.5")
    compute(app, "  ")
    assert errors(app) == ["There is no text; write or paste one."]


def test_criteria_that_were_scored_are_ranked_and_no_other_is_scored(model):
    open_page("pages/scores.py", model=model, sparsity="0.5", criterion="magnitude")
    app = open_page(PAGE, model=model, sparsity="0.5")
    ranks = app.dataframe[0].value
    assert ranks["criterion"].tolist() == ["LLM-BIP", "Magnitude"]
    assert ranks["of"].tolist() == [8, 8]


def test_the_page_scores_links_to_the_block_that_it_shows(model):
    app = open_page("pages/scores.py", model=model, sparsity="0.5")
    app.slider[0].set_value(1).run()
    links = [one.value for one in app.markdown if "Close-up of its" in one.value]
    assert any("/closeup?" in one and "&kind=head&block=1&number=0" in one for one in links)
    assert any("/closeup?" in one and "&kind=channel&block=1&number=0" in one for one in links)
