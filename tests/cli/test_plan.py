"""The commands compare and plan, against what the library says."""

import csv
import re

import pytest

from bipcore.cli.main import main
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning.comparison import compare_criteria, compare_plans, over_all_blocks
from bipcore.pruning.editing import edits
from bipcore.pruning.plan import load_plan
from bipcore.specs import CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec
from tests.helpers.cli import Call, refusal, run_all
from tests.helpers.folders import edit_json, model_folder, tree
from tests.helpers.passes import counted_passes

SETTINGS = ("--samples", "4", "--seq-len", "16")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: str(model_folder(root / name, name)) for name in ("llama", "mistral")}


@pytest.fixture
def model(folders) -> str:
    return folders["mistral"]  # 8 query heads in 4 KV groups


@pytest.fixture
def made(run_json, model, tmp_path) -> str:
    """A plan file that removes half of every KV group."""
    run_json("plan", "make", model, *SETTINGS, "--sparsity", 0.5, "--output", tmp_path / "a.json")
    return str(tmp_path / "a.json")


def _spec(model: str, criterion: str = "llm-bip") -> ScoreSpec:
    return ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=16), criterion)


def test_make_writes_the_plan_of_the_settings(made, model, cache):
    expected = Pipeline(cache).plan(_spec(model), PlanSpec(sparsity=0.5))
    assert load_plan(made) == expected


def test_a_made_plan_is_taken_by_other_commands(run_json, made, model):
    found = run_json("score", model, *SETTINGS, "--plan", made)
    assert found["realised"] == load_plan(made).realised


def test_show_says_what_a_plan_keeps(run_json, run, made):
    plan = load_plan(made)
    found = run_json("plan", "show", made)
    assert found["plan"] == plan.spec
    assert [tuple(b["kept"]) for b in found["blocks"]] == [b.heads for b in plan.blocks]
    assert found["blocks"][0]["after"] == vars(plan.pruned_shape.blocks[0])
    assert "4 of 8" in run("plan", "show", made)


def test_show_reads_the_folder_of_an_export(run_json, model, tmp_path):
    run_json("prune", model, *SETTINGS, "--no-evaluate", "--output", tmp_path / "out")
    found = run_json("plan", "show", tmp_path / "out")
    assert found["realised"] == load_plan(tmp_path / "out").realised


def test_edit_changes_the_plan_and_says_how(run_json, made, tmp_path):
    before = load_plan(made)
    head, channel = before.blocks[1].heads[0], before.blocks[1].channels[0]
    options = ("--drop-head", f"1:{head}", "--drop-channel", f"1:{channel}")
    others = ("--protect-block", 0, "--drop-ffn", 2)
    found = run_json("plan", "edit", made, *options, *others, "--output", tmp_path / "b.json")
    after = load_plan(tmp_path / "b.json")
    assert after.pruned_shape.blocks[0] == before.shape.blocks[0]
    assert len(after.blocks[1].heads) == len(before.blocks[1].heads) - 1
    assert len(after.blocks[1].channels) == len(before.blocks[1].channels) - 1
    assert after.blocks[2].channels == ()
    assert found["plan"]["edited"] == edits(after)
    assert len(edits(after)) == 4
    assert load_plan(made) == before


def test_edits_are_made_the_coarse_ones_first(run_json, made, tmp_path):
    options = ("--keep-head", "1:3", "--drop-attention", 1, "--output", tmp_path / "b.json")
    run_json("plan", "edit", made, *options)
    assert load_plan(tmp_path / "b.json").blocks[1].heads == (3,)


def test_with_a_model_heads_follow_its_scores(run_json, run, model, tmp_path, cache):
    whole, out = tmp_path / "a.json", tmp_path / "b.json"
    run_json("plan", "make", model, *SETTINGS, "--sparsity", 0, "--output", whole)
    edit = ("plan", "edit", whole, "--drop-head", "1:0", "--output", out)
    run_json(*edit, "--model", model, *SETTINGS)
    heads = Pipeline(cache).scores(_spec(model)).blocks[1].heads
    lowest = {min((g, g + 1), key=lambda h: float(heads[h])) for g in (2, 4, 6)}
    assert set(range(8)) - set(load_plan(out).blocks[1].heads) == {0} | lowest
    assert "chosen by index" in run(*edit)
    assert set(range(8)) - set(load_plan(out).blocks[1].heads) == {0, 3, 5, 7}


