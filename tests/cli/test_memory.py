"""`--memory`: commands on a model that does not fit give what they give on one that does."""

import math

import pytest
import torch
from safetensors import safe_open

from bipcore.cli.main import main
from bipcore.models import streamed_loading
from tests.helpers.folders import model_folder

SIZE = ("--device", "cpu", "--samples", 8, "--seq-len", 16)
SIZES = ("--device", "cpu", "--sizes", 8, "--seq-len", 16)
TEXT = ("--window", 16, "--max-tokens", 64)
CUT = ("--preset", "recommended", "--sparsity", 0.4)


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model"))


@pytest.fixture
def streamed(monkeypatch) -> list:
    """The models that are streamed, as they are loaded."""
    loaded, real = [], streamed_loading.stream_model
    spy = lambda *given, **how: loaded.append(real(*given, **how)) or loaded[-1]  # noqa: E731
    monkeypatch.setattr("bipcore.models.loading.stream_model", spy)
    return loaded


def _close(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return math.isclose(one, other, rel_tol=1e-5) if isinstance(one, float) else one == other


@pytest.mark.parametrize(
    "command",
    [
        ("score", *SIZE, "--criterion", "flap"),
        ("evaluate", *SIZE, *TEXT, *CUT),
        ("reconstruct", *SIZE, "--criteria", "llm-bip,wanda", *TEXT, "--sparsity", 0.4),
        (
            "sweep",
            *SIZE[:2],
            *SIZE[4:],
            "--sizes",
            8,
            *TEXT,
            "--criteria",
            "llm-bip,magnitude",
            "--sparsities",
            "0.2,0.4",
        ),
        ("generate", "--device", "cpu", "--prompt", "abc", "--max-new-tokens", 4),
    ],
    ids=lambda command: command[0],
)
def test_the_figures_are_those_of_the_model_in_memory(
    run_json, model, streamed, tmp_path, monkeypatch, command
):
    found = []
    for memory in ("auto", "400KiB"):
        monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / memory))
        found.append(run_json(command[0], model, *command[1:], "--memory", memory))
        assert bool(streamed) == (memory != "auto")
    for each in found:
        _drop(each, ("seconds", "prompt_seconds", "tokens_per_second", "memory", "peak_memory"))
    assert _close(*found)


def _drop(found, names) -> None:
    """Take away what differs from run to run."""
    if isinstance(found, dict):
        for name in names:
            found.pop(name, None)
        found = list(found.values())
    for each in found if isinstance(found, list) else ():
        _drop(each, names)


def test_the_export_has_the_same_tensors(run_json, model, streamed, tmp_path, monkeypatch):
    tensors = []
    for memory in ("auto", "400KiB"):
        monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / memory))
        out = tmp_path / f"out-{memory}"
        run_json("prune", model, *SIZE, *TEXT, *CUT, "--output", out, "--memory", memory)
        with safe_open(out / "model.safetensors", framework="pt") as opened:
            tensors.append({key: opened.get_tensor(key) for key in opened.keys()})  # noqa: SIM118
    assert streamed
    one, other = tensors
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--memory", "lots"), "auto or a size such as 700MiB"),
        (("--memory", "20KiB"), "too little for the largest part"),
        (("--memory", "400KiB", "--criterion", "llm-pruner"), "needs the whole model in memory"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(capsys, model, words, sentence):
    assert main(list(map(str, ("score", model, *SIZE, *words)))) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert sentence in said[-1]
    assert said[-1].startswith("error: ")


def test_a_model_that_goes_while_it_streams_is_one_sentence(capsys, model, tmp_path, monkeypatch):
    real = streamed_loading.stream_model

    def load_and_remove(*given, **how):
        loaded = real(*given, **how)
        (tmp_path / "model" / "model.safetensors").unlink()
        return loaded

    monkeypatch.setattr("bipcore.models.loading.stream_model", load_and_remove)
    assert main(list(map(str, ("score", model, *SIZE, "--memory", "400KiB")))) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "changed while it was read" in said or "cannot be read any more" in said
