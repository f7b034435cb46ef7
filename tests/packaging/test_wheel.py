"""The package, installed as a wheel: in an environment of its own, away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

import bipcore

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "bipcore")


def _run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command without the checkout in sight; what it printed. It has to succeed."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, "HF_HUB_OFFLINE": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built offline from a copy of the sources: a build leaves files beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES[:-1]:
        shutil.copy(ROOT / name, source)
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / SOURCES[-1], source / SOURCES[-1], ignore=unwanted)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    _run(sys.executable, "-m", "pip", "wheel", *options, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the commands of an environment that holds the wheel, and sees the packages
    that are installed here. A .pth file names their folder, so nothing is copied or downloaded;
    the .pth files in that folder, by which the checkout may be installed, do not count there."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    options = ("--python", python, "install", "--no-deps", "--no-index")
    _run(sys.executable, "-m", "pip", *options, wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n")
    return folder / "bin"


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel):
    files = {path.relative_to(ROOT) for path in (ROOT / "bipcore").rglob("*") if path.is_file()}
    expected = {str(path) for path in files if "__pycache__" not in path.parts}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {Path(name).suffix for name in names} == {".py", ".json", ".csv", ".yaml"}


def test_the_wheel_says_what_it_needs(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    (metadata,) = tmp_path.glob("*.dist-info")
    about = Distribution.at(metadata)
    assert about.version == bipcore.__version__
    assert about.metadata.get_all("Provides-Extra") == ["app", "dev"]
    needs = about.requires
    assert any(need.startswith("torch") and ";" not in need for need in needs)
    (streamlit,) = (need for need in needs if need.startswith("streamlit"))
    assert streamlit.endswith('extra == "app"')


def test_the_installed_command_profiles_a_model_that_is_only_a_shape(installed, tmp_path):
    """LLaMA-7B: 6,738.42 M parameters, 3,451.54 G multiply-accumulates for 512 tokens."""
    arguments = ("profile", "huggyllama/llama-7b", "--seq-len", 512, "--shapes-only")
    printed = _run(installed / "bipcore", *arguments, cwd=tmp_path)
    assert "6,738.42 M" in printed
    assert "3,451.54 G" in printed


def test_the_installed_package_stores_in_the_users_cache_folder(installed, tmp_path):
    environment = {"BIPCORE_CACHE": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    printed = _run(installed / "bipcore", "cache", "list", "--json", cwd=tmp_path, **environment)
    assert json.loads(printed) == {"root": str(tmp_path / "cache" / "bipcore"), "entries": []}
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_known_without_torch(installed, tmp_path):
    code = (
        "import sys, bipcore; print(bipcore.__version__, bipcore.__file__, 'torch' in sys.modules)"
    )
    version, file, loaded = _run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert (version, loaded) == (bipcore.__version__, "False")
    assert not Path(file).is_relative_to(ROOT)
