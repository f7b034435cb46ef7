"""Decoding times of real models: every family, every width of a table, refusals."""

import itertools

import pytest
import torch

from bipcore.errors import InputError
from bipcore.evaluation.decoding import REPEATS, WARMUP, decode_milliseconds, measure_decode_times
from bipcore.models.adapters import Adapter
from bipcore.pruning.decode_times import DECODE_TIMES
from bipcore.pruning.resolving import resolve_unit
from bipcore.store.runs import RunStore
from tests.helpers.passes import counted_passes
from tests.helpers.tiny import FAMILIES, tiny_model
from tests.helpers.tiny import one_thread as one_thread


@pytest.mark.parametrize("name", FAMILIES)
def test_a_table_has_rising_times_of_every_width_and_survives_the_store(name, store):
    model = tiny_model(name)
    shape = Adapter(model).shape
    before = {key: value.clone() for key, value in model.state_dict().items()}
    times = measure_decode_times(model, resolve_unit("auto", shape), 20)
    whole = shape.blocks[0]
    for series, most in ((times.attention, whole.heads), (times.ffn, whole.channels)):
        assert (series[0], series[-1][0]) == ((0, 0.0), most)
        assert all(now[1] <= later[1] for now, later in itertools.pairwise(series))
    assert times.milliseconds(shape) >= times.outside >= 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    store.get(DECODE_TIMES, {"n": 1}, lambda: times)
    assert RunStore(store.root).stored(DECODE_TIMES, {"n": 1}) == times


def test_a_token_is_decoded_at_a_time_behind_the_context():
    model = tiny_model("llama")
    with counted_passes() as passes:
        assert decode_milliseconds(model, 50) > 0
    assert len(passes) == 1 + WARMUP + REPEATS


@pytest.mark.parametrize("context", [0, 111])
def test_a_context_beyond_the_positions_is_refused(context):
    with pytest.raises(InputError, match=f"is from 1 to 110, not {context}"):
        decode_milliseconds(tiny_model("llama"), context)
