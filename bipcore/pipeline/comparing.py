"""Where a pruned or recovered model departs from the dense one: by token, and by depth."""

from torch import Tensor, nn

from ..errors import InputError
from ..evaluation.depth import MOST_TOKENS, Depth, divergence_by_depth
from ..evaluation.differences import Differences, differences
from ..evaluation.metrics import tokens_of
from ..pruning.plan import PruningPlan
from ..specs import CalibrationSpec, EvaluationSpec, ModelSpec, RecoverySpec
from .recoveries import Recoveries, State


class Comparisons:
    """Models in two of their states, side by side on a text; nothing of it is stored."""

    def __init__(self, states: Recoveries) -> None:
        self.states = states

    def differences(
        self,
        spec: ModelSpec,
        text: EvaluationSpec,
        plan: PruningPlan | None,
        recovery: RecoverySpec | None = None,
        *,
        own: str | None = None,
        calibration: CalibrationSpec | None = None,
    ) -> Differences:
        """Where a pruned or recovered model differs from the dense one, token by token, on the
        text that is named, on a text of the user's ``own``, or on the first samples of
        ``calibration``, each a window of its own."""
        model, dense, tokens = self._beside(spec, text, (plan, recovery), own, calibration)
        most = getattr(dense.config, "max_position_embeddings", None) or text.window
        window = text.window if own is None else min(text.window, most)
        window = window if calibration is None else calibration.seq_len
        with self.states.bench.progress.within(0.6, 1.0) as progress:
            return differences(model, dense, tokens, window=window, progress=progress)

    def depth(
        self,
        spec: ModelSpec,
        text: EvaluationSpec,
        plan: PruningPlan | None,
        recovery: RecoverySpec | None = None,
        *,
        own: str | None = None,
    ) -> Depth:
        """How far the models of `differences` are apart after every block, on the beginning of the
        same text."""
        model, dense, tokens = self._beside(spec, text, (plan, recovery), own)
        most = getattr(dense.config, "max_position_embeddings", None) or MOST_TOKENS
        tokens = tokens[None, : min(MOST_TOKENS, text.window, most)]
        with self.states.bench.progress.within(0.6, 1.0) as progress:
            return divergence_by_depth(model, dense, tokens, progress=progress)

    def _beside(
        self,
        spec: ModelSpec,
        text: EvaluationSpec,
        state: State,
        own: str | None,
        calibration: CalibrationSpec | None = None,
    ) -> tuple[nn.Module, nn.Module, Tensor]:
        """The model in a state, the dense one, and the tokens (n,) to compare them on."""
        dense, tokenizer = self.states.bench.model(spec)
        if calibration is not None:
            tokens = self.states.bench.calibration(spec, calibration).tokens.flatten()
            tokens = tokens[: text.max_tokens]
        else:
            tokens, _ = tokens_of(text, dense, tokenizer, own)
        if len(tokens) < 2:
            raise InputError("A text to compare models on has at least 2 tokens; write more.")
        with self.states.bench.progress.within(0.2, 0.6):
            return self.states.variant(spec, *state), dense, tokens
