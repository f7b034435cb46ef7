"""Generating text token by token, so that two models can take turns on one device."""

import inspect
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..data.chats import chat_template, render_chats
from ..errors import InputError, check_seed
from .adapters import Adapter
from .finite import check_finite
from .running import check_vocabulary

_COLDEST = 1e-5
"""Below it the likeliest token is all that is left, and logits would overflow."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1
    leave all tokens in. ``chat`` wraps the prompt in the model's chat template, if it has one."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    chat: bool = True

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError("The number of new tokens is at least 1.")
        if not 0 <= self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise InputError("Temperature and top-k are at least 0, top-p is above 0 and up to 1.")
        check_seed(self.seed)


@dataclass(frozen=True)
class Generated:
    """A continuation so far. ``seconds`` is the time this model ran, the prompt's pass in
    ``prompt_seconds``; ``done`` when it ended, by itself (``stopped``) or by the limit."""

    text: str
    tokens: int
    seconds: float
    prompt_seconds: float
    done: bool
    stopped: bool = False

    @property
    def tokens_per_second(self) -> float | None:
        """The rate after the first token, which the pass over the prompt gives."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds else None


def encode_prompt(tokenizer, prompt: str, *, chat: bool) -> Tensor:
    """The prompt's token ids (1, T), in the chat template where asked for and there is one.

    Raises InputError where the prompt is empty, or the template cannot be used.
    """
    if not prompt.strip():
        raise InputError("The prompt is empty; write something for the models to continue.")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise InputError("The prompt is not text that UTF-8 can say; write it anew.")
    in_template = chat and chat_template(tokenizer) is not None
    if in_template:
        said = [[{"role": "user", "content": prompt}]]
        way_out = "turn the chat template off (--no-chat)"
        (prompt,) = render_chats(tokenizer, said, way_out=way_out, generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=not in_template, return_tensors="pt", verbose=False)[
        "input_ids"
    ]
    if ids.shape[1] == 0:
        raise InputError("The prompt has no tokens; write something for the models to continue.")
    return ids


def stream(model: nn.Module, tokenizer, prompt: str, sampling: Sampling) -> Iterator[Generated]:
    """Continue ``prompt``; yields the continuation after every token.

    Between two steps nothing runs, so several streams can be advanced in turn, and each
    counts its own time only. Raises InputError when the prompt is empty or too long.
    """
    ids = encode_prompt(tokenizer, prompt, chat=sampling.chat)
    check_vocabulary(model, ids, tokenizer)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and ids.shape[1] + sampling.max_new_tokens > limit:
        raise InputError(
            f"The prompt of {ids.shape[1]} tokens and {sampling.max_new_tokens} new ones do not "
            f"fit the model's {limit} positions; shorten one of them."
        )
    return _steps(model, tokenizer, ids.to(Adapter(model).input_device), sampling)


def last_logits_only(model: nn.Module) -> dict[str, int]:
    """What asks ``model`` for the logits of the last token alone, where it can be asked: those of
    a long prompt's other tokens, (T − 1) × V, are never looked at."""
    takes = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if takes else {}


def _steps(model: nn.Module, tokenizer, ids: Tensor, sampling: Sampling) -> Iterator[Generated]:
    choose = _Chooser(sampling)
    ends = _end_tokens(model, tokenizer)
    history, step, cache = ids, ids, None
    last = last_logits_only(model)
    seconds = prompt_seconds = 0.0
    for count in range(1, sampling.max_new_tokens + 1):
        start = time.perf_counter()
        with torch.no_grad():
            output = model(input_ids=step, past_key_values=cache, use_cache=True, **last)
            cache = output.past_key_values
            logits = output.logits[:, -1].float()
            check_finite(logits.max(), "The likelihood of a token", model)
            step = choose(history, logits)
        history = torch.cat([history, step], dim=1)
        token = int(step)
        elapsed = time.perf_counter() - start
        prompt_seconds, seconds = (
            (elapsed, 0.0) if count == 1 else (prompt_seconds, seconds + elapsed)
        )
        stopped = token in ends
        done = stopped or count == sampling.max_new_tokens
        new = history[0, ids.shape[1] :].tolist()
        text = tokenizer.decode(new[:-1] if stopped else new, skip_special_tokens=True)
        if not done:
            text = text.rstrip("\ufffd")  # a character whose bytes are not all there yet
        yield Generated(text, count, seconds, prompt_seconds, done, stopped)
        if done:
            return


class _Chooser:
    """Picks the next token (1, 1) from logits (1, V), with a generator of its own."""

    def __init__(self, sampling: Sampling):
        self.greedy = sampling.temperature < _COLDEST
        self.generator = torch.Generator().manual_seed(sampling.seed)
        self.warpers = LogitsProcessorList()
        if not self.greedy:
            self.warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k:
                self.warpers.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self.warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, history: Tensor, logits: Tensor) -> Tensor:
        if self.greedy:
            return logits.argmax(-1, keepdim=True)
        probabilities = self.warpers(history, logits).softmax(-1).cpu()
        return torch.multinomial(probabilities, 1, generator=self.generator).to(logits.device)


def _end_tokens(model: nn.Module, tokenizer) -> set[int]:
    ends = model.generation_config.eos_token_id if model.can_generate() else None
    ends = ends if isinstance(ends, list) else [ends]
    return {token for token in (*ends, tokenizer.eos_token_id) if isinstance(token, int)}
