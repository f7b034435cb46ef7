"""What work on a model takes in memory, counted from the model's sizes alone.

Memory is counted above what the interpreter takes with its libraries loaded. The work is a row of
`Stage`s, each a sum of named terms, of which the largest is the peak. What each term counts is what
the code that it is named after holds at once. Letters: d hidden size, F channels, V vocabulary,
n tokens of a pass, e bytes a number.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..criteria import Criterion
from ..criteria.moments import count_held_out, second_moment_bytes
from ..models.batches import activation_bytes, rows_in_pass
from ..models.loading import KEPT
from ..models.shapes import BlockShape, ModelShape
from ..specs import CalibrationSpec, RecoverySpec
from ..specs.recovery import LIVE

WIDE, DOUBLE = 4, 8
"""The bytes of a number in float32 and float64."""

_IDLE = "freed and kept"

KERNELS = 20 * 2**20
"""The pages of PyTorch's libraries that are read when a model first runs on the CPU, and what its
threads work in; measured."""

ENTRY = 1300
"""The bytes that a tokenizer takes for an entry of its vocabulary: its text and its merge, in maps
in both directions; measured on 49,152 entries."""

LOSS_POSITIONS = 512
"""Logits become losses so many positions at a time (`running.negative_log_likelihood`)."""

COMPARED = 2 * 32
"""The tokens on which an export, read back, is compared (`readback.compare`)."""

FILE = 2**28
"""The bytes of a file of a streamed export, which are held until it is written."""


@dataclass(frozen=True)
class Stage:
    """A part of some work: its name, and what it holds at once on the device that the model runs
    on, in bytes by name.

    ``scratch``: what of it is given back in pieces so small that glibc keeps them for later
    (`loading.keep_freed_memory`).
    """

    name: str
    terms: dict[str, int]
    scratch: int = 0

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.terms.values())


def with_kept(stages: Iterable[Stage]) -> Iterator[Stage]:
    """The stages of one process that keeps freed memory, each with what is kept of those before."""
    kept = 0
    for stage in stages:
        idle = max(kept - stage.scratch, 0)
        yield replace(stage, terms=stage.terms | ({_IDLE: idle} if idle else {}))
        kept = min(max(kept, stage.scratch), KEPT)


@dataclass(frozen=True)
class Held:
    """A model as it is held: its sizes, the bytes of a number where it runs (``element``) and in
    its files (``stored``), and whether it runs on the CPU. ``budget``: the bytes that one which is
    streamed may take, None for one that is in memory as a whole."""

    shape: ModelShape
    element: int
    stored: int
    on_cpu: bool = True
    budget: int | None = None

    @property
    def vocabulary(self) -> int:
        """V, of the head."""
        return self.shape.other_weights // max(self.shape.hidden, 1)

    @property
    def end(self) -> int:
        """The numbers of the embedding, and of the head, d·V."""
        return self.shape.other_weights

    @property
    def block(self) -> int:
        """The numbers of the largest block."""
        return max(map(self.shape.parameters_of_block, self.shape.blocks))

    def reading(self, numbers: int) -> int:
        """The bytes held while so many numbers are read: the pages of the file, and the copy."""
        return numbers * (self.stored + self.element)

    @property
    def reading_end(self) -> int:
        """The same of the embedding or the head."""
        return self.reading(self.end)

    @property
    def base(self) -> dict[str, int]:
        """What is there at every stage."""
        found = {"kernels": KERNELS, "tokenizer": ENTRY * self.vocabulary} if self.on_cpu else {}
        if self.budget is None:
            found["weights"] = self.shape.parameters * self.element
        return found

    @property
    def host(self) -> dict[str, int]:
        """What a model on a GPU takes of host memory at every stage: pages of its files count
        while they are mapped."""
        if self.on_cpu:
            return {}
        numbers = self.shape.parameters if self.budget is None else max(self.end, self.block)
        pages = {"pages of the files": numbers * self.stored}
        return {"tokenizer": ENTRY * self.vocabulary} | pages

    def stage(self, name: str, terms: Mapping[str, int], *, scratch: int = 0) -> Stage:
        """A stage with what is always there, and these ``terms``."""
        return Stage(name, self.base | {key: n for key, n in terms.items() if n}, scratch)

    def running(self, tokens: int) -> dict[str, int]:
        """The terms of one block that runs on a pass of so many tokens.

        A streamed block is there while the next is read, or is read itself.
        """
        terms = {"activations": tokens * activation_bytes(self.shape, self.element)}
        if self.budget is not None:
            ahead = 2 * self.block * self.element <= 0.75 * self.budget
            terms["blocks"] = self.reading(self.block) + ahead * self.block * self.element
        return terms

    def rows(self, length: int, *, logits: bool = False) -> int:
        """How many rows of so many tokens a pass has (`batches.rows_in_pass`), of a GPU that has
        room for them."""
        how = {"element": self.element, "on_cpu": self.on_cpu, "room": self.budget}
        return rows_in_pass(self.shape, length, logits=logits, **how)

    def hidden(self, tokens: int) -> int:
        """The hidden states of so many tokens that are held between two blocks (`running.Walk`);
        of a streamed model they are on the disk where they are large."""
        size = tokens * self.shape.hidden * self.element
        return size if self.budget is None or size <= 0.25 * self.budget else 0

    def hidden_on_disk(self, tokens: int) -> int:
        """What of them is on the disk."""
        size = tokens * self.shape.hidden * self.element
        return 0 if self.hidden(tokens) else size

    def embedding(self) -> Iterator[Stage]:
        """The stage in which a streamed model's embedding is read."""
        if self.budget is not None:
            yield self.stage("embedding", {"embedding": self.reading_end})


