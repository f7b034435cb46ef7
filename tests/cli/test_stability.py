"""The command ``stability``, and the stored scores that it reads."""

import pytest

from bipcore.cli.main import main
from bipcore.pipeline.over_texts import scores_over_texts
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.stability import stability
from bipcore.specs import CalibrationSpec, ModelSpec, ScoreSpec
from tests.helpers.folders import model_folder
from tests.helpers.passes import counted_passes

SETTINGS = ("--samples", 4, "--seq-len", 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("models") / "llama", "llama"))


@pytest.fixture
def scored(run, model, cache):
    """Scores of two seeds, and others that are not to be compared with them."""
    for more in (["--seed", 1], ["--seed", 2], ["--criterion", "wanda"], ["--criterion", "random"]):
        run("score", model, *SETTINGS, *more)
    run("score", model, *SETTINGS, "--sparsity", 0.3, "--propagation", "pruned")


def test_all_sets_of_the_criterion_are_compared_and_none_is_computed(run_json, model, scored):
    with counted_passes() as passes:
        found = run_json("stability", model, "--sparsity", 0.5)
    assert passes == []
    sets = [f"builtin, 4 × 16 tokens, seed {seed}" for seed in (1, 2)]
    assert found["sets"] == sets
    made = {}
    for name, seed in zip(sets, (1, 2), strict=True):
        spec = ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=16, seed=seed))
        scores = Pipeline().scores(spec)
        made[name] = scores, make_plan(scores, sparsity=0.5)
    assert found["blocks"] == stability(made).to_dict("records")


def test_the_same_words_for_another_text_get_a_number(run, model, tmp_path, cache):
    text = tmp_path / "text.txt"
    for words in ("one two three four five six seven eight " * 40, "nine ten eleven " * 90):
        text.write_text(words)
        run("score", model, *SETTINGS, "--calibration", text)
    found = list(scores_over_texts(cache, ScoreSpec(ModelSpec(model))))
    assert len(found) == 2
    assert found[1] == f"{found[0]} (2)"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "Of 0 calibration sets"),
        (["--criterion", "magnitude"], "magnitude reads no calibration text"),
        (["--propagation", "pruned"], "of the dense model alone"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(capsys, model, cache, more, said):
    assert main(["stability", model, *more]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
