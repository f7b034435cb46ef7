"""Perplexity and cost against sparsity, for several criteria at once."""

from ui.page import begin
from ui.sweep import show_sweep, sweep_form

settings = begin(
    "Sweep",
    "Perplexity against sparsity, criterion by criterion, on the same calibration set and the "
    "same test texts. Every point is stored when it is done, so a sweep can be stopped and goes "
    "on where it was.",
)
spec, pressed = sweep_form(settings)
show_sweep(settings, spec, start=pressed)
