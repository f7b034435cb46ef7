"""The form that says how a pruned model is fine-tuned. It survives changes of page."""

import os
from typing import Any

import streamlit as st

from bipcore.data.texts import NAMED
from bipcore.errors import InputError
from bipcore.recovery.training import check_recovery, steps_of
from bipcore.specs import RecoverySpec, parse_list

_FORM = "recovery-form"
_PARTS = ("all", "attention", "ffn")
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


def recovery_form() -> tuple[RecoverySpec | None, bool]:
    """Draw the form; the recovery it says, None with an error box where it says none, and whether
    Start was pressed."""
    values = st.session_state.setdefault(_FORM, _defaults())
    with st.container(border=True):
        _size_buttons()
        values = values | _data(values) | _optimiser(values)
        with st.expander("LoRA, early stop and more"):
            values |= _adapter(values) | _more(values)
        st.session_state[_FORM] = values
        try:
            spec = _spec(values)
            check_recovery(spec)
        except InputError as error:
            st.error(str(error))
            spec = None
        pressed = _start_row(spec)
    return spec, pressed


def _defaults() -> dict[str, Any]:
    names = RecoverySpec.__dataclass_fields__
    fields = {name: getattr(RecoverySpec(), name) for name in names}
    source = "c4" if os.environ.get("BIPCORE_DATA") else "builtin"
    return fields | {"source": source, "targets": "all"} | SIZES["Minutes on a CPU"]


def _size_buttons() -> None:
    """Fill the form in with the settings of a size."""

    def fill(size: str) -> None:
        st.session_state[_FORM] = st.session_state[_FORM] | SIZES[size]
        for name in SIZES[size]:
            st.session_state.pop(f"set-recovery-{name}", None)

    with st.container(horizontal=True):
        for size in SIZES:
            st.button(size, key=f"recovery-size-{size}", on_click=fill, args=(size,))


def _key(name: str, values: dict[str, Any]) -> str:
    """The key of a widget, given its value where it has none yet.

    `begin` forgets keys that start so at every change of page.
    """
    key = f"set-recovery-{name}"
    if key not in st.session_state:
        st.session_state[key] = values[name]
    return key


def _whole(place, label: str, name: str, values: dict[str, Any], least: int, text: str = "") -> int:
    """A field for a whole number."""
    key = _key(name, values)
    return int(place.number_input(label, least, None, step=1, key=key, help=text or None))


def _data(values: dict[str, Any]) -> dict[str, Any]:
    columns = st.columns([2, 1, 1, 1])
    source = columns[0].selectbox(
        "Training text",
        list(dict.fromkeys((*NAMED, values["source"]))),
        key=_key("source", values),
        accept_new_options=True,
        help="Never a test text. Or type the path of a text or JSONL file on the machine that "
        "runs this app.",
    )
    return {
        "source": source or "builtin",
        "samples": _whole(columns[1], "Samples", "samples", values, 1),
        "seq_len": _whole(columns[2], "Tokens each", "seq_len", values, 2),
        "seed": _whole(columns[3], "Seed", "seed", values, 0),
    }


def _optimiser(values: dict[str, Any]) -> dict[str, Any]:
    columns = st.columns([2, 1, 1, 1])
    rate = columns[0].number_input(
        "Learning rate",
        0.0,
        None,
        step=1e-4,
        format="%.1e",
        key=_key("learning_rate", values),
        help="The highest; it falls as a cosine. Few steps want a higher one than many.",
    )
    return {
        "learning_rate": float(rate),
        "batch_size": _whole(
            columns[1],
            "Batch",
            "batch_size",
            values,
            1,
            "Samples in an optimiser step. They pass through the model about 2048 tokens at a "
            "time, so a large batch takes no more memory.",
        ),
        "epochs": _whole(columns[2], "Epochs", "epochs", values, 1),
        "validation": _whole(
            columns[3], "Held out", "validation", values, 0, "Samples to watch the loss on."
        ),
    }


def _adapter(values: dict[str, Any]) -> dict[str, Any]:
    columns = st.columns([1, 1, 1, 2])
    alpha = columns[1].number_input("Alpha", 0.0, None, step=1.0, key=_key("alpha", values))
    dropout = columns[2].number_input("Dropout", 0.0, 0.95, step=0.05, key=_key("dropout", values))
    targets = columns[3].selectbox(
        "Layers",
        list(dict.fromkeys((*_PARTS, values["targets"]))),
        key=_key("targets", values),
        accept_new_options=True,
        help="All linear layers of the blocks, those of attention, those of the FFN, or names of "
        "layers as the model has them, with commas between.",
    )
    return {
        "rank": _whole(columns[0], "Rank", "rank", values, 1),
        "alpha": float(alpha),
        "dropout": float(dropout),
        "targets": targets or "all",
    }


def _more(values: dict[str, Any]) -> dict[str, Any]:
    columns = st.columns(4)
    warmup = columns[2].number_input(
        "Warm-up, share of the steps", 0.0, 0.95, step=0.01, key=_key("warmup", values)
    )
    decay = columns[3].number_input(
        "Weight decay", 0.0, None, step=0.01, key=_key("weight_decay", values)
    )
    return {
        "validate_every": _whole(columns[0], "Look every", "validate_every", values, 1, "Steps."),
        "patience": _whole(
            columns[1],
            "Patience",
            "patience",
            values,
            0,
            "Stop when so many looks at the held-out samples did not improve, and keep the best. "
            "0: never stop early.",
        ),
        "warmup": float(warmup),
        "weight_decay": float(decay),
    }


def _spec(values: dict[str, Any]) -> RecoverySpec:
    targets = parse_list(values["targets"], str, "layers")
    return RecoverySpec(**values | {"targets": targets})


def _start_row(spec: RecoverySpec | None) -> bool:
    left, right = st.columns([1, 4], vertical_alignment="center")
    pressed = left.button(
        "Start", type="primary", key="recovery-start", disabled=spec is None, width="stretch"
    )
    if spec is not None:
        tokens = spec.samples * spec.epochs * spec.seq_len
        right.caption(
            f"{steps_of(spec):,} optimiser steps over {tokens:,} tokens of {spec.source}. A "
            "training step costs about three forward passes over the same tokens. What was "
            "stopped goes on from its last checkpoint."
        )
    return pressed
