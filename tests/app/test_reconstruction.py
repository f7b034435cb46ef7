"""The page Reconstruction error, on a tiny model."""

import json

import pytest

from bipcore.cli.main import main
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.specs import CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec
from tests.helpers.apptest import button, charts, errors, open_page, settle
from tests.helpers.folders import model_folder
from tests.helpers.passes import counted_passes

PAGE = "pages/reconstruction.py"
DEFAULT = ["llm-bip", "wanda", "wanda-sp"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("models") / "mistral", "mistral"))


@pytest.fixture
def app(model):
    return opened(model)


def opened(model: str, **address):
    """The page behind a deep link, its button pressed where there is one."""
    app = open_page(PAGE, model=model, **address)
    return app if app.error else measure(app)


def finish(app):
    """Until one job after the other is done."""
    for _ in range(12):
        settle(app)
        if charts(app) or app.error:
            break
    return app


def lines(app, chart: int = 0) -> list[str]:
    """The names of the traces of a chart."""
    return [trace.get("name") for trace in spec_of(app, chart)["data"]]


def spec_of(app, chart: int = 0) -> dict:
    return json.loads(app.get("plotly_chart")[chart].proto.spec)


def measure(app, criteria=None, tokens=None):
    """Fill the form and press its button."""
    if criteria is not None:
        app.multiselect[0].set_value(criteria)
    if tokens is not None:
        app.number_input(key="reconstruction-tokens").set_value(tokens)
    button(app, "Measure").click().run()
    return finish(app)


def _kept_plan(model: str) -> str:
    """A plan made by hand for ``model``, stored; its name."""
    spec = ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=64))
    shape = Pipeline().plan(spec, PlanSpec(sparsity=0)).shape
    block = BlockPlan((0, 2, 4, 6), tuple(range(40)))
    return Pipeline().keep_plan(PruningPlan(shape, (block,) * len(shape.blocks)))


def test_behind_a_deep_link_stand_three_charts_of_the_default_criteria(app):
    assert errors(app) == []
    assert charts(app) == 3
    assert app.multiselect[0].value == DEFAULT
    assert lines(app, 0) == lines(app, 1) == DEFAULT
    assert lines(app, 2)[-1] == "error = bound"
    assert any(c.value.startswith("Median of bound / error: llm-bip ") for c in app.caption)


def test_a_visit_starts_nothing_and_finds_what_is_stored(model):
    app = open_page(PAGE, model=model, seed="11")
    assert charts(app) == 0
    assert app.info[-1].value.startswith("Press Measure.")
    measure(app)
    with counted_passes() as passes:
        assert charts(open_page(PAGE, model=model, seed="11")) == 3
    assert passes == []


def test_the_sidebars_criterion_is_the_first(model):
    app = opened(model, criterion="magnitude")
    assert lines(app) == ["magnitude", *DEFAULT]
    app.selectbox(key="set-criterion").set_value("random").run()
    assert charts(app) == 0  # nothing is computed before it is asked for
    assert lines(measure(app)) == ["random", *DEFAULT]


def test_chosen_criteria_stay_when_the_sidebar_changes(app):
    assert lines(measure(app, ["wanda-sp", "random"])) == ["wanda-sp", "random"]
    app.selectbox(key="set-criterion").set_value("magnitude").run()
    measure(app)
    assert lines(app) == app.multiselect[0].value == ["wanda-sp", "random"]


def test_other_tokens_give_other_errors(app):
    def first() -> list:
        return spec_of(app)["data"][0]["y"]

    before = first()
    measure(app, tokens=512)
    assert first() != before
    with counted_passes() as passes:
        measure(app, tokens=2048)
    assert passes == []
    assert first() == before


def test_errors_can_be_shown_as_shares(app):
    absolute = [spec_of(app, n)["layout"]["title"]["text"] for n in (0, 1)]
    app.toggle(key="relative").set_value(True).run()
    for number, title in enumerate(absolute):
        shown = spec_of(app, number)["layout"]
        assert shown["title"]["text"] != title
        assert shown["yaxis"]["tickformat"] == ".0%"
    assert charts(app) == 3


def test_without_criteria_the_page_says_what_to_do(app):
    app.multiselect[0].set_value([])
    button(app, "Measure").click().run()
    settle(app)
    assert charts(app) == 0
    assert any("at least one criterion" in box.value for box in app.info)
    assert lines(measure(app, ["random"])) == ["random"]


def test_an_edited_plan_is_a_line_of_its_own(model):
    app = opened(model, source=_kept_plan(model))
    assert errors(app) == []
    assert lines(app) == ["edited", *DEFAULT]
    assert any("measured as “edited”" in box.value for box in app.info)
    assert lines(app, 2)[0].startswith("edited: holds in ")


def test_an_edited_plan_needs_no_criteria_beside_it(model):
    app = opened(model, source=_kept_plan(model))
    assert lines(measure(app, [])) == ["edited"]


def test_an_edited_plan_of_another_model_is_refused(model, other):
    app = opened(other, source=_kept_plan(model))
    assert len(errors(app)) == 1
    assert "another shape" in errors(app)[0]
    button(app, "Back to the controls below").click().run()
    assert errors(finish(app)) == []
    assert lines(measure(app)) == DEFAULT


def test_a_criterion_that_does_not_go_with_the_allocation_is_said_in_a_box(model):
    app = opened(model, allocation="uniform")
    app.multiselect[0].set_value(["blockpruner"])
    button(app, "Measure").click().run()
    for _ in range(3):
        settle(app)
    assert "ranks whole sublayers" in errors(app)[0]
    assert lines(measure(app, ["random"])) == ["random"]


def test_a_model_that_is_not_there_is_said_in_a_box():
    app = opened("/no/such/folder")
    assert len(errors(app)) == 1
    assert "does not exist" in errors(app)[0]


def test_where_nothing_is_cut_the_page_shows_no_bound(model):
    app = opened(model, sparsity="0.0")
    assert errors(app) == []
    assert lines(app, 2) == []
    assert not any("Median" in c.value for c in app.caption)


def test_page_and_command_share_what_is_measured(app, model, capsys):
    words = "--samples 4 --seq-len 64 --window 128 --max-tokens 2048 --json --criteria"
    with counted_passes() as passes:
        assert main(["reconstruct", model, *words.split(), "llm-bip,wanda,wanda-sp"]) == 0
    assert passes == []
    rows = json.loads(capsys.readouterr().out)["errors"]
    assert len(rows) == 9