def batch_tokens(held: Held, calibration: CalibrationSpec) -> int:
    """The tokens of a pass over a calibration set."""
    return min(held.rows(calibration.seq_len), calibration.samples) * calibration.seq_len


def statistics_stages(held: Held, calibration: CalibrationSpec) -> Iterator[Stage]:
    """One pass that reads activations (`statistics.collect_statistics`)."""
    tokens, whole = batch_tokens(held, calibration), calibration.samples * calibration.seq_len
    yield from held.embedding()
    terms = held.running(tokens)
    if held.budget is not None:
        terms["hidden states"] = held.hidden(whole)
    yield held.stage("statistics", terms, scratch=terms["activations"])


def moments_stages(held: Held, calibration: CalibrationSpec) -> Iterator[Stage]:
    """Second moments, block by block (`moments.second_moments_by_block`): the sums and what is held
    out, its parts and the whole being there together, and a pass's inputs in float32."""
    tokens, whole = batch_tokens(held, calibration), calibration.samples * calibration.seq_len
    channels = max(block.channels for block in held.shape.blocks)
    widest = max(block.heads * held.shape.head_dim + block.channels for block in held.shape.blocks)
    copies = WIDE * count_held_out(whole) * widest
    copies += WIDE * tokens * channels if held.element != WIDE else 0
    yield from held.embedding()
    terms = held.running(tokens) | {"hidden states": held.hidden(whole), "copies": copies}
    terms["moments"] = max(second_moment_bytes(held.shape, whole))
    scratch = sum(terms[name] for name in ("activations", "hidden states", "copies", "moments"))
    yield held.stage("second moments", terms, scratch=scratch)


def refit_stage(held: Held, calibration: CalibrationSpec, kept: ModelShape) -> Stage:
    """Least squares of the widest projection (`refit.refit_held_out`), n inputs of which k stay,
    m tokens held out.

    The stored moments (4n²) and what is held out of them (4mn, and 8mn in float64) stay. Beside
    them is the larger of: the first fit, in float32, made of a float64 copy (8n² + 4n²); and the
    last, in float64: the copy (8n²), its rows (8kn) and those that multiply W (8k(n - k)), its
    square (8k²), W (8dn), beside the square of the first fit (4k²).
    """
    held_out = count_held_out(calibration.samples * calibration.seq_len)
    d, most = held.shape.hidden, {"moments": 0, "refit": 0}
    for before, after in zip(held.shape.blocks, kept.blocks, strict=True):
        for n, k in _refitted(before, after, held.shape.head_dim):
            moments = WIDE * n * (n + held_out)
            first = DOUBLE * held_out * n + (DOUBLE + WIDE) * n * n + WIDE * d * n
            last = WIDE * (k * k + held_out * k + d * n) + DOUBLE * held_out * n
            last += DOUBLE * (n * n + k * n + k * k + k * (n - k) + d * n)
            found = {"moments": moments, "refit": max(first, last)}
            most = max(most, found, key=lambda one: sum(one.values()))
    block = {} if held.budget is None else {"block": held.reading(held.block)}
    return held.stage("least squares", most | block, scratch=most["refit"])


def _refitted(before: BlockShape, after: BlockShape, width: int) -> Iterator[tuple[int, int]]:
    """The inputs of o and down before and after, where some went."""
    for n, k in (
        (before.heads * width, after.heads * width),
        (before.channels, after.channels),
    ):
        if k < n:
            yield n, k


def loading_stage(held: Held) -> Stage:
    """Loading a model as a whole: pages of its files where it gets another type."""
    if held.budget is not None or not held.on_cpu:
        return held.stage("loading", {})
    pages = held.shape.parameters * held.stored if held.stored != held.element else 0
    return held.stage("loading", {"pages of the files": pages})


def scores_stage(held: Held) -> Stage:
    """Scores from weights, block by block: a block's in float32, beside one that is streamed."""
    copy = held.block * WIDE if held.element != WIDE else 0
    block = held.block * held.element if copy else held.reading(held.block)
    return held.stage("scores", {"block": block if held.budget else 0, "block in float32": copy})


def criterion_stage(
    held: Held, criterion: Criterion, seq_len: int, options: Mapping[str, Any]
) -> Iterator[Stage]:
    """What a criterion that runs the calibration set itself takes (`Criterion.memory`)."""
    if criterion.memory is not None:
        size = criterion.memory(held.shape, seq_len, element_size=held.element, **options)
        yield held.stage(criterion.title, {"criterion": size})


