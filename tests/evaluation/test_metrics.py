"""The list of metrics, and that perplexity is asked for and stored as it always was."""

import pytest

import bipcore
from bipcore.errors import InputError
from bipcore.evaluation.metrics import METRICS, Metric, chosen_metrics, find_metric, measure
from bipcore.specs import EvaluationSpec
from bipcore.store.kinds import digest
from bipcore.studies.points import Point
from tests.helpers.metrics import NAME
from tests.helpers.tiny import tiny_model, tiny_tokens

TEXT = "0123456789\n" * 10


def test_perplexity_is_the_first_metric():
    assert next(iter(METRICS)) == "perplexity"
    assert all(metric.name == name for name, metric in METRICS.items())


def test_no_metric_is_called_as_something_that_stands_beside_it():
    beside = {"text", "window", "tokens", *Point.__dataclass_fields__} - {"perplexity"}
    assert METRICS.keys() & beside == set()


def test_the_metric_is_the_function():
    model, tokens = tiny_model("llama"), tiny_tokens(1, 40)[0]
    found = measure([METRICS["perplexity"]], model, tokens, window=20)
    assert found == {"perplexity": bipcore.perplexity(model, tokens, window=20)}


def test_an_unknown_metric_is_refused_with_the_known_names():
    with pytest.raises(InputError, match="There is no metric 'luck'; there are perplexity"):
        find_metric("luck")
    with pytest.raises(InputError, match="list of metrics is empty"):
        chosen_metrics(())


def test_metrics_come_once_and_in_their_order():
    found = chosen_metrics((NAME, "perplexity", NAME))
    assert [metric.name for metric in found] == ["perplexity", NAME]


@pytest.mark.parametrize("name", ["a_b", "A", "", "a b"])
def test_a_name_is_of_small_letters_digits_and_hyphens(name):
    with pytest.raises(ValueError, match="small letters"):
        Metric(name, "Title", lambda *_: (0.0, 1))


def test_figures_are_worded_with_unit_and_decimals():
    metric = Metric("kl", "KL divergence", lambda *_: (0.0, 1), unit="nats", decimals=3)
    assert (metric.heading, metric.say(1234.5)) == ("KL divergence, nats", "1234.500")
    assert METRICS["perplexity"].heading == "Perplexity"
    assert METRICS["perplexity"].say(1234.567, grouped=True) == "1,234.57"


def test_what_a_perplexity_is_found_by_does_not_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    spec = EvaluationSpec("text.txt", 32, None)
    content = "sha256:9ba15883115e51c91fead44ef1618ea616242cb97661d6b7d712a9a062a54c48"
    plain = {"text": "text.txt", "window": 32, "max_tokens": None}
    assert spec.identity() == spec.asked() == plain | {"content": content}
    assert spec.facts == plain
    assert digest(spec.identity()) == "f4d8cab201f87fc1"


def test_other_metrics_are_no_part_of_what_a_figure_is_found_by():
    both = EvaluationSpec(metrics=("perplexity", NAME))
    assert both.identity() == EvaluationSpec().identity()
    assert both.facts["metrics"] == ("perplexity", NAME)
    other_order = EvaluationSpec(metrics=(NAME, "perplexity"))
    assert both.asked() == other_order.asked() != EvaluationSpec().asked()
