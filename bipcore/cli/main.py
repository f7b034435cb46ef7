"""The command line: ``python -m bipcore``, or ``bipcore`` where it is installed."""

import sys
from collections.abc import Callable
from functools import cache
from typing import Annotated

import typer

from .. import __version__
from ..errors import InputError, explain, is_text
from ..models import processes
from . import console
from .cache import cache_app
from .closeup import channel_command, head_command
from .curves import curves_command
from .diff import diff_command
from .estimate import estimate_command
from .families import families_command
from .generate import generate_command
from .measure import evaluate_command, profile_command, reconstruct_command, zero_shot_command
from .merge import dequantise_command, merge_command
from .plans import compare_command, plan_app
from .recover import recover_command
from .reproduce import reproduce_command
from .runs import runs_command
from .runtimes import runtimes_command
from .score import prune_command, score_command
from .shared import check_shared, interrupted, run_shared
from .shrink import shrink_command
from .signals import terminable
from .stability import stability_command
from .sweep import sweep_command

COMMANDS: dict[str, Callable | typer.Typer] = {
    "score": score_command,
    "curves": curves_command,
    "prune": prune_command,
    "evaluate": evaluate_command,
    "profile": profile_command,
    "generate": generate_command,
    "compare": compare_command,
    "stability": stability_command,
    "reconstruct": reconstruct_command,
    "diff": diff_command,
    "head": head_command,
    "channel": channel_command,
    "sweep": sweep_command,
    "zero-shot": zero_shot_command,
    "recover": recover_command,
    "shrink": shrink_command,
    "merge": merge_command,
    "dequantise": dequantise_command,
    "reproduce": reproduce_command,
    "estimate": estimate_command,
    "runtimes": runtimes_command,
    "families": families_command,
    "plan": plan_app,
    "runs": runs_command,
    "cache": cache_app,
}
"""The commands by name, in the order of the help. To add one, write it in a file and list it."""

_INTERRUPTED = 130
_PIPE_CLOSED = 1


def _version(asked: bool) -> None:
    if asked:
        console.emit_line(f"bipcore {__version__}")
        raise typer.Exit


def _bipcore(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """LLM-BIP structured pruning of causal language models."""


@cache
def command_line() -> typer.core.TyperGroup:
    """The command line with every one of `COMMANDS`, made once a process: reading what all their
    parameters are takes a while."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_bipcore)
    for name, command in COMMANDS.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return typer.main.get_command(app)


@terminable
def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, or 2 with one sentence on stderr."""
    console.prepare()
    words = sys.argv[1:] if arguments is None else arguments
    return run_shared(_command, words) if processes.launched() else _command(words)


def _command(words: list[str]) -> int:
    try:
        status = _run(words)
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except (SystemExit, BrokenPipeError):  # typer makes the one of the other
        console.close_output()
        return _PIPE_CLOSED
    except typer.TyperException as error:
        console.fail(error.format_message())
        return 2
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        console.fail(sentence)
        return 2
    if status == _INTERRUPTED:  # typer gives it back instead of raising
        console.fail(interrupted())
    return status or 0


def _run(arguments: list[str]) -> int | None:
    """Run a command, and see what it printed through; what it returns or exits with."""
    for word in arguments:
        if not is_text(word):
            raise InputError(f"The command line says {word!r}, which is not UTF-8 text.")
    check_shared(arguments)
    given = arguments or ["--help"]
    status = command_line().main(args=given, prog_name="bipcore", standalone_mode=False)
    console.flush()
    return status
