"""The page Recover: the form that says how a pruned model is trained, and the training."""

import os
from functools import partial
from typing import Any

import streamlit as st

from bipcore.data.texts import FILES, NAMED
from bipcore.pruning.plan import PruningPlan
from bipcore.recovery.schedule import steps_of
from bipcore.settings import parse_list
from bipcore.specs import RecoverySpec
from bipcore.specs.recovery import TEACHERS
from bipcore.store.kinds import digest

from . import work
from .estimates import checked_line, job_of
from .forms import Form
from .jobs import worker
from .recoveries import choose_latest, show_curves
from .results import error_box
from .settings import Settings
from .studies import Study, follow

_STARTED = "recovery-started"
_PARTS = ("all", "attention", "ffn")
_OBJECTIVES = {"distill": "the dense model (distillation)", "text": "the text, as the paper"}
_TRAINED = {
    "lora": "a low-rank adapter (LoRA)",
    "blocks": "all weights of the blocks",
    "refit": "what was cut, norms and biases",
}
_HELP = {
    "objective": "The dense model: the divergence of the next token's distribution from the dense "
    "model's, which it runs beside. The text: the loss of its next token.",
    "train": "More weights win back more with enough tokens, and take more memory.",
    "hidden_weight": "What the error of the blocks' outputs counts beside the divergence.",
    "teacher": "live runs the dense model in every step; stored keeps its 64 likeliest tokens at "
    "every position of the training text once, and makes the divergence of these smaller.",
    "source": f"Never a test text. Or type the path of a {FILES} on the machine that runs this "
    "app.",
    "text_field": "Where the records of a file have their text; left empty, under text.",
    "learning_rate": "The highest; it falls as a cosine. Few steps want a higher one than many.",
    "batch_size": "Samples in an optimiser step. They pass through the model about 2048 tokens at "
    "a time, so a large batch takes no more memory.",
    "validation": "Samples to watch the loss on.",
    "targets": "All linear layers of the blocks, those of attention, those of the FFN, or names "
    "of layers as the model has them, with commas between.",
    "validate_every": "Steps.",
    "patience": "Stop when so many looks at the held-out samples did not improve, and keep the "
    "best. 0: never stop early.",
}
SIZES: dict[str, dict[str, Any]] = {
    "Minutes on a CPU": {
        "samples": 256,
        "seq_len": 128,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "validation": 16,
        "validate_every": 8,
    },
    "As the paper": {
        "objective": "text",
        "train": "lora",
        "source": "c4",
        "samples": RecoverySpec.samples,
        "seq_len": RecoverySpec.seq_len,
        "batch_size": RecoverySpec.batch_size,
        "learning_rate": RecoverySpec.learning_rate,
        "validation": RecoverySpec.validation,
        "validate_every": RecoverySpec.validate_every,
    },
}
"""Settings of the form by the name of their size; the others are left as they are."""


def recovery_form(settings: Settings) -> tuple[RecoverySpec | None, bool]:
    """Draw the form; the recovery it says, None with an error box where it says none, and whether
    Start was pressed."""
    form = Form("recovery", _defaults(), _HELP)
    with st.container(border=True):
        with st.container(horizontal=True):
            for size, values in SIZES.items():
                st.button(size, key=f"recovery-size-{size}", on_click=form.fill, args=(values,))
        _training(form)
        with st.expander("LoRA's size, early stop and more"):
            _more(form)
        return form.start_row(_spec, lambda spec: _note(settings, spec))


def _defaults() -> dict[str, Any]:
    names = RecoverySpec.__dataclass_fields__
    fields = {name: getattr(RecoverySpec(), name) for name in names}
    source = "c4" if os.environ.get("BIPCORE_DATA") else "builtin"
    return fields | {"source": source, "targets": "all"} | SIZES["Minutes on a CPU"]


