"""The loss of a pass: its sum, and how often the device is waited for."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from bipcore.models.running import negative_log_likelihood


class _Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors one by one."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_loss_is_that_of_float64_and_read_at_the_end(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1100, 31, generator=generator).to(dtype)
    tokens = torch.randint(31, (2, 1100), generator=generator)
    with _Reads() as reads:
        found = negative_log_likelihood(logits, tokens)
    exact = functional.cross_entropy(
        logits[:, :-1].double().flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
    )
    assert found == pytest.approx(exact.item(), rel=1e-6)
    assert reads.count == 0


def test_a_single_token_has_no_loss():
    assert negative_log_likelihood(torch.zeros(1, 1, 5), torch.zeros(1, 1, dtype=torch.long)) == 0
