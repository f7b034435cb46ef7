"""The commands ``head`` and ``channel``: printed and as JSON, and what they read of the store."""

import pytest

from bipcore.cli.main import main
from tests.helpers.folders import model_folder
from tests.helpers.tiny import one_thread as one_thread

SMALL = ("--samples", "2", "--seq-len", "16")
HEAD = ("--block", "1", "--head", "2")
CHANNEL = ("--block", "1", "--channel", "7")
OWN = ("--text-string", "A text of one's own.")


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model", "llama-gqa"))


def test_a_head_is_shown_on_a_text_of_ones_own(run, run_json, model):
    found = run_json("head", model, *SMALL, *HEAD, *OWN)
    count = len(OWN[1])
    assert "".join(found["tokens"]) == OWN[1]
    assert len(found["pattern"]) == count
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in found["pattern"])
    shares = [row[0] for row in found["pattern"][1:]]
    assert found["first_share"] == pytest.approx(sum(shares) / len(shares), abs=1e-6)
    assert [len(found["promoted"][way]) for way in ("up", "down")] == [10, 10]
    assert found["standings"] == []
    assert "goes" not in found
    printed = run("head", model, *SMALL, *HEAD, *OWN)
    assert f"{found['silenced']['by_zero']:+.4f} nats a token" in printed
    assert f"{found['first_share']:.1%}" in printed


def test_a_channel_is_shown_on_the_calibration_set_and_a_text(run, run_json, model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(OWN[1])
    found = run_json("channel", model, *SMALL, *CHANNEL, "--text", str(text))
    assert (found["positions"], found["tokens"]) == (32, len(OWN[1]))
    assert len(found["peaks"]) == 10
    sizes = [abs(peak["value"]) for peak in found["peaks"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(found["histogram"]["counts"]) == 32
    own = run_json("channel", model, *SMALL, *CHANNEL, *OWN)
    assert own["silenced"] == found["silenced"]
    printed = run("channel", model, *SMALL, *CHANNEL, *OWN)
    assert "Strongest activations" in printed
    assert f"{found['silenced']['by_mean']:+.4f} nats a token" in printed


def test_the_rank_is_that_of_the_scores_and_only_stored_ones_are_read(run, run_json, model):
    run("score", model, *SMALL, "--criterion", "magnitude")
    found = run_json("head", model, *SMALL, *HEAD, *OWN)
    assert [one["criterion"] for one in found["standings"]] == ["magnitude"]
    with_plan = run_json("head", model, *SMALL, *HEAD, *OWN, "--sparsity", "0.4")
    assert [one["criterion"] for one in with_plan["standings"]] == ["llm-bip", "magnitude"]
    assert all(1 <= one["rank"] <= one["of"] == 8 for one in with_plan["standings"])
    verb = "goes" if with_plan["goes"] else "stays"
    assert with_plan["why"].startswith(f"Head 2 of block 1 {verb}: ")
    assert "heads of its KV group" in with_plan["why"]
    assert with_plan["plan"]["sparsity"] == 0.4
    assert with_plan["why"] in run("head", model, *SMALL, *HEAD, *OWN, "--sparsity", "0.4")


def test_what_was_looked_at_is_stored_and_listed(run, run_json, model):
    first = run_json("channel", model, *SMALL, *CHANNEL, *OWN)
    run("head", model, *SMALL, *HEAD, *OWN)
    assert run_json("channel", model, *SMALL, *CHANNEL, *OWN) == first
    listed = {one["kind"]: one["words"] for one in run_json("runs")["runs"]}
    assert listed["head-close-ups"].startswith("block 1, head 2, A text of one's own.")
    assert listed["channel-close-ups"].startswith("block 1, channel 7, A text of one's own.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("head", "--block", "3", "--head", "0"), "There is no block 3; the blocks are 0 to 2."),
        (("head", "--block", "0", "--head", "8"), "Block 0 has no head 8; it has 8"),
        (("channel", "--block", "0", "--channel", "-1"), "Block 0 has no channel -1; it has 96"),
        (("head", *HEAD, "--text-string", " "), "There is no text"),
        (("head", *HEAD, *OWN, "--text", "wikitext2"), "either --text or --text-string"),
        (("head", *HEAD, "--text-string", "a"), "at least 2 tokens"),
        (("channel", *CHANNEL, "--text", "nowhere.txt"), "nowhere.txt"),
        (("head", "--block", "0"), "--head"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_in_one_sentence(model, capsys, words, said):
    command, *rest = words
    assert main([command, model, *SMALL, *rest]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
