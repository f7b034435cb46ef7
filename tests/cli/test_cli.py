"""The commands, each against what the library says."""

import csv
import itertools
import json
import math

import pytest

import bipcore
from bipcore.cli import console
from bipcore.cli.main import COMMANDS, main
from bipcore.evaluation.metrics import load_test_tokens, perplexity
from bipcore.export.export import load_pruned
from bipcore.models.generation import Sampling, stream
from bipcore.models.loading import load_model
from bipcore.pruning.plan import load_plan
from tests.helpers.chains import chain_model
from tests.helpers.folders import model_folder, text_tokenizer
from tests.helpers.passes import counted_passes

SETTINGS = ("--samples", "4", "--seq-len", "16")
EVALUATION = ("--window", "16", "--max-tokens", "64")


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model"))


def test_score_says_what_it_scored_and_every_block(run_json, model):
    found = run_json("score", model, *SETTINGS, "--criterion", "wanda")
    assert found["spec"]["criterion"] == "wanda"
    assert found["spec"]["calibration"] == {
        "source": "builtin",
        "samples": 4,
        "seq_len": 16,
        "text_field": "",
        "beginning": "auto",
        "seed": 0,
    }
    assert [block["block"] for block in found["blocks"]] == [0, 1, 2]
    assert [len(block["heads"]) for block in found["blocks"]] == [8, 8, 8]
    assert "realised" not in found


def test_curves_say_what_is_lost_at_every_width(run_json, model, tmp_path):
    rows = tmp_path / "curves.csv"
    words = ("curves", model, *SETTINGS, "--criterion", "obs", "--option", "ridge=0.5")
    found = run_json(*words, "--csv", str(rows))
    expected = {"ridge": 0.5, "grouped": False, "fisher": False, "tokens": 8192}
    assert found["settings"] == expected
    assert len(list(csv.DictReader(rows.open()))) == len(found["curves"])
    ffn = [row for row in found["curves"] if (row["block"], row["sublayer"]) == (2, "ffn")]
    assert [row["gone"] for row in ffn] == list(range(97))
    assert [row["left"] for row in ffn] == list(range(96, -1, -1))
    assert (ffn[0]["relative"], ffn[-1]["relative"]) == (0, 1)
    assert all(row["error"] <= later["error"] for row, later in itertools.pairwise(ffn))
    assert main([*words]) == 0


def test_a_second_score_reads_the_store_and_runs_no_pass(run_json, model):
    with counted_passes() as passes:
        first = run_json("score", model, *SETTINGS)
        assert len(passes) == 1
        second = run_json("score", model, *SETTINGS)
    assert len(passes) == 1
    assert (first.pop("cached"), second.pop("cached")) == (False, True)
    assert first == second


