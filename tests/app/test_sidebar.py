"""The sidebar: presets, plan options, a plan in use, and what the address says of them."""

import json
import re
import weakref

import pytest

from bipcore.pipeline.pipeline import Pipeline
from bipcore.settings import PRESETS
from bipcore.specs import CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.runs import RunStore
from tests.helpers.apptest import button, charts, errors, metric, open_page, read, settle, start
from tests.helpers.folders import model_folder
from ui.jobs import worker
from ui.settings import Settings

PAGE = "pages/scores.py"
PRESET = "set-preset"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: str(model_folder(root / name, name)) for name in ("llama", "mistral")}


@pytest.fixture
def app(folders):
    return open_page(PAGE, model=folders["llama"])


def preset(app) -> str | None:
    """The preset that the control shows."""
    (control,) = [b for b in app.sidebar.get("button_group") if b.key == PRESET]
    return control.value


def choose(app, name: str | None):
    (control,) = [b for b in app.sidebar.get("button_group") if b.key == PRESET]
    control.set_value(name).run()
    return settle(app)


def controls(app) -> dict:
    """The plan's controls, by the names of the settings."""
    names = ("criterion", "allocation", "compensation", "propagation", "floor", "round_to")
    names = (*names, "protect_first", "protect_last")
    widgets = {w.key: w.value for w in (*app.sidebar.selectbox, *app.sidebar.number_input)}
    return {name: widgets[f"set-{name}"] for name in names}


def settings(app) -> Settings:
    return app.session_state["settings"]


def kept_plan(model: str, sparsity: float = 0.5) -> str:
    """A plan for ``model`` in the run store; its name."""
    spec = ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=64))
    pipeline = Pipeline()
    return pipeline.keep_plan(pipeline.plan(spec, PlanSpec(sparsity=sparsity)))


def test_the_defaults_are_those_of_the_paper(app):
    assert preset(app) == "paper"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_the_controls(folders, name):
    address = {"protect_last": "1", "sparsity": "0.4"}
    app = open_page(PAGE, model=folders["llama"], **address)
    assert preset(app) is None
    choose(app, name)
    wanted = dict(PRESETS[name].values)
    assert {key: controls(app)[key] for key in wanted} == wanted
    assert preset(app) == name
    assert app.slider(key="set-percent").value == 40
    assert errors(app) == []


def test_a_preset_stays_in_the_address_and_on_the_next_page(folders):
    app = open_page("app.py", model=folders["llama"])
    choose(app, "recommended")
    address = {key: app.query_params[key] for key in ("criterion", "compensation")}
    assert address == {"criterion": "flap", "compensation": "least-squares"}
    app.switch_page(PAGE).run()
    settle(app)
    assert preset(app) == "recommended"
    assert controls(app)["criterion"] == "flap"
    again = open_page(PAGE, **{name: app.query_params[name] for name in app.query_params})
    assert preset(again) == "recommended"
    assert settings(again) == settings(app)


def test_a_control_that_is_changed_leaves_the_preset_at_once(app):
    app.number_input(key="set-protect_last").set_value(1).run()
    assert preset(app) is None
    app.number_input(key="set-protect_last").set_value(0).run()
    assert preset(app) == "paper"


def test_what_is_no_part_of_a_preset_leaves_it_in_use(app):
    app.slider(key="set-percent").set_value(50).run()
    assert preset(app) == "paper"


def test_a_preset_keeps_what_was_changed_just_before(app):
    app.slider(key="set-percent").set_value(50).run()
    app.selectbox(key="set-round_to").set_value(8).run()
    choose(app, "recommended")
    assert app.slider(key="set-percent").value == 50
    assert controls(app)["round_to"] == 8


def test_a_second_click_on_a_preset_changes_nothing(app):
    before = settings(app)
    choose(app, None)
    assert preset(app) == "paper"
    assert settings(app) == before


def test_a_preset_drops_a_plan_made_by_hand(folders):
    app = open_page(PAGE, model=folders["llama"], source=kept_plan(folders["llama"]))
    assert preset(app) is None
    choose(app, "paper")
    assert settings(app).source == ""
    assert preset(app) == "paper"


def test_plan_options_are_those_of_the_address(folders):
    address = {"floor": "0.25", "compensation": "bias", "allocation": "global"}
    app = open_page(PAGE, model=folders["llama"], **address)
    assert errors(app) == []
    shown = controls(app)
    assert (shown["floor"], shown["compensation"], shown["allocation"]) == (0.25, "bias", "global")
    assert {name: app.query_params[name] for name in address} == address
    app.number_input(key="set-floor").set_value(0.0).run()
    assert "floor" not in app.query_params


def test_the_floor_keeps_a_share_of_every_sublayer(folders):
    app = open_page(PAGE, model=folders["llama"], sparsity="0.6", allocation="global", floor="0.25")
    heads, _, channels = (part.strip() for part in metric(app, "Widths of a block").split("/"))
    assert int(heads.split("-")[0]) >= 2
    assert int(channels.split("-")[0]) >= 24


