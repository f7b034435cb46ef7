"""The command ``recover``, and ``--recovery`` of the commands that measure."""

import csv
import json
import signal
import time
from pathlib import Path

import pytest
import torch

from bipcore.export.export import load_pruned
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import EvaluationSpec, ModelSpec
from bipcore.store.resume import CHECKPOINTS
from bipcore.store.runs import RunStore
from tests.helpers.cli import Call, refusal, run_all, start
from tests.helpers.folders import model_folder, tree
from tests.helpers.processes import Running

TINY = "--samples 4 --seq-len 16 --sparsity 0.5 --window 32 --max-tokens 96"
TRAIN = (
    "--train-text builtin --train-samples 12 --train-seq-len 32 --batch-size 4 --validation 2 "
    "--validate-every 2 --learning-rate 3e-3 --rank 4"
)


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(model_folder(tmp_path / "model"))


@pytest.fixture
def recovered(run_json, model) -> dict:
    return run_json("recover", model, *TINY.split(), *TRAIN.split(), "--output", "out")


def test_it_prints_the_figures_of_the_library_and_exports_the_merged_model(recovered, model):
    text, pipeline = EvaluationSpec(window=32, max_tokens=96), Pipeline()
    plan, spec = pipeline.stored_recovery(ModelSpec(model), recovered["recovery"])
    assert (spec.samples, spec.rank, spec.learning_rate) == (12, 4, 3e-3)
    for name, state in {
        "dense": (None, None),
        "pruned": (plan, None),
        "recovered": (plan, spec),
    }.items():
        assert recovered[name] == pipeline.evaluate(ModelSpec(model), text, *state)
    exported, _ = load_pruned("out", device="cpu")
    ours = pipeline.recovered(ModelSpec(model), plan, spec)
    assert all(
        torch.equal(a, b) for a, b in zip(exported.parameters(), ours.parameters(), strict=True)
    )
    assert recovered["export"]["tier"] == 1
    assert "adapter/adapter_model.safetensors" in tree(Path("out"))


def test_every_step_is_printed_and_written(run_json, model):
    arguments = [*TINY.split(), *TRAIN.split(), "--csv", "steps.csv", "--no-evaluate"]
    found = run_json("recover", model, *arguments)
    assert [step["step"] for step in found["steps"]] == [0, 1, 2, 3]
    assert found["loss_first"] == found["steps"][1]["loss"]
    assert found["validation_before"] == found["steps"][0]["validation"]
    assert "dense" not in found
    with open("steps.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"] or "nan") for row in rows][1:] == [
        step["loss"] for step in found["steps"][1:]
    ]


def test_the_table_for_people_names_all_three_models(run, model):
    printed = run("recover", model, *TINY.split(), *TRAIN.split())
    assert [word for word in printed.split() if word in ("dense", "pruned", "recovered")] == [
        "recovered",
        "dense",
        "pruned",
        "recovered",
    ]


def test_a_recovery_by_its_name_is_measured_beside_its_plan(run_json, recovered, model):
    window = ("--window", 32, "--max-tokens", 96)
    found = run_json("evaluate", model, *window, "--recovery", recovered["recovery"])
    assert [found[name]["perplexity"] for name in ("dense", "pruned", "recovered")] == [
        recovered[name]["perplexity"] for name in ("dense", "pruned", "recovered")
    ]
    prompt = ("--prompt", "abc", "--max-new-tokens", 2)
    found = run_json("generate", model, *prompt, "--recovery", recovered["recovery"])
    assert {"dense", "pruned", "recovered"} <= found.keys()


@pytest.mark.timeout(240)
def test_killed_and_started_again_it_goes_on_to_the_same_adapter(tmp_path, model):
    stores = {name: RunStore(tmp_path / name) for name in ("whole", "killed")}
    words = [*TINY.split(), *TRAIN.split(), "--epochs", "15", "--no-evaluate", "--json"]
    checkpoints = RunStore(tmp_path / "checkpoints")
    often = (
        "import bipcore.recovery.training as r\n"
        "r.recover.__kwdefaults__['checkpoint_seconds'] = 0.0"
    )

    def begin(name: str, *more: str) -> Running:
        env = {"BIPCORE_CACHE": str(stores[name].root), "OMP_NUM_THREADS": "1"}
        arguments = ["recover", model, *words, *more]
        return start(Call(arguments, str(tmp_path), env, first=often))

    own = ("--checkpoints", str(checkpoints.root))
    process = begin("killed", *own)
    steps = _wait_for_checkpoint(checkpoints, process)
    process.kill()
    assert process.wait().status == -signal.SIGKILL
    assert 0 < steps < 45
    resumed, whole = begin("killed", *own), begin("whole")
    results = [json.loads(process.wait().out) for process in (resumed, whole)]
    assert results[0]["steps"] == results[1]["steps"]
    adapters = []
    for store in stores.values():
        plan, spec = Pipeline(store).stored_recovery(ModelSpec(model), results[0]["recovery"])
        adapters.append(Pipeline(store).adapter(ModelSpec(model), plan, spec).tensors)
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])


def _wait_for_checkpoint(store: RunStore, process: Running, *, step: int = 5) -> int:
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        assert not process.ended, "the training ended"
        steps = [e.spec["step"] for e in store.entries(CHECKPOINTS) if e.whole and e.spec]
        if steps and max(steps) >= step:
            return max(steps)
        time.sleep(0.02)
    raise AssertionError("no checkpoint was kept in time")


