"""What specs of texts are found by."""

import json

import pytest

from bipcore.specs import CalibrationSpec, EvaluationSpec, RecoverySpec


def _specs(text, field):
    return [
        CalibrationSpec(text, text_field=field),
        EvaluationSpec(text, text_field=field),
        RecoverySpec(text, text_field=field),
    ]


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "words", "body": "others"}))
    return str(path)


def test_another_field_of_a_file_is_another_text(records):
    for plain, other in zip(_specs(records, ""), _specs(records, "body"), strict=True):
        assert other.identity() == plain.identity() | {"text_field": "body"}


def test_the_field_of_a_text_that_has_none_does_not_count():
    for plain, other in zip(_specs("builtin", ""), _specs("builtin", "body"), strict=True):
        assert other.identity() == plain.identity()
        assert "text_field" not in plain.identity()


def test_a_recovery_is_trained_on_the_field_that_it_names():
    assert RecoverySpec(text_field="body").text.text_field == "body"
