"""Close-ups of one head or one FFN channel of a dense model, through the run store."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..criteria import CRITERIA, Scores, find_criterion
from ..criteria.base import SCORES
from ..errors import InputError
from ..evaluation.closeups import (
    CHANNEL_CLOSE_UPS,
    HEAD_CLOSE_UPS,
    MOST_TOKENS,
    ChannelCloseUp,
    HeadCloseUp,
    channel_close_up,
    head_close_up,
)
from ..evaluation.metrics import tokens_of
from ..pruning.plan import PruningPlan
from ..pruning.standing import Fate, Standing, fate, standing
from ..specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from .provenance import score_identity
from .workbench import Workbench


def head_identity(
    spec: ModelSpec, block: int, head: int, text: EvaluationSpec, own: str | None = None
) -> dict:
    """What the close-up of a head is a function of. Raises InputError for a text that is not
    there, or has no words."""
    return {"model": spec.identity(), "block": block, "head": head} | _text(text, own)


def channel_identity(
    spec: ModelSpec,
    calibration: CalibrationSpec,
    block: int,
    channel: int,
    text: EvaluationSpec,
    own: str | None = None,
) -> dict:
    """What the close-up of an FFN channel is a function of. Raises InputError as `head_identity`
    does."""
    about = {"model": spec.identity(), "calibration": calibration.identity()}
    return about | {"block": block, "channel": channel} | _text(text, own)


def _text(text: EvaluationSpec, own: str | None) -> dict:
    if own is None:
        return {"evaluation": text.identity()}
    if not own.strip():
        raise InputError("There is no text; write or paste one.")
    most = min(text.window, text.max_tokens or MOST_TOKENS, MOST_TOKENS)
    return {"own": own, "max_tokens": most, "beginning": text.beginning}


def standings(
    find: Callable[[ScoreSpec], Scores | None],
    spec: ScoreSpec,
    block: int,
    kind: str,
    number: int,
) -> list[Standing]:
    """Where a ``kind`` ("head" or "channel") of a block stands by every criterion of which ``find``
    has scores, on the model and calibration set of ``spec``; that of ``spec`` first, with its
    options, the others with their defaults."""
    find_criterion(spec.criterion)
    others = (name for name in CRITERIA if name != spec.criterion)
    specs = [spec, *(replace(spec, criterion=name, options=()) for name in others)]
    found = (find(one) for one in specs)
    return [standing(one, block, kind, number) for one in found if one is not None]


class CloseUps:
    """Looks at single heads and channels of dense models, on a workbench."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench

    def head_close_up(
        self,
        spec: ModelSpec,
        block: int,
        head: int,
        text: EvaluationSpec,
        *,
        own: str | None = None,
    ) -> HeadCloseUp:
        """A query head on the beginning of the text that is named, or of a text of the user's
        ``own``."""
        self.bench.ensure_content(spec)

        def compute() -> HeadCloseUp:
            tokens = self._tokens(spec, text, own)
            model, tokenizer = self.bench.model(spec)
            with self.bench.progress.within(0.2, 1.0) as progress:
                return head_close_up(model, tokenizer, tokens, block, head, progress=progress)

        identity = head_identity(spec, block, head, text, own)
        return self.bench.store.get(HEAD_CLOSE_UPS, identity, compute)

    def channel_close_up(
        self,
        spec: ModelSpec,
        calibration: CalibrationSpec,
        block: int,
        channel: int,
        text: EvaluationSpec,
        *,
        own: str | None = None,
    ) -> ChannelCloseUp:
        """An FFN channel on a calibration set, and on the beginning of the text that is named, or
        of a text of the user's ``own``."""
        self.bench.ensure_content(spec)

        def compute() -> ChannelCloseUp:
            tokens = self._tokens(spec, text, own)
            model, tokenizer = self.bench.model(spec)
            samples = self.bench.calibration(spec, calibration).tokens
            read = model, tokenizer, samples, tokens
            with self.bench.progress.within(0.25, 1.0) as progress:
                return channel_close_up(*read, block, channel, progress=progress)

        identity = channel_identity(spec, calibration, block, channel, text, own)
        return self.bench.store.get(CHANNEL_CLOSE_UPS, identity, compute)

    def standings(self, spec: ScoreSpec, block: int, kind: str, number: int) -> list[Standing]:
        """Where a ``kind`` ("head" or "channel") of a block stands by every criterion whose scores
        are in the run store; nothing is scored for it."""

        def find(one: ScoreSpec) -> Scores | None:
            return self.bench.store.stored(SCORES, score_identity(one))

        return standings(find, spec, block, kind, number)

    def fate(
        self,
        spec: ScoreSpec,
        settings: PlanSpec,
        plan: PruningPlan,
        block: int,
        kind: str,
        number: int,
    ) -> Fate:
        """What ``plan``, which ``settings`` gave for ``spec``, does with a ``kind`` of a block."""
        scores = self.bench.store.stored(SCORES, score_identity(spec, settings))
        return fate(plan, block, kind, number, scores)

    def _tokens(self, spec: ModelSpec, text: EvaluationSpec, own: str | None) -> Tensor:
        """The first tokens (T,) of the text, as many as are read at once."""
        model, tokenizer = self.bench.model(spec)
        tokens, _ = tokens_of(text, model, tokenizer, own)
        most = getattr(model.config, "max_position_embeddings", None) or MOST_TOKENS
        return tokens[: min(MOST_TOKENS, text.window, most)]
