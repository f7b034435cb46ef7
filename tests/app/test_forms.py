"""Forms whose values outlive their widgets."""

import pytest
from streamlit.testing.v1 import AppTest

from ui.forms import last_forms


@pytest.fixture(autouse=True)
def forgotten():
    last_forms().clear()
    yield
    last_forms().clear()


def page(group: str | None) -> None:
    """A form with a field of every kind, drawn unless the box Away is ticked."""
    import streamlit as st

    from bipcore.errors import InputError
    from ui.forms import Form

    def read(values):
        if values["count"] == 7:
            raise InputError("7 is not wanted.")
        return dict(values)

    if st.checkbox("Away", key="away"):
        for key in [key for key in st.session_state if str(key).startswith("set-")]:
            del st.session_state[key]
        st.stop()
    start = {"count": 1, "rate": 0.5, "text": "a", "texts": ["a"], "note": ""}
    form = Form("small", start, {"note": "Anything."}, group=group)
    form.number(st, "Count", "count", 0)
    form.number(st, "Rate", "rate", 0.0, 1.0, step=0.1)
    form.choice(st, "Text", "text", ("a", "b"), empty="a")
    form.choices(st, "Texts", "texts", ("a", "b"))
    form.field(st.text_input, "Note", "note")
    st.button("Fill", key="fill", on_click=form.fill, args=({"count": 3, "text": "typed"},))
    spec, pressed = form.start_row(read, lambda spec: f"{spec['count']} at {spec['rate']}")
    st.session_state["said"] = (spec, pressed)


def opened(group: str | None = None) -> AppTest:
    app = AppTest.from_function(page, kwargs={"group": group}).run()
    assert not app.exception, app.exception
    return app


def said(app) -> dict:
    return app.session_state["said"][0]


def test_a_form_says_what_its_fields_say():
    app = opened()
    assert said(app) == {"count": 1, "rate": 0.5, "text": "a", "texts": ["a"], "note": ""}
    app.number_input(key="set-small-count").set_value(2)
    app.multiselect(key="set-small-texts").set_value(["a", "b"]).run()
    assert said(app)["texts"] == ["a", "b"]
    assert app.caption[0].value == "2 at 0.5"
    assert [type(said(app)[name]) for name in ("count", "rate")] == [int, float]
    assert app.text_input(key="set-small-note").help == "Anything."


def test_its_values_outlive_its_widgets():
    app = opened()
    app.number_input(key="set-small-count").set_value(4).run()
    app.checkbox(key="away").check().run()
    app.checkbox(key="away").uncheck().run()
    assert app.number_input(key="set-small-count").value == 4
    assert said(app)["count"] == 4


def test_a_button_fills_it_in_and_what_was_typed_can_be_chosen():
    app = opened()
    app.number_input(key="set-small-count").set_value(4).run()
    app.button(key="fill").click().run()
    assert app.number_input(key="set-small-count").value == 3
    assert app.selectbox(key="set-small-text").options == ["a", "b", "typed"]
    assert said(app)["text"] == "typed"


def test_wrong_values_are_an_error_box_and_cannot_be_started():
    app = opened()
    app.number_input(key="set-small-count").set_value(7).run()
    assert [box.value for box in app.error] == ["7 is not wanted."]
    assert app.button(key="small-start").disabled
    assert said(app) is None
    assert len(app.caption) == 0


def test_a_new_session_starts_with_the_form_that_was_started_last_in_its_group():
    app = opened("one")
    app.number_input(key="set-small-count").set_value(4).run()
    assert said(opened("one"))["count"] == 1
    app.button(key="small-start").click().run()
    assert app.session_state["said"][1]
    assert said(opened("one"))["count"] == 4
    assert said(opened("two"))["count"] == 1


def test_without_a_group_a_new_session_starts_anew():
    app = opened()
    app.number_input(key="set-small-count").set_value(4).run()
    app.button(key="small-start").click().run()
    assert said(opened())["count"] == 1
