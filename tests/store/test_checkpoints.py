"""Checkpoints: the last one of a run is found, whole, and those of other runs are told apart."""

import pytest
import torch

from bipcore.errors import InputError
from bipcore.store.resume import CHECKPOINTS, Checkpoints
from bipcore.store.runs import RunStore
from tests.helpers.folders import truncate

RUN = {"model": {"name": "a"}, "plan": "1", "recovery": {"rank": 8}}


def tensors(value: float) -> dict:
    return {"weight": torch.full((2, 3), value)}


def test_the_latest_is_what_was_kept_last(store):
    kept = Checkpoints(store, RUN)
    assert kept.latest() is None
    kept.keep(3, tensors(3), {"seconds": 1.5})
    kept.keep(5, tensors(5), {"seconds": 2.5})
    found, state = Checkpoints(store, RUN).latest()
    assert torch.equal(found["weight"], tensors(5)["weight"])
    assert state == {"seconds": 2.5}
    assert kept.steps() == [5]


def test_those_of_other_runs_are_left_alone(store):
    ours, other = Checkpoints(store, RUN), Checkpoints(store, RUN | {"plan": "2"})
    other.keep(9, tensors(9), {})
    ours.keep(1, tensors(1), {})
    ours.clear()
    assert (ours.steps(), other.steps()) == ([], [9])


def test_a_damaged_one_is_set_aside_and_the_one_before_counts(store):
    kept = Checkpoints(store, RUN)
    kept.keep(1, tensors(1), {})
    spec = {"of": RUN, "step": 2}
    # as if killed before the first was removed
    store.get(CHECKPOINTS, spec, lambda: (tensors(2), {}))
    truncate(store.path(CHECKPOINTS, spec) / "data.safetensors")
    with pytest.warns(UserWarning, match="damaged"):
        found, _ = kept.latest()
    assert torch.equal(found["weight"], tensors(1)["weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"name": "b"}}, "another model"),
        ({"plan": "2"}, "another plan"),
        ({"recovery": {"rank": 4}}, "a run with other settings"),
    ],
)
def test_a_folder_with_the_checkpoint_of_another_run_is_refused(tmp_path, change, said):
    store = RunStore(tmp_path / "checkpoints")
    Checkpoints(store, RUN | change).keep(1, tensors(1), {})
    with pytest.raises(InputError) as error:
        Checkpoints(store, RUN).check_alone()
    assert f"is of {said}" in str(error.value)
    assert str(tmp_path / "checkpoints") in str(error.value)


def test_a_folder_with_its_own_checkpoint_or_none_is_fine(tmp_path):
    store = RunStore(tmp_path / "checkpoints")
    Checkpoints(store, RUN).check_alone()
    Checkpoints(store, RUN).keep(1, tensors(1), {})
    Checkpoints(store, RUN).check_alone()
