"""Reproductions changed as a command or a page asks, scaled down, fitted to what a model can read.

``--limit N`` runs the same path on less, so that it ends on a small machine. It takes

- the first N rows of each task;
- N calibration samples of 128 tokens, never more than the spec's own (an explicit ``--samples``
  or ``--seq-len`` counts more), and of figure 4 no size above N;
- the first max(2048, 32·N) tokens of each test text, in the same windows;
- for fine-tuning N samples of 128 tokens in batches of 8, with 8 more held out;
- for the latency of table 5 N sentences, as long as the paper's.

What it gives says that the path works and what the sizes are. It is not the benchmark, and is
never called so.
"""

from dataclasses import dataclass, replace

from ...criteria import find_criterion
from ...errors import InputError
from ...specs import ModelSpec
from .spec import Group, Reproduction, check_reproduction, load_reproduction

SEQ_LEN = 128
BATCH, HELD_OUT = 8, 8


def limited(spec: Reproduction, limit: int) -> Reproduction:
    """``spec`` scaled down to ``limit``, as the head of this file says; raises InputError."""
    if limit < 1:
        raise InputError(f"The limit is at least 1 row of each task, not {limit}.")
    calibration, recovery = spec.calibration, spec.recovery
    if recovery is not None:
        recovery = replace(
            recovery,
            samples=min(recovery.samples, limit),
            seq_len=min(recovery.seq_len, SEQ_LEN),
            batch_size=min(recovery.batch_size, BATCH),
            validation=HELD_OUT,
        )
    tokens, is_count = limited_tokens(limit), spec.kind == "compression"
    return replace(
        spec,
        limit=limit,
        calibration=replace(
            calibration,
            samples=min(calibration.samples, limit),
            seq_len=calibration.seq_len if is_count else min(calibration.seq_len, SEQ_LEN),
        ),
        sizes=tuple(dict.fromkeys(min(size, limit) for size in spec.sizes)),
        texts=tuple(
            replace(text, max_tokens=min(tokens, text.max_tokens or tokens)) for text in spec.texts
        ),
        tasks=None if spec.tasks is None else replace(spec.tasks, limit=limit),
        recovery=recovery,
    )


def limited_tokens(limit: int) -> int:
    """How many tokens of each test text a limited run reads."""
    return max(2048, 32 * limit)


def fitted(spec: Reproduction, positions: int | None) -> Reproduction:
    """``spec`` for a model that reads ``positions`` tokens at once (None: any number).

    Longer windows are left out (where none is left, the longest that fits is taken), longer
    samples are shortened; the notes say so.
    """
    if positions is None:
        return spec
    notes = []
    texts = tuple(text for text in spec.texts if text.window <= positions)
    if len(texts) < len(spec.texts):
        gone = sorted({text.window for text in spec.texts} - {text.window for text in texts})
        notes.append(
            f"The model reads {positions:,} tokens at once: windows of "
            f"{' and '.join(f'{window:,}' for window in gone)} tokens are left out."
        )
        if not texts:
            texts = tuple(dict.fromkeys(replace(text, window=positions) for text in spec.texts))
            notes.append(f"Windows of {positions:,} tokens are measured instead.")
    calibration, recovery = spec.calibration, spec.recovery
    if calibration.seq_len > positions:
        calibration = replace(calibration, seq_len=positions)
        what = "Sentences" if spec.kind == "compression" else "Calibration samples"
        notes.append(f"{what} are shortened to {positions:,} tokens.")
    if recovery is not None and recovery.seq_len > positions:
        recovery = replace(recovery, seq_len=positions)
        notes.append(f"Samples for fine-tuning are shortened to {positions:,} tokens.")
    changed = {"texts": texts, "calibration": calibration, "recovery": recovery}
    return replace(spec, **changed, notes=(*spec.notes, *notes))