CASES = {
    "rank-zero": f"recover {{model}} {TINY} {TRAIN} --rank 0",
    "rank-no-number": f"recover {{model}} {TINY} {TRAIN} --rank x",
    "text-too-short": f"recover {{model}} {TINY} {TRAIN} --train-text {{texts}}/short.txt",
    "text-missing": f"recover {{model}} {TINY} {TRAIN} --train-text {{texts}}/nowhere.txt",
    "text-unreachable": f"recover {{model}} {TINY} {TRAIN} --train-text c4",
    "unknown-layers": f"recover {{model}} {TINY} {TRAIN} --targets nose",
    "no-layers": ["recover", "{model}", *TINY.split(), *TRAIN.split(), "--targets", ""],
    "rate-zero": f"recover {{model}} {TINY} {TRAIN} --learning-rate 0",
    "rate-nan": f"recover {{model}} {TINY} {TRAIN} --learning-rate nan",
    "batch-zero": f"recover {{model}} {TINY} {TRAIN} --batch-size 0",
    "micro-batch-zero": f"recover {{model}} {TINY} {TRAIN} --micro-batch 0",
    "patience-without-validation": f"recover {{model}} {TINY} {TRAIN} --patience 1 --validation 0",
    "samples-beyond-positions": f"recover {{model}} {TINY} {TRAIN} --train-seq-len 129",
    "output-taken": f"recover {{model}} {TINY} {TRAIN} --output taken.txt",
    "csv-nowhere": f"recover {{model}} {TINY} {TRAIN} --csv nowhere/steps.csv",
    "checkpoints-a-file": f"recover {{model}} {TINY} {TRAIN} --checkpoints taken.txt",
    "checkpoints-in-a-folder-of-others": f"recover {{model}} {TINY} {TRAIN} --checkpoints .",
    "checkpoint-of-another-model": f"recover {{other}} {TINY} {TRAIN} --checkpoints {{kept}}",
    "checkpoint-of-another-plan": (
        f"recover {{model}} {TINY} {TRAIN} --protect-first 1 --checkpoints {{kept}}"
    ),
    "checkpoint-of-other-settings": (
        f"recover {{model}} {TINY} {TRAIN} --rank 2 --checkpoints {{kept}}"
    ),
    "unknown-recovery": "evaluate {model} --recovery 0123456789abcdef",
    "recovery-and-sparsity": "evaluate {model} --sparsity 0.2 --recovery 0123456789abcdef",
    "generate-unknown-recovery": "generate {model} --prompt a --recovery nothing",
}
SAYS = {
    "rank-zero": "The rank of a recovery is a whole number, at least 1, not 0.",
    "text-too-short": "tokens, but 14 samples of 32 need 448",
    "text-unreachable": "BIPCORE_DATA",
    "output-taken": "taken.txt is a file; give a folder",
    "checkpoints-a-file": "cannot be kept in taken.txt, since it is no folder",
    "checkpoints-in-a-folder-of-others": "cannot be kept in ., since it holds other things",
    "unknown-layers": "q_proj",
    "checkpoint-of-another-model": "is of another model",
    "checkpoint-of-another-plan": "is of another plan",
    "checkpoint-of-other-settings": "is of a run with other settings",
    "unknown-recovery": "There is no recovery '0123456789abcdef'",
    "recovery-and-sparsity": "A recovery has its own plan",
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder in which all cases ran, and how each ended."""
    root = tmp_path_factory.mktemp("errors")
    names = {name: str(root / name) for name in ("model", "other", "texts", "kept")}
    model_folder(root / "model")
    model_folder(root / "other", seed=5)
    (root / "texts").mkdir()
    (root / "texts" / "short.txt").write_text("short")
    _keep_a_checkpoint(names, root)
    return root, run_all({case: _call(case, root, names) for case in CASES})


def _keep_a_checkpoint(names: dict[str, str], root: Path) -> None:
    """A checkpoint of a run of the model, stopped in the middle."""
    from bipcore.errors import Cancelled
    from bipcore.specs import CalibrationSpec, PlanSpec, RecoverySpec, ScoreSpec

    def stop(fraction: float, message: str) -> None:
        if message.startswith("Step 2 "):
            raise Cancelled

    model = ModelSpec(names["model"])
    pipeline = Pipeline(RunStore(root / "store"))
    score = ScoreSpec(model, CalibrationSpec(samples=4, seq_len=16))
    plan = pipeline.plan(score, PlanSpec(sparsity=0.5))
    settings = {"source": "builtin", "samples": 12, "seq_len": 32, "batch_size": 4, "rank": 4}
    recovery = RecoverySpec(**settings, validation=2, validate_every=2, learning_rate=3e-3)
    pipeline.progress.report_to(stop)
    with pytest.raises(Cancelled):
        pipeline.recover(model, plan, recovery, checkpoints=RunStore(names["kept"]))


def _call(case: str, root: Path, names: dict[str, str]) -> Call:
    cwd = root / "runs" / case
    cwd.mkdir(parents=True)
    (cwd / "taken.txt").write_text("mine")
    words = CASES[case].split() if isinstance(CASES[case], str) else CASES[case]
    env = {"BIPCORE_CACHE": str(root / "stores" / case), "BIPCORE_DATA": ""}
    return Call([word.format(**names) for word in words], str(cwd), env)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_status_2(ended, case):
    root, results = ended
    assert SAYS.get(case, "") in refusal(results[case])
    assert tree(root / "runs" / case) == ["taken.txt"]
