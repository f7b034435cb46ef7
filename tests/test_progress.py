"""How far long work is: parts of a whole, and never back."""

import pytest

from bipcore.errors import Cancelled
from bipcore.progress import Tracker, silent, tracked


def test_parts_lie_within_parts():
    seen = []
    progress = Tracker(lambda fraction, message: seen.append((round(fraction, 6), message)))
    with progress.within(0.2, 0.6), progress.share(1, 2, "point, {}".format):
        progress(0.5, "half")
    progress(1.0, "done")
    assert seen == [(0.5, "point, half"), (1.0, "done")]


def test_it_never_goes_back_and_never_beyond_the_end():
    seen = []
    progress = Tracker(lambda fraction, message: seen.append(fraction))
    for fraction in (0.5, 0.2, 0.7, 1.0000001, 0.0):
        progress(fraction, "")
    assert seen == [0.5, 0.5, 0.7, 1.0, 1.0]
    progress.report_to(lambda fraction, message: seen.append(fraction))
    progress(0.1, "")
    assert seen[-1] == 0.1


def test_after_an_exception_the_whole_is_the_whole_again():
    def cancel(fraction, message):
        raise Cancelled

    progress = Tracker(cancel)
    with pytest.raises(Cancelled), progress.within(0.0, 0.5), progress.share(0, 3):
        progress(0.1, "")
    assert progress.bounds == (0.0, 1.0)


def test_a_callable_becomes_a_tracker_and_a_tracker_stays_itself():
    tracker = Tracker()
    assert tracked(tracker) is tracker
    assert tracked(None) is not tracked(silent)
    tracked(None)(0.5, "nobody listens")
