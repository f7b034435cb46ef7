"""The three states of a model, dense, pruned, and recovered by fine-tuning, and the last made."""

import contextlib
import functools
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor, nn

from ..errors import InputError
from ..evaluation.workload import said_size
from ..models.adapters import Adapter
from ..models.batches import rows_for
from ..models.processes import place
from ..models.streaming import check_whole
from ..pruning.plan import PruningPlan
from ..recovery.lora import LoraAdapter, target_layers
from ..recovery.teachers import BYTES, TEACHERS, TOP, read_teacher, write_teacher
from ..recovery.training import Step, recover
from ..recovery.weights import LORA, recovered_model
from ..specs import ModelSpec, RecoverySpec
from ..specs.recovery import AS_BEFORE, LIVE
from ..store.kinds import Kind, Stored, canonical, digest
from ..store.resume import Checkpoints
from ..store.runs import RunStore
from .kept import RECOVERED, TOKENS
from .plans import Plans
from .provenance import made_with

RECOVERIES: Kind[Stored] = Kind(
    "recoveries",
    "adapters or weights of recovered models, and how training went",
    version=3,
    write=lambda result: result,
    read=lambda tensors, data: (tensors, _checked(data)),
)

State = tuple[PruningPlan | None, RecoverySpec | None]
"""What makes a state of a model: a plan, None of the dense one, and a recovery, if any."""


@dataclass(frozen=True)
class Recovery:
    """A recovery that is stored under ``name``: what was recovered and how training went.

    ``chosen`` is the step that it is of, ``seconds`` the time of training, ``tokens`` those
    trained on.
    """

    name: str
    plan: PruningPlan
    spec: RecoverySpec
    history: tuple[Step, ...]
    chosen: int
    seconds: float
    tokens: int


def states_of(
    plan: PruningPlan | None = None, recovery: RecoverySpec | None = None
) -> dict[str, State]:
    """The states of a model by name: "dense", with ``plan`` "pruned", with ``recovery``
    "recovered"."""
    states: dict[str, State] = {"dense": (None, None)}
    if plan is not None:
        states["pruned"] = (plan, None)
    if plan is not None and recovery is not None:
        states["recovered"] = (plan, recovery)
    return states


