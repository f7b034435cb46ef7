"""Every kind of stored result. To add one, declare it beside what it stores, and list it here."""

from .criteria.base import SCORES
from .criteria.curves import CURVES
from .criteria.moments import SECOND_MOMENTS
from .criteria.statistics import STATISTICS
from .evaluation.closeups import CHANNEL_CLOSE_UPS, HEAD_CLOSE_UPS
from .evaluation.metrics import EVALUATIONS
from .evaluation.reconstruction import RECONSTRUCTION
from .evaluation.zero_shot import ZERO_SHOT
from .models.identity import HASHES
from .models.loading import MODELS
from .pipeline.plan_names import PLAN_NAMES
from .pipeline.recoveries import RECOVERIES
from .pruning.decode_times import DECODE_TIMES
from .pruning.plan import PLANS
from .recovery.teachers import TEACHERS
from .store.kinds import Kind
from .store.resume import CHECKPOINTS, STEPS
from .studies.points import POINTS
from .studies.reproduction.rows import REPRODUCTIONS

KINDS: tuple[Kind, ...] = (
    MODELS,
    HASHES,
    STATISTICS,
    SECOND_MOMENTS,
    CURVES,
    DECODE_TIMES,
    SCORES,
    STEPS,
    PLANS,
    PLAN_NAMES,
    EVALUATIONS,
    RECONSTRUCTION,
    HEAD_CLOSE_UPS,
    CHANNEL_CLOSE_UPS,
    ZERO_SHOT,
    TEACHERS,
    CHECKPOINTS,
    RECOVERIES,
    POINTS,
    REPRODUCTIONS,
)
