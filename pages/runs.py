"""Everything that was computed and stored: find it again, compare it, delete it."""

from ui.page import begin
from ui.runs import show_runs, stored_runs
from ui.tradeoffs import show_tradeoffs

settings = begin(
    "Runs",
    "Everything that the pages and the command line have computed and stored on this machine: with "
    "which settings, what came of it, and what it takes on the disk.",
)
runs = stored_runs()
show_runs(runs)
show_tradeoffs(runs)
