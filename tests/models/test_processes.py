"""Work in several processes: the same sums as in one, and errors that reach all of them."""

import json

import pytest
import torch
from safetensors.torch import load_file

from bipcore.criteria.moments import collect_second_moments
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.evaluation.metrics import perplexity
from bipcore.models import memory, processes
from bipcore.models.devices import resolve_device
from bipcore.models.processes import EVERYTHING, Part, Place, split
from bipcore.pipeline.ahead import deal_out
from tests.helpers.processes import ROOT, Call, Ended, with_bipcore
from tests.helpers.team import environments
from tests.helpers.tiny import one_thread as one_thread
from tests.helpers.tiny import tiny_model, tiny_tokens

SAMPLES, BATCH, WINDOW = 13, 2, 12
_SUMS = f"""
import sys, torch
from safetensors.torch import save_file
from bipcore.models import processes
from tests.models.test_processes import found_by_walking, tiny_model

processes.join()
samples = {SAMPLES}, 2  # more and fewer than there are processes
found = processes.in_step(lambda: [found_by_walking(tiny_model("llama-gqa"), n) for n in samples])
for number, tensors in zip(samples, found):
    save_file(tensors, f"{{sys.argv[1]}}/{{number}}-{{processes.place().rank}}.safetensors")
"""
_FAILING = """
import json, sys, torch
from bipcore.errors import InputError
from bipcore.models import processes

rank = processes.join().rank
said = []

def work(problem):
    if rank == 1 and problem is not None:
        raise problem
    part = processes.split(5)
    own = torch.arange(5.0)[part.own].sum()
    return part.summed([own])[0].item(), processes.least(rank + 3)

for problem in (InputError("The disk of one is full."), None, ValueError("a bug"), None):
    try:
        said.append(processes.in_step(lambda: work(problem)))
    except Exception as error:
        said.append([type(error).__name__, str(error).splitlines()[-1]])
print(json.dumps(said))
"""


def found_by_walking(model, samples: int) -> dict[str, torch.Tensor]:
    """All that processes share: sums over calibration samples and windows of a text."""
    calibration = CalibrationSet.from_tokens(tiny_tokens(samples, WINDOW))
    found = collect_statistics(model, calibration, batch_size=BATCH).to_tensors()
    moments = collect_second_moments(model, calibration, batch_size=BATCH)
    value = perplexity(model, calibration.tokens, window=WINDOW)
    found |= {f"moments.{name}": tensor for name, tensor in moments.items()}
    return found | {"perplexity": torch.tensor(value, dtype=torch.float64)}


def run_code(code: str, count: int, *arguments: object) -> list[Ended]:
    """How ``count`` processes end that run ``code`` side by side."""
    words = [str(word) for word in arguments]
    calls = [Call(code, words, str(ROOT), env) for env in environments(count)]
    return [one.wait() for one in [with_bipcore().start(call) for call in calls]]


@pytest.mark.parametrize("count", [2, 3])
def test_statistics_second_moments_and_perplexity_do_not_depend_on_the_number_of_processes(
    tmp_path, count
):
    ended = run_code(_SUMS, count, tmp_path)
    assert [one.status for one in ended] == [0] * count, ended[-1].err
    for samples in (SAMPLES, 2):
        expected = found_by_walking(tiny_model("llama-gqa"), samples)
        for rank in range(count):
            found = load_file(tmp_path / f"{samples}-{rank}.safetensors")
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                off = (found[name].double() - tensor.double()).norm()
                assert off <= 1e-6 * tensor.double().norm(), (name, rank)


def test_what_one_process_raises_all_raise_and_then_go_on_in_step():
    ended = run_code(_FAILING, 2)
    assert [one.status for one in ended] == [0, 0], ended[0].err
    main, other = (json.loads(one.out) for one in ended)
    assert main == [
        ["InputError", "The disk of one is full."],
        [10.0, 3],
        ["RuntimeError", "ValueError: a bug"],
        [10.0, 3],
    ]
    assert other == [main[0], [10.0, 3], ["ValueError", "a bug"], [10.0, 3]]


def test_in_one_process_everything_is_its_own():
    assert split(5, 2) == Part(0, 5, 5)
    kept = torch.ones(3)
    assert EVERYTHING.summed([kept])[0] is kept


@pytest.mark.parametrize(
    ("total", "batches", "parts"),
    [
        (32, (8, 4), [(0, 8), (8, 16), (16, 32)]),
        (32, (32, 4), [(0, 8), (8, 20), (20, 32)]),  # one batch is too few for three
        (7, (7, 4), [(0, 2), (2, 4), (4, 7)]),
        (9, (4,), [(0, 4), (4, 8), (8, 9)]),
        (2, (1,), [(0, 2)] * 3),
    ],
)
def test_parts_are_whole_batches_where_there_are_enough(monkeypatch, total, batches, parts):
    found = []
    for rank in range(3):
        monkeypatch.setattr(processes, "_state", processes._State(Place(rank, 3, rank), True))
        found.append(split(total, *batches))
    assert found == [Part(*part, total) for part in parts]


def test_each_process_has_a_gpu_of_its_own_unless_it_is_told_which(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == "spread"
    monkeypatch.setattr(processes._state, "place", Place(rank=5, count=8, local=1))
    assert [resolve_device(name) for name in ("auto", "cuda", "cuda:0", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]
    monkeypatch.setattr(processes._state, "place", Place(rank=2, count=8, local=2))
    with pytest.raises(InputError, match="there are only 2; start no more processes"):
        resolve_device("auto")


def test_processes_share_what_memory_is_free(monkeypatch):
    monkeypatch.setattr(memory, "_left_in_groups", lambda: [6000])
    assert memory.free_memory(torch.device("cpu")) == 6000
    monkeypatch.setattr(processes._state, "place", Place(rank=1, count=3, local=1))
    assert memory.free_memory(torch.device("cpu")) == 2000


def test_the_heaviest_piece_goes_first_and_beside_it_what_takes_as_long():
    weights = {"a": 2, "b": 9, "c": 4, "d": 5, "e": 1}
    assert deal_out(list(weights), weights.get, 2) == [["b"], ["d", "c"]]
    equal = deal_out(list(weights), lambda piece: 1.0, 3)
    assert equal == [["a"], ["b"], ["c"]]
    assert deal_out(["a"], weights.get, 3) == [["a"], [], []]
