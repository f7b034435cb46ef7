"""What the dense model says of the training text, stored once: its likeliest next tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import InputError
from ..models.divergence import positions_of
from ..models.running import check_vocabulary, evaluation_mode
from ..progress import Progress
from ..specs import RecoverySpec
from ..specs.recovery import LIVE
from ..store.kinds import Kind

TOP = 64
"""So many of the likeliest next tokens are kept at every position."""

BYTES = (4 + 4) * TOP + 4
"""What is kept of a position."""

TEACHERS: Kind = Kind("teachers", "the dense model's likeliest next tokens on training text")
_POSITIONS = 2**16  # in a file


@dataclass(frozen=True, eq=False)
class Top:
    """The next token at some positions, as the dense model has it: ``tokens`` (n, k), int64, the k
    likeliest, ``log_probs`` (n, k) of these, and ``rest`` (n,), the logarithm of the probability of
    all others together, -inf where there are none; float32, in nats."""

    tokens: Tensor
    log_probs: Tensor
    rest: Tensor


def top_of(logits: Tensor, count: int = TOP) -> Top:
    """Of logits (B, T, V) the ``count`` likeliest tokens of every position, or all V."""
    parts = []
    for some in positions_of(logits):
        log_probs = some.float().log_softmax(-1)
        found = log_probs.topk(min(count, log_probs.shape[-1]), -1)
        others = log_probs.scatter(-1, found.indices, -torch.inf)
        parts.append((found.indices, found.values, others.logsumexp(-1)))
    return Top(*map(torch.cat, zip(*parts, strict=True)))


class _TopDivergence(torch.autograd.Function):
    """The sum of `top_divergence` over the positions of logits, with its gradient: of a kept token
    q_v - p_v, of another q_v·(1 - p_rest / q_rest)."""

    @staticmethod
    def forward(ctx, logits: Tensor, tokens: Tensor, log_probs: Tensor, rest: Tensor) -> Tensor:
        gradient, sums = torch.empty_like(logits), []
        size = [len(some) for some in positions_of(logits)]
        kept = (one.split(size) for one in (tokens, log_probs, rest))
        places = zip(positions_of(logits), positions_of(gradient), *kept, strict=True)
        for own, change, at, p, p_rest in places:
            q = own.float().log_softmax(-1)
            q_rest = q.scatter(-1, at, -torch.inf).logsumexp(-1)
            least = torch.finfo(q.dtype).min
            missed = p_rest.exp() * (p_rest.clamp_min(least) - q_rest.clamp_min(least))
            sums.append((p.exp() * (p - q.gather(-1, at))).sum() + missed.sum())
            share = (p_rest - q_rest.clamp_min(least)).exp()  # p_rest / q_rest, 0 without others
            slope = q.exp()
            of_kept = slope.gather(-1, at) - p.exp()
            slope *= (1 - share).unsqueeze(-1)
            change.copy_(slope.scatter_(-1, at, of_kept))
        ctx.save_for_backward(gradient)
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.saved_tensors[0] * slope, None, None, None


def top_divergence(logits: Tensor, top: Top) -> Tensor:
    """The sum over all positions of logits (B, T, V) of the divergence, in nats, of the dense
    model's distribution p from q, that of the logits, with all tokens but the kept ones K put into
    one: Σ_{v ∈ K} p_v·log(p_v / q_v) + p_rest·log(p_rest / q_rest).

    To put outcomes together never raises a divergence (data-processing inequality), so that it is
    at most `objectives.divergence`, and that where all tokens are kept. It has a gradient by
    ``logits``.
    """
    return _TopDivergence.apply(logits.contiguous(), top.tokens, top.log_probs, top.rest)


class Teacher:
    """What is stored of the dense model on samples (N, T), read from files as it is asked for.

    Each holds so many samples: "tokens" and "log_probs" (n, T, k) and "rest" (n, T).
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [safetensors.safe_open(file, framework="pt") for file in files]
        self._starts = [0]
        for file in self._files:
            self._starts.append(self._starts[-1] + file.get_slice("rest").get_shape()[0])
        self.vocabulary = int(self._files[0].get_tensor("vocabulary"))

    def __len__(self) -> int:
        return self._starts[-1]

    def of(self, samples: Sequence[int], device: torch.device) -> Top:
        """What is kept of these samples, their positions one after the other, on ``device``."""
        found = {name: [] for name in ("tokens", "log_probs", "rest")}
        for sample in samples:
            number = next(n for n, end in enumerate(self._starts[1:]) if sample < end)
            row = sample - self._starts[number]
            for name, parts in found.items():
                parts.append(self._files[number].get_slice(name)[row])
        whole = {name: torch.cat(parts).to(device) for name, parts in found.items()}
        return Top(whole["tokens"].long(), whole["log_probs"], whole["rest"])


@torch.no_grad()
def write_teacher(
    folder: Path, dense: nn.Module, tokens: Tensor, *, rows: int, progress: Progress
) -> None:
    """Run ``dense`` on tokens (N, T), ``rows`` of them at a time, and write what `Teacher` reads
    into ``folder``. Raises InputError for tokens that it has not."""
    check_vocabulary(dense, tokens)
    whole = max(1, _POSITIONS // tokens.shape[1])
    with evaluation_mode(dense):
        for number, some in enumerate(tokens.split(whole)):
            parts = []
            for done, part in enumerate(some.split(rows)):
                share = (number * whole + done * rows) / len(tokens)
                progress(share, "The dense model on the training text")
                parts.append(_kept(dense, part))
            tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            tensors["vocabulary"] = torch.tensor(_vocabulary(dense))
            save_file(tensors, folder / f"samples-{number:05}.safetensors")


def _kept(dense: nn.Module, part: Tensor) -> dict[str, Tensor]:
    """What is kept of tokens (n, T), by name, on the CPU."""
    device = dense.get_input_embeddings().weight.device
    top = top_of(dense(input_ids=part.to(device), use_cache=False).logits)
    found = {"tokens": top.tokens.int(), "log_probs": top.log_probs, "rest": top.rest}
    return {
        name: value.cpu().reshape(*part.shape, *value.shape[1:]) for name, value in found.items()
    }


def read_teacher(folder: Path) -> Teacher:
    """What `write_teacher` wrote. Raises FileNotFoundError where it was removed."""
    files = sorted(folder.glob("samples-*.safetensors"))
    if not files:
        raise FileNotFoundError(folder)
    return Teacher(files)


def check_teacher(
    model: nn.Module, spec: RecoverySpec, dense: nn.Module | None, teacher: Teacher | None = None
) -> None:
    """Raise InputError where ``dense``, or what is stored of it, ``teacher``, cannot be what
    ``model`` is brought near to."""
    if spec.objective != "distill":
        return
    given = dense if spec.teacher == LIVE else teacher
    if given is None and spec.teacher != LIVE:
        raise InputError(
            "To distil from what is stored of the dense model, that is needed; store it first, or "
            "use the teacher live."
        )
    if given is None:
        raise InputError(
            "To distil, the dense model is needed, which is not there; give it, or use the "
            "objective text."
        )
    own = _vocabulary(model)
    theirs = teacher.vocabulary if spec.teacher != LIVE else _vocabulary(dense)
    if theirs != own:
        raise InputError(
            f"The dense model has {theirs:,} tokens in its vocabulary and this one {own:,}; a "
            "model is distilled from one with its own."
        )


def _vocabulary(model: nn.Module) -> int:
    """V, of the head."""
    return model.get_output_embeddings().weight.shape[0]
