"""Conversations as texts, by a model's chat template or, where it has none, joined.

A chat template is a program that came with the model. It runs in a process of its own, with a
limit on its time, its memory and what it writes.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from ..errors import InputError, short
from .documents import Document, Messages

_PROGRAM = Path(__file__).with_name("chat_process.py")
_SECONDS = 5
_MEMORY = 2**29
_MOST = 2**22
_AT_ONCE = 256


def chat_template(tokenizer) -> str | None:
    """The chat template that a tokenizer's own conversations are written in, None without one."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        found = found.get("default")
    return found or None


def render_chats(
    tokenizer, chats: Sequence[Messages], *, way_out: str, generation_prompt: bool = False
) -> list[str]:
    """Each of ``chats`` as the chat template of ``tokenizer`` writes it.

    ``generation_prompt``: with what stands before the next answer. Raises InputError, with
    ``way_out`` as what to do, where the template refuses, fails, or passes a limit.
    """
    said = [[{k: v for k, v in one.items() if v is not None} for one in chat] for chat in chats]
    asked = {
        "template": chat_template(tokenizer),
        "chats": said,
        "values": tokenizer.special_tokens_map | {"add_generation_prompt": generation_prompt},
        "limits": {"memory": _MEMORY, "seconds": _SECONDS, "most": _MOST},
    }
    answer = _run(json.dumps(asked, default=str).encode(), way_out)
    if "texts" in answer:
        return answer["texts"]
    problem = short(answer["problem"]).rstrip(".")
    reasons = {
        "TemplateError": f"refuses this: {problem}",
        "size": f"makes more than {_MOST:,} characters, or takes more than 512 MiB of memory",
    }
    raise _refusal(reasons.get(answer["kind"], f"cannot be used: {problem}"), way_out)


def _run(asked: bytes, way_out: str) -> dict:
    """What the program answers; it is killed where that takes too long."""
    command = [sys.executable, "-P", str(_PROGRAM)]
    try:
        done = subprocess.run(
            command, input=asked, capture_output=True, timeout=_SECONDS, check=True
        )
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise _refusal(f"takes more than {_SECONDS} seconds", way_out) from None
    except (subprocess.CalledProcessError, ValueError):
        raise _refusal("ended the process that it ran in", way_out) from None


def _refusal(problem: str, way_out: str) -> InputError:
    return InputError(f"The model's chat template {problem}; {way_out}.")


def as_texts(documents: Iterable[Document], tokenizer) -> Iterator[str]:
    """Documents as texts: conversations through the chat template of ``tokenizer`` where it has
    one, else what was said, a line each. Raises InputError where the template fails."""
    waiting = iter(documents)
    while together := list(islice(waiting, _AT_ONCE)):
        chats = [each for each in together if not isinstance(each, str)]
        if chats and chat_template(tokenizer):
            way_out = "name a field that holds plain text with --text-field"
            texts = iter(render_chats(tokenizer, chats, way_out=way_out))
        else:
            texts = ("\n".join(said["content"] for said in chat) for chat in chats)
        yield from (each if isinstance(each, str) else next(texts) for each in together)