def test_pruned_propagation_has_scores_of_its_own(app, folders):
    def shown():
        return app.dataframe[0].value

    def stored() -> int:
        return sum(entry.kind == "scores" for entry in RunStore().entries())

    dense, count = shown(), stored()
    app.selectbox(key="set-propagation").set_value("pruned").run()
    settle(app)
    assert errors(app) == []
    assert stored() == count + 1
    assert not shown().equals(dense)
    app.slider(key="set-percent").set_value(50).run()
    settle(app)
    assert stored() == count + 2  # what is cut decides what the later blocks get
    app.selectbox(key="set-propagation").set_value("dense").run()
    assert stored() == count + 2
    app.slider(key="set-percent").set_value(20).run()
    assert shown().equals(dense)


def test_a_plan_of_scores_that_need_no_text_knows_what_it_is_compensated_on(folders):
    address = {"criterion": "magnitude", "compensation": "bias", "seq_len": "16"}
    app = open_page("pages/plan.py", model=folders["llama"], **address)
    for seed in (0, 5):
        app.number_input(key="set-seed").set_value(seed)
        button(app, "Load and score").click().run()
        settle(app)
        plan = app.session_state["plan-editor"].plan
        assert plan.spec["compensation_calibration"]["seed"] == seed


def test_a_plan_in_use_is_said_and_dropped(folders):
    app = open_page(PAGE, model=folders["llama"], source=kept_plan(folders["llama"]))
    assert errors(app) == []
    assert metric(app, "Removed, of the blocks").startswith(("49.", "50."))
    assert "made by hand" in app.sidebar.info[0].value
    button(app, "Back to the controls below").click().run()
    assert len(app.sidebar.info) == 0
    assert "source" not in app.query_params
    assert metric(app, "Removed, of the blocks").startswith(("19.", "20."))


@pytest.mark.parametrize("page", ["app.py", PAGE, "pages/export.py", "pages/reconstruction.py"])
def test_a_plan_that_is_not_there_is_one_sentence(folders, page):
    app = open_page(page, model=folders["llama"], source="0123456789abcdef")
    assert len(errors(app)) == 1
    assert "not in the run store any more" in errors(app)[0]
    button(app, "Back to the controls below").click().run()
    assert errors(settle(app)) == []


def test_a_plan_of_another_model_is_one_sentence(folders):
    app = open_page(PAGE, model=folders["mistral"], source=kept_plan(folders["llama"]))
    assert len(errors(app)) == 1
    assert "another shape" in errors(app)[0]
    button(app, "Back to the controls below").click().run()
    assert errors(app) == []
    assert charts(app) == 4


def test_a_damaged_plan_is_one_sentence(folders):
    name = kept_plan(folders["llama"], 0.45)
    (RunStore().root / "plans" / name / "data.json").write_text(json.dumps({"plan": 3}))
    app = open_page(PAGE, model=folders["llama"], source=name)
    assert len(errors(app)) == 1
    assert "damaged" in errors(app)[0] or "not a pruning plan" in errors(app)[0]


def test_what_the_address_cannot_say_is_named_until_something_is_changed(folders):
    app = start(PAGE, model=folders["llama"], source="plan.json")
    assert "source=plan.json" in errors(app)[0]
    settle(app)
    assert "source=plan.json" in errors(app)[0]
    assert "source" not in app.query_params
    app.slider(key="set-percent").set_value(30).run()
    assert errors(app) == []


def test_least_squares_from_few_tokens_says_how_many_would_do(folders):
    few = {"samples": "2", "seq_len": "16", "compensation": "least-squares"}
    app = open_page(PAGE, model=folders["llama"], **few)
    (said,) = [warning.value for warning in app.warning]
    assert "from 32 calibration tokens, which is few" in said
    app.selectbox(key="set-compensation").select("none").run()
    assert not settle(app).warning


def test_an_adapter_that_is_not_used_is_said_once_on_every_page(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    app = open_page(PAGE, model=str(folder))
    assert [note.value for note in app.warning if "is not used" in note.value] != []
    assert len(app.warning) == 1


def test_the_field_of_the_calibration_text_can_be_named(folders, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([json.dumps({"body": "some words " * 50})] * 9))
    app = open_page(PAGE, model=folders["llama"], text=str(path), samples="2", seq_len="16")
    assert 'no field "text"; it has body' in errors(app)[0]
    app.sidebar.text_input(key="set-text_field").set_value("body")
    button(app, "Load and score").click().run()
    settle(app)
    assert errors(app) == []
    assert settings(app).text_field == "body"
    assert app.query_params["text_field"] == "body"


def test_the_models_in_memory_are_said_and_let_go(folders):
    folder = folders["mistral"]
    app = open_page(PAGE, model=folder, seed="77")
    (line,) = [read(one.value) for one in app.sidebar.caption if "In memory" in one.value]
    assert re.fullmatch(rf"In memory \(\w+\): \d.* of \d.*: .*{re.escape(folder)}.*", line)
    seen = [weakref.ref(entry.value) for entry in worker().engine.kept]
    button(app, "Let them go").click().run()
    settle(app)
    assert [one() for one in seen] == [None] * len(seen)
    assert not [one for one in app.sidebar.caption if "In memory" in one.value]
