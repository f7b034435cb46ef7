"""The search over widths: near the best there is, within its budget, and measured as whole models
are."""

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch

from bipcore.criteria import find_criterion
from bipcore.criteria.moments import SecondMoments, collect_second_moments
from bipcore.data.samples import CalibrationSet
from bipcore.models.divergence import kl_divergence
from bipcore.pruning.compensation import compensate
from bipcore.pruning.ladders import Ladders
from bipcore.pruning.level_search import _Search, search_levels
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.resolving import resolve
from bipcore.pruning.slicing import apply_plan
from bipcore.pruning.targets import block_costs, read_target
from bipcore.pruning.trials import Trials
from bipcore.specs import PlanSpec
from tests.helpers.pruning import plan_for, scores_of
from tests.helpers.tiny import FAMILIES, GQA, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

TOKENS = tiny_tokens(3, 20)
SETTINGS = PlanSpec(sparsity=0.5, protect_first=1)


class _Convex:
    """A loss that adds up, and grows faster and faster with what a sublayer loses."""

    def __init__(self, seed: int, sublayers: int) -> None:
        made = random.Random(seed)
        coarse, fine = [32 - 8.0 * k for k in range(5)], [32 - 2.0 * k for k in range(17)]
        self.costs = [coarse if made.random() < 0.5 else fine for _ in range(sublayers)]
        self.weights = [math.exp(made.gauss(0, 1.5)) for _ in self.costs]
        self.start = tuple(len(of) // 2 for of in self.costs)
        self.limit = self.cost(self.start)
        self.asked = []

    def cost(self, levels) -> float:
        return sum(of[level] for of, level in zip(self.costs, levels, strict=True))

    def __call__(self, levels) -> float:
        self.asked.append(levels)
        gone = [of[0] - of[level] for of, level in zip(self.costs, levels, strict=True)]
        return sum(weight * lost**2 for weight, lost in zip(self.weights, gone, strict=True))

    def best(self) -> float:
        """The least loss within the limit, over all combinations."""
        least = {0.0: 0.0}
        for weight, costs in zip(self.weights, self.costs, strict=True):
            after: dict[float, float] = {}
            for (spent, loss), cost in itertools.product(least.items(), costs):
                if spent + cost <= self.limit:
                    found = loss + weight * (costs[0] - cost) ** 2
                    after[spent + cost] = min(found, after.get(spent + cost, math.inf))
            least = after
        return min(least.values())


@pytest.mark.parametrize("seed", range(6))
def test_a_search_comes_near_the_best_there_is_and_keeps_the_limit(seed):
    loss = _Convex(seed, 16)
    steps = search_levels(loss.costs, loss.start, loss.limit, loss, steps=250)
    kept = [step for step in steps if step.kept]
    assert [step.levels for step in steps] == loss.asked
    assert len(steps) <= 251
    assert all(loss.cost(step.levels) <= loss.limit for step in kept)
    assert [step.loss for step in kept] == sorted((step.loss for step in kept), reverse=True)
    gained = (steps[0].loss - kept[-1].loss) / (steps[0].loss - loss.best())
    assert gained > 0.95


def test_a_limit_is_never_exceeded_by_levels_that_just_do_not_fit():
    """The second would fit but for a thousandth."""
    costs = [[2000.0, 1000.0, 0.0], [2001.0, 1000.5, 0.0]]
    steps = search_levels(
        costs, (1, 1), 2000.5, lambda levels: 5.0 * levels[1] + levels[0], steps=9
    )
    for step in steps:
        spent = sum(of[level] for of, level in zip(costs, step.levels, strict=True))
        assert spent <= 2000.5 or not step.kept


def test_a_sublayer_that_is_better_shorter_is_known_to_be():
    found = _Search([[4.0, 0.0], [4.0, 0.0]], 8.0, lambda levels: 3.0 - levels[0], steps=5)
    found.begin((0, 0))
    found.feel_slopes()
    assert found.slopes == [-0.25, 0.0]
    assert found.levels == (1, 0)


def test_more_steps_begin_with_the_same_ones():
    loss = _Convex(1, 8)
    few = search_levels(loss.costs, loss.start, loss.limit, loss, steps=15)
    many = search_levels(loss.costs, loss.start, loss.limit, loss, steps=40)
    assert len(few) == 16
    assert many[:16] == few


@pytest.mark.parametrize(
    ("costs", "start", "limit"),
    [
        ([[4.0]], (0,), 4.0),  # one level: nothing to try
        ([[4.0, 0.0]], (1,), 0.0),  # gone, and no room
        ([[4.0, 0.0], [4.0, 0.0]], (1, 1), 0.0),
        ([], (), 0.0),
    ],
)
def test_where_nothing_can_move_the_search_ends(costs, start, limit):
    steps = search_levels(costs, start, limit, lambda levels: 1.0 + sum(levels), steps=50)
    assert len(steps) <= 4
    assert [step for step in steps if step.kept][-1].levels == start


def test_a_loss_that_is_no_number_is_never_kept():
    loss = _Convex(2, 6)
    steps = search_levels(
        loss.costs,
        loss.start,
        loss.limit,
        lambda levels: 5.0 if levels == loss.start else math.inf,
        steps=60,
    )
    assert [step.levels for step in steps if step.kept] == [loss.start]


def _ladders(name: str, start: PruningPlan, target: str = "params=50%") -> Ladders:
    scores = scores_of(name)
    resolved = resolve(SETTINGS, find_criterion("random"), scores.shape)
    return Ladders(scores, resolved, start, block_costs(read_target(target), scores.shape))


@pytest.mark.parametrize("name", FAMILIES)
def test_levels_lead_from_whole_to_gone_over_the_plan_itself(name):
    start = plan_for(name, 0.4, protect_first=1)
    ladders = _ladders(name, start)
    assert ladders.plan(ladders.start).blocks == start.blocks
    whole = ladders.plan((0,) * len(ladders.of))
    assert whole.removes_nothing
    gone = ladders.plan(tuple(len(ladder) - 1 for ladder in ladders.of))
    assert gone.blocks[0] == start.blocks[0]
    assert not any(keep.heads or keep.channels for keep in gone.blocks[1:])
    for ladder in ladders.of:
        costs = [level.cost for level in ladder]
        assert costs == sorted(costs, reverse=True)
    for number in range(1, 4):  # a plan costs what its levels do, but for what all have
        levels = tuple(min(number, len(ladder) - 1) for ladder in ladders.of)
        saved = sum(of[0] - of[level] for of, level in zip(ladders.costs, levels, strict=True))
        made = ladders.plan(levels)
        assert made.shape.parameters - made.pruned_shape.parameters == saved


def test_a_plan_changed_by_hand_is_on_its_ladders():
    start = plan_for(GQA[0], 0.4, protect_first=1)
    first, keep, *rest = start.blocks
    changed = replace(start, blocks=(first, replace(keep, channels=keep.channels[3:]), *rest))
    ladders = _ladders(GQA[0], changed)
    assert ladders.plan(ladders.start).blocks == changed.blocks


@pytest.mark.parametrize("kind", ["none", "least-squares"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_trial_is_the_divergence_of_the_whole_pruned_model(name, kind):
    dense = tiny_model(name)
    found = collect_second_moments(dense, CalibrationSet.from_tokens(tiny_tokens(6, 24)))
    moments = SecondMoments(found.__getitem__)
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    trials = Trials(dense, TOKENS, batch_size=2, compensation=kind, moments=moments)
    start = plan_for(name, 0.4, protect_first=1)
    ladders = _ladders(name, start)
    last = (*ladders.start[:-1], len(ladders.of[-1]) - 1)
    for levels in (ladders.start, last, ladders.start, (1,) * len(last)):
        plan = ladders.plan(levels)
        pruned = compensate(apply_plan(dense, plan), dense, plan, kind, moments=moments)
        with torch.no_grad():
            theirs, own = dense(TOKENS).logits, pruned(TOKENS).logits
        expected = float(kl_divergence(own, theirs).double().mean())
        assert trials.divergence(plan) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())


def test_of_nothing_cut_the_divergence_is_none():
    dense = tiny_model("llama")
    trials = Trials(dense, TOKENS, batch_size=4)
    plan = plan_for("llama", 0.0)
    assert trials.divergence(plan) == pytest.approx(0, abs=1e-6)
