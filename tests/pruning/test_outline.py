"""What a plan will look like, known before anything is scored."""

from dataclasses import replace

import pytest

from bipcore.criteria import find_criterion
from bipcore.errors import InputError
from bipcore.pruning.choosing import outline, planned
from bipcore.pruning.resolving import resolve
from bipcore.specs import PlanSpec
from tests.helpers.pruning import UNITS, scores_of
from tests.helpers.tiny import FAMILIES

SETTINGS = {
    "uniform": PlanSpec(sparsity=0.4),
    "paper": PlanSpec(sparsity=0.4, allocation="paper", round_to=8),
    "protected": PlanSpec(sparsity=0.2, protect_first=1),
    "nothing": PlanSpec(sparsity=0.0),
}
RANDOM = find_criterion("random")


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_outline_has_the_widths_that_the_plan_will_have(name, case):
    scores = scores_of(name)
    for unit in (*UNITS[name], "none"):
        settings = resolve(replace(SETTINGS[case], unit=unit), RANDOM, scores.shape)
        expected = planned(scores, settings).pruned_shape
        assert outline(scores.shape, settings).pruned_shape == expected


def test_an_outline_says_what_will_make_up_for_the_cut():
    shape = scores_of("llama").shape
    settings = resolve(PlanSpec(sparsity=0.4, compensation="bias"), RANDOM, shape)
    assert outline(shape, settings).spec["compensation"] == "bias"


def test_there_is_none_where_the_widths_depend_on_the_scores():
    shape = scores_of("llama").shape
    assert outline(shape, resolve(PlanSpec(allocation="global"), RANDOM, shape)) is None


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_what_no_scores_could_make_possible_is_refused(allocation):
    shape = scores_of("llama").shape
    settings = PlanSpec(sparsity=0.9999, allocation=allocation, floor=0.5, unit="none")
    with pytest.raises(InputError):
        outline(shape, resolve(settings, RANDOM, shape))
