"""What the tests share: a run store of their own, the demo model, the command line."""

import gc
import json
import logging
import os
import shutil
import warnings
from pathlib import Path

import pytest

# What hands tests out to workers needs nothing slow, so bipcore is imported by fixtures.

# Two workers share two cores: OpenMP threads of both would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.helpers import order
from tests.helpers.processes import drivers

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``--dist loadfile``, files stay whole and are given out in an order of our own."""
    return order.scheduler(config, log) if config.option.dist == "loadfile" else None


def pytest_collection_modifyitems(items):
    """What takes longest comes first."""
    items.sort(key=lambda item: order.rank(item.nodeid))


def pytest_collection_finish(session):
    """What is imported by now stays: no garbage collection need look through it again.

    Streamlit collects after every run of a page, which takes a second with all of torch to see.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """The run store of the session: BIPCORE_CACHE points to it, the user's is never written.

    A demo model that the user's store already holds is linked into it: converting takes 20 s.
    """
    from bipcore.store.runs import cache_root

    users, ours = cache_root(), tmp_path_factory.mktemp("cache")
    _link_models(users / "models", ours / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIPCORE_CACHE", str(ours))
        patch.setenv("BIPCORE_WORKER", "thread")  # what a test replaces counts for the work, too
        yield ours
    shutil.rmtree(ours, ignore_errors=True)


def _link_models(source: Path, target: Path) -> None:
    for entry in source.glob("*/"):
        if entry.is_dir() and "." not in entry.name:
            (target / entry.name).mkdir(parents=True)
            for file in entry.iterdir():
                (target / entry.name / file.name).symlink_to(file)


@pytest.fixture(scope="session", autouse=True)
def no_driver_outlives_the_session():
    """Processes that tests share are started by the first that needs one, and ended here."""
    with drivers():
        yield


@pytest.fixture
def store(tmp_path):
    """An empty run store."""
    from bipcore.store.runs import RunStore

    return RunStore(tmp_path / "store")


@pytest.fixture(scope="session")
def demo_pipeline(session_cache):
    """A pipeline over the session's store that holds the demo model."""
    from bipcore.pipeline.pipeline import Pipeline
    from bipcore.specs import ModelSpec
    from bipcore.store.runs import RunStore

    pipeline = Pipeline(RunStore(session_cache))
    pipeline.model(ModelSpec(device="cpu"))
    return pipeline


@pytest.fixture(scope="session")
def demo(demo_pipeline):
    """The demo model and its tokenizer, shared: a test must leave them as they are."""
    from bipcore.specs import ModelSpec

    return demo_pipeline.model(ModelSpec(device="cpu"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real texts; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("BIPCORE_DATA") or DATA)
    if not folder.is_dir():
        pytest.skip(f"no folder of texts at {folder}")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The run store of the commands: an empty one."""
    from bipcore.store.runs import RunStore

    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "store"))
    return RunStore()


FEW_TOKENS = "calibration tokens, which is few"


@pytest.fixture
def run(capsys, monkeypatch, cache):
    """Runs a command that has to succeed in silence, but for saying that the calibration set, which
    is tiny in tests, is; what it printed on stdout."""
    from bipcore.cli.main import main

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    levels = {name: logging.getLogger(name).level for name in ("transformers", "huggingface_hub")}

    def command(*arguments: object) -> str:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        lines = [line for line in printed.err.strip().splitlines() if FEW_TOKENS not in line]
        assert (status, lines) == (0, [])
        return printed.out

    yield command
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def run_json(run):
    """The same with --json: the one object that was printed."""

    def command(*arguments: object) -> dict:
        found = json.loads(run(*arguments, "--json"))
        assert isinstance(found, dict)
        return found

    return command