def _training(form: Form) -> None:
    source, field, samples, seq_len, seed = st.columns([2, 1, 1, 1, 1])
    form.choice(source, "Training text", "source", NAMED, empty="builtin")
    form.field(field.text_input, "Text field", "text_field")
    form.number(samples, "Samples", "samples", 1)
    form.number(seq_len, "Tokens each", "seq_len", 2)
    form.number(seed, "Seed", "seed", 0)
    objective, train = st.columns(2)
    said = _OBJECTIVES.get
    form.field(objective.selectbox, "Towards", "objective", tuple(_OBJECTIVES), format_func=said)
    said = _TRAINED.get
    form.field(train.selectbox, "What is trained", "train", tuple(_TRAINED), format_func=said)
    rate, batch, epochs, validation = st.columns([2, 1, 1, 1])
    form.number(rate, "Learning rate", "learning_rate", 0.0, step=1e-4, format="%.1e")
    form.number(batch, "Batch", "batch_size", 1)
    form.number(epochs, "Epochs", "epochs", 1)
    form.number(validation, "Held out", "validation", 0)


def _more(form: Form) -> None:
    rank, alpha, dropout, targets = st.columns([1, 1, 1, 2])
    form.number(rank, "Rank", "rank", 1)
    form.number(alpha, "Alpha", "alpha", 0.0, step=1.0)
    form.number(dropout, "Dropout", "dropout", 0.0, 0.95, step=0.05)
    form.choice(targets, "Layers", "targets", _PARTS, empty="all")
    every, patience, warmup, decay, hidden, teacher = st.columns(6)
    form.number(every, "Look every", "validate_every", 1)
    form.number(patience, "Patience", "patience", 0)
    form.number(warmup, "Warm-up, share of the steps", "warmup", 0.0, 0.95, step=0.01)
    form.number(decay, "Weight decay", "weight_decay", 0.0, step=0.01)
    form.number(hidden, "Blocks' outputs", "hidden_weight", 0.0, step=0.1)
    form.field(teacher.selectbox, "Teacher", "teacher", TEACHERS)


def _spec(values: dict[str, Any]) -> RecoverySpec:
    targets = parse_list(values["targets"], str, "layers")
    return RecoverySpec(**values | {"targets": targets})


def _note(settings: Settings, spec: RecoverySpec) -> str:
    tokens = spec.samples * spec.epochs * spec.seq_len
    return (
        f"{steps_of(spec):,} optimiser steps over {tokens:,} tokens of {spec.source}. A training "
        f"step costs about three forward passes over the same tokens{_beside(spec)}. What was "
        "stopped goes on from its last checkpoint. "
        f"{checked_line(job_of(settings, 'recover', recovery=spec))}"
    ).rstrip()


def _beside(spec: RecoverySpec) -> str:
    return ", and one of the dense model" if spec.objective == "distill" else ""


def train(settings: Settings, plan: PruningPlan, spec: RecoverySpec | None, *, start: bool) -> bool:
    """Start the training where asked, and show how it goes or how it ended; whether it is under
    way."""
    if start and spec is not None:
        with error_box():
            st.session_state[_STARTED] = _start(settings, plan, spec)
    shown = st.session_state.get(_STARTED) or _any_active()
    history = follow(
        shown,
        stop="Stop",
        cancelled="Stopped. What was trained is kept: press Start, with the same settings, to go "
        "on.",
    )
    job = shown.job if shown is not None else None
    busy = job is not None and job.active
    if busy and len(history) > 1:
        show_curves(history)
    return busy


def _any_active() -> Study | None:
    """A training that another tab started, or this one before a reload."""
    keys = [job.key for job in worker().active() if job.key.startswith("recover-")]
    return Study(keys[0]) if keys else None


def _start(settings: Settings, plan: PruningPlan, spec: RecoverySpec) -> Study:
    model = settings.model_spec
    key = f"recover-{digest([plan.to_json(), model.identity(), spec.identity()])}"
    study = Study(key, f"Recovering {model.name}")
    study.start(partial(work.train, model, plan, spec))
    choose_latest()
    return study
