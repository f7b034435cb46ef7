"""What a plan cannot be, and plans as JSON text."""

import json
import math
from dataclasses import replace

import pytest

from bipcore.criteria import BlockScores
from bipcore.errors import InputError
from bipcore.models.shapes import BlockShape
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from tests.helpers.shapes import SMALL_GQA, SMALL_MHA, SMOLLM2, random_scores


def _plan(shape=SMALL_GQA, **options) -> PruningPlan:
    return make_plan(random_scores(shape), **({"sparsity": 0.3} | options))


def _blocks(heads, channels=(0, 1)) -> tuple[BlockPlan, ...]:
    whole = BlockPlan(tuple(range(8)), tuple(range(96)))
    return (whole, BlockPlan(heads, channels), *[whole] * 4)


def _edited(**fields) -> str:
    return json.dumps(json.loads(_plan().to_json()) | fields)


def _with_shape(**fields) -> str:
    data = json.loads(_plan().to_json())
    return json.dumps(data | {"shape": data["shape"] | fields})


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan, math.inf, "abc", "0.3", None])
def test_a_sparsity_that_is_no_share_is_refused(sparsity):
    with pytest.raises(InputError, match="sparsity is a number from 0 to below 1"):
        _plan(sparsity=sparsity)


@pytest.mark.parametrize("unit", ["heads", "", None, 3])
def test_an_unknown_unit_is_refused_with_the_known_ones(unit):
    with pytest.raises(InputError, match="auto, head, query-head, kv-group, none"):
        _plan(unit=unit)


@pytest.mark.parametrize("shape", [SMALL_GQA, SMOLLM2])
def test_single_heads_are_refused_where_key_value_heads_are_shared(shape):
    with pytest.raises(InputError, match="query-head or kv-group"):
        _plan(shape, unit="head")


@pytest.mark.parametrize("allocation", ["everything", "", None])
def test_an_unknown_allocation_is_refused_with_the_known_ones(allocation):
    with pytest.raises(InputError, match="uniform, paper"):
        _plan(allocation=allocation)


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (0, -1), (6, 0), (0, 6), (3, 3), (99, 0)])
def test_a_protection_that_leaves_no_block_or_is_negative_is_refused(first, last):
    with pytest.raises(InputError, match="rotect"):
        _plan(protect_first=first, protect_last=last)


def test_all_blocks_but_one_can_be_protected():
    plan = _plan(sparsity=0.1, protect_first=3, protect_last=2)
    assert [b == SMALL_GQA.blocks[0] for b in plan.pruned_shape.blocks].count(False) == 1
    assert plan.realised == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("round_to", [0, -8])
def test_a_multiple_below_1_is_refused(round_to):
    with pytest.raises(InputError, match="at least 1, not"):
        _plan(round_to=round_to)


@pytest.mark.parametrize("option", ["protect_first", "protect_last", "round_to"])
@pytest.mark.parametrize("value", ["2", 1.5, None])
def test_counts_that_are_no_whole_numbers_are_refused(option, value):
    with pytest.raises(InputError):
        _plan(**{option: value})


@pytest.mark.parametrize("unit", ["query-head", "kv-group"])
def test_an_impossible_sparsity_is_refused_with_the_most_that_is_possible(unit):
    with pytest.raises(InputError) as caught:
        _plan(SMOLLM2, sparsity=0.99, unit=unit)
    width, all_parameters = 2 * 64 * 576, 30 * SMOLLM2.parameters_of_block(SMOLLM2.blocks[0])
    heads = 6 * width if unit == "query-head" else 8 * width
    most = 30 * (heads + 1535 * 3 * 576) / all_parameters
    assert "99.0%" in str(caught.value)
    assert f"{most:.1%}" in str(caught.value)


def test_the_most_that_is_possible_can_be_had():
    plan = _plan(SMOLLM2, sparsity=0.87, unit="query-head")
    assert plan.pruned_shape.blocks[0].heads == 3
    assert plan.realised == pytest.approx(0.87, abs=0.005)


def test_a_sparsity_that_protection_makes_impossible_is_refused():
    with pytest.raises(InputError, match="protect fewer"):
        _plan(SMOLLM2, sparsity=0.6, protect_first=20)
    with pytest.raises(InputError, match="protected"):
        _plan(SMOLLM2, sparsity=0.6, protect_first=20, allocation="paper")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["heads", "ffn"])
def test_scores_that_are_not_finite_are_refused(field, bad):
    scores = random_scores(SMALL_MHA)
    values = {name: value.clone() for name, value in vars(scores.blocks[2]).items()}
    values[field][3] = bad
    blocks = (*scores.blocks[:2], BlockScores(**values), *scores.blocks[3:])
    with pytest.raises(InputError, match="finite"):
        make_plan(replace(scores, blocks=blocks), sparsity=0.3)


