"""What the tests share: a run store of their own, the demo model, the command line."""

import json
import logging
import os
import shutil
import warnings
from pathlib import Path

import pytest

# Two workers share two cores: OpenMP threads of both would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from bipcore.cli.main import main
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import ModelSpec
from bipcore.store.runs import RunStore, cache_root

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """The run store of the session: BIPCORE_CACHE points to it, the user's is never written.

    A demo model that the user's store already holds is linked into it: converting takes 20 s.
    """
    users, ours = cache_root(), tmp_path_factory.mktemp("cache")
    _link_models(users / "models", ours / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIPCORE_CACHE", str(ours))
        yield ours
    shutil.rmtree(ours, ignore_errors=True)


def _link_models(source: Path, target: Path) -> None:
    for entry in source.glob("*/"):
        if entry.is_dir() and "." not in entry.name:
            (target / entry.name).mkdir(parents=True)
            for file in entry.iterdir():
                (target / entry.name / file.name).symlink_to(file)


@pytest.fixture
def store(tmp_path) -> RunStore:
    """An empty run store."""
    return RunStore(tmp_path / "store")


@pytest.fixture(scope="session")
def demo_pipeline(session_cache) -> Pipeline:
    """A pipeline over the session's store that holds the demo model."""
    pipeline = Pipeline(RunStore(session_cache))
    pipeline.model(ModelSpec(device="cpu"))
    return pipeline


@pytest.fixture(scope="session")
def demo(demo_pipeline):
    """The demo model and its tokenizer, shared: a test must leave them as they are."""
    return demo_pipeline.model(ModelSpec(device="cpu"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real texts; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("BIPCORE_DATA") or DATA)
    if not folder.is_dir():
        pytest.skip(f"no folder of texts at {folder}")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> RunStore:
    """The run store of the commands: an empty one."""
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "store"))
    return RunStore()


@pytest.fixture
def run(capsys, monkeypatch, cache):
    """Runs a command that has to succeed in silence; what it printed on stdout."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    levels = {name: logging.getLogger(name).level for name in ("transformers", "huggingface_hub")}

    def command(*arguments: object) -> str:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert (status, printed.err.strip()) == (0, "")
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