def sizes_sentence(spec: Reproduction) -> str:
    """One sentence: on how much everything is measured."""
    parts = []
    calibration = spec.calibration
    if spec.kind != "compression":
        size = " or ".join(map(str, spec.sizes)) or str(calibration.samples)
        parts.append(
            f"calibration on {size} samples of {calibration.seq_len:,} tokens of "
            f"{calibration.source}"
        )
    if spec.texts:
        most = spec.texts[0].max_tokens
        much = "all" if most is None else f"the first {most:,} tokens"
        texts = " and ".join(dict.fromkeys(text.text for text in spec.texts))
        windows = " and ".join(f"{w:,}" for w in dict.fromkeys(text.window for text in spec.texts))
        parts.append(f"{much} of the test text of {texts} in windows of {windows} tokens")
    if spec.tasks is not None:
        rows = "all" if spec.tasks.limit is None else f"the first {spec.tasks.limit:,}"
        parts.append(f"{rows} rows of each of {len(spec.tasks.tasks)} tasks")
    if spec.tuned:
        recovery = spec.recovery
        parts.append(
            f"fine-tuning on {recovery.samples:,} samples of {recovery.seq_len:,} tokens of "
            f"{recovery.source} in batches of {recovery.batch_size}"
        )
    if spec.kind == "compression":
        parts.append(f"{calibration.samples:,} sentences of {calibration.seq_len:,} tokens")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


@dataclass(frozen=True)
class Changes:
    """What a command or a page wants otherwise; None, an empty list and True leave it as it is.

    ``limit`` scales everything down, as `limited` says.
    """

    limit: int | None = None
    samples: int | None = None
    seq_len: int | None = None
    calibration: str | None = None
    methods: tuple[str, ...] = ()
    sparsities: tuple[float, ...] = ()
    tasks: bool = True
    tuned: bool = True


def configure(name: str, *, model: ModelSpec, changes: Changes | None = None) -> Reproduction:
    """The spec called ``name`` for ``model``, with ``changes``; raises InputError.

    Methods that the table has are measured where it has them, others in every group; a sparsity
    that the table does not have gets all its methods, as they are and, where any row is
    fine-tuned, fine-tuned.
    """
    changes = changes or Changes()
    spec = replace(load_reproduction(name), model=model)
    spec = _with_lists(spec, changes)
    if not changes.tuned:
        spec = replace(spec, groups=tuple(g for g in spec.groups if not g.tuned))
    if not changes.tasks:
        spec = replace(spec, tasks=None)
    if changes.limit is not None:
        spec = limited(spec, changes.limit)
    said = {"samples": changes.samples, "seq_len": changes.seq_len, "source": changes.calibration}
    said = {key: value for key, value in said.items() if value is not None}
    spec = replace(spec, calibration=replace(spec.calibration, **said))
    if changes.samples is not None and spec.sizes:
        spec = replace(spec, sizes=(changes.samples,))
    check_reproduction(spec)
    return spec


def _with_lists(spec: Reproduction, changes: Changes) -> Reproduction:
    """The spec with other methods and sparsities."""
    for method in changes.methods:
        find_criterion(method)
    if spec.kind == "sweep":
        methods, sparsities = changes.methods or spec.methods, changes.sparsities or spec.sparsities
        return replace(spec, methods=methods, sparsities=sparsities)
    known = dict.fromkeys(method for group in spec.groups for method in group.methods)
    groups = [g for g in spec.groups if not changes.sparsities or g.sparsity in changes.sparsities]
    kinds = sorted({group.tuned for group in spec.groups})
    have = {group.sparsity for group in spec.groups}
    new = [s for s in changes.sparsities if s not in have]
    groups += [Group(s, tuned, tuple(known)) for s in new for tuned in kinds]
    if changes.methods:
        chosen = changes.methods
        groups = [
            replace(g, methods=tuple(m for m in chosen if m in g.methods or m not in known))
            for g in groups
        ]
    return replace(spec, groups=tuple(sorted(groups, key=lambda g: (g.sparsity, g.tuned))))