def test_a_number_of_channels_is_kept_by_score(run_json, made, model, tmp_path):
    out = tmp_path / "b.json"
    options = ("--channels", "0:20", "--model", model, *SETTINGS)
    run_json("plan", "edit", made, *options, "--output", out)
    assert len(load_plan(out).blocks[0].channels) == 20


def test_diff_says_where_two_plans_differ(run_json, run, made, tmp_path):
    out = tmp_path / "b.json"
    run_json("plan", "edit", made, "--drop-ffn", 1, "--output", out)
    found = run_json("plan", "diff", made, out)
    frame = compare_plans(load_plan(made), load_plan(out))
    assert [row["only_second"] for row in found["blocks"]] == frame["only_second"].tolist()
    table = run("plan", "diff", made, out)
    assert re.search(r"^ +1 +channel +0 +\d+ +0 +\d+ .* more", table, re.MULTILINE)
    assert "same heads and channels" in run("plan", "diff", made, made)


def test_a_plan_file_may_be_written_over(run_json, made):
    run_json("plan", "edit", made, "--drop-ffn", 1, "--output", made)
    assert load_plan(made).blocks[1].channels == ()


def test_compare_gives_the_figures_of_the_library(run_json, run, model, tmp_path, cache):
    names, file = ("llm-bip", "magnitude"), tmp_path / "c.csv"
    options = ("--criteria", ",".join(names), "--sparsity", 0.5, *SETTINGS)
    found = run_json("compare", model, *options, "--csv", file)
    pipeline = Pipeline(cache)
    scored = {
        name: (
            pipeline.scores(_spec(model, name)),
            pipeline.plan(_spec(model, name), PlanSpec(sparsity=0.5)),
        )
        for name in names
    }
    by_block = compare_criteria(scored)
    assert found["blocks"] == [
        {name: None if value != value else value for name, value in row.items()}
        for row in by_block.to_dict("records")
    ]
    assert [row["common"] for row in found["overall"]] == over_all_blocks(by_block)[
        "common"
    ].tolist()
    assert set(found["plans"]) == set(names)
    with file.open() as text:
        assert len(list(csv.DictReader(text))) == len(by_block)
    assert "rank correlation" in run("compare", model, *options)


def test_a_sparsity_out_of_reach_is_refused_before_any_criterion_is_scored(capsys, model, cache):
    options = ("--criteria", "llm-bip,wanda", "--sparsity", "0.99", *SETTINGS)
    with counted_passes() as passes:
        assert main(["compare", model, *options]) == 2
    assert "The sparsity asks a block to give up" in capsys.readouterr().err
    assert (passes, list(cache.entries())) == ([], [])


def test_the_criteria_of_one_comparison_share_one_pass(run_json, model, cache):
    run_json("compare", model, "--criteria", "llm-bip,wanda,wanda-sp", *SETTINGS)
    kinds = [entry.kind for entry in cache.entries()]
    assert (kinds.count("statistics"), kinds.count("scores")) == (1, 3)


