"""Bad input on the command line: one sentence, exit status 2, and nothing half-written."""

import json

import pytest

from bipcore.store.runs import RunStore
from tests.helpers.cli import Call, run_all
from tests.helpers.folders import model_folder, tree, truncate

UNKNOWN = "bipcore-no-such-owner/no-such-model-4f1d"
TINY = "--samples 4 --seq-len 16 --window 16 --max-tokens 64"
SCORE = "score {model} --samples 4 --seq-len 16"
PRUNE = f"prune {{model}} {TINY} --output out"

CASES = {
    "unknown-id": f"score {UNKNOWN}",
    "unknown-id-prune": f"prune {UNKNOWN} --output out",
    "unknown-id-profile": f"profile {UNKNOWN} --shapes-only",
    "not-an-id": "score not/an/id",
    "missing-folder": "score /nowhere/model",
    "missing-folder-profile": "profile ./nowhere --shapes-only",
    "file-as-model": "score {texts}/short.txt",
    "unsupported": "score {unsupported}",
    "unsupported-profile": "profile {unsupported} --shapes-only",
    "corrupt-weights": "score {corrupt}",
    "corrupt-weights-prune": f"prune {{corrupt}} {TINY} --output out",
    "truncated-weights": f"prune {{truncated}} {TINY} --output out",
    "empty-text": f"{SCORE} --calibration {{texts}}/empty.txt",
    "binary-text": f"{SCORE} --calibration {{texts}}/binary.txt",
    "missing-text": f"{SCORE} --calibration {{texts}}/nowhere.txt",
    "short-text": f"{SCORE} --calibration {{texts}}/short.txt",
    "bad-jsonl": f"{SCORE} --calibration {{texts}}/bad.jsonl",
    "empty-test-text": "evaluate {model} --window 16 --text {texts}/empty.txt",
    "binary-test-text": "evaluate {model} --window 16 --text {texts}/binary.txt",
    "short-test-text": "evaluate {model} --window 16 --text {texts}/short.txt",
    "prune-binary-test-text": f"{PRUNE} --text {{texts}}/binary.txt",
    "unreachable-text": "evaluate {model} --window 16 --text wikitext2",
    "sparsity-negative": f"{PRUNE} --sparsity -0.1",
    "sparsity-one": f"{PRUNE} --sparsity 1.0",
    "sparsity-abc": f"{PRUNE} --sparsity abc",
    "sparsity-nan": f"{PRUNE} --sparsity nan",
    "sparsity-too-much": f"{PRUNE} --sparsity 0.999",
    "score-sparsity-one": f"{SCORE} --sparsity 1.0",
    "profile-sparsity-one": "profile {model} --seq-len 16 --shapes-only --sparsity 1",
    "samples-none": "score {model} --samples 0",
    "samples-negative": "score {model} --samples -3",
    "length-none": "score {model} --samples 4 --seq-len 0",
    "length-beyond": "score {model} --samples 4 --seq-len 129",
    "length-beyond-prune": "prune {model} --samples 4 --seq-len 129 --output out",
    "length-beyond-profile": "profile {model} --seq-len 129",
    "window-beyond": "evaluate {model} --window 129",
    "max-tokens-negative": "evaluate {model} --max-tokens -1",
    "seed-beyond": f"{SCORE} --criterion random --option seed=99999999999999999999",
    "output-below-a-file": f"prune {{model}} {TINY} --output taken.txt/out",
    "output-a-file": f"prune {{model}} {TINY} --output taken.txt",
    "output-in-proc": f"prune {{model}} {TINY} --output /proc/x",
    "output-with-something-else": f"prune {{model}} {TINY} --output full",
    "full-disk": f"{PRUNE} --no-evaluate",
    "output-missing": "prune {model}",
    "csv-not-writable": f"{SCORE} --csv nowhere/scores.csv",
    "unwritable-store": SCORE,
    "unknown-option": "score {model} --no-such-option",
    "unknown-command": "no-such-command",
    "unknown-cache-command": "cache no-such-command",
    "unknown-criterion": f"{SCORE} --criterion no-such-criterion",
    "unknown-criterion-option": f"{SCORE} --option depth=3",
    "malformed-criterion-option": f"{SCORE} --option depth",
    "unknown-unit": f"{PRUNE} --unit no-such-unit",
    "unit-that-does-not-fit": "prune {gqa} --samples 4 --seq-len 16 --output out --unit head",
    "unknown-allocation": f"{PRUNE} --allocation no-such-allocation",
    "protect-all": f"{PRUNE} --protect-first 3",
    "unknown-device": "score {model} --device quantum",
    "unknown-dtype": "score {model} --dtype int3",
    "empty-prompt": ["generate", "{model}", "--prompt", " "],
    "prompt-missing": "generate {model}",
    "prompt-too-long": "generate {model} --prompt hello --max-new-tokens 1000",
    "temperature-negative": "generate {model} --prompt hello --temperature -1",
    "temperature-nan": "generate {model} --prompt hello --temperature nan",
    "no-new-tokens": "generate {model} --prompt hello --max-new-tokens 0",
    "cache-kind": "cache clear --kind no-such-kind",
}
FULL_DISK = 100_000
"""In the case "full-disk", files can be no larger: less than the weights, more than the scores."""

