"""The order of the test files names files that there are."""

from pathlib import Path

from tests.helpers import order


def test_every_file_that_the_order_names_is_there():
    named = (*order.DEMO, *order.PROCESSES, *order.LONG)
    assert [file for file in named if not (Path(__file__).parent / file).is_file()] == []
    assert len(set(named)) == len(named)


def test_every_file_that_loads_the_demo_model_is_in_its_group(request):
    alone = {
        order.file_of(item.nodeid)
        for item in request.session.items
        if {"demo", "demo_pipeline"} & set(item.fixturenames) and order.group(item.nodeid) != "demo"
    }
    assert alone == set()


def test_every_file_that_starts_processes_is_in_their_group():
    uses = ("run_all(", "with_bipcore(", "read_exports(", "environments(2")
    folder = Path(__file__).parent
    texts = {str(file.relative_to(folder)): file.read_text() for file in folder.glob("*/test_*.py")}
    found = {file for file, text in texts.items() if any(use in text for use in uses)}
    assert found == set(order.PROCESSES)