CASES = {
    "no-file": "plan show nowhere.json",
    "no-plan": "plan show {text}",
    "not-json": "plan show {garbage}",
    "contradicting": "plan show {contradicting}",
    "a-list": "plan show {list}",
    "diff-of-no-plan": "plan diff {plan} {text}",
    "diff-of-other-shapes": "plan diff {plan} {other}",
    "edit-nothing": "plan edit {plan} --output out.json",
    "edit-malformed-head": "plan edit {plan} --drop-head 3 --output out.json",
    "edit-malformed-block": "plan edit {plan} --drop-ffn 1:2 --output out.json",
    "edit-words": "plan edit {plan} --keep-head a:b --output out.json",
    "edit-superscript": "plan edit {plan} --drop-ffn ² --output out.json",
    "edit-negative": "plan edit {plan} --drop-ffn=-1 --output out.json",
    "edit-no-block": "plan edit {plan} --drop-ffn 3 --output out.json",
    "edit-no-head": "plan edit {plan} --drop-head 0:8 --output out.json",
    "edit-no-channel": "plan edit {plan} --drop-channel 0:96 --output out.json",
    "edit-all-attention": "plan edit {plan} --drop-attention 0 --drop-attention 1 "
    "--drop-attention 2 --output out.json",
    "edit-count-by-index": "plan edit {plan} --channels 0:3 --output out.json",
    "edit-other-model": "plan edit {plan} --drop-head 0:0 --model {llama} --samples 4 "
    "--seq-len 16 --output out.json",
    "edit-no-output": "plan edit {plan} --drop-ffn 1",
    "over-a-text": "plan edit {plan} --drop-ffn 1 --output taken.txt",
    "over-a-folder": "plan edit {plan} --drop-ffn 1 --output full",
    "below-nothing": "plan edit {plan} --drop-ffn 1 --output nowhere/out.json",
    "below-a-file": "plan edit {plan} --drop-ffn 1 --output taken.txt/out.json",
    "in-proc": "plan edit {plan} --drop-ffn 1 --output /proc/out.json",
    "a-name-too-long": f"plan edit {{plan}} --drop-ffn 1 --output {'x' * 300}",
    "make-over-a-text": "plan make {llama} --criterion random --output taken.txt",
    "make-impossible": "plan make {llama} --sparsity 2 --output out.json",
    "compare-one": "compare {llama} --criteria llm-bip",
    "compare-the-same": "compare {llama} --criteria llm-bip,llm-bip",
    "compare-an-empty-name": "compare {llama} --criteria llm-bip,",
    "compare-unknown": "compare {llama} --criteria llm-bip,no-such --samples 4 --seq-len 16",
    "unknown-subcommand": "plan no-such-command",
}
SAYS = {
    "no-plan": "is not a pruning plan",
    "diff-of-other-shapes": "different shapes",
    "edit-nothing": "at least one edit",
    "edit-malformed-head": "--drop-head takes two numbers, such as 3:5, not '3'",
    "edit-malformed-block": "--drop-ffn takes a block, such as 3, not '1:2'",
    "edit-all-attention": "no token could see another",
    "edit-count-by-index": "--model",
    "edit-other-model": "another shape",
    "over-a-text": "is not a plan",
    "over-a-folder": "is a folder",
    "below-nothing": "there is no folder nowhere",
    "compare-one": "two different criteria",
    "compare-unknown": "no criterion 'no-such'",
}


@pytest.fixture(scope="module")
def ended(folders, tmp_path_factory):
    """The folder in which all cases ran, and how each ended."""
    root = tmp_path_factory.mktemp("errors")
    names = {"llama": folders["llama"]}
    for name, of_model in (("plan", "mistral"), ("other", "llama"), ("contradicting", "llama")):
        names[name] = str(root / f"{name}.json")
        words = ["plan", "make", folders[of_model], "--criterion", "random", "--output"]
        assert main([*words, names[name], "--json"]) == 0
    edit_json(root / "contradicting.json", blocks=[])
    texts = {"text": '{"a": 1}', "garbage": "\0\0garbage", "list": "[]"}
    for name, text in texts.items():
        (root / f"{name}.txt").write_text(text)
        names[name] = str(root / f"{name}.txt")
    calls = {}
    for case, words in CASES.items():
        cwd = root / "runs" / case
        (cwd / "full").mkdir(parents=True)
        (cwd / "taken.txt").write_text("mine")
        calls[case] = Call(
            [word.format(**names) for word in words.split()],
            str(cwd),
            {"BIPCORE_CACHE": str(root / "store"), "BIPCORE_DATA": ""},
        )
    return root, run_all(calls)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_status_2(ended, case):
    root, results = ended
    assert SAYS.get(case, "") in refusal(results[case])
    assert tree(root / "runs" / case) == ["full", "taken.txt"]
    assert (root / "runs" / case / "taken.txt").read_text() == "mine"
