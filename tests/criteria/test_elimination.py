"""Elimination: its order and errors against solving every refit anew, and exhaustive search."""

import itertools

import pytest
import torch
from torch import Tensor

from bipcore.criteria.elimination import eliminate_inputs, eliminate_units, held_back
from bipcore.errors import InputError
from tests.helpers.tiny import one_thread as one_thread


def _problem(inputs: int, outputs: int = 6, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights (outputs, inputs), and the second moments of correlated inputs, held back."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.eye(inputs) + torch.randn(inputs, inputs, generator=generator) / inputs**0.5
    x = torch.randn(3 * inputs, inputs, generator=generator) @ mixed
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    return weight, held_back(x.T @ x / len(x), 0.1)


def _left(weight: Tensor, moments: Tensor, gone) -> float:
    """The error of the best weights for the inputs that are not ``gone``, solved from scratch."""
    kept = [i for i in range(weight.shape[1]) if i not in set(gone)]
    among = torch.linalg.inv(moments[kept][:, kept])
    change = weight.clone()
    change[:, kept] -= weight @ moments[:, kept] @ among
    return float(torch.trace(change @ moments @ change.T))


def test_the_error_is_that_of_the_refit_solved_from_scratch_at_every_width():
    weight, moments = _problem(200, 12)  # more than are pending at a time
    found = eliminate_inputs(weight.T @ weight, moments)
    order = found.order[:, 0].tolist()
    assert sorted(order) == list(range(200))
    for gone in (1, 63, 65, 150, 199, 200):
        expected = _left(weight, moments, order[:gone])
        assert float(found.errors[gone]) == pytest.approx(expected, rel=1e-9)
    assert float(found.errors[0]) == 0
    assert bool((found.errors.diff() > 0).all())


@pytest.mark.parametrize("gone", [0, 7, 70, 128])
def test_each_round_takes_the_input_without_which_the_refit_is_best(gone):
    weight, moments = _problem(140, 8)
    order = eliminate_inputs(weight.T @ weight, moments).order[:, 0].tolist()
    rest = order[gone:]
    assert order[gone] == min(rest, key=lambda j: _left(weight, moments, [*order[:gone], j]))


def test_the_first_pair_is_nearly_always_the_best_pair_and_never_far_from_it():
    best = 0
    for seed in range(20):
        weight, moments = _problem(12, seed=seed)
        found = eliminate_inputs(weight.T @ weight, moments)
        pairs = itertools.combinations(range(12), 2)
        least = min(_left(weight, moments, pair) for pair in pairs)
        assert float(found.errors[2]) <= 1.25 * least
        best += float(found.errors[2]) <= (1 + 1e-9) * least
    assert best >= 18


def test_inputs_that_go_together_are_the_cheapest_of_their_round_and_errors_stay_exact():
    weight, moments = _problem(150)
    found = eliminate_inputs(weight.T @ weight, moments, together=lambda left: 100)
    order = found.order[:, 0].tolist()
    alone = [_left(weight, moments, [j]) for j in range(150)]
    assert order[:100] == sorted(range(150), key=alone.__getitem__)[:100]
    for gone in (30, 100, 130):
        expected = _left(weight, moments, order[:gone])
        assert float(found.errors[gone]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_head_of_every_group_goes_first_as_an_exhaustive_search_finds_it(seed):
    weight, moments = _problem(36, seed=seed)
    units = torch.arange(36).view(3, 3, 4)
    found = eliminate_units(weight.T @ weight, moments, units)
    gone: list[int] = []
    left = [[0, 1, 2] for _ in range(3)]
    for step, choice in enumerate(found.order.tolist(), start=1):
        costs = {
            every: _left(weight, moments, [*gone, *_inputs(units, every)])
            for every in itertools.product(*left)
        }
        assert tuple(choice) == min(costs, key=costs.__getitem__)
        assert float(found.errors[step]) == pytest.approx(costs[tuple(choice)], rel=1e-9)
        gone += _inputs(units, choice)
        for one_set, unit in zip(left, choice, strict=True):
            one_set.remove(unit)


def _inputs(units: Tensor, choice) -> list[int]:
    return [i for number, unit in enumerate(choice) for i in units[number, unit].tolist()]


def test_where_there_are_too_many_choices_groups_choose_one_after_the_other(monkeypatch):
    weight, moments = _problem(36)
    units = torch.arange(36).view(3, 3, 4)
    monkeypatch.setattr("bipcore.criteria.elimination.MOST_CHOICES", 26)
    first = eliminate_units(weight.T @ weight, moments, units).order[0].tolist()
    chosen: dict[int, int] = {}
    while len(chosen) < 3:
        gone = [i for s, unit in chosen.items() for i in units[s, unit].tolist()]
        free = [(s, unit) for s in range(3) if s not in chosen for unit in range(3)]
        chosen |= [min(free, key=lambda o: _left(weight, moments, gone + units[o].tolist()))]
    assert first == [chosen[s] for s in range(3)]


def test_grouped_heads_go_by_the_cholesky_factor_of_their_part_of_the_inverse():
    weight, moments = _problem(24)
    units = torch.arange(24).view(1, 4, 6)
    first = int(eliminate_units(weight.T @ weight, moments, units, grouped=True).order[0])
    inverse = torch.linalg.inv(moments)
    prices = []
    for head in units[0]:
        root = torch.linalg.cholesky(inverse[head][:, head]).diagonal()
        prices.append(float((weight[:, head].square() / root.square()).sum()))
    assert first == prices.index(min(prices))


def test_the_ridge_is_a_share_of_each_inputs_mean_square_and_of_the_typical_one_of_quiet_inputs():
    moments = torch.diag(torch.tensor([4.0, 0.0, 2.0, 1.0, 8.0]))
    found = held_back(moments, 0.5).diagonal()
    assert found.tolist() == [6.0, 1.0, 3.0, 2.0, 12.0]
    silent = held_back(torch.zeros(3, 3), 0.5)
    assert torch.equal(silent, 0.5 * torch.eye(3, dtype=torch.float64))


def test_moments_that_cannot_be_inverted_are_refused():
    with pytest.raises(InputError, match="cannot be inverted"):
        eliminate_inputs(torch.eye(2), torch.ones(2, 2, dtype=torch.float64))


def test_of_no_inputs_nothing_goes():
    none = torch.zeros(0, 0, dtype=torch.float64)
    for found in (eliminate_inputs(none, none), eliminate_units(none, none, torch.zeros(1, 0, 4))):
        assert found.order.shape == (0, 1)
        assert found.errors.tolist() == [0.0]