@pytest.mark.parametrize("unit", ["query-head", "kv-group"])
def test_a_plan_survives_json(unit):
    plan = _plan(SMOLLM2, sparsity=0.4, unit=unit, protect_first=1, round_to=8)
    again = PruningPlan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()


def test_a_plan_without_a_sublayer_survives_json():
    plan = PruningPlan(SMALL_GQA, _blocks((), ()))
    again = PruningPlan.from_json(plan.to_json())
    assert again == plan
    assert again.pruned_shape.blocks[1] == BlockShape(0, 0, 0)


def test_json_says_what_is_realised():
    plan = _plan()
    stored = json.loads(plan.to_json())["realised"]
    assert stored == {"block": plan.realised, "total": plan.realised_total}


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[]", "null", "3", '"plan"', "{}", "[[]]"])
def test_text_that_is_no_plan_is_refused(text):
    with pytest.raises(InputError) as caught:
        PruningPlan.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["format", "shape", "blocks", "spec"])
def test_a_plan_without_a_field_is_refused(key):
    data = json.loads(_plan().to_json())
    del data[key]
    with pytest.raises(InputError, match=key):
        PruningPlan.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "bipcore-plan/0"},
        {"blocks": []},
        {"blocks": 3},
        {"blocks": [{"heads": [0]}]},
        {"blocks": [{"heads": "01234567", "channels": "01"}] * 6},
        {"blocks": [{"heads": [[0]], "channels": [0]}] * 6},
        {"blocks": [{"heads": 5, "channels": 6}] * 6},
        {"spec": None},
        {"spec": "abc"},
        {"shape": {}},
        {"shape": "abc"},
        {"shape": None},
    ],
    ids=str,
)
def test_a_plan_with_a_wrong_field_is_refused(fields):
    with pytest.raises(InputError):
        PruningPlan.from_json(_edited(**fields))


_WRONG_WIDTHS = {
    "a missing width": {"heads": 8, "kv_heads": 2},
    "a width that is text": {"heads": "8", "kv_heads": 2, "channels": 96},
    "a width that is null": {"heads": 8, "kv_heads": None, "channels": 96},
    "heads that groups do not divide": {"heads": 8, "kv_heads": 3, "channels": 96},
    "more key/value heads than heads": {"heads": 8, "kv_heads": 16, "channels": 96},
}


@pytest.mark.parametrize("block", _WRONG_WIDTHS.values(), ids=_WRONG_WIDTHS)
def test_a_plan_for_a_block_of_impossible_widths_is_refused(block):
    with pytest.raises(InputError):
        PruningPlan.from_json(_with_shape(blocks=[block] * 6))


@pytest.mark.parametrize(
    "fields", [{"surprise": 1}, {"blocks": []}, {"head_cost": 3}, {"hidden": "wide"}], ids=str
)
def test_a_plan_with_a_wrong_shape_is_refused(fields):
    with pytest.raises(InputError):
        PruningPlan.from_json(_with_shape(**fields))


@pytest.mark.parametrize(
    "heads",
    [(0, 0, 4, 5), (4, 0), (-1, 3), (0, 8), (0.0, 4.0), (None,), ("0",)],
    ids=str,
)
def test_kept_heads_that_are_no_ascending_indices_are_refused(heads):
    with pytest.raises(InputError, match="Block 1: kept heads"):
        PruningPlan(SMALL_GQA, _blocks(heads))


@pytest.mark.parametrize("channels", [(1, 0), (3, 3), (-2,), (0, 96), (0.5,)], ids=str)
def test_kept_channels_that_are_no_ascending_indices_are_refused(channels):
    with pytest.raises(InputError, match="Block 1: kept channels"):
        PruningPlan(SMALL_GQA, _blocks(tuple(range(8)), channels))


@pytest.mark.parametrize("heads", [(0, 1, 4), (0, 4, 5, 6, 7)], ids=str)
def test_groups_with_different_numbers_of_query_heads_are_refused(heads):
    with pytest.raises(InputError, match="same number"):
        PruningPlan(SMALL_GQA, _blocks(heads))


@pytest.mark.parametrize("heads", [(0, 1), (5, 6), (1, 7), (0, 1, 2, 3), ()], ids=str)
def test_groups_with_the_same_number_of_query_heads_are_taken(heads):
    plan = PruningPlan(SMALL_GQA, _blocks(heads))
    groups = len({head // 4 for head in heads})
    assert plan.pruned_shape.blocks[1] == BlockShape(len(heads), groups, 2)


@pytest.mark.parametrize("count", [0, 5, 7])
def test_a_plan_with_another_number_of_blocks_is_refused(count):
    with pytest.raises(InputError, match=f"plan has {count} blocks, its model 6"):
        PruningPlan(SMALL_GQA, (BlockPlan((0, 4), (0,)),) * count)
