"""2SSP's two stages, by hand, and its scores against slow versions."""

import pytest
import torch

from bipcore.criteria import BlockScores, Scores, score
from bipcore.criteria.greedy_search import search
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.models.adapters import Adapter
from bipcore.pruning.choosing import make_plan
from tests.helpers.shapes import SMALL_GQA
from tests.helpers.tiny import one_thread as one_thread
from tests.helpers.tiny import tiny_model, tiny_tokens

ORDER = [4, 1, 5, 0, 2]  # the attention of block 3 is what the search leaves


def ranked(shape=SMALL_GQA) -> Scores:
    generator = torch.Generator().manual_seed(2)
    blocks = []
    for index, was in enumerate(shape.blocks):
        rank = float(ORDER.index(index) + 1 if index in ORDER else len(ORDER) + 1)
        sizes = was.heads * shape.head_dim, was.heads, was.kv_heads
        attention = [torch.full((size,), rank) for size in sizes]
        blocks.append(BlockScores(*attention, torch.rand(was.channels, generator=generator)))
    return Scores(tuple(blocks), "2ssp", {}, shape, "0" * 16)


def sizes(shape=SMALL_GQA) -> tuple[int, int]:
    """The parameters of the attention and of the FFN of a block."""
    was = shape.blocks[0]
    attention = was.heads * shape.head_cost.parameters
    attention += was.kv_heads * shape.kv_head_cost.parameters
    return attention, was.channels * shape.channel_cost.parameters


@pytest.mark.parametrize("sparsity", [0.05, 0.2, 0.35, 0.5])
def test_attention_goes_by_the_formula_and_channels_make_up_the_rest(sparsity):
    shape, scores = SMALL_GQA, ranked()
    attention, ffn = sizes()
    count = int(len(shape.blocks) * sparsity ** (ffn / attention / 1.5) + 0.5)
    plan = make_plan(scores, sparsity=sparsity)
    assert plan.spec["allocation"] == "two-stage"
    gone = [index for index, kept in enumerate(plan.blocks) if not kept.heads]
    assert sorted(gone) == sorted(ORDER[:count])
    widths = {len(kept.channels) for kept in plan.blocks}
    assert len(widths) == 1
    one_each = len(shape.blocks) * shape.channel_cost.parameters / shape.block_parameters
    assert plan.realised == pytest.approx(sparsity, abs=0.6 * one_each)
    for kept, block in zip(plan.blocks, scores.blocks, strict=True):
        lost = sorted(set(range(len(block.ffn))) - set(kept.channels))
        if lost:
            assert block.ffn[lost].max() <= block.ffn[list(kept.channels)].min()


def test_protected_blocks_stay_whole_and_widths_are_rounded():
    plan = make_plan(ranked(), sparsity=0.4, protect_first=1, protect_last=1, round_to=8)
    shape = plan.pruned_shape.blocks
    assert shape[0] == SMALL_GQA.blocks[0]
    assert shape[-1] == SMALL_GQA.blocks[-1]
    assert len({block.channels for block in shape[1:-1]}) == 1
    assert shape[1].channels % 8 == 0


def test_what_cannot_be_reached_or_does_not_go_together_is_refused():
    with pytest.raises(InputError, match="cannot be reached by"):
        make_plan(ranked(), sparsity=0.97)
    with pytest.raises(InputError, match="ranks whole attention sublayers"):
        make_plan(ranked(), sparsity=0.2, allocation="uniform")
    other = score(tiny_model("llama"), None, "magnitude")
    with pytest.raises(InputError, match="does not rank whole attention sublayers"):
        make_plan(other, sparsity=0.2, allocation="two-stage")
    assert make_plan(ranked(), sparsity=0).removes_nothing


def test_scores_are_sample_norms_and_the_steps_of_the_search():
    model, calibration = tiny_model("llama"), CalibrationSet.from_tokens(tiny_tokens())
    found = score(model, None, "2ssp", calibration=calibration, tokens=96)
    adapter, seen = Adapter(model), {}
    handles = [
        block.down.register_forward_pre_hook(lambda m, args, i=i: seen.update({i: args[0]}))
        for i, block in enumerate(adapter.blocks)
    ]
    with torch.no_grad():
        model(input_ids=calibration.tokens)
    for handle in handles:
        handle.remove()
    for index, block in enumerate(found.blocks):
        expected = seen[index].double().norm(dim=1).mean(0)
        torch.testing.assert_close(block.ffn.double(), expected, rtol=1e-5, atol=0)
    how = {"tokens": 96, "until": 1.0, "parts": ("attention",)}
    steps = search(adapter, calibration, **how).steps
    assert len(steps) == len(adapter.blocks) - 1
    for rank, step in enumerate(steps, start=1):
        assert float(found.blocks[step.block].attention.mean()) == rank
