"""Names that plans are given."""

import pytest

from bipcore.errors import InputError
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.plan_names import check_name, forget_name, give_name, named_plans, source_of
from bipcore.pruning.choosing import make_plan
from tests.helpers.shapes import SMALL_GQA, random_scores


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


def plan(sparsity: float):
    return make_plan(random_scores(SMALL_GQA), sparsity=sparsity)


def test_a_plan_is_found_by_its_name_until_another_has_it(pipeline, store):
    first, second = (pipeline.keep_plan(plan(share)) for share in (0.3, 0.5))
    give_name(store, first, "a third ")
    give_name(store, second, "Half")
    assert [(one.name, one.source) for one in named_plans(store)] == [
        ("a third", first),
        ("Half", second),
    ]
    assert pipeline.stored_plan("a third").to_json() == plan(0.3).to_json()
    give_name(store, second, "a third")
    assert source_of(store, "a third") == second
    assert pipeline.stored_plan("a third").to_json() == plan(0.5).to_json()
    forget_name(store, "a third")
    assert [one.name for one in named_plans(store)] == ["Half"]
    assert pipeline.stored_plan(second).to_json() == plan(0.5).to_json()
    with pytest.raises(InputError, match="a third"):
        pipeline.stored_plan("a third")


def test_a_name_whose_plan_is_gone_is_not_listed(pipeline, store):
    from bipcore.pruning.plan import PLANS

    give_name(store, pipeline.keep_plan(plan(0.3)), "gone")
    store.delete(list(store.entries(PLANS)))
    assert list(named_plans(store)) == []
    with pytest.raises(InputError, match="not in the run store any more"):
        pipeline.stored_plan("gone")


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\nb", "a\x1bb"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(InputError, match="from 1 to 60 characters"):
        check_name(name)


@pytest.mark.parametrize("name", ["0123456789abcdef", "a/b", "plan.json", "a\\b"])
def test_what_would_be_taken_for_something_else_is_refused(name):
    with pytest.raises(InputError, match="looks like"):
        check_name(name)
