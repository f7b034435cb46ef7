"""Every option of every command, given what it cannot be: one sentence, or the right result.

The options are read from the commands themselves, so a new one is tried as soon as there is one.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from bipcore.cli.main import command_line, main
from tests.helpers.folders import model_folder

SMALL = "{model} --samples 2 --seq-len 8"
TEXT = "--window 8 --max-tokens 16"
COMMANDS = {
    "score": SMALL,
    "prune": f"{SMALL} {TEXT} --output out",
    "evaluate": f"{SMALL} {TEXT}",
    "profile": "{model} --seq-len 8 --repeats 1 --shapes-only",
    "generate": f"{SMALL} --prompt ab --max-new-tokens 2",
    "curves": f"{SMALL} --criterion magnitude",
    "compare": f"{SMALL} --criteria magnitude,random",
    "stability": f"{SMALL} --criterion magnitude",
    "reconstruct": f"{SMALL} {TEXT} --criteria magnitude",
    "diff": f"{SMALL} {TEXT} --sparsity 0.4",
    "head": f"{SMALL} {TEXT} --block 0 --head 0",
    "channel": f"{SMALL} {TEXT} --block 0 --channel 0",
    "sweep": f"{{model}} --criteria magnitude --sparsities 0.2 --sizes 2 --seq-len 8 {TEXT}",
    "zero-shot": f"{SMALL} --tasks piqa",
    "recover": f"{SMALL} --train-text {{text}} --no-evaluate",
    "shrink": f"{SMALL} {TEXT} --target params=1% --output out --tokens 0",
    "merge": "{text} --base {model} --output out",
    "dequantise": "{model} --output out",
    "estimate": f"{SMALL} {TEXT} --for prune",
    "runtimes": f"{SMALL} --criterion magnitude",
    "families": "",
    "reproduce": "figure2 --model {model} --dry-run",
    "plan make": f"{SMALL} --output new.json",
    "plan show": "{plan}",
    "plan diff": "{plan} {plan}",
    "plan edit": "{plan} --output new.json --protect-block 0",
    "runs": "",
    "cache list": "",
    "cache size": "",
    "cache clear": "--kind no-such-kind",
}
"""A call of each command that ends soon, some refused at last, to which one word more is added."""

HUGE = "9" * 5000
NUMBERS = ["nan", "inf", "1e400", "1e-300", "-1", HUGE, str(2**70), str(-(2**70)), "[/x]", ""]
WORDS = ["", " ", "[/x]", "a\0b", "\udcff", "~nosuchuser/x", "x" * 5000, "\x1b[31mred", ",", HUGE]
NOTHING_SAID = ("None", "list index out of range", "Traceback", "NoneType", "Errno")


@cache
def _commands() -> dict[str, typer.core.TyperCommand]:
    """The commands that do something, by their words."""

    def within(command, words: tuple[str, ...]) -> Iterator[tuple[str, typer.core.TyperCommand]]:
        if not hasattr(command, "commands"):
            yield " ".join(words), command
            return
        for name, below in command.commands.items():
            yield from within(below, (*words, name))

    return dict(within(command_line(), ()))


@cache
def _first_command_with(option: str) -> str:
    return next(
        name
        for name, command in _commands().items()
        if option in [each for parameter in command.params for each in parameter.opts]
    )


def _bad_words(name: str, option: str, kind: str) -> list[str]:
    """What to try: all of it where an option comes up first, one of it where it does again."""
    some = NUMBERS if "int" in kind or "float" in kind else WORDS
    return some if _first_command_with(option) == name else [some[5]]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("options")
    found = {"model": model_folder(root / "model"), "plan": root / "plan.json"}
    found["text"] = root / "short.txt"
    found["text"].write_text("too short to train on")
    return {name: str(path) for name, path in (found | {"store": root / "store"}).items()}


@pytest.fixture
def call(places, tmp_path, monkeypatch, capsys):
    """Runs a command with its words; the status and what it printed."""
    monkeypatch.setenv("BIPCORE_CACHE", places["store"])
    monkeypatch.delenv("BIPCORE_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        return status, *capsys.readouterr()

    if not Path(places["plan"]).exists():
        words = SMALL.format(**places).split()
        assert run("plan", "make", *words, "--output", places["plan"])[0] == 0
    return run


def test_every_command_is_tried():
    assert set(_commands()) == set(COMMANDS)


def _check(words: list[str], status: int, out: str, err: str) -> None:
    said = f"{words[:1] + words[-1:]} {status} {err}"[:500]
    assert status in (0, 2), said
    if status == 0:
        return
    assert out == "", said
    lines = err.splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("error: "), said
    assert len(lines[0]) < 3000, said
    assert [words for words in NOTHING_SAID if words in lines[0]] == [], said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_word_that_an_option_cannot_be_is_one_sentence(name, call, places):
    usual = COMMANDS[name].format(**places).split()
    for parameter in _commands()[name].params:
        option = max(parameter.opts, key=len)
        if getattr(parameter, "is_flag", False):
            continue
        for bad in _bad_words(name, option, str(parameter.type_descriptor.annotation)):
            words = [*name.split(), *usual, f"{option}={bad}"]
            _check(words, *call(*words))


@pytest.mark.parametrize("name", [name for name, usual in COMMANDS.items() if usual])
def test_a_word_that_a_command_cannot_be_about_is_one_sentence(name, call, places):
    usual = COMMANDS[name].format(**places).split()
    arguments = [one for one in _commands()[name].params if one.param_type_name == "argument"]
    for position, _ in enumerate(arguments):
        for bad in WORDS:
            words = [*name.split(), *usual[:position], bad, *usual[position + 1 :]]
            status, out, err = call(*words)
            assert status == 2, words
            _check(words, status, out, err)
