"""A spec that could not be used cannot be made; what a field may be is said once."""

import math
from dataclasses import dataclass, fields, replace

import pytest

from bipcore.errors import InputError
from bipcore.settings import Checked, join_list, parse_list, setting, settings_of
from bipcore.specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
    ZeroShotSpec,
)

SPECS = (ModelSpec, CalibrationSpec, PlanSpec, EvaluationSpec, ZeroShotSpec, RecoverySpec)

WRONG = (
    (ModelSpec, "dtype", "float8", "no dtype 'float8'; there are auto, float32, bfloat16"),
    (CalibrationSpec, "samples", 0, "number of calibration samples is a whole number, at least 1"),
    (CalibrationSpec, "samples", 1.5, "is a whole number, at least 1, not 1.5"),
    (CalibrationSpec, "seq_len", 1, "at least 2, not 1"),
    (CalibrationSpec, "seed", -1, "The seed is a whole number from 0 to 2^63 - 1, not -1"),
    (CalibrationSpec, "seed", 2**63, "2^63 - 1"),
    (PlanSpec, "sparsity", 1.0, "The sparsity is a number from 0 to below 1, not 1.0"),
    (PlanSpec, "sparsity", math.nan, "not nan"),
    (PlanSpec, "sparsity", "0.2", "not '0.2'"),
    (PlanSpec, "sparsity", True, "not True"),
    (PlanSpec, "unit", "row", "no unit 'row'; there are auto, head, query-head, kv-group, none"),
    (PlanSpec, "allocation", "fair", "no allocation 'fair'"),
    (PlanSpec, "compensation", "luck", "no compensation 'luck'"),
    (PlanSpec, "propagation", "no-such", "no propagation 'no-such'"),
    (PlanSpec, "protect_first", -1, "number of protected first blocks is a whole number, at least"),
    (PlanSpec, "round_to", 0, "multiple that widths are rounded to is a whole number, at least 1"),
    (PlanSpec, "floor", 1.1, "The floor is a number from 0 to 1, not 1.1"),
    (EvaluationSpec, "window", 1, "The window is a whole number, at least 2, not 1"),
    (EvaluationSpec, "max_tokens", 1, "number of test tokens is a whole number, at least 2"),
    (ZeroShotSpec, "limit", 0, "at least 1, not 0"),
    (ZeroShotSpec, "num_fewshot", -1, "number of examples is a whole number, at least 0"),
    (RecoverySpec, "rank", 0, "rank of a recovery is a whole number, at least 1, not 0"),
    (
        RecoverySpec,
        "learning_rate",
        0.0,
        "learning rate of a recovery is a number above 0",
    ),
    (RecoverySpec, "learning_rate", math.inf, "not inf"),
    (RecoverySpec, "learning_rate", 1e300, "is a number above 0, at most 10, not 1e+300"),
    (
        CalibrationSpec,
        "samples",
        2**63,
        "number of calibration samples is a whole number, at least",
    ),
    (CalibrationSpec, "samples", 10**400, "at least 1, not one beyond 2^63"),
    (PlanSpec, "sparsity", 10**400, "from 0 to below 1, not one beyond 2^63"),
    (CalibrationSpec, "source", "a\0b", "The calibration text is text in UTF-8, not"),
    (ModelSpec, "name", "caf\udce9", "The model is text in UTF-8, not"),
    (RecoverySpec, "dropout", 1.0, "dropout is a number from 0 to below 1"),
    (RecoverySpec, "warmup", -0.1, "warm-up is a number from 0 to below 1"),
)


@pytest.mark.parametrize(("spec", "name", "value", "said"), WRONG)
def test_what_a_field_cannot_be_is_one_sentence(spec, name, value, said):
    with pytest.raises(InputError) as caught:
        spec(**{name: value})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        replace(spec(), **{name: value})


def test_the_ends_of_what_is_allowed_are_allowed():
    PlanSpec(sparsity=0, floor=1, protect_first=0, round_to=1)
    CalibrationSpec(samples=1, seq_len=2, seed=2**63 - 1)
    EvaluationSpec(max_tokens=None)
    ZeroShotSpec(limit=None, num_fewshot=0)
    RecoverySpec(validation=0, patience=0, weight_decay=0.0)


def test_to_stop_early_something_has_to_be_held_out():
    with pytest.raises(InputError, match="held out"):
        RecoverySpec(patience=2, validation=0)


def test_every_field_of_a_spec_says_what_it_may_be_and_has_a_default_that_it_may_be():
    for spec in SPECS:
        assert settings_of(spec).keys() == {field.name for field in fields(spec)}
        spec()
        for name, each in settings_of(spec).items():
            assert each.help.endswith("."), f"{spec.__name__}.{name}"
            assert each.name
    assert settings_of(ScoreSpec).keys() == {"criterion"}


def test_a_new_field_is_checked_by_what_it_says_of_itself():
    @dataclass(frozen=True)
    class Own(Checked):
        share: float = setting(0.5, "share", "A share.", least=0, most=1)
        kind: str = setting("a", "kind", "A kind.", choices=("a", "b"))
        count: int | None = setting(None, "count", "How many.", least=1, optional=True)

    assert Own(share=1, kind="b", count=3) != Own()
    for wrong in ({"share": 2}, {"kind": "c"}, {"count": 0}, {"count": "3"}):
        with pytest.raises(InputError):
            Own(**wrong)


def test_lists_are_words_with_commas_between():
    assert parse_list("0.1, 0.2", float, "shares") == (0.1, 0.2)
    assert parse_list("  ", int, "seeds") == ()
    assert parse_list(join_list((1, 2)), int, "seeds") == (1, 2)
    with pytest.raises(InputError, match="In the list of seeds, '1,x', 'x' is not a whole number"):
        parse_list("1,x", int, "seeds")
