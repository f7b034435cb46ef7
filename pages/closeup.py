"""One attention head or one FFN channel, from near by."""

from ui.closeups import choose, close_up_job, show_close_up, show_place
from ui.page import begin
from ui.results import need_scores

settings = begin(
    "Close-up",
    "One attention head or FFN channel of the original model: what it attends to or where it is "
    "active, which tokens it promotes, and how the loss rises without it.",
)
scores, plan = need_scores(settings)
unit, text, pressed = choose(scores)
show_place(settings, scores, plan, unit)
job = close_up_job(settings, unit, text, pressed=pressed)
show_close_up(settings, unit, text, job)
