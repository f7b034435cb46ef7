"""The walls of the house, by folder: who may import whom, who may do what, how long things are."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "bipcore").rglob("*.py"))
PAGES = sorted((ROOT / "pages").glob("*.py"))
UI = sorted((ROOT / "ui").rglob("*.py"))
APP = sorted(ROOT.glob("app.py"))
EVERYTHING = [*CORE, *PAGES, *UI, *APP]

FLOORS = (
    ("errors", "progress"),
    ("settings",),
    ("hub", "store"),
    ("data", "models"),
    ("criteria", "specs"),
    ("pruning",),
    ("evaluation", "recovery"),
    ("export",),
    ("pipeline",),
    ("studies",),
    ("views", "kinds"),
    ("cli",),
)
"""The rooms of `bipcore`, from the ground up: a room imports none of a higher floor."""

LONGEST_CHAIN = 20
LONGEST_FILE, LONGEST_PAGE, LONGEST_START, LONGEST_FUNCTION = 400, 150, 60, 40
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MODULE_NAMES = r"\.(?:self_attn|[qkvo]_proj|gate_proj|up_proj)\b"


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


def top_level(source: str) -> str:
    """What of ``source`` runs when it is imported: not the bodies of its functions, nor what only
    those that check types read."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if is_function or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            node.body = [ast.Pass()]
    return ast.unparse(tree)


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