class Recoveries:
    """Fine-tunes pruned models, and hands out a model in whichever state is asked for."""

    def __init__(self, plans: Plans) -> None:
        self.plans, self.bench = plans, plans.bench

    def variant(
        self,
        spec: ModelSpec,
        plan: PruningPlan | None = None,
        recovery: RecoverySpec | None = None,
    ) -> nn.Module:
        """The dense model; with ``plan`` the pruned one, and with ``recovery`` that, recovered."""
        if plan is None:
            return self.bench.model(spec)[0]
        if recovery is None:
            return self.plans.pruned(spec, plan)
        return self.recovered(spec, plan, recovery)

    def prepare(
        self,
        spec: ModelSpec,
        plan: PruningPlan | None = None,
        recovery: RecoverySpec | None = None,
    ) -> None:
        """See that what `variant` reads is stored, for other processes to make it, too."""
        if place().count > 1:
            self.bench.locate(spec)
            if plan is not None:
                self.plans.sources_of(spec, plan)
            if plan is not None and recovery is not None:
                self.recover(spec, plan, recovery)

    def variant_identity(
        self,
        spec: ModelSpec,
        plan: PruningPlan | None = None,
        recovery: RecoverySpec | None = None,
    ) -> dict:
        """What a measurement of `variant` is a function of."""
        self.bench.ensure_content(spec)
        identity = {
            "model": spec.identity(),
            "plan": None if plan is None else digest(plan.to_json()),
        }
        return identity | ({"recovery": recovery.identity()} if recovery else {})

    def made(
        self,
        spec: ModelSpec,
        plan: PruningPlan | None = None,
        recovery: RecoverySpec | None = None,
    ) -> dict[str, Any]:
        """What is kept beside a result of `variant` (see `made_with`); the model is at hand."""
        shape = plan.shape if plan else Adapter(self.bench.model(spec)[0]).shape
        return made_with(shape, plan, recovery)

    def check_recovery(self, spec: ModelSpec, recovery: RecoverySpec) -> None:
        """Raise InputError for a recovery that cannot be done to this model, before hours of work:
        wrong settings, unknown layers, too little text."""
        recovery.identity()
        check_whole(self.bench.model(spec)[0], "Fine-tuning")
        if recovery.train == LORA:
            target_layers(self.bench.model(spec)[0], recovery.targets)
        self._training_tokens(spec, recovery)

    def _training_tokens(self, spec: ModelSpec, recovery: RecoverySpec) -> Tensor:
        """The samples to train on and those held out (N + V, T); the last are kept in memory."""
        self.bench.model(spec)
        made_from = [spec.identity(), recovery.identity()]
        entry = self.bench.kept.find(TOKENS, made_from)
        if entry is None:
            self.bench.kept.replace(TOKENS)
            tokens = self.bench.calibration(spec, recovery.text).tokens
            entry = self.bench.kept.put(TOKENS, made_from, spec, tokens)
        return entry.value

    def recover(
        self,
        spec: ModelSpec,
        plan: PruningPlan,
        recovery: RecoverySpec,
        *,
        micro_batch: int | None = None,
        gradient_checkpointing: bool | None = None,
        checkpoints: RunStore | None = None,
        watch: Callable[[tuple[Step, ...]], None] | None = None,
    ) -> Recovery:
        """Fine-tune the model pruned by ``plan``, or read how that went.

        It goes on from where it was stopped; ``checkpoints`` is a store of their own for where
        that is kept (see `recovery.training.recover` for the rest).
        """
        identity = self.variant_identity(spec, plan, recovery)
        made = functools.partial(made_with, plan.shape, plan, recovery)
        kept = Checkpoints(checkpoints or self.bench.store, identity, made)
        if checkpoints is not None:
            kept.check_alone()

        def compute() -> Stored:
            with self.bench.progress.within(0.0, 0.2):
                model = self.plans.pruned(spec, plan)
            tokens = self._training_tokens(spec, recovery)
            how = {"micro_batch": micro_batch, "checkpoints": kept, "watch": watch}
            how["gradient_checkpointing"] = gradient_checkpointing
            how |= self._taught_by(spec, recovery)
            with self.bench.progress.within(0.2, 1.0) as progress:
                tuned = recover(model, tokens, recovery, progress=progress, **how)
            facts = {name: getattr(tuned, name) for name in ("chosen", "seconds", "tokens")}
            facts["history"] = [asdict(step) for step in tuned.history]
            return tuned.tensors, facts | {"plan": plan.to_json(), "recovery": asdict(recovery)}

        _, data = self.bench.store.get(RECOVERIES, identity, compute, made)
        kept.clear()
        return _recovery(self.bench.store.path(RECOVERIES, identity).name, data)

    def _taught_by(self, spec: ModelSpec, recovery: RecoverySpec) -> dict[str, Any]:
        """The dense model, and what is stored of it on the training text where that is asked for:
        one pass over all samples, and read from then on. One that was stopped begins again."""
        dense = self.bench.model(spec)[0]
        if recovery.teacher == LIVE:
            return {"dense": dense}

        def build(folder: Path) -> None:
            tokens = self._training_tokens(spec, recovery)
            rows = rows_for(dense, recovery.seq_len, logits=True)
            size = said_size(BYTES * tokens.numel())
            self.bench.progress(0.2, f"The dense model's likeliest tokens: {size} on the disk")
            with self.bench.progress.within(0.2, 0.3) as progress:
                write_teacher(folder, dense, tokens, rows=rows, progress=progress)

        identity = {"model": spec.identity(), "calibration": recovery.text.identity(), "top": TOP}
        for _ in range(2):
            folder = self.bench.store.folder(TEACHERS, identity, build)
            with contextlib.suppress(FileNotFoundError, safetensors.SafetensorError):
                return {"dense": dense, "teacher": read_teacher(folder)}
        raise InputError("What was stored of the dense model was removed meanwhile; start again.")

    def recovered(self, spec: ModelSpec, plan: PruningPlan, recovery: RecoverySpec) -> nn.Module:
        """The pruned model with what training made of it; trained first where it is not stored."""
        identity = self.variant_identity(spec, plan, recovery)

        def make(_: nn.Module) -> nn.Module:
            with self.bench.progress.within(0.0, 0.9):
                self.recover(spec, plan, recovery)
            tensors = self.bench.store.get(RECOVERIES, identity, _missing)[0]
            return recovered_model(self.plans.pruned(spec, plan), recovery, tensors)

        return self.bench.derived(RECOVERED, spec, [spec, identity], make)

    def adapter(
        self, spec: ModelSpec, plan: PruningPlan, recovery: RecoverySpec
    ) -> LoraAdapter | None:
        """The adapter of a recovery that is stored; None where whole weights were trained."""
        if recovery.train != LORA:
            return None
        identity = self.variant_identity(spec, plan, recovery)
        return LoraAdapter(recovery, self.bench.store.get(RECOVERIES, identity, _missing)[0])

    def recoveries(self, spec: ModelSpec, plan: PruningPlan | None = None) -> list[Recovery]:
        """The stored recoveries of a model, of one plan where given, the latest last.

        Those whose training text is not the one that is found now are left out: they would be
        trained anew. So are those that cannot be read, with a warning.
        """
        self.bench.ensure_content(spec)
        wanted: dict[str, Any] = {"model": canonical(spec.identity())}
        if plan is not None:
            wanted["plan"] = digest(plan.to_json())
        found = []
        for entry in sorted(self.bench.store.entries(RECOVERIES), key=lambda one: one.written):
            made = entry.spec if isinstance(entry.spec, dict) else {}
            if any(made.get(name) != value for name, value in wanted.items()):
                continue
            try:
                recovery = self._read(entry.digest)
            except InputError as error:
                warnings.warn(f"Left out: {error}", stacklevel=2)
                continue
            if made.get("recovery") == _identity_now(recovery.spec):
                found.append(recovery)
        return found

    def stored_recovery(self, spec: ModelSpec, name: str) -> tuple[PruningPlan, RecoverySpec]:
        """The plan and the spec of the recovery that is stored under ``name``.

        Raises InputError where there is none, or it is of another model.
        """
        found = self._read(name)
        identity = self.variant_identity(spec, found.plan, found.spec)
        if self.bench.store.find(RECOVERIES, identity) is None:
            raise InputError(
                f"The recovery {name} was made from another model, type or text; give the model "
                "it was made from."
            )
        return found.plan, found.spec

    def _read(self, name: str) -> Recovery:
        data = self.bench.store.data_of(RECOVERIES, name)
        if data is None:
            raise InputError(
                f"There is no recovery {name!r} in the run store; the command recover prints the "
                "name of the one it makes."
            )
        try:
            return _recovery(name, data)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise InputError(
                f"The stored recovery {name} is damaged, or of another version; make it again."
            ) from None


def _checked(data: dict) -> dict:
    """What is stored of a recovery, if this version can read it; raises what reading does."""
    _recovery("", data)
    return data


def _recovery(name: str, data: dict) -> Recovery:
    """What is stored of a recovery, from plain data."""
    said = AS_BEFORE | data["recovery"]
    return Recovery(
        name=name,
        plan=PruningPlan.from_json(data["plan"]),
        spec=RecoverySpec(**said | {"targets": tuple(said["targets"])}),
        history=tuple(Step(**step) for step in data["history"]),
        **{fact: data[fact] for fact in ("chosen", "seconds", "tokens")},
    )


def _identity_now(spec: RecoverySpec) -> dict | None:
    """What the spec would be stored under now; None where its text cannot be had."""
    try:
        return canonical(spec.identity())
    except InputError:
        return None


def _missing() -> Stored:
    """What is stored where a recovery vanished between two looks: nothing."""
    raise InputError("The recovery was removed while it was read; start it again.")