def test_where_there_is_no_terminal_stderr_stays_empty(capsys, cache, model):
    assert main(["score", model, *SETTINGS, "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_score_with_a_sparsity_says_what_would_go(run_json, model):
    found = run_json("score", model, *SETTINGS, "--sparsity", 0.5)
    assert found["realised"] == pytest.approx(0.5, abs=0.01)
    assert found["parameters"] < found["parameters_before"]
    assert [block["heads_removed"] for block in found["blocks"]] == [4, 4, 4]


def test_the_seed_draws_other_samples(run_json, model):
    prints = {run_json("score", model, *SETTINGS, "--seed", n)["fingerprint"] for n in range(3)}
    assert len(prints) == 3


def test_the_settings_of_the_plan_reach_it(run_json, model):
    settings = {
        "sparsity": 0.2,
        "unit": "head",
        "allocation": "paper",
        "protect_first": 1,
        "protect_last": 1,
        "round_to": 8,
    }
    words = [
        word
        for name, value in settings.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    found = run_json("score", model, "--criterion", "random", *words)["plan"]
    assert {name: found[name] for name in settings} == settings


def test_an_option_of_the_criterion_reaches_it(run_json, model):
    seeds = [
        run_json("score", model, "--criterion", "random", "--option", f"seed={n}") for n in "12"
    ]
    assert [found["spec"]["options"] for found in seeds] == [[["seed", 1]], [["seed", 2]]]
    assert seeds[0]["blocks"] != seeds[1]["blocks"]


def test_score_writes_every_score_to_a_csv_file(run_json, model, tmp_path):
    found = run_json("score", model, *SETTINGS, "--sparsity", 0.5, "--csv", tmp_path / "s.csv")
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (8 + 8 + 96)
    heads = [float(row["score"]) for row in rows if row["kind"] == "head"]
    assert heads == pytest.approx([h for block in found["blocks"] for h in block["heads"]])
    assert sum(row["kept"] == "True" for row in rows if row["kind"] == "head") == 12


def test_score_prints_a_table_for_people(run, model):
    table = run("score", model, *SETTINGS)
    assert "llm-bip scores of" in table
    blocks = [line.split()[0] for line in table.splitlines() if line.strip()[:1].isdigit()]
    assert blocks == ["0", "1", "2"]


@pytest.mark.parametrize("plan", [(), ("--sparsity", 0.5)])
def test_no_figure_of_a_table_is_cut_short(run, model, plan):
    assert "…" not in run("score", model, *SETTINGS, *plan)


def test_prune_exports_a_model_and_says_how_it_changed(run_json, model, tmp_path):
    out = tmp_path / "out"
    found = run_json("prune", model, *SETTINGS, *EVALUATION, "--sparsity", 0.5, "--output", out)
    pruned, tokenizer = load_pruned(out)
    tokens = load_test_tokens("builtin", tokenizer, max_tokens=64)
    assert found["perplexity_after"] == pytest.approx(perplexity(pruned, tokens, window=16))
    assert found["parameters"] == sum(p.numel() for p in pruned.parameters())
    assert found["realised"] == load_plan(out).realised == pytest.approx(0.5, abs=0.01)
    assert (found["folder"], found["model_class"]) == (str(out), "LlamaForCausalLM")


def test_a_second_prune_reads_the_store_and_runs_no_pass(run_json, model, tmp_path):
    arguments = ("prune", model, *SETTINGS, *EVALUATION, "--output", tmp_path / "out")
    first = run_json(*arguments)
    with counted_passes() as passes:
        second = run_json(*arguments)
    assert passes == []
    assert (first.pop("cached"), second.pop("cached")) == (False, True)
    assert first == second


def test_prune_need_not_evaluate(run_json, model, tmp_path):
    found = run_json("prune", model, *SETTINGS, "--no-evaluate", "--output", tmp_path / "out")
    assert not any(name.startswith("perplexity") for name in found)


def test_prune_prints_facts_for_people(run, model, tmp_path):
    table = run("prune", model, *SETTINGS, *EVALUATION, "--output", tmp_path / "out")
    assert "realised" in table
    assert "perplexity_after" in table


def test_evaluate_gives_the_perplexity_of_the_library(run_json, model):
    found = run_json("evaluate", model, *EVALUATION)
    dense, tokenizer = load_model(model)
    tokens = load_test_tokens("builtin", tokenizer, max_tokens=64)
    assert found["dense"]["perplexity"] == pytest.approx(perplexity(dense, tokens, window=16))
    assert "pruned" not in found


def test_evaluate_with_a_sparsity_gives_both(run_json, model):
    found = run_json("evaluate", model, *SETTINGS, *EVALUATION, "--sparsity", 0.5)
    assert found["pruned"]["perplexity"] != found["dense"]["perplexity"]
    assert found["pruned"]["tokens"] == found["dense"]["tokens"] == 64


def test_evaluate_reads_the_whole_text_on_request(run_json, model, tmp_path):
    (tmp_path / "text.txt").write_text("word " * 840)
    found = run_json(
        "evaluate", model, "--window", 128, "--max-tokens", 0, "--text", tmp_path / "text.txt"
    )
    assert found["dense"]["tokens"] == 4200


def test_profile_counts_and_measures(run_json, model):
    found = run_json("profile", model, "--seq-len", 16, "--repeats", 1, "--sparsity", 0.5)
    dense, _ = load_model(model)
    assert found["parameters"] == sum(parameter.numel() for parameter in dense.parameters())
    assert found["latency"] > 0
    assert found["pruned"]["macs"] < found["macs"]


def test_profile_of_llama_7b_needs_no_network_and_no_weights(run_json):
    found = run_json("profile", "huggyllama/llama-7b", "--seq-len", 512, "--shapes-only")
    assert found["parameters"] == pytest.approx(6.738e9, rel=1e-3)
    assert found["macs"] == pytest.approx(3.452e12, rel=1e-3)
    assert found["latency"] is None


def test_profile_prints_both_columns_for_people(run, model):
    table = run("profile", model, "--seq-len", 16, "--shapes-only", "--sparsity", 0.5)
    assert all(word in table for word in ("Dense", "Pruned", "MACs at 16 tokens"))


def test_generate_gives_the_text_of_the_library(run_json, model):
    found = run_json("generate", model, "--prompt", "hello", "--max-new-tokens", 8)
    expected = list(stream(*load_model(model), "hello", Sampling(max_new_tokens=8)))[-1]
    assert found["dense"]["text"] == expected.text
    assert "pruned" not in found


def test_generate_with_a_sparsity_gives_both(run_json, model):
    arguments = ("--prompt", "hello", "--max-new-tokens", 8, "--sparsity", 0.5)
    found = run_json("generate", model, *SETTINGS, *arguments)
    assert found["dense"]["text"] != found["pruned"]["text"]
    assert found["realised"] == pytest.approx(0.5, abs=0.01)


def test_generate_samples_by_its_seed(run_json, model):
    settings = ("--max-new-tokens", 12, "--temperature", 1.5)
    arguments = ("generate", model, "--prompt", "hello", *settings)
    texts = [run_json(*arguments, "--sampling-seed", n)["dense"]["text"] for n in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_generate_prints_texts_as_they_are(run, tmp_path):
    chain_model("a[b]é").save_pretrained(tmp_path / "chain")
    text_tokenizer().save_pretrained(tmp_path / "chain")
    assert "[b]é" in run("generate", tmp_path / "chain", "--prompt", "a")


def test_infinity_is_null_in_json(capsys):
    console.emit_json({"perplexity": math.inf, "rows": (1.5, math.nan)})
    assert json.loads(capsys.readouterr().out) == {"perplexity": None, "rows": [1.5, None]}


def test_an_interrupted_command_says_so(run, capsys, monkeypatch, model):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("bipcore.pipeline.pipeline.Pipeline.scores", interrupt)
    assert main(["score", model]) == 130
    assert capsys.readouterr().err.startswith("error: Interrupted")


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bipcore {bipcore.__version__}\n"


def test_every_command_is_in_the_help(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert [name for name in COMMANDS if f" {name} " not in said] == []
