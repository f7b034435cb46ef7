"""Winning back what pruning lost: fine-tuning a pruned model with LoRA.

LoRA is `peft`'s (`lora`), the optimiser torch's. The loop around them is here because a run has
to go on where it was killed, exactly, and what other trainers keep for that are pickles.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ..errors import Cancelled, InputError
from ..models.adapters import Adapter
from ..models.running import check_vocabulary, loss_scale, negative_log_likelihood
from ..progress import Progress, silent
from ..specs import RecoverySpec
from ..store.resume import Checkpoints
from .lora import adapter_tensors, seeded, with_adapter


def steps_of(spec: RecoverySpec) -> int:
    """How many optimiser steps the whole training has; the last batch of an epoch is smaller."""
    return spec.epochs * math.ceil(spec.samples / spec.batch_size)


def learning_rate(spec: RecoverySpec, step: int) -> float:
    """The learning rate of the optimiser step ``step``, from 0.

    Linear up to the spec's over the first share ``warmup`` of the S steps, W = ⌈warmup·S⌉, then
    half a cosine down: (1 + cos(π·(step − W) / (S − W))) / 2 of it (arXiv 1608.03983, without
    restarts).
    """
    total = steps_of(spec)
    rise = math.ceil(spec.warmup * total)
    if step < rise:
        return spec.learning_rate * (step + 1) / rise
    return spec.learning_rate * (1 + math.cos(math.pi * (step - rise) / max(total - rise, 1))) / 2


def batch_of(spec: RecoverySpec, step: int) -> Tensor:
    """The indices of the samples of the optimiser step ``step``, from 0; every epoch has an order
    of its own."""
    epoch, place = divmod(step, math.ceil(spec.samples / spec.batch_size))
    generator = torch.Generator().manual_seed((spec.seed + epoch) % 2**63)
    order = torch.randperm(spec.samples, generator=generator)
    return order[place * spec.batch_size : (place + 1) * spec.batch_size]


LARGEST_NORM = 1.0
"""Gradients are scaled down to this norm where theirs is larger."""

_TOKENS = 2048  # in one forward pass, where the caller does not say


@dataclass(frozen=True)
class Step:
    """What one optimiser step of ``learning_rate`` saw: ``loss``, the mean over its batch, and
    ``validation``, that of the held-out samples after it, where it was looked at. In nats a
    token. Step 0 is the model as it was."""

    step: int
    loss: float | None = None
    learning_rate: float | None = None
    validation: float | None = None


@dataclass(frozen=True)
class Tuned:
    """The adapter by `peft`'s names, how training went, and the step that the adapter is of.

    ``seconds``: of training, without what was lost when it was stopped. ``tokens``: trained on.
    """

    adapter: dict[str, Tensor]
    history: tuple[Step, ...]
    chosen: int
    seconds: float
    tokens: int


def recover(
    model: nn.Module,
    tokens: Tensor,
    spec: RecoverySpec,
    *,
    micro_batch: int | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 60.0,
    progress: Progress | None = None,
    watch: Callable[[tuple[Step, ...]], None] | None = None,
) -> Tuned:
    """Train an adapter for ``model`` on tokens (N + V, T): the first N samples of the spec, the
    other V held out. ``model`` is not touched; see `lora.merged` for what comes of it.

    Each step sums the gradients of its batch over passes of ``micro_batch`` samples (about 2048
    tokens where it is None), which changes memory and speed but not the mathematics. With
    ``checkpoints`` it goes on from the last one, and keeps one every ``checkpoint_seconds`` and
    when ``progress`` raises Cancelled. The same spec gives the same adapter, interrupted or not.
    ``watch`` is given all steps so far after each one. Raises InputError.
    """
    if micro_batch is not None and micro_batch < 1:
        raise InputError(f"The micro-batch is at least 1 sample, not {micro_batch}.")
    _check_tokens(model, tokens, spec)
    run = _Training(model, tokens, spec, micro_batch or max(1, _TOKENS // spec.seq_len))
    if checkpoints is not None and (found := checkpoints.latest()) is not None:
        run.restore(*found)
    try:
        for _ in run.steps(progress or silent):
            if watch is not None:
                watch(tuple(run.history))
            if checkpoints is not None and run.unsaved_seconds >= checkpoint_seconds:
                checkpoints.keep(*run.state())
    except Cancelled:
        if checkpoints is not None:
            checkpoints.keep(*run.state())
        raise
    return run.result()


def _check_tokens(model: nn.Module, tokens: Tensor, spec: RecoverySpec) -> None:
    check_vocabulary(model, tokens)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and spec.seq_len > limit:
        raise InputError(
            f"A training sample of {spec.seq_len} tokens is longer than the model's {limit} "
            "positions; give shorter ones."
        )
    if tokens.shape != (spec.samples + spec.validation, spec.seq_len):
        raise InputError(
            f"Training needs {spec.samples} + {spec.validation} samples of {spec.seq_len} tokens, "
            f"not a tensor of shape {tuple(tokens.shape)}."
        )


class _Training:
    """One training: the model with its adapter, the optimiser, and how far it is."""

    def __init__(self, model: nn.Module, tokens: Tensor, spec: RecoverySpec, micro_batch: int):
        self.spec, self.micro_batch = spec, micro_batch
        self.train, self.held_out = tokens[: spec.samples], tokens[spec.samples :]
        self.device = Adapter(model).input_device
        self.scale = loss_scale(model)
        self.tuned = with_adapter(model, spec)
        self.weights = {
            name: value for name, value in self.tuned.named_parameters() if value.requires_grad
        }
        self.optimiser = torch.optim.AdamW(
            self.weights.values(), lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        self.history: list[Step] = []
        self.best: dict[str, Tensor] = {}
        self.seconds, self._since, self._saved = 0.0, time.monotonic(), time.monotonic()

    def steps(self, report: Progress) -> Iterator[None]:
        """Train; yields after the look at the model as it is, and after every step."""
        total = steps_of(self.spec)
        self._since = time.monotonic()
        if not self.history:
            self._add(Step(0, validation=self._validate(report, 0.0)))
            yield
        while self.history[-1].step < total and not _gave_up(self.history, self.spec.patience):
            self._add(self._advance(report, total))
            yield
        report(1.0, "Trained")

    def _add(self, step: Step) -> None:
        self.history.append(step)
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        if self.spec.patience and step.step == _best_step(self.history):
            self.best = {name: value.detach().clone() for name, value in self.weights.items()}

    def _advance(self, report: Progress, total: int) -> Step:
        """One optimiser step."""
        step, spec = self.history[-1].step, self.spec
        rate, batch = learning_rate(spec, step), self.train[batch_of(spec, step)]  # (B, T)
        self.optimiser.zero_grad()
        loss = 0.0
        with seeded((spec.seed + 1 + step) % 2**63), self._dropping():
            for start in range(0, len(batch), self.micro_batch):
                report((step + start / len(batch)) / total, self._message(step, total))
                loss += self._backward(batch[start : start + self.micro_batch], len(batch))
        if not math.isfinite(loss):
            raise InputError(
                f"The loss is not a finite number at step {step + 1}; use a lower learning rate."
            )
        self._update(rate)
        looks = (step + 1) % spec.validate_every == 0 or step + 1 == total
        found = self._validate(report, (step + 1) / total) if looks else None
        return Step(step + 1, loss, rate, found)

    def _message(self, step: int, total: int) -> str:
        loss = self.history[-1].loss
        return f"Step {step + 1} of {total}" + (f", loss {loss:.3f}" if loss is not None else "")

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """Within it the adapter's dropout is on; the model's own stays off."""
        layers = [m for name, m in self.tuned.named_modules() if "lora_dropout" in name]
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer in layers:
                layer.eval()

    def _backward(self, part: Tensor, whole: int) -> float:
        """Add the gradients of samples (b, T), a part of a batch of ``whole``; their share of its
        mean loss."""
        part = part.to(self.device)
        loss = self.tuned(input_ids=part, labels=part, use_cache=False).loss * len(part) / whole
        (loss * self.scale).backward()
        return loss.item()

    def _update(self, rate: float) -> None:
        for weight in self.weights.values():
            weight.grad /= self.scale
        nn.utils.clip_grad_norm_(self.weights.values(), LARGEST_NORM)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()

    @torch.no_grad()
    def _validate(self, report: Progress, fraction: float) -> float | None:
        """The mean loss of the held-out samples, in nats a token; None where there are none."""
        if not len(self.held_out):
            return None
        total = 0.0
        for part in self.held_out.split(self.micro_batch):
            report(fraction, "Loss of the held-out samples")
            logits = self.tuned(input_ids=part.to(self.device), use_cache=False).logits
            total += negative_log_likelihood(logits, part)
        return total / (len(self.held_out) * (self.spec.seq_len - 1))

    @property
    def unsaved_seconds(self) -> float:
        """How long ago the last checkpoint, or the start, was."""
        return time.monotonic() - self._saved

    def state(self) -> tuple[int, dict[str, Tensor], dict]:
        """For a checkpoint: the step, the tensors, and the rest as plain data."""
        self._saved = time.monotonic()
        tensors = {f"weight.{name}": value.detach() for name, value in self.weights.items()}
        for name, value in self.weights.items():
            if moments := self.optimiser.state.get(value):
                tensors |= {f"first.{name}": moments["exp_avg"]}
                tensors |= {f"second.{name}": moments["exp_avg_sq"]}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        history = [asdict(step) for step in self.history]
        step = history[-1]["step"] if history else 0
        return step, tensors, {"history": history, "seconds": self.seconds}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict) -> None:
        """Go on from a checkpoint."""
        self.history = [Step(**step) for step in state["history"]]
        self.seconds = state["seconds"]
        for name, value in self.weights.items():
            value.copy_(tensors[f"weight.{name}"])
            if f"first.{name}" in tensors:
                self.optimiser.state[value] = {
                    "step": torch.tensor(float(self.history[-1].step)),
                    "exp_avg": tensors[f"first.{name}"].to(value),
                    "exp_avg_sq": tensors[f"second.{name}"].to(value),
                }
            if f"best.{name}" in tensors:
                self.best[name] = tensors[f"best.{name}"].to(value)

    @torch.no_grad()
    def result(self) -> Tuned:
        """The adapter: of the best look where training may stop early, else of the last step."""
        for name, value in self.best.items():
            self.weights[name].copy_(value)
        last = self.history[-1].step
        seen = sum(len(batch_of(self.spec, step)) for step in range(last)) * self.spec.seq_len
        return Tuned(
            adapter=adapter_tensors(self.tuned),
            history=tuple(self.history),
            chosen=_best_step(self.history) if self.spec.patience else last,
            seconds=self.seconds,
            tokens=seen,
        )


def _best_step(history: Sequence[Step]) -> int:
    """The step with the lowest validation loss, the first of equal ones."""
    looks = [step for step in history if step.validation is not None]
    return min(looks, key=lambda step: step.validation).step


def _gave_up(history: Sequence[Step], patience: int) -> bool:
    """Whether the last ``patience`` looks did not improve on the best before; never for 0."""
    looks = [step for step in history if step.validation is not None]
    return bool(patience) and sum(s.step > _best_step(history) for s in looks) >= patience
