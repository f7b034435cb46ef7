"""The command line as real processes: each has its own working folder, output and environment, as
if it had been started by itself."""

from dataclasses import dataclass, field

from tests.helpers import processes
from tests.helpers.processes import Ended, Running

_COMMAND = "import sys; from bipcore.cli.main import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Call:
    """``python -m bipcore arguments`` in the folder ``cwd``, with more in its environment; it
    can write no file larger than ``file_limit`` bytes. ``first``: Python that it runs before."""

    arguments: list[str]
    cwd: str
    env: dict[str, str] = field(default_factory=dict)
    file_limit: int = 2**40
    first: str = ""


def start(call: Call) -> Running:
    """Start the command, which goes on by itself."""
    code = f"{call.first}\n{_COMMAND}"
    program = processes.Call(code, call.arguments, call.cwd, call.env, call.file_limit)
    return processes.with_bipcore().start(program)


def run_all(calls: dict[str, Call]) -> dict[str, Ended]:
    """Run the calls one after the other; how each ended."""
    return {name: start(call).wait() for name, call in calls.items()}
