"""What pyproject.toml requires: all that is imported, in the versions that are tested."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
TESTED = {canonicalize_name(r.name): r for r in map(Requirement, filter(None, LINES[1:]))}


def _names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def _imported(*places: str) -> set[str]:
    """The top-level modules that the files below ``places`` import, wherever in them."""
    found = set()
    for path in (path for place in places for path in (ROOT / place).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module)
    ours = {"bipcore", "ui", "pages", "tests"}
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - ours


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS["app"], *EXTRAS["dev"]])
def test_the_tested_version_is_in_the_range_and_the_range_has_two_ends(text):
    wanted = Requirement(text)
    (pinned,) = TESTED[canonicalize_name(wanted.name)].specifier
    assert pinned.operator == "=="
    assert wanted.specifier.contains(pinned.version)
    if wanted.name != "setuptools":  # as build-system says
        assert {one.operator for one in wanted.specifier} == {">=", "<"}


@pytest.mark.parametrize(
    ("places", "extras"), [(["bipcore"], []), (["bipcore", "ui", "pages"], ["app"])]
)
def test_all_that_is_imported_is_required(places, extras):
    required = _names(PROJECT["dependencies"] + [r for extra in extras for r in EXTRAS[extra]])
    distributions = packages_distributions()
    for name in _imported(*places):
        assert {canonicalize_name(d) for d in distributions[name]} & required, name


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_versions_are_said_nowhere_else(name):
    lines = (ROOT / name).read_text().splitlines()
    (line,) = (line for line in lines if line and not line.startswith("#"))
    assert line.startswith("-e .[app")
