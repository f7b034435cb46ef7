"""The order of the test files names files that there are."""

from pathlib import Path

from tests.helpers import order


def test_every_file_that_the_order_names_is_there():
    named = (*order.DEMO, *order.PROCESSES, *order.LONG)
    assert [file for file in named if not (Path(__file__).parent / file).is_file()] == []
    assert len(set(named)) == len(named)


def test_every_file_that_loads_the_demo_model_is_in_its_group(request):
    named = [
        order.group(item.nodeid)
        for item in request.session.items
        if "session_cache" in item.fixturenames and "demo" in item.fixturenames
    ]
    assert set(named) <= {"demo"}
