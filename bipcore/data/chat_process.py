"""A program that renders chat templates, in a process of its own: see `chats.render_chats`.

A template is a program of whoever made the model: it may never end, or make gigabytes. This reads
one JSON object on standard input, and writes another: the rendered texts, or what went wrong. It
imports nothing slow, and nothing of bipcore. The environment is that of `transformers`, whose
templates these are.
"""

import contextlib
import datetime
import json
import sys
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox


class _Generation(jinja2.ext.Extension):
    """The tag that marks what an assistant says: its body, as it stands."""

    tags = frozenset({"generation"})

    def parse(self, parser: Any) -> list[jinja2.nodes.Node]:
        """The statements between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """A namespace without names that begin with an underscore."""

    def __init__(*args: Any, **named: Any) -> None:
        self, values = args[0], dict(*args[1:], **named)
        for name in values:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot have the name {name!r}")


class _Dict:
    """`dict`, and nothing else of the class."""

    def __call__(self, *args: Any, **named: Any) -> dict:
        return dict(*args, **named)

    def fromkeys(self, *args: Any) -> dict:
        """`dict.fromkeys`."""
        return dict.fromkeys(*args)


def _refuse(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    made.globals |= {"dict": _Dict(), "namespace": _Namespace}
    return made


def _limit(memory: int, seconds: int) -> None:
    """Have the system end this process where it takes more, if whoever started it is gone, too."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # not every system has limits
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _rendered(template: jinja2.Template, values: dict, most: int) -> str:
    parts, size = [], 0
    for part in template.generate(values):
        parts.append(part)
        size += len(part)
        if size > most:
            raise MemoryError
    return "".join(parts)


def _answer(asked: dict) -> dict:
    """What `main` writes, for what it read: "texts", or "problem" and "kind"."""
    limits = asked["limits"]
    _limit(limits["memory"], limits["seconds"])
    values = {"tools": None, "documents": None} | asked["values"]
    try:
        template = _environment().from_string(asked["template"])
        chats = [values | {"messages": chat} for chat in asked["chats"]]
        return {"texts": [_rendered(template, chat, limits["most"]) for chat in chats]}
    except MemoryError:
        return {"kind": "size", "problem": ""}
    except jinja2.exceptions.TemplateError as error:
        return {"kind": type(error).__name__, "problem": str(error)}
    except Exception as error:  # whatever a program of someone else's leads to
        return {"kind": "failed", "problem": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer what is asked on standard input."""
    answer = json.dumps(_answer(json.loads(sys.stdin.buffer.read())))
    sys.stdout.buffer.write(answer.encode())


if __name__ == "__main__":
    main()
