"""What a link does: it shows its settings, and touches nothing that they name."""

import socket
import sys

import pytest

from tests.app.test_app import PAGES
from tests.helpers.apptest import SMALL, button, charts, errors, settle, start, visit
from tests.helpers.folders import model_folder
from ui import links
from ui.jobs import worker
from ui.words import plain

PICTURE = "![x](http://127.0.0.1:9/x.png)"
_opened: list[str] = []
_hooked: list[bool] = []


@pytest.fixture(autouse=True)
def _new_server():
    """No settings were used before."""
    links.forget_all()
    yield
    for job in worker().active():
        job.cancel()


@pytest.fixture
def opened():
    """The files and folders that are opened or listed meanwhile, by name."""

    def watch(event: str, arguments: tuple) -> None:
        if _hooked and event in ("open", "os.listdir", "os.scandir"):
            _opened.append(str(arguments[0]))

    sys.addaudithook(watch)  # for good: there is no taking it away
    _hooked.append(True)
    _opened.clear()
    yield _opened
    _hooked.clear()


def asked(app) -> bool:
    """Whether the page asks before it goes on."""
    return any(one.key == "load-link" for one in app.button)


@pytest.mark.parametrize("page", PAGES)
def test_a_link_shows_its_settings_and_touches_nothing(page, tmp_path, opened, monkeypatch):
    hosts = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: hosts.append(a))
    model, text = model_folder(tmp_path / "model"), tmp_path / "text.txt"
    text.write_text("word " * 1000)
    opened.clear()
    address = {"model": str(model), "text": str(text), "samples": "1000000", "device": "cuda"}
    app = visit(page, **address, source="0123456789abcdef")
    assert asked(app)
    assert errors(app) == []
    assert worker().active() == []
    assert charts(app) == 0
    assert [name for name in opened if str(tmp_path) in name] == []
    assert hosts == []
    (said,) = app.code
    for value in (*address.values(), "0123456789abcdef"):
        assert value in said.value
    assert app.sidebar.text_input(key="set-model").value == str(model)


def test_a_hub_model_in_a_link_is_not_asked_for(monkeypatch):
    hosts = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: hosts.append(a))
    assert asked(visit("pages/paper.py", model="owner/name"))
    assert hosts == []


def test_the_defaults_need_no_button():
    app = visit("pages/sweep.py", samples="32", seq_len="256")
    assert not asked(app)


@pytest.mark.parametrize("press", ["load-link", "load"])
def test_a_button_loads_them_and_nobody_is_asked_again(press, tmp_path):
    address = {"model": str(model_folder(tmp_path / "model")), **SMALL}
    app = visit("app.py", **address)
    app.button(key=press).click().run()
    assert charts(settle(app)) == 1
    app.switch_page("pages/scores.py").run()
    assert charts(settle(app)) == 4
    app.slider(key="set-percent").set_value(30).run()
    again = {name: app.query_params[name] for name in app.query_params}
    reloaded = visit("pages/scores.py", **again)
    assert not asked(reloaded)
    assert charts(settle(reloaded)) == 4


def test_another_page_of_the_session_asks_as_well(tmp_path):
    app = visit("app.py", model=str(tmp_path))
    app.switch_page("pages/scores.py").run()
    assert asked(app)


def test_to_change_a_control_is_not_to_press_the_button(tmp_path):
    app = visit("pages/scores.py", model=str(tmp_path))
    app.slider(key="set-percent").set_value(30).run()
    assert asked(app)
    assert errors(app) == []


def _drawn(app) -> list[str]:
    """Every text on the page that is Markdown."""
    kinds = ("markdown", "caption", "error", "info", "warning", "success", "header", "subheader")
    return [one.value for kind in kinds for one in app.get(kind)]


@pytest.mark.parametrize("page", PAGES)
def test_a_picture_in_the_address_is_drawn_as_text(page):
    address = {"model": PICTURE, "text": PICTURE, "colour": PICTURE, "unit": PICTURE}
    app = visit(page, **address)
    drawn = _drawn(app)
    app = settle(start(page, **address))
    drawn += _drawn(app)
    assert any(plain(PICTURE) in text for text in drawn)
    assert [text for text in drawn if "![" in text] == []


def test_a_job_that_names_a_picture_is_drawn_as_text(tmp_path):
    folder = model_folder(tmp_path / "a![x](b)")
    app = visit("pages/scores.py", model=str(folder), **SMALL)
    app.button(key="load-link").click().run()
    texts = [*_drawn(app), *(one.proto.text for one in app.get("progress"))]
    assert [text for text in texts if "![" in text] == []
    settle(app)
    assert button(app, "Load and score")
    assert charts(app) == 4


FORM = {"sweep.percents": "30, 40", "sweep.window": "32", "sweep.texts": '["ptb"]'}


def test_a_link_fills_a_form_in_once_it_is_let(tmp_path):
    model = str(model_folder(tmp_path / "model"))
    app = visit("pages/sweep.py", model=model, **FORM)
    assert asked(app)
    (shown,) = app.code
    assert "sweep.percents: 30, 40" in shown.value
    app = settle(start("pages/sweep.py", model=model, **FORM))
    assert app.text_input(key="set-sweep-percents").value == "30, 40"
    assert app.number_input(key="set-sweep-window").value == 32
    assert app.multiselect(key="set-sweep-texts").value == ["ptb"]
    assert {name: app.query_params[name] for name in FORM} == FORM


def test_a_form_in_the_address_alone_is_asked_about_too():
    assert asked(visit("pages/sweep.py", samples="32", seq_len="256", **FORM))


def test_the_address_says_what_a_form_has_that_it_does_not_start_with(tmp_path):
    model = str(model_folder(tmp_path / "model"))
    app = settle(start("pages/sweep.py", model=model))
    assert [name for name in app.query_params if "." in name] == []
    before = app.text_input(key="set-sweep-percents").value
    app.text_input(key="set-sweep-percents").set_value("35").run()
    assert app.query_params["sweep.percents"] == "35"
    app.text_input(key="set-sweep-percents").set_value(before).run()
    assert [name for name in app.query_params if "." in name] == []


def test_what_no_form_can_have_is_left_out_and_said(tmp_path):
    model = str(model_folder(tmp_path / "model"))
    bad = {"sweep.window": "many", "sweep.tokens": "-3", "sweep.criteria": '["odd", "wanda"]'}
    app = settle(start("pages/sweep.py", model=model, **bad))
    (said,) = errors(app)
    assert "sweep.window=many, which cannot be used" in said
    assert app.multiselect(key="set-sweep-criteria").value == ["wanda"]
    assert app.number_input(key="set-sweep-tokens").value > 0


def test_a_prompt_travels_with_the_address(tmp_path):
    model = str(model_folder(tmp_path / "model"))
    app = settle(start("pages/generate.py", model=model, **{"generate.prompt": "abc"}))
    assert app.text_area(key="set-generate-prompt").value == "abc"
    assert worker().active() == []
    app.text_area(key="set-generate-prompt").set_value("x" * 5000)
    app.button(key="generate").click().run()
    settle(app)
    assert "generate.prompt" not in app.query_params  # too long for an address
    assert app.text_area(key="set-generate-prompt").value == "x" * 5000
