"""Winning back what pruning lost: training a pruned model, towards the dense one or on a text.

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
from ..models.divergence import kl_divergence
from ..models.running import check_vocabulary, loss_scale, negative_log_likelihood, run_again
from ..progress import Progress, silent
from ..specs import RecoverySpec
from ..specs.recovery import LIVE
from ..store.resume import Checkpoints
from .lora import seeded
from .objectives import divergence, hidden_error
from .rerunning import blocks_run_again
from .schedule import batch_of, learning_rate, steps_of
from .teachers import Teacher, Top, check_teacher, top_divergence
from .weights import LORA, trainable, trained_tensors

LARGEST_NORM = 1.0
"""Gradients are scaled down to this norm where theirs is larger."""

_TOKENS = 2048  # in one forward pass, where the caller does not say


@dataclass(frozen=True)
class Step:
    """What one optimiser step of ``learning_rate`` saw: ``loss``, what it made smaller, as the mean
    over its batch; and of the held-out samples after it, where it was looked at, ``validation``,
    the loss of the text, and ``validation_kl``, the divergence from the dense model where that is
    the objective. In nats a token. Step 0 is the model as it was."""

    step: int
    loss: float | None = None
    learning_rate: float | None = None
    validation: float | None = None
    validation_kl: float | None = None

    @property
    def looked(self) -> float | None:
        """What of the held-out samples the best step has least of."""
        return self.validation if self.validation_kl is None else self.validation_kl


@dataclass(frozen=True)
class Tuned:
    """What was trained (see `weights.trained_tensors`), how training went, and the step that it is
    of.

    ``seconds``: of training, without what was lost when it was stopped. ``tokens``: trained on.
    """

    tensors: dict[str, Tensor]
    history: tuple[Step, ...]
    chosen: int
    seconds: float
    tokens: int


def recover(
    model: nn.Module,
    tokens: Tensor,
    spec: RecoverySpec,
    *,
    dense: nn.Module | None = None,
    teacher: Teacher | None = None,
    micro_batch: int | None = None,
    gradient_checkpointing: bool | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float | None = None,
    progress: Progress | None = None,
    watch: Callable[[tuple[Step, ...]], None] | None = None,
) -> Tuned:
    """Train ``model`` on tokens (N + V, T): the first N samples of the spec, the other V held out.
    ``dense`` is the model that it was cut from, which distilling needs, or the ``teacher``, what is
    stored of that model on these tokens. No model is touched; see `weights.recovered_model` for
    what comes of it.

    Each step sums the gradients of its batch over passes of ``micro_batch`` samples (about 2048
    tokens where it is None), which changes memory and speed but not the mathematics.
    ``gradient_checkpointing`` runs blocks again on the way back, which takes less memory and more
    time and gives the same weights; None: where memory would not do without. With ``checkpoints``
    it goes on from the last one, and keeps one every ``checkpoint_seconds`` (60, or 300 where whole
    weights are trained) and when ``progress`` raises Cancelled. The same spec gives the same
    weights, interrupted or not.
    ``watch`` is given all steps so far after each one. Raises InputError.
    """
    if micro_batch is not None and micro_batch < 1:
        raise InputError(f"The micro-batch is at least 1 sample, not {micro_batch}.")
    _check_tokens(model, tokens, spec)
    check_teacher(model, spec, dense, teacher)
    if checkpoint_seconds is None:
        checkpoint_seconds = 60.0 if spec.train == LORA else 300.0
    micro_batch = micro_batch or max(1, _TOKENS // spec.seq_len)
    run = _Training(model, tokens, spec, micro_batch, dense, teacher, gradient_checkpointing)
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
    """One training: the copy that is trained, the optimiser, and how far it is.

    ``weights`` are what is trained of the copy; ``masters`` are the same in float32, which the
    optimiser steps, and themselves where they are float32 already.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Tensor,
        spec: RecoverySpec,
        micro_batch: int,
        dense: nn.Module | None,
        teacher: Teacher | None,
        gradient_checkpointing: bool | None,
    ) -> None:
        self.spec, self.micro_batch, self.tokens = spec, micro_batch, tokens
        self.dense, self.teacher = dense, teacher
        self.device = Adapter(model).input_device
        self.scale = loss_scale(model)
        self.tuned, self.weights = trainable(model, spec, dense)
        passed = min(micro_batch, spec.batch_size, spec.samples) * spec.seq_len
        self.again = blocks_run_again(model, self.tuned, spec, passed, gradient_checkpointing)
        self.masters = {name: _master(weight) for name, weight in self.weights.items()}
        self.optimiser = torch.optim.AdamW(
            self.masters.values(), lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        self.history: list[Step] = []
        self.best: dict[str, Tensor] = {}
        self.seconds, self._since, self._saved = 0.0, time.monotonic(), time.monotonic()

    def steps(self, report: Progress) -> Iterator[None]:
        """Train; yields after the look at the model as it is, and after every step."""
        total = steps_of(self.spec)
        self._since = time.monotonic()
        if not self.history:
            self._add(Step(0, **self._validate(report, 0.0)))
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
            self.best = {name: value.detach().clone() for name, value in self.masters.items()}

    def _advance(self, report: Progress, total: int) -> Step:
        """One optimiser step."""
        step, spec = self.history[-1].step, self.spec
        rate, batch = learning_rate(spec, step), batch_of(spec, step)
        losses = []
        with seeded((spec.seed + 1 + step) % 2**63), self._dropping(), run_again(self.again):
            for start in range(0, len(batch), self.micro_batch):
                report((step + start / len(batch)) / total, self._message(step, total))
                losses.append(self._backward(batch[start : start + self.micro_batch], len(batch)))
        loss = float(torch.stack(losses).sum())
        if not math.isfinite(loss):
            raise InputError(
                f"The loss is not a finite number at step {step + 1}; use a lower learning rate."
            )
        self._update(rate)
        looks = (step + 1) % spec.validate_every == 0 or step + 1 == total
        found = self._validate(report, (step + 1) / total) if looks else {}
        return Step(step + 1, loss, rate, **found)

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

    def _backward(self, samples: Tensor, whole: int) -> Tensor:
        """Add the gradients of the samples of these numbers (b,), a part of a batch of ``whole``;
        their share of its mean loss, on the device."""
        part = self.tokens[samples].to(self.device)
        if self.spec.objective == "distill":
            loss = self._distance(part, samples)
        else:
            loss = self.tuned(input_ids=part, labels=part, use_cache=False).loss
        loss = loss * len(part) / whole
        (loss * self.scale).backward()
        return loss.detach()

    def _distance(self, part: Tensor, samples: Tensor) -> Tensor:
        """How far the model is from the dense one on ``part`` (b, T), the samples of these numbers,
        a token on average."""
        if self.spec.teacher != LIVE:
            logits = self.tuned(input_ids=part, use_cache=False).logits
            return top_divergence(logits, self._top(samples, logits)) / part.numel()
        how = {"input_ids": part, "use_cache": False}
        how |= {"output_hidden_states": True} if self.spec.hidden_weight else {}
        with torch.no_grad():
            dense = self.dense(**how)
        own = self.tuned(**how)
        loss = divergence(own.logits, dense.logits.to(own.logits.device)) / part.numel()
        if not self.spec.hidden_weight:
            return loss
        error = hidden_error(own.hidden_states[1:], dense.hidden_states[1:])
        return loss + self.spec.hidden_weight * error

    def _top(self, samples: Tensor, logits: Tensor) -> Top:
        """What is stored of the dense model on the samples of these numbers, beside ``logits``."""
        return self.teacher.of(samples.tolist(), logits.device)

    @torch.no_grad()
    def _update(self, rate: float) -> None:
        for weight, master in zip(self.weights.values(), self.masters.values(), strict=True):
            gradient, weight.grad = weight.grad, None
            master.grad = gradient.to(master.dtype).div_(self.scale)
        nn.utils.clip_grad_norm_(self.masters.values(), LARGEST_NORM)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        self._put_back()

    def _put_back(self) -> None:
        """Give the copy the weights that the optimiser has."""
        for weight, master in zip(self.weights.values(), self.masters.values(), strict=True):
            if weight is not master:
                weight.copy_(master)

    @torch.no_grad()
    def _validate(self, report: Progress, fraction: float) -> dict[str, float]:
        """What `Step` says of the held-out samples, in nats a token; nothing of none."""
        held_out = torch.arange(self.spec.samples, len(self.tokens))
        if not len(held_out):
            return {}
        loss, apart = 0.0, []
        for samples in held_out.split(self.micro_batch):
            report(fraction, "Loss of the held-out samples")
            part = self.tokens[samples]
            tokens = part.to(self.device)
            logits = self.tuned(input_ids=tokens, use_cache=False).logits
            loss += negative_log_likelihood(logits, part)
            if self.spec.objective == "distill":
                apart.append(self._apart(logits, tokens, samples))
        count = len(held_out) * self.spec.seq_len
        found = {"validation": float(loss) / (count - len(held_out))}
        if apart:
            found["validation_kl"] = float(torch.stack(apart).sum()) / count
        return found

    def _apart(self, logits: Tensor, tokens: Tensor, samples: Tensor) -> Tensor:
        """The divergence of ``logits`` (b, T, V) from the dense model, as training counts it,
        summed over the ``tokens`` (b, T) of the samples of these numbers."""
        if self.spec.teacher != LIVE:
            return top_divergence(logits, self._top(samples, logits))
        dense = self.dense(input_ids=tokens, use_cache=False).logits
        return kl_divergence(logits, dense.to(logits.device)).sum()

    @property
    def unsaved_seconds(self) -> float:
        """How long ago the last checkpoint, or the start, was."""
        return time.monotonic() - self._saved

    def state(self) -> tuple[int, dict[str, Tensor], dict]:
        """For a checkpoint: the step, the tensors, and the rest as plain data."""
        self._saved = time.monotonic()
        tensors = {f"weight.{name}": value.detach() for name, value in self.masters.items()}
        for name, value in self.masters.items():
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
        for name, value in self.masters.items():
            value.copy_(tensors[f"weight.{name}"])
            if f"first.{name}" in tensors:
                self.optimiser.state[value] = {
                    "step": torch.tensor(float(self.history[-1].step)),
                    "exp_avg": tensors[f"first.{name}"].to(value),
                    "exp_avg_sq": tensors[f"second.{name}"].to(value),
                }
            if f"best.{name}" in tensors:
                self.best[name] = tensors[f"best.{name}"].to(value)
        self._put_back()

    @torch.no_grad()
    def result(self) -> Tuned:
        """What was trained: of the best look where training may stop early, else of the last
        step."""
        for name, value in self.best.items():
            self.weights[name].copy_(value)
        last = self.history[-1].step
        seen = sum(len(batch_of(self.spec, step)) for step in range(last)) * self.spec.seq_len
        return Tuned(
            tensors=trained_tensors(self.tuned, self.spec),
            history=tuple(self.history),
            chosen=_best_step(self.history) if self.spec.patience else last,
            seconds=self.seconds,
            tokens=seen,
        )


def _master(weight: nn.Parameter) -> Tensor:
    """``weight`` as the optimiser steps it: itself, or a copy in float32 of a narrower one."""
    if weight.dtype == torch.float32 or weight.dtype == torch.float64:
        return weight
    return weight.detach().float()


def _best_step(history: Sequence[Step]) -> int:
    """The step with the least loss or divergence of the held-out samples, the first of equals."""
    looks = [step for step in history if step.looked is not None]
    return min(looks, key=lambda step: step.looked).step


def _gave_up(history: Sequence[Step], patience: int) -> bool:
    """Whether the last ``patience`` looks did not improve on the best before; never for 0."""
    looks = [step for step in history if step.looked is not None]
    return bool(patience) and sum(s.step > _best_step(history) for s in looks) >= patience
