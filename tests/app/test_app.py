"""Every page, with the real demo model."""

import pytest

from bipcore import load_plan
from bipcore.pipeline.plans import Plans
from bipcore.pruning.plan import NOTHING
from tests.helpers.apptest import (
    ROOT,
    button,
    charts,
    errors,
    field,
    metric,
    open_page,
    settle,
    start,
)
from tests.helpers.folders import model_folder
from ui.jobs import worker

PAGES = {
    "app.py": "What a language model can do without",
    "pages/scores.py": "Scores",
    "pages/closeup.py": "Close-up",
    "pages/compare.py": "Compare",
    "pages/plan.py": "Plan",
    "pages/budget.py": "Budget",
    "pages/reconstruction.py": "Reconstruction error",
    "pages/sweep.py": "Sweep",
    "pages/zero_shot.py": "Zero-shot",
    "pages/recover.py": "Recover",
    "pages/changes.py": "What changed",
    "pages/generate.py": "Generate",
    "pages/export.py": "Export",
    "pages/paper.py": "Paper",
    "pages/runs.py": "Runs",
}


@pytest.fixture(autouse=True)
def _demo(demo):
    """The demo model is converted before the app asks for it; what a page still computes when its
    test has ended is not waited for."""
    yield
    for job in worker().active():
        job.cancel()


def test_all_pages_are_in_the_navigation():
    files = {path.name for path in (ROOT / "pages").glob("*.py")}
    assert {f"pages/{name}" for name in files} | {"app.py"} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_stands_by_itself_behind_a_deep_link(page):
    app = open_page(page)
    assert app.title[0].value == PAGES[page]
    assert errors(app) == []
    assert app.sidebar.text_input(key="set-model").value == "demo"


def test_pages_are_reached_from_the_start_page_and_keep_the_settings():
    app = open_page(sparsity="0.4")
    app.switch_page("pages/scores.py").run()
    assert app.slider(key="set-percent").value == 40
    assert app.query_params["sparsity"] == "0.4"
    app.slider(key="set-percent").set_value(30).run()
    app.switch_page("pages/export.py").run()
    assert app.slider(key="set-percent").value == 30
    assert not app.exception


def test_the_start_page_says_what_the_model_is_and_what_goes():
    app = open_page()
    assert any("30 decoder blocks" in m.value for m in app.markdown)
    assert metric(app, "Removed, of the blocks") == "20.0%"
    assert metric(app, "Parameters") == "113.3 M"
    assert charts(app) == 1


def test_scores_shows_every_chart_and_table():
    app = open_page("pages/scores.py", sparsity="0.4")
    assert charts(app) == 4
    assert len(app.dataframe) == 2
    assert metric(app, "Widths of a block").startswith("6 / 3 / ")
    largest = app.dataframe[0].value
    assert largest["score"].is_monotonic_decreasing
    assert largest["kept"].all()
    assert not app.dataframe[1].value["kept"].any()


def test_the_slider_changes_the_plan_without_computing_anything():
    app = open_page("pages/scores.py")
    before = metric(app, "Parameters")
    app.slider(key="set-percent").set_value(50).run()
    assert not worker().active()
    assert metric(app, "Removed, of the blocks") == "50.0%"
    assert metric(app, "Parameters") != before


def test_another_criterion_needs_no_other_pass_over_the_calibration_set(monkeypatch):
    app = open_page("pages/scores.py")
    passes = []
    monkeypatch.setattr(
        "bipcore.pipeline.workbench.collect_statistics", lambda *a, **k: passes.append(a)
    )
    app.selectbox(key="set-criterion").set_value("wanda").run()
    settle(app)
    assert charts(app) == 4
    assert errors(app) == []
    assert passes == []


def test_plan_options_are_taken_over():
    app = open_page("pages/scores.py", sparsity="0.4", unit="kv-group", protect_first="2")
    assert metric(app, "Widths of a block").startswith("6-9 / 2-3 / ")
    app.number_input(key="set-protect_first").set_value(0).run()
    assert metric(app, "Widths of a block").startswith("6 / 2 / ")


def test_both_models_continue_the_prompt():
    app = open_page("pages/generate.py")
    app.number_input(key="set-generate-tokens").set_value(6)
    app.text_area(key="set-generate-prompt").set_value("The capital of France is")
    app.button(key="generate").click().run()
    settle(app)
    assert errors(app) == []
    captions = [c.value for c in app.caption if "tokens/s" in c.value]
    assert len(captions) == 2
    assert all(c.startswith(("6 tokens", "5 tokens", "4 tokens", "3 tokens")) for c in captions)
    assert all(text.value.strip() for text in app.text)


def test_at_sparsity_zero_both_continuations_are_the_same(tmp_path):
    model = str(model_folder(tmp_path / "model"))
    app = open_page("pages/generate.py", model=model, sparsity="0.0")
    app.number_input(key="set-generate-tokens").set_value(6)
    app.button(key="generate").click().run()
    settle(app)
    original, pruned = (text.value for text in app.text)
    assert original == pruned


def test_export_writes_the_plan_that_is_shown(tmp_path):
    app = open_page("pages/export.py", sparsity="0.4")
    app.selectbox(key="save-dtype").select("bfloat16").run()
    app.checkbox(key="measure").set_value(False)
    field(app, "Folder").set_value(str(tmp_path / "out"))
    app.button(key="export").click().run()
    settle(app)
    assert errors(app) == []
    assert "Read back as `LlamaForCausalLM`" in app.success[-1].value
    assert "MiB in bfloat16 (the dense model: " in app.success[-1].value
    plan = load_plan(tmp_path / "out")
    assert plan.spec["sparsity"] == 0.4
    assert metric(app, "Parameters") == f"{plan.pruned_shape.parameters / 1e6:,.1f} M"


def test_a_plan_that_removes_nothing_is_warned_of_and_not_exported():
    address = {"sparsity": "0.01", "round_to": "256", "unit": "none"}
    app = open_page("pages/plan.py", **address)
    assert [warned.value for warned in app.warning] == [NOTHING]
    app = open_page("pages/export.py", **address)
    assert errors(app) == [NOTHING]
    assert "export" not in [button.key for button in app.button]


def test_a_second_tab_finds_the_job_of_the_first(monkeypatch):
    computed = []
    original = Plans._scored

    def counted(plans, spec, plan):
        computed.append(spec)
        return original(plans, spec, plan)

    monkeypatch.setattr(Plans, "_scored", counted)
    tabs = [start(page, seed="7") for page in ("app.py", "pages/scores.py")]
    assert len(worker().active()) == 1
    for tab in tabs:
        assert charts(settle(tab)) >= 1
    assert len(computed) == 1


def test_cancelling_says_so_and_the_work_can_be_started_again():
    app = start("pages/scores.py", seed="8")
    button(app, "Cancel").click().run()
    settle(app)
    assert any("cancelled" in box.value for box in app.info)
    button(app, "Try again").click().run()
    settle(app)
    assert charts(app) == 4


@pytest.mark.parametrize("page", ["app.py", "pages/scores.py"])
def test_every_chart_can_be_downloaded_as_data_and_as_a_page(page):
    app = open_page(page)
    labels = [one.label for one in app.get("download_button")]
    assert labels.count("CSV") == labels.count("HTML") == charts(app) > 0
