"""A text through the original and the pruned model: after which tokens they part."""

import streamlit as st

from ui.changes import changes_job, show_changes, show_depth
from ui.forms import Form
from ui.page import begin
from ui.recoveries import choose_recovery
from ui.results import need_scores

_TEXT = (
    "The Eiffel Tower in Paris was finished in 1889 and is about 330 metres tall. It was designed "
    "by the company of Gustave Eiffel, and for forty years it was the tallest structure in the "
    "world. In Python, a list is written with square brackets: numbers = [1, 2, 3]. Water boils "
    "at 100 degrees Celsius."
)

settings = begin(
    "What changed",
    "Both models read the same text; at every token, how far apart is what they expect next?",
)
scores, plan = need_scores(settings)
recovery = choose_recovery(settings, plan, optional=True)

form = Form("changes", {"text": _TEXT})
with st.form("changes-text-form"):
    text = form.field(st.text_area, "Text", "text", height=140, max_chars=20_000)
    pressed = st.form_submit_button("Compare", type="primary", key="changes")

job = changes_job(settings, plan, recovery, text, pressed=pressed)
show_changes(job, recovered=recovery is not None)
show_depth(settings, plan, recovery, text)
