"""The page Budget: curves by a button, the plan of a target, used on all pages, and a search."""

import pytest

from bipcore.pruning.plan import PLANS
from bipcore.pruning.targets import read_target
from bipcore.store.runs import RunStore
from tests.helpers.apptest import button, charts, errors, metric, open_page, read, settle
from tests.helpers.folders import model_folder

PAGE = "pages/budget.py"


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model", "mistral"))


def _opened(model: str, **address: str):
    """The page with the curves made."""
    app = open_page(PAGE, model=model, samples="8", seq_len="64", **address)
    app.button(key="make-curves").click().run()
    return settle(app)


def _removed(app) -> float:
    """Per cent of the model."""
    return float(metric(app, "Removed, of the model").removesuffix("%"))


def _overview(app):
    """The start page with the settings that the page's address says."""
    return open_page("app.py", **dict(app.query_params))


def test_nothing_is_computed_before_its_button(model):
    app = open_page(PAGE, model=model)
    assert next(box.value for box in app.info).startswith("A budget is planned from")
    assert charts(app) == 0
    assert not app.metric


def test_a_target_is_planned_and_used_on_all_pages(model):
    app = _opened(model)
    assert errors(app) == []
    assert charts(app) == 2
    assert "asked params=80%" in {read(one.delta) for one in app.metric}
    before = _removed(app)
    app.slider(key="budget-share").set_value(60).run()
    assert _removed(app) >= 40 > before >= 20
    app.selectbox(key="budget-kind").set_value("bytes").run()
    app.selectbox(key="budget-type").set_value("q8_0").run()
    app.selectbox(key="budget-block").set_value(2).run()
    assert errors(app) == []
    assert "asked bytes=60%@q8_0" in {read(one.delta) for one in app.metric}
    assert read_target("bytes=60%@q8_0").dtype == "q8_0"
    app.button(key="use-budget").click().run()
    settle(app)
    assert app.button(key="use-budget").disabled
    kept = len(list(RunStore().entries(PLANS)))
    app.slider(key="budget-share").set_value(50).run()
    assert len(list(RunStore().entries(PLANS))) == kept  # to look at a plan keeps none
    app.slider(key="budget-share").set_value(60).run()
    assert button(app, "Back to the controls below")
    assert _removed(_overview(app)) == _removed(app)


def test_a_search_goes_on_from_the_plan(model):
    app = _opened(model, protect_first="1", compensation="least-squares")
    app.number_input(key="budget-steps").set_value(6).run()
    app.button(key="budget-search").click().run()
    settle(app)
    assert errors(app) == []
    before, after = (
        float(metric(app, label).split()[0])
        for label in ("Divergence of this plan", "After 6 trials")
    )
    assert after <= before
    app.button(key="use-searched").click().run()
    settle(app)
    app = _overview(app)
    assert "asked params=80%, then searched" in {read(one.delta) for one in app.metric}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ({"protect_first": "2"}, "is below the smallest plan"),
        ({"protect_first": "3"}, "leaves none of the 3 to prune"),
        ({"unit": "head"}, "share key/value heads"),
    ],
)
def test_what_cannot_be_is_an_error_box(model, address, said):
    app = _opened(model, **address)
    if said.startswith("is below"):
        app.slider(key="budget-share").set_value(10).run()
    (error,) = errors(app)
    assert said in error
