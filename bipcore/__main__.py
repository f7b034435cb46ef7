"""``python -m bipcore`` and ``bipcore``: the command line (see `cli.main`)."""

import os
import signal
import sys

INTERRUPTED = 130
"""The exit status of what was ended by Ctrl-C."""


def main() -> int:
    """Run the command line; its exit status. Importing it takes seconds: Ctrl-C ends them, too."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else whoever started this wants no interruption
        signal.signal(signal.SIGINT, _leave)
    from .cli.main import main as run

    signal.signal(signal.SIGINT, before)
    return run()


def _leave(*_) -> None:
    """End at once. An exception would pass through libraries that make another of it."""
    os.write(2, b"error: Interrupted before anything was done.\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