def _said(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _package(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).parts[:-1]


def _imports_any(path: Path, *modules: str, source: str | None = None) -> set[str]:
    """Those imports of ``path`` that are one of ``modules`` or lie within it."""
    found = imports_of(source or path.read_text(), _package(path))
    return {n for n in found if any(n == m or n.startswith(m + ".") for m in modules)}


def _calls(source: str) -> set[str]:
    """The dotted names that are called, as far as they are plain."""
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {ast.unparse(called) for called in calls}


def _offenders(paths: list[Path], *modules: str) -> dict[str, set[str]]:
    """Of ``paths`` those that import any of ``modules``, and what of it."""
    return {_said(path): found for path in paths if (found := _imports_any(path, *modules))}


def _matching(paths: list[Path], pattern: str) -> dict[str, list[str]]:
    """Of ``paths`` those whose text has ``pattern``, and what of it."""
    return {_said(p): found for p in paths if (found := re.findall(pattern, p.read_text()))}


def _outside(*places: str) -> list[Path]:
    """The files of everything but those in the folders or files ``places``."""
    walls = [ROOT / place for place in places]
    return [p for p in EVERYTHING if not any(p == w or w in p.parents for w in walls)]


def _room(path: Path) -> str:
    return path.relative_to(ROOT / "bipcore").parts[0].removesuffix(".py")


def _graph() -> dict[str, set[str]]:
    """Which module of the core imports which, imports inside functions included."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in CORE}
    modules = {name.removesuffix(".__init__"): path for name, path in names.items()}
    return {
        name: (imports_of(path.read_text(), _package(path)) & modules.keys()) - {name}
        for name, path in modules.items()
    }


def _longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest row of modules each of which imports the next; raises RecursionError for a
    circle."""
    known: dict[str, list[str]] = {}

    def chain(name: str, above: tuple[str, ...]) -> list[str]:
        assert name not in above, f"a circle: {' -> '.join([*above, name])}"
        if name not in known:
            below = (chain(each, (*above, name)) for each in graph[name])
            known[name] = [name, *max(below, key=len, default=[])]
        return known[name]

    return max((chain(name, ()) for name in graph), key=len)


def test_every_way_to_import_is_seen():
    source = (
        "import torch.nn as nn\nfrom torch import nn\n"
        "def f():\n    from ..plan import make_plan\n    from . import wanda\n"
    )
    found = {"torch.nn", "torch", "bipcore.plan", "bipcore.plan.make_plan"}
    assert imports_of(source, ("bipcore", "criteria")) == found | {
        "bipcore.criteria",
        "bipcore.criteria.wanda",
    }
    assert imports_of(top_level(source)) == {"torch.nn", "torch"}


def test_lines_of_a_function_are_counted_without_its_docstring():
    source = 'class A:\n    def f(self):\n        """One.\n\n        Two."""\n        return 1\n'
    assert functions_of(source) == {"f:2": 2}


def test_bipcore_has_at_most_20_rooms_and_each_package_says_what_lives_there():
    rooms = [p for p in (ROOT / "bipcore").iterdir() if not p.name.startswith("__pycache__")]
    assert len(rooms) <= 20
    named = {room for floor in FLOORS for room in floor}
    assert {p.name.removesuffix(".py") for p in rooms} - named == {"__init__", "__main__"}
    for package in sorted((ROOT / "bipcore").rglob("__init__.py")):
        said = ast.get_docstring(ast.parse(package.read_text())) or ""
        assert "import" in said, f"{_said(package)} does not say what it may import"


def test_imports_go_one_way():
    for height, floor in enumerate(FLOORS):
        above = {room for higher in FLOORS[height + 1 :] for room in higher}
        for path in CORE:
            if _room(path) in floor:
                found = _imports_any(path, "bipcore")
                rooms = {name.split(".")[1] for name in found if "." in name}
                assert rooms & above == set(), _said(path)


def test_there_is_no_circle_and_no_long_chain_of_imports():
    chain = _longest_chain(_graph())
    assert len(chain) <= LONGEST_CHAIN, " -> ".join(chain)


def test_the_core_does_not_know_the_interface():
    assert _offenders(CORE, "streamlit", "ui", "pages", "app") == {}


def test_only_views_know_plotly_and_only_inside_the_functions_that_draw():
    assert _offenders(_outside("bipcore/views"), "plotly") == {}
    for path in (ROOT / "bipcore/views").rglob("*.py"):
        assert _imports_any(path, "plotly", source=top_level(path.read_text())) == set(), path


def test_pages_do_not_import_torch():
    assert _offenders([*PAGES, *APP], "torch", "transformers") == {}


def test_criteria_do_not_know_plans_and_plans_do_not_know_modules():
    criteria = [path for path in CORE if "criteria" in path.parts]
    assert _offenders(criteria, "bipcore.pruning") == {}
    plans = [ROOT / "bipcore/pruning" / f"{name}.py" for name in ("plan", "allocation", "ranking")]
    modules = ("bipcore.models.adapters", "bipcore.models.families", "bipcore.pruning.slicing")
    shapes = ROOT / "bipcore/models/shapes.py"
    assert _offenders([*plans, shapes], *modules, "torch.nn", "transformers") == {}


def test_only_one_file_registers_hooks_and_only_one_knows_module_names():
    hooks = r"register_forward\w*|register_\w*hook\w*"
    assert _matching([p for p in CORE if p in _outside("bipcore/models/running.py")], hooks) == {}
    families = [p for p in CORE if p in _outside("bipcore/models/families.py")]
    assert _matching(families, MODULE_NAMES) == {}


def test_nothing_is_pickled():
    read_or_written = [path for path in EVERYTHING if path != ROOT / "ui/pipe.py"]
    assert _offenders(read_or_written, *PICKLES, "torch.save", "torch.load") == {}
    for path in EVERYTHING:
        called = _calls(path.read_text())
        assert called & {"torch.save", "torch.load", "pd.read_pickle"} == set(), _said(path)


def test_only_the_command_line_prints():
    for path in CORE:
        if path != ROOT / "bipcore/cli/console.py":
            assert "print" not in _calls(path.read_text()), _said(path)


def test_files_and_functions_are_short():
    limits = [(EVERYTHING, LONGEST_FILE), (PAGES, LONGEST_PAGE - 1), (APP, LONGEST_START - 1)]
    for paths, most in limits:
        lengths = {_said(path): len(path.read_text().splitlines()) for path in paths}
        assert {name: n for name, n in lengths.items() if n > most} == {}
    for path in EVERYTHING:
        lengths = functions_of(path.read_text())
        long = {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION}
        assert long == {}, _said(path)
