"""The start page, and what is shown while it is loaded."""

from ui.first_look import first_look

with first_look():
    from ui.overview import show_overview

show_overview()
