"""How long one token of greedy decoding takes: of a model, and by the widths of its blocks."""

import statistics
import time
from dataclasses import astuple, replace

import torch
from torch import nn

from ..errors import InputError
from ..models.adapters import Adapter
from ..models.generation import last_logits_only
from ..models.running import evaluation_mode
from ..models.shapes import BlockShape
from ..models.streaming import check_whole
from ..progress import Progress, silent
from ..pruning.decode_times import DecodeTimes, measured_widths, smoothed
from ..pruning.plan import BlockPlan, PruningPlan
from ..pruning.slicing import apply_plan
from .profiling import random_tokens, synchronise

WARMUP, REPEATS = 3, 15
"""Tokens that are decoded before the clock counts, and those that it counts."""

ROUNDS = 3
"""A table's widths take turns so many times, so that what else the machine does in a while falls on
all of them."""


def decode_milliseconds(model: nn.Module, context: int) -> float:
    """The median time of a token of greedy decoding, one sequence, behind ``context`` tokens that
    are in the cache; the cache grows by the tokens that are decoded. Raises InputError."""
    return 1e3 * statistics.median(_decoded(model, context, REPEATS))


@torch.no_grad()
def _decoded(model: nn.Module, context: int, repeats: int) -> list[float]:
    """The seconds that each of so many tokens took, after the warm-up."""
    check_whole(model, "Measuring how fast a model decodes")
    limit = getattr(model.config, "max_position_embeddings", None)
    if context < 1 or (limit and context + WARMUP + REPEATS > limit):
        most = "" if not limit else f" to {limit - WARMUP - REPEATS:,}"
        raise InputError(f"The context of a target of latency is from 1{most}, not {context:,}.")
    device, last = Adapter(model).input_device, last_logits_only(model)
    step, cache, seconds = random_tokens(model, 1, context).to(device), None, []
    with evaluation_mode(model):
        for _ in range(1 + WARMUP + repeats):  # the first pass is that over the context
            synchronise(device)
            start = time.perf_counter()
            output = model(input_ids=step, past_key_values=cache, use_cache=True, **last)
            step, cache = output.logits[:, -1].argmax(-1, keepdim=True), output.past_key_values
            synchronise(device)
            seconds.append(time.perf_counter() - start)
    return seconds[1 + WARMUP :]


def measure_decode_times(
    model: nn.Module, unit: str, context: int, *, progress: Progress | None = None
) -> DecodeTimes:
    """The table of ``model``, with the attention widths of ``unit``.

    Each width is measured in a model whose blocks all have it but for the first, as a pruned model
    is run: a block by itself would find its weights in the processor's cache again.
    """
    shape, report = Adapter(model).shape, progress or silent
    attention, channels = measured_widths(shape, unit)
    whole = shape.blocks[0]
    of_ffn = [replace(whole, channels=width) for width in channels]
    every = sorted({*attention, *of_ffn}, key=astuple)
    seconds: dict[BlockShape, list[float]] = {block: [] for block in every}
    for turn, block in enumerate(ROUNDS * every):
        done = turn / (ROUNDS * len(every))
        report(done, f"Measuring decoding at {len(every)} widths, {done:.0%}")
        seconds[block] += _decoded(_with_blocks(model, block), context, REPEATS // ROUNDS)
    taken = {block: 1e3 * statistics.median(each) for block, each in seconds.items()}
    cut = len(shape.blocks) - 1
    by_heads = smoothed([b.heads for b in attention], [taken[b] for b in attention], cut)
    by_channels = smoothed(channels, [taken[b] for b in of_ffn], cut)
    inside = len(shape.blocks) * (by_heads[-1][1] + by_channels[-1][1])
    return DecodeTimes(by_heads, by_channels, max(taken[whole] - inside, 0.0))


def _with_blocks(model: nn.Module, block: BlockShape) -> nn.Module:
    """``model`` with all blocks but the first cut down to the widths ``block``."""
    shape = Adapter(model).shape
    whole = shape.blocks[0]
    kept = block.heads // max(block.kv_heads, 1)  # of every key/value head that stays
    heads = tuple(g * whole.group + h for g in range(block.kv_heads) for h in range(kept))
    first = BlockPlan(tuple(range(whole.heads)), tuple(range(whole.channels)))
    others = BlockPlan(heads, tuple(range(block.channels)))
    plan = PruningPlan(shape, (first, *[others] * (len(shape.blocks) - 1)))
    return model if plan.removes_nothing else apply_plan(model, plan)
