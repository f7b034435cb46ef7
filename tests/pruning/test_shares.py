"""Shares of blocks that differ: against the formulas by hand, and what all of them have to meet."""

import math

import pytest

from bipcore.errors import InputError
from bipcore.pruning.shares import SHARES, block_influence, linear_increase, log_increase, met, owl

NUMBERS = [0.3, 0.1, 0.5, 0.2]


def test_log_increase_is_slimgpts_at_its_published_setting():
    found = log_increase([0.0] * 32, 0.2)
    assert found[0] == pytest.approx(0.0625)
    assert found[-1] == pytest.approx(0.25, abs=0.001)  # as its authors give both, rounded
    for i in (1, 5, 20):
        expected = found[0] + (found[-1] - found[0]) * math.log(i + 1) / math.log(32)
        assert found[i] == pytest.approx(expected)


def test_linear_increase_by_hand():
    assert linear_increase([0.0] * 3, 0.32) == pytest.approx([0.1, 0.32, 0.54])
    assert linear_increase([0.0], 0.32) == [0.32]


def test_owl_by_hand():
    # (D - min) / (max - min) * 0.16 = 0.08, 0, 0.16, 0.04, of mean 0.07
    assert owl(NUMBERS, 0.4) == pytest.approx([0.39, 0.47, 0.31, 0.43])
    assert owl([0.2, 0.2], 0.4) == [0.4, 0.4]


def test_block_influence_by_hand():
    # with lambda 0.2: (BI - min) / (max - min) * 0.4 = 0.2, 0, 0.4, 0.1, of mean 0.175
    assert block_influence(NUMBERS, 0.4) == pytest.approx([0.375, 0.575, 0.175, 0.475])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("name", SHARES)
def test_every_allocation_meets_the_target_within_the_bounds_of_each_block(name, share):
    sizes, most = [5.0, 1.0, 2.0, 4.0], [0.97, 0.96, 0.99, 0.98]
    found = met(SHARES[name](NUMBERS, share), sizes, share, most)
    gone = sum(one * size for one, size in zip(found, sizes, strict=True))
    assert gone == pytest.approx(share * 12, abs=1e-9)
    assert all(0 <= one <= limit for one, limit in zip(found, most, strict=True))


def test_what_a_block_cannot_give_the_others_give():
    assert met([0.2, 0.9], [1.0, 1.0], 0.55, [1.0, 0.7]) == pytest.approx([0.4, 0.7])
    assert met([-0.1, 0.5], [1.0, 1.0], 0.2, [1.0, 1.0]) == pytest.approx([0.0, 0.4])


def test_a_target_beyond_all_bounds_says_what_can_be_given_up():
    with pytest.raises(InputError, match=r"give up 80\.0% .* at most 60\.0%"):
        met([0.8, 0.8], [1.0, 1.0], 0.8, [0.5, 0.7])
