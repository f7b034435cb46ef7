"""The walls of the house: who may import whom, who may do what, and how long things may be."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "bipcore").rglob("*.py"))
CRITERIA = sorted((ROOT / "bipcore/criteria").glob("*.py"))
PAGES = sorted((ROOT / "pages").glob("*.py"))
UI = sorted((ROOT / "ui").rglob("*.py"))
APP = sorted(ROOT.glob("app.py"))
EVERYTHING = [*CORE, *PAGES, *UI, *APP]

ORDER = (
    {"families", "losses", "shapes", "weights", "errors", "progress", "hooks", "hub", "texts"},
    {"adapters", "calibration", "checkpoints"},
    {"statistics", "gradients", "walk", "search"},
    {"criteria"},
    {"allocation", "ranking", "plan"},
    {"compensation", "slicing"},
    {"evaluation", "reconstruction", "profiling", "recovery", "export", "generation"},
    {"preparation", "recovering"},
    {"pipeline", "charts", "report"},
    {"__main__"},
)
"""A module of the core imports none of a later row. Modules that are not named are free."""

DRAWERS = {
    "charts.py",
    "plan_charts.py",
    "reconstruction_charts.py",
    "reproduction_charts.py",
    "recovery_charts.py",
    "sweep_charts.py",
    "zero_shot_charts.py",
    "report.py",
}
"""The files that know plotly."""

PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def each(files):
    """One test for each of ``files``, none where there are none yet."""
    return pytest.mark.parametrize("path", files, ids=lambda p: str(p.relative_to(ROOT)))


def imports_of(source: str, package: tuple[str, ...] = ()) -> set[str]:
    """The dotted names that ``source``, a module of ``package``, imports, wherever in it.

    Of ``from a import b``, both a and a.b, since b may be a module.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def _imports(path: Path) -> set[str]:
    return imports_of(path.read_text(), path.relative_to(ROOT).parts[:-1])


def _imports_any(path: Path, *modules: str) -> set[str]:
    """Those imports of ``path`` that are one of ``modules`` or lie within it."""
    return {
        name
        for name in _imports(path)
        if any(name == module or name.startswith(module + ".") for module in modules)
    }


def _calls(source: str) -> set[str]:
    """The dotted names that are called, as far as they are plain."""
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {ast.unparse(called) for called in calls}


def functions_of(source: str) -> dict[str, int]:
    """The number of lines of every function, docstring not counted, by name and first line."""
    lengths = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                length -= node.body[0].end_lineno - node.body[0].lineno + 1
            lengths[f"{node.name}:{node.lineno}"] = length
    return lengths


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def _rank(path: Path) -> int | None:
    """The row of `ORDER` that a file of the core belongs to."""
    module = path.relative_to(ROOT / "bipcore").parts[0].removesuffix(".py")
    return next((i for i, row in enumerate(ORDER) if module in row), None)


def test_every_way_to_import_is_seen():
    source = (
        "import torch.nn as nn\nfrom torch import nn\n"
        "def f():\n    from ..plan import make_plan\n    from . import wanda\n"
    )
    assert imports_of(source, ("bipcore", "criteria")) == {
        "torch.nn",
        "torch",
        "bipcore.pruning.plan",
        "bipcore.pruning.plan.make_plan",
        "bipcore.criteria",
        "bipcore.criteria.wanda",
    }


def test_lines_of_a_function_are_counted_without_its_docstring():
    source = 'class A:\n    def f(self):\n        """One.\n\n        Two."""\n        return 1\n'
    assert functions_of(source) == {"f:2": 2}


@each(CORE)
def test_the_core_does_not_know_the_interface(path):
    assert _imports_any(path, "streamlit", "ui", "pages", "app") == set()


@each([path for path in EVERYTHING if path.name not in DRAWERS])
def test_only_charts_and_reports_import_plotly(path):
    assert _imports_any(path, "plotly") == set()


@each([*PAGES, *APP])
def test_pages_do_not_import_torch(path):
    assert _imports_any(path, "torch", "transformers") == set()


@each(CRITERIA)
def test_criteria_do_not_know_plans(path):
    assert (
        _imports_any(
            path, "bipcore.pruning.plan", "bipcore.pruning.allocation", "bipcore.pruning.slicing"
        )
        == set()
    )


@each([path for path in CORE if path.name in ("plan.py", "allocation.py", "shapes.py")])
def test_plans_do_not_know_modules(path):
    forbidden = (
        "bipcore.models.adapters",
        "bipcore.models.families",
        "bipcore.pruning.slicing",
        "torch.nn",
    )
    assert _imports_any(path, *forbidden, "transformers") == set()


@each([path for path in CORE if _rank(path) is not None])
def test_imports_go_one_way(path):
    imported = {name.split(".")[1] for name in _imports_any(path, "bipcore") if "." in name}
    later = set().union(*ORDER[_rank(path) + 1 :])
    assert imported & later == set()


@each([path for path in CORE if path.name != "hooks.py"])
def test_only_hooks_registers_hooks(path):
    assert re.findall(r"register_forward\w*|register_\w*hook\w*", path.read_text()) == []


@each([path for path in CORE if path.name != "families.py"])
def test_only_families_knows_module_names(path):
    assert re.findall(r"\.(?:self_attn|[qkvo]_proj|gate_proj|up_proj)\b", path.read_text()) == []


@each(EVERYTHING)
def test_nothing_is_pickled(path):
    assert _imports_any(path, *PICKLES) == set()
    assert _calls(path.read_text()) & {"torch.save", "torch.load", "pd.read_pickle"} == set()
    assert _imports_any(path, "torch.save", "torch.load") == set()


@each(CORE)
def test_the_core_does_not_print(path):
    if path.name not in ("__main__.py", "console.py"):
        assert "print" not in _calls(path.read_text())


@each(EVERYTHING)
def test_files_have_at_most_300_lines(path):
    assert _lines(path) <= 300


@each(PAGES)
def test_pages_have_under_150_lines(path):
    assert _lines(path) < 150


@each(APP)
def test_the_start_page_has_under_60_lines(path):
    assert _lines(path) < 60


@each(EVERYTHING)
def test_functions_have_at_most_40_lines(path):
    too_long = {name: n for name, n in functions_of(path.read_text()).items() if n > 40}
    assert too_long == {}
