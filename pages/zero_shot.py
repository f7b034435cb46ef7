"""Common-sense tasks: accuracies of the dense, the pruned and the recovered model."""

from ui.page import begin
from ui.recoveries import choose_recovery
from ui.results import need_scores
from ui.zero_shot import show_zero_shot, states_to_measure, zero_shot_form

settings = begin(
    "Zero-shot",
    "The seven common-sense tasks of the paper, and others of lm_eval, on the models in memory. "
    "Every result is stored when it is there, so a run can be stopped and goes on where it was.",
)
scores, plan = need_scores(settings)
recovery = choose_recovery(settings, plan, optional=True)
tuned = recovery.spec if recovery else None

tasks, pressed = zero_shot_form(settings, len(states_to_measure(plan, tuned)))
show_zero_shot(settings, plan, tasks, tuned, start=pressed)
