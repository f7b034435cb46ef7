"""Bad input on a page: an error box with one sentence, and the app goes on."""

import json
import threading

import pytest

from bipcore.models import identity
from bipcore.store import content
from tests.helpers.apptest import charts, errors, field, open_page, settle
from tests.helpers.folders import model_folder, truncate
from ui import results


@pytest.fixture(autouse=True)
def _demo(demo):
    """The demo model is converted before the app asks for it."""


def load(app, **fields):
    """Fill the form of the sidebar and press its button."""
    for name, value in fields.items():
        if name == "text":
            app.session_state["set-text"] = value
        elif name == "model":
            app.text_input(key="set-model").set_value(value)
        else:
            app.number_input(key=f"set-{name}").set_value(value)
    app.button(key="load").click().run()
    return settle(app)


def goes_on(app) -> bool:
    """Back to the demo model and what it was calibrated on, the page works again."""
    load(app, model="demo", text="builtin", samples=4, seq_len=64)
    return errors(app) == [] and charts(app) == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "/no/such/folder"}, "does not exist"),
        ({"model": "nobody-at-all/no-such-model-here"}, "nobody-at-all/no-such-model-here"),
        ({"model": "not a model id!"}, "neither a folder"),
        ({"samples": 100_000}, "ask for fewer or shorter samples"),
        ({"seq_len": 9000, "samples": 1}, "longer than the 8192 positions"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_box(fields, said):
    app = open_page("pages/scores.py")
    load(app, **fields)
    assert len(errors(app)) == 1
    assert said in errors(app)[0]
    assert goes_on(app)


@pytest.mark.parametrize("page", ["pages/scores.py", "pages/sweep.py", "pages/paper.py"])
def test_what_can_be_no_name_is_said_in_a_box(page, tmp_path):
    app = open_page(page, model=str(model_folder(tmp_path / "model")))
    load(app, model="a\0b")
    (said,) = errors(app)
    assert "The model is text in UTF-8" in said


def test_large_files_of_a_model_are_read_by_the_worker_alone(tmp_path, monkeypatch):
    readers, read = [], content._read

    def reading(file):
        readers.append((file.name, threading.current_thread().name))
        return read(file)

    monkeypatch.setattr(content, "_read", reading)
    monkeypatch.setattr(content, "_CLOCK", 0)  # the folder has just been written
    for module, name in ((identity, "_LARGE"), (results, "LARGE")):
        monkeypatch.setattr(module, name, 1000)
    model = str(model_folder(tmp_path / "model"))
    app = settle(open_page("pages/scores.py", model=model))  # one job to look at it, one to score
    assert charts(app) == 4
    assert {thread for name, thread in readers if name == "model.safetensors"} == {"bipcore"}


def test_an_unsupported_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    app = load(open_page("pages/scores.py"), model=str(tmp_path))
    assert "'mixtral' is not supported" in errors(app)[0]


def test_damaged_weights_are_refused(tmp_path):
    folder = model_folder(tmp_path / "model")
    truncate(folder / "model.safetensors")
    app = load(open_page("pages/scores.py"), model=str(folder))
    assert "damaged" in errors(app)[0]


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"\xff\xfe\x00\x01\x80", "is a binary file")]
)
def test_a_file_without_text_is_refused(tmp_path, content, said):
    file = tmp_path / "text.txt"
    file.write_bytes(content)
    app = open_page("pages/scores.py", text=str(file))
    assert len(errors(app)) == 1
    assert said in errors(app)[0]
    assert goes_on(app)


def test_a_file_that_does_not_exist_is_refused():
    app = open_page("pages/scores.py", text="/no/such/file.txt")
    assert "There is no text called" in errors(app)[0]
    assert goes_on(app)


@pytest.mark.parametrize("sparsity", ["-0.1", "1.0", "abc"])
def test_a_sparsity_out_of_range_in_the_address_is_named_and_left_out(sparsity):
    app = open_page("pages/scores.py", sparsity=sparsity)
    start = app.slider(key="set-percent").value
    assert start == 20
    assert charts(app) == 4


def test_an_impossible_plan_is_refused_and_the_slider_mends_it():
    app = open_page("pages/scores.py", sparsity="0.6", protect_first="15")
    assert "ask for less" in errors(app)[0]
    app.slider(key="set-percent").set_value(10).run()
    assert errors(app) == []
    assert charts(app) == 4


def test_protecting_every_block_is_refused():
    app = open_page("pages/scores.py", protect_first="30")
    assert "leaves none of the 30 to prune" in errors(app)[0]


@pytest.mark.parametrize(
    ("folder", "said"), [("/proc/export", "cannot be written"), ("", "has no name")]
)
def test_an_export_folder_that_cannot_be_written_is_refused(tmp_path, folder, said):
    app = open_page("pages/export.py", model=str(model_folder(tmp_path / "model")))
    assert app.checkbox(key="measure").value
    field(app, "Folder").set_value(folder)
    app.button(key="export").click().run()
    settle(app)
    assert len(errors(app)) == 1
    assert said in errors(app)[0]


def test_an_export_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("keep me")
    app = open_page("pages/export.py")
    field(app, "Folder").set_value(str(tmp_path))
    app.button(key="export").click().run()
    settle(app)
    assert "holds something else (letter.txt)" in errors(app)[0]
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_a_plan_that_no_stock_class_holds_can_be_exported_and_the_reason_is_said():
    app = open_page("pages/export.py", protect_first="1")
    assert errors(app) == []
    assert "different widths" in app.info[0].value
    assert "trust_remote_code=True" in app.info[0].value
    assert not app.button(key="export").disabled


def test_an_empty_prompt_is_refused(tmp_path):
    app = open_page("pages/generate.py", model=str(model_folder(tmp_path / "model")))
    app.text_area(key="set-generate-prompt").set_value("   ")
    app.button(key="generate").click().run()
    settle(app)
    assert "The prompt is empty" in errors(app)[0]