def logits_stages(
    held: Held,
    window: int,
    count: int,
    *,
    rows: int = 1,
    at_once: int | None = None,
    compared: bool = False,
) -> Iterator[Stage]:
    """Logits and losses of ``count`` windows, ``rows`` in a pass (`running.logits_of`).

    The logits of a pass are held until those of the next are there. Those of ``at_once`` positions,
    by default `LOSS_POSITIONS` of a row, are copied into float32 where they are not, and their
    log-softmax is taken. ``compared``: the dense model's logits are there, too.
    """
    tokens = rows * window
    logits = tokens * held.vocabulary * held.element
    wide = (at_once or min(window, LOSS_POSITIONS)) * held.vocabulary * WIDE
    loss = wide * (1 if held.element == WIDE else 2)
    beside = logits + loss if compared else 0
    logits += max(loss, logits if count > rows else 0) + beside
    yield from held.embedding()
    terms = held.running(tokens)
    if held.budget is None:
        yield held.stage("blocks", terms, scratch=terms["activations"])
        yield held.stage("logits", {"logits": logits})
        return
    hidden = {"hidden states": (1 + compared) * held.hidden(count * window)}
    yield held.stage("blocks", terms | hidden)
    yield held.stage("head", {"head": held.reading_end} | hidden)
    yield held.stage("logits", {"head": held.end * held.element, "logits": logits} | hidden)


def beside(held: Held, pruned: ModelShape, stages: Iterable[Stage]) -> Iterator[Stage]:
    """``stages`` with the pruned model's new tensors beside the dense one's; one that is streamed
    has none in memory."""
    size = pruned.block_parameters * held.element if held.budget is None else 0
    for stage in stages:
        yield replace(stage, terms=stage.terms | ({"pruned model": size} if size else {}))


def export_stages(
    held: Held, pruned: ModelShape, written: int, *, rounded: bool = False
) -> Iterator[Stage]:
    """Writing the pruned model, ``written`` bytes a number, and reading it back: in memory it is
    there again, in the type that is written and, where that is another or numbers were ``rounded``
    within it, in that which it is made from and compared in."""
    if held.budget is not None:
        tied = held.shape.other_parameters < 2 * held.end
        last = held.reading(held.block) if tied else held.reading_end  # read before it is written
        file = min(max(FILE, held.end * written), pruned.parameters * written)
        yield held.stage("export", {"file": file, "part": last})
        ours = max(held.end, held.block) * held.element
        theirs = max(held.reading_end, held.reading(held.block))
        yield held.stage("reading back", {"part": ours, "part read back": theirs})
        return
    same = written == held.element and not rounded
    copies = 0 if same else pruned.parameters * (written + held.element)
    logits = 2 * COMPARED * held.vocabulary * WIDE
    again = {"read back": pruned.parameters * written, "copies": copies, "logits": logits}
    yield held.stage("export", again)


def reconstruction_stage(held: Held, window: int, count: int, models: int) -> Stage:
    """The dense and the pruned models side by side (`reconstruction.reconstruction_errors`): hidden
    states of each, and two blocks' outputs."""
    rows = min(held.rows(window), max(count, 1))
    tokens = rows * window
    terms = held.running(tokens)
    states = held.hidden(count * window if held.budget is not None else tokens)
    copies = 2 * tokens * held.shape.hidden * WIDE
    terms |= {"hidden states": models * states, "differences": copies}
    return held.stage("reconstruction error", terms)


def training_pass(
    shape: ModelShape, recovery: RecoverySpec, tokens: int, *, checkpointed: bool
) -> dict[str, int]:
    """What a pass of so many tokens of a model of these sizes keeps for the way back, in bytes: as
    `criteria.llm_pruner.memory` counts it, without gradients of the weights. ``checkpointed``: of
    every block what it is given alone, and the widest as it is run again. Distilled, the dense
    model's logits, unless what counts of them is stored, and the gradient of the own are beside
    it."""
    vocabulary = shape.other_weights // max(shape.hidden, 1)
    of_blocks = [
        12 * shape.hidden + 3 * (b.heads + b.kv_heads) * shape.head_dim + 4 * b.channels
        for b in shape.blocks
    ]
    kept = len(of_blocks) * shape.hidden + max(of_blocks) if checkpointed else sum(of_blocks)
    terms = {"activations": WIDE * tokens * (4 * vocabulary + kept)}
    if recovery.objective == "distill":
        copies = 2 if recovery.teacher == LIVE else 1
        terms["logits to compare"] = WIDE * tokens * copies * vocabulary
    return terms


def training_stage(
    held: Held, shape: ModelShape, recovery: RecoverySpec, *, checkpointed: bool = False
) -> Stage:
    """What training holds, `training_pass` of about 2048 tokens and, of whole weights, four times
    these: the copy that is trained, its gradient, and two moments."""
    at_once = max(1, 2048 // recovery.seq_len)
    tokens = recovery.seq_len * min(at_once, recovery.batch_size, recovery.samples)
    terms = training_pass(shape, recovery, tokens, checkpointed=checkpointed)
    if recovery.train != "lora":
        terms["trained weights"] = 4 * WIDE * shape.block_parameters
    return held.stage("training", terms)
