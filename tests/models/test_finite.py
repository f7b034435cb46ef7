"""What is not a finite number is said to be the weights or an overflow, with what to do."""

import json
import math

import pytest
import torch

from bipcore.cli.main import main
from bipcore.criteria import score
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.evaluation.metrics import perplexity
from bipcore.evaluation.reconstruction import reconstruction_errors
from bipcore.models.extremes import is_finite
from bipcore.models.generation import Sampling, stream
from bipcore.models.loading import load_model
from bipcore.models.memory import PeakMemory
from bipcore.models.streaming import give_back
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.propagation import score_pruned
from bipcore.pruning.slicing import apply_plan
from bipcore.specs import PlanSpec
from tests.helpers.folders import byte_model, model_folder, text_tokenizer
from tests.helpers.tiny import tiny_model, tiny_tokens

TOKENS = tiny_tokens(2, 16)
SET = CalibrationSet.from_tokens(TOKENS)


def overflowing(model=None):
    """A model of finite weights whose activations are beyond float32."""
    model = model or tiny_model("llama")
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.mlp.down_proj.weight.fill_(1e38)
            layer.mlp.up_proj.weight *= 1e3
    return model


def stored(folder, value: float, *, dtype=torch.float32):
    """A model folder with one weight that is ``value``."""
    model = byte_model().to(dtype)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = value
    model.save_pretrained(folder)
    text_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_damaged_weights_are_said_at_loading(tmp_path, value):
    with pytest.raises(InputError, match=r"1 of the tensors .*layers\.1\.mlp\.up_proj.* damaged"):
        load_model(stored(tmp_path, value))


def test_weights_that_only_overflow_float16_are_said_with_a_wider_type(tmp_path):
    folder = stored(tmp_path, 1e9)
    load_model(folder)
    with pytest.raises(InputError, match=r"overflow float16; use --dtype bfloat16 or float32"):
        load_model(folder, dtype="float16")


def test_large_weights_are_not_taken_for_infinite_ones(tmp_path):
    folder = stored(tmp_path, 3e38)
    model, _ = load_model(folder)
    assert model.model.layers[1].mlp.up_proj.weight[3, 4] > 1e38


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_value_that_is_not_finite_is_found_wherever_it_stands(dtype):
    largest = torch.finfo(dtype).max
    assert is_finite(torch.full((7, 300), largest, dtype=dtype))  # their sum is infinite
    for odd in (math.nan, math.inf, -math.inf):
        for place in (0, 1500, 2099):
            values = torch.full((7, 300), -largest, dtype=dtype)
            values.view(-1)[place] = odd
            assert not is_finite(values)
    assert is_finite(torch.empty(0, 5, dtype=dtype))


def test_looking_at_a_tensor_makes_no_other_of_its_size():
    tensor = torch.ones(2**25, dtype=torch.bfloat16)  # 64 MiB
    give_back()
    with PeakMemory(torch.device("cpu")) as peak:
        assert is_finite(tensor)
    assert peak.growth < 2**23


def _plan(model):
    return make_plan(score(model, None, "random"), sparsity=0.3)


@pytest.mark.parametrize(
    ("measure", "what"),
    [
        (lambda m: perplexity(m, TOKENS, window=16), "The perplexity"),
        (lambda m: collect_statistics(m, SET), "An activation"),
        (lambda m: score(m, None, "llm-pruner", calibration=SET), "A score"),
        (lambda m: score_pruned(m, SET, "llm-bip", choice=PlanSpec().choice), "A score"),
        (
            lambda m: reconstruction_errors(m, {"p": apply_plan(m, _plan(m))}, SET),
            "The output of a block",
        ),
    ],
    ids=["perplexity", "statistics", "llm-pruner", "propagated", "reconstruction"],
)
def test_an_overflow_is_said_wherever_it_shows(measure, what):
    with pytest.raises(InputError, match=f"{what} of the model .* overflow even float32"):
        measure(overflowing())


def test_an_overflow_stops_a_continuation():
    model = overflowing(byte_model())
    with pytest.raises(InputError, match="overflow even float32"):
        list(stream(model, text_tokenizer(), "The sky", Sampling(4, 0.0, 0, 1.0, 0, False)))


@pytest.mark.parametrize(
    ("dtype", "wider"),
    [(torch.float16, "bfloat16 or float32"), (torch.bfloat16, "float32")],
)
def test_a_narrow_type_that_overflows_names_the_wider_ones(dtype, wider):
    model = overflowing().to(dtype)
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.mlp.down_proj.weight.fill_(torch.finfo(dtype).max / 4)
    with pytest.raises(InputError, match=f"use --dtype {wider}"):
        perplexity(model, TOKENS, window=16)


def test_a_loss_too_large_for_its_exponential_is_infinite_with_a_note(tmp_path, run):
    folder = model_folder(tmp_path / "model")
    model = byte_model()
    with torch.no_grad():
        model.lm_head.weight *= 1e4
    model.save_pretrained(folder)
    options = ("--window", "16", "--max-tokens", "64")
    found = json.loads(run("evaluate", folder, *options, "--json"))["dense"]
    assert found["perplexity"] is None
    assert "too large for its exponential" in found["note"]
    assert "too large for its exponential" in run("evaluate", folder, *options)


def test_a_model_with_damaged_weights_is_refused_by_the_command_line(tmp_path, cache, capsys):
    folder = stored(tmp_path / "model", math.nan)
    capsys.readouterr()
    for command in (["evaluate", folder], ["score", folder, "--criterion", "magnitude"]):
        assert main(command) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.strip().splitlines()) == 1
        assert "not finite numbers" in printed.err
