"""A process that imports what is slow to import once, and forks a child for every call it reads.

Run as a program, with the modules to import as its arguments. It reads one JSON object a line:
``{"start": call}`` is answered by the child's id, ``{"ended": id}`` by whether it has ended,
``{"wait": id}`` by its exit status once it has. A call has the Python text ``code``, its
``arguments``, the working folder ``cwd``, the whole environment ``env``, the files ``out`` and
``err`` and the largest size ``file_limit`` of a file in bytes. The child runs the text as a
program of its own would.
"""

import gc
import importlib
import json
import os
import resource
import sys
import traceback


def serve(modules: list[str]) -> None:
    """Import ``modules``, then answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # or every child would copy all of it at its first garbage collection
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = _start(request["start"], answers.fileno())
        elif "ended" in request:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            answer = os.waitid(os.P_PID, request["ended"], options) is not None
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        print(json.dumps(answer), file=answers, flush=True)


def _start(call: dict, answers: int) -> int:
    """Fork a child for ``call``; its id."""
    child = os.fork()
    if child == 0:
        os.close(answers)
        status = _run(call)
        _keep_coverage()
        os._exit(status)
    return child


def _run(call: dict) -> int:
    """Do what ``call`` says in this process; the exit status."""
    os.chdir(call["cwd"])
    os.environ.clear()
    os.environ.update(call["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in ((1, call["out"]), (2, call["err"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (call["file_limit"], hard))
    sys.argv = ["-c", *call["arguments"]]
    status = 0
    try:
        exec(compile(call["code"], "<call>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _keep_coverage() -> None:
    """Where coverage is measured, what this process ran counts: leaving in haste would lose it."""
    coverage = sys.modules.get("coverage")
    current = coverage and coverage.Coverage.current()
    if current:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        current.stop()
        current.save()


if __name__ == "__main__":
    serve(sys.argv[1:])