SAYS = {
    "unknown-id": UNKNOWN,
    "missing-folder": "/nowhere/model does not exist",
    "missing-folder-profile": "./nowhere does not exist",
    "unsupported": "'gpt2' is not supported; supported are LLaMA",
    "unsupported-profile": "'gpt2' is not supported; supported are LLaMA",
    "corrupt-weights": "damaged",
    "truncated-weights": "damaged",
    "empty-text": "is empty",
    "binary-text": "text",
    "short-text": "has 5 tokens, but 4 samples of 16 need 64",
    "bad-jsonl": "Line 2",
    "unreachable-text": "BIPCORE_DATA",
    "sparsity-abc": "--sparsity",
    "sparsity-one": "from 0 to below 1, not 1.0",
    "length-beyond": "128 positions",
    "output-with-something-else": "holds something else (notes.txt)",
    "full-disk": "nothing was kept",
    "unknown-criterion": "llm-bip",
    "unknown-option": "--no-such-option",
}
"""A part of what some of the sentences have to say."""


def _fixtures(root) -> dict[str, str]:
    """Models and texts, good and bad: the names that the cases use."""
    paths = {name: root / name for name in ("model", "gqa", "corrupt", "truncated")}
    for name, path in paths.items():
        model_folder(path, "mistral" if name == "gqa" else "llama")
    (paths["corrupt"] / "model.safetensors").write_bytes(b"garbage!" * 100)
    truncate(paths["truncated"] / "model.safetensors")
    paths["unsupported"], paths["texts"] = root / "unsupported", root / "texts"
    for path in (paths["unsupported"], paths["texts"]):
        path.mkdir()
    (paths["unsupported"] / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (paths["texts"] / "empty.txt").write_text("")
    (paths["texts"] / "binary.txt").write_bytes(bytes(range(256)) * 20)
    (paths["texts"] / "short.txt").write_text("short")
    (paths["texts"] / "bad.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    return {name: str(path) for name, path in paths.items()}


def _call(case: str, root, names: dict[str, str]) -> Call:
    cwd = root / "runs" / case
    (cwd / "full").mkdir(parents=True)
    (cwd / "full" / "notes.txt").write_text("mine")
    (cwd / "taken.txt").write_text("mine")
    words = CASES[case].split() if isinstance(CASES[case], str) else CASES[case]
    store = "/proc/x" if case == "unwritable-store" else str(root / "stores" / case)
    env = {"BIPCORE_CACHE": store, "BIPCORE_DATA": ""}
    limit = {"file_limit": FULL_DISK} if case == "full-disk" else {}
    return Call([word.format(**names) for word in words], str(cwd), env, **limit)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder in which all cases ran, and how each ended."""
    root = tmp_path_factory.mktemp("errors")
    names = _fixtures(root)
    calls = {case: _call(case, root, names) for case in CASES}
    return root, run_all(calls)


@pytest.mark.parametrize("case", CASES)
def test_the_exit_status_is_2(ended, case):
    assert ended[1][case].status == 2, ended[1][case].err


@pytest.mark.parametrize("case", CASES)
def test_there_is_one_sentence_and_nothing_else(ended, case):
    _, results = ended
    assert results[case].out == ""
    lines = results[case].err.strip().splitlines()
    assert len(lines) == 1, results[case].err
    assert lines[0].startswith("error: ")


def test_the_sentence_stands_on_the_first_and_only_line(ended):
    _, results = ended
    assert [case for case in CASES if not results[case].err.startswith("error: ")] == []


@pytest.mark.parametrize("case", SAYS)
def test_the_sentence_says_what_was_wrong(ended, case):
    assert SAYS[case] in ended[1][case].err


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_half_written(ended, case):
    root, _ = ended
    assert tree(root / "runs" / case) == ["full", "full/notes.txt", "taken.txt"]
    assert all(entry.whole for entry in RunStore(root / "stores" / case).entries())
