"""Every criterion against the slow reference, on every family; random; refusals."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM

from bipcore.criteria import CRITERIA, Scores, score
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from tests.helpers.pairs import in_turn
from tests.helpers.reference import reference_blocks, reference_scores
from tests.helpers.tiny import CONFIGS, FAMILIES, GQA, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

FIELDS = ("attention", "heads", "kv_groups", "ffn")
WITH_FORMULA = ("llm-bip", "llm-bip-gated", "wanda", "wanda-sp", "flap", "magnitude")


@cache
def _reference(name: str):
    return reference_blocks(tiny_model(name), tiny_tokens())


@cache
def _statistics(name: str):
    return collect_statistics(tiny_model(name), _calibration())


def _calibration() -> CalibrationSet:
    return CalibrationSet.from_tokens(tiny_tokens())


def _uniform_draws(scores: Scores) -> torch.Tensor:
    return torch.cat([torch.cat([block.attention, block.ffn]) for block in scores.blocks])


@pytest.mark.parametrize("criterion", WITH_FORMULA)
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_equal_the_reference(name, criterion):
    scores = score(tiny_model(name), _statistics(name), criterion)
    for block, reference in zip(scores.blocks, _reference(name), strict=True):
        expected = reference_scores(reference, criterion)
        for field in FIELDS:
            actual = getattr(block, field).double()
            torch.testing.assert_close(actual, expected[field], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("name", "criterion"), in_turn(FAMILIES, tuple(CRITERIA), each=3))
def test_scores_have_one_value_for_each_unit(name, criterion):
    model = tiny_model(name)
    scores = score(model, _statistics(name), criterion, calibration=_calibration())
    assert len(scores.blocks) == len(scores.shape.blocks)
    for block, shape in zip(scores.blocks, scores.shape.blocks, strict=True):
        assert block.attention.shape == (shape.heads * scores.shape.head_dim,)
        assert block.heads.shape == (shape.heads,)
        assert block.kv_groups.shape == (shape.kv_heads,)
        assert block.ffn.shape == (shape.channels,)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scores_are_float32_on_the_cpu_and_not_negative(criterion):
    model = tiny_model("qwen3")
    scores = score(model, _statistics("qwen3"), criterion, calibration=_calibration())
    values = [value for block in scores.blocks for value in vars(block).values()]
    assert {value.dtype for value in values} == {torch.float32}
    assert {value.device.type for value in values} == {"cpu"}
    assert all(bool((value >= 0).all()) for value in values)


@pytest.mark.parametrize("criterion", ["llm-bip", "llm-bip-gated", "wanda-sp", "flap", "random"])
@pytest.mark.parametrize("name", GQA)
def test_without_shared_parts_a_group_is_the_sum_of_its_heads(name, criterion):
    for block in score(tiny_model(name), _statistics(name), criterion).blocks:
        of_group = block.heads.view(len(block.kv_groups), -1).sum(1)
        torch.testing.assert_close(block.kv_groups, of_group)


@pytest.mark.parametrize("criterion", ["wanda", "magnitude"])
@pytest.mark.parametrize("name", GQA)
def test_a_group_counts_what_its_heads_share_once(name, criterion):
    for block in score(tiny_model(name), _statistics(name), criterion).blocks:
        of_group = block.heads.view(len(block.kv_groups), -1).sum(1)
        assert bool((block.kv_groups < of_group).all())


@pytest.mark.parametrize("criterion", ["llm-bip", "llm-bip-gated"])
def test_the_ffn_adds_nothing_to_attention_scores_where_residuals_are_parallel(criterion):
    model = tiny_model("neox")
    before = score(model, _statistics("neox"), criterion).blocks[0].heads
    with torch.no_grad():
        model.gpt_neox.layers[0].mlp.dense_4h_to_h.weight.mul_(5)
    after = score(model, _statistics("neox"), criterion).blocks[0].heads
    assert torch.equal(before, after)


def test_the_ffn_raises_attention_scores_where_it_reads_the_attention():
    model = tiny_model("neox-sequential")
    statistics = _statistics("neox-sequential")
    before = score(model, statistics, "llm-bip").blocks[0].heads
    with torch.no_grad():
        model.gpt_neox.layers[0].mlp.dense_4h_to_h.weight.mul_(5)
    after = score(model, statistics, "llm-bip").blocks[0].heads
    assert bool((after > before).all())


def test_the_gated_variant_is_llm_bip_where_there_is_no_gate_and_no_gain():
    model = tiny_model("opt")
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.final_layer_norm.weight.fill_(1)
    statistics = collect_statistics(model, _calibration())
    plain, gated = (score(model, statistics, c).blocks for c in ("llm-bip", "llm-bip-gated"))
    for a, b in zip(plain, gated, strict=True):
        assert all(torch.equal(getattr(a, field), getattr(b, field)) for field in FIELDS)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gated_variant_scores_ffn_channels_as_llm_bip_does(name):
    model, statistics = tiny_model(name), _statistics(name)
    plain, gated = (score(model, statistics, c).blocks for c in ("llm-bip", "llm-bip-gated"))
    assert all(torch.equal(a.ffn, b.ffn) for a, b in zip(plain, gated, strict=True))


def test_a_channel_that_is_always_the_same_does_not_fluctuate():
    statistics = _statistics("llama")
    site = statistics.blocks[1].down
    mean = site.mean_square.sqrt() * 1.001  # rounding may put mean² above the mean square
    constant = replace(statistics.blocks[1], down=replace(site, mean=mean))
    changed = replace(statistics, blocks=(statistics.blocks[0], constant, statistics.blocks[2]))
    assert bool((score(tiny_model("llama"), changed, "flap").blocks[1].ffn == 0).all())


def test_flap_says_how_its_authors_use_it():
    assert (CRITERIA["flap"].allocation, CRITERIA["flap"].compensation) == ("global", "bias")


def test_scoring_does_not_change_the_model():
    model = tiny_model("phi3")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for criterion in CRITERIA:
        score(model, _statistics("phi3"), criterion, calibration=_calibration())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_bfloat16_model_is_scored_like_the_same_weights_in_float32():
    model = tiny_model("llama-gqa").bfloat16()
    rounded = score(model, None, "magnitude").blocks
    exact = score(model.float(), None, "magnitude").blocks
    for a, b in zip(rounded, exact, strict=True):
        torch.testing.assert_close(a.heads, b.heads, rtol=1e-6, atol=0)
        torch.testing.assert_close(a.ffn, b.ffn, rtol=1e-6, atol=0)


def test_random_is_reproducible_from_its_seed():
    draws = [_uniform_draws(score(tiny_model("opt"), None, "random", seed=7)) for _ in range(2)]
    assert torch.equal(*draws)


def test_random_does_not_touch_the_global_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    score(tiny_model("opt"), None, "random", seed=7)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_differs_by_seed_and_by_block():
    model = tiny_model("opt")
    first, second = (score(model, None, "random", seed=seed).blocks for seed in (0, 1))
    assert not torch.equal(first[0].ffn, second[0].ffn)
    assert not torch.equal(first[0].ffn, first[1].ffn)


def test_random_blocks_of_one_seed_do_not_return_under_another():
    model = tiny_model("opt")
    rows = [b.ffn for seed in range(20) for b in score(model, None, "random", seed=seed).blocks]
    assert len({tuple(row.tolist()) for row in rows}) == 60


def test_random_is_uniform_between_0_and_1():
    model = tiny_model("opt")
    draws = torch.cat([_uniform_draws(score(model, None, "random", seed=s)) for s in range(40)])
    ordered = draws.sort().values
    distance = (ordered - (torch.arange(len(draws)) + 0.5) / len(draws)).abs().max()
    assert ordered[0] >= 0
    assert ordered[-1] < 1
    assert distance < 1.95 / len(draws) ** 0.5  # Kolmogorov-Smirnov, p = 0.001


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_criteria_that_need_no_activations_work_without_statistics(criterion):
    model = tiny_model("mistral")
    without = score(model, None, criterion)
    given = score(model, _statistics("mistral"), criterion)
    assert without.fingerprint is None
    assert given.fingerprint is None
    assert all(
        torch.equal(getattr(a, field), getattr(b, field))
        for a, b in zip(without.blocks, given.blocks, strict=True)
        for field in FIELDS
    )


@pytest.mark.parametrize("criterion", [*WITH_FORMULA[:-1]])
def test_activation_criteria_without_statistics_are_refused(criterion):
    with pytest.raises(InputError, match="needs statistics"):
        score(tiny_model("llama"), None, criterion)


def test_activation_scores_carry_the_fingerprint_of_the_calibration_set():
    scores = score(tiny_model("llama"), _statistics("llama"), "llm-bip")
    assert scores.fingerprint == CalibrationSet.from_tokens(tiny_tokens()).fingerprint


def test_criteria_are_shown_in_the_order_of_the_design_ours_first_and_the_floor_last():
    known = [
        "llm-bip",
        "llm-bip-gated",
        "wanda",
        "wanda-sp",
        "flap",
        "llm-pruner",
        "importance-propagation",
        "magnitude",
        "random",
    ]
    assert [name for name in CRITERIA if name in known] == known


def test_an_unknown_criterion_is_refused_with_the_known_names():
    with pytest.raises(InputError, match=rf"'bip'.*{', '.join(CRITERIA)}\."):
        score(tiny_model("llama"), None, "bip")


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"no option 'sed'.*: seed"):
        score(tiny_model("llama"), None, "random", sed=1)
    with pytest.raises(InputError, match=r"no option 'seed'.*none"):
        score(tiny_model("llama"), None, "magnitude", seed=1)


@pytest.mark.parametrize("other", ["qwen3", "llama-gqa", "opt"])
def test_statistics_of_a_model_with_other_widths_are_refused(other):
    model = tiny_model("gemma2")
    with pytest.raises(InputError, match="other widths"):
        score(model, _statistics(other), "wanda-sp")


def test_statistics_of_a_model_with_another_hidden_size_are_refused():
    config = CONFIGS["qwen3"]()
    config.hidden_size = 32
    narrow = AutoModelForCausalLM.from_config(config)
    with pytest.raises(InputError, match="other widths"):
        score(narrow, _statistics("qwen3"), "wanda")


def test_options_are_recorded_with_their_defaults():
    assert score(tiny_model("llama"), None, "random").options == {"seed": 0}
    assert score(tiny_model("llama"), None, "random", seed=4).options == {"seed": 4}


def test_progress_runs_over_all_blocks():
    seen = []
    score(tiny_model("llama"), None, "magnitude", progress=lambda f, message: seen.append(f))
    assert seen == sorted(seen)
    assert len(seen) >= 3
    assert 0 <= seen[0] <= seen[-1] <= 1


def test_scores_survive_storing():
    scores = score(tiny_model("qwen2"), _statistics("qwen2"), "wanda")
    again = Scores.from_stored(scores.to_tensors(), scores.to_dict())
    assert (again.criterion, again.options) == ("wanda", {})
    assert (again.shape, again.fingerprint) == (scores.shape, scores.fingerprint)
    for a, b in zip(again.blocks, scores.blocks, strict=True):
        assert all(torch.equal(getattr(a, field), getattr(b, field)) for field in FIELDS)
