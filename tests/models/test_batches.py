"""How many tokens go through a model at once."""

import pytest

from bipcore.models import batches
from bipcore.models.batches import activation_bytes, rows_for, rows_in_pass
from tests.helpers.shapes import LLAMA_7B
from tests.helpers.tiny import tiny_model


@pytest.mark.parametrize(
    ("length", "on_cpu", "logits", "rows"),
    [
        (256, True, False, 16),  # about 4096 tokens
        (5000, True, False, 1),
        (128, True, True, 4),  # logits are wide: 512 tokens on the CPU
        (1024, True, True, 1),
        (1024, False, True, 4),
    ],
)
def test_a_pass_has_as_many_rows_as_are_fast(length, on_cpu, logits, rows):
    assert rows_in_pass(LLAMA_7B, length, element=4, on_cpu=on_cpu, logits=logits) == rows


@pytest.mark.parametrize("logits", [False, True])
def test_a_pass_takes_at_most_half_of_the_room_and_has_at_least_a_row(logits):
    token = activation_bytes(LLAMA_7B, 2)
    token += 2 * 2 * LLAMA_7B.other_weights // LLAMA_7B.hidden if logits else 0
    how = {"element": 2, "on_cpu": False, "logits": logits}
    assert rows_in_pass(LLAMA_7B, 64, room=2 * token * 64 * 5, **how) == 5
    assert rows_in_pass(LLAMA_7B, 64, room=2 * token * 64 * 5 - 2, **how) == 4
    assert rows_in_pass(LLAMA_7B, 64, room=0, **how) == 1


def test_on_the_cpu_the_rows_do_not_depend_on_what_is_free(monkeypatch):
    monkeypatch.setattr(batches, "free_memory", lambda device: 0)
    model = tiny_model("llama")
    assert (rows_for(model, 32), rows_for(model, 32, logits=True)) == (128, 16)
