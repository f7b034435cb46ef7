"""A text through the original and smaller models: after which tokens they part."""

from ui.changes import changes_job, show_changes, show_depth, text_form
from ui.page import begin
from ui.recoveries import choose_recovery
from ui.results import need_scores

settings = begin(
    "What changed",
    "The models read the same text; at every token, how far apart is what they expect next?",
)
scores, plan = need_scores(settings)
recovery = choose_recovery(settings, plan, optional=True)

asked, pressed = text_form(settings)
show_changes(changes_job(settings, plan, recovery, asked, pressed=pressed), asked)
show_depth(settings, plan, recovery, asked)
