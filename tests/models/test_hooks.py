"""capture_inputs hands over what enters a module, and is gone afterwards."""

import pytest
import torch
from torch import nn

from bipcore.models.running import capture_inputs


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def _hooks(net: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in net.modules())


def test_each_module_hands_over_its_input_under_its_key():
    net, x = _net(), torch.randn(5, 3)
    seen = {}
    with capture_inputs({"first": net[0], ("last", 2): net[2]}, seen.__setitem__):
        net(x)
    assert set(seen) == {"first", ("last", 2)}
    assert torch.equal(seen["first"], x)
    assert torch.equal(seen["last", 2], net[1](net[0](x)))


def test_the_input_is_not_copied():
    net, x = _net(), torch.randn(5, 3)
    seen = []
    with capture_inputs({0: net[0]}, lambda key, value: seen.append(value.data_ptr())):
        net(x)
    assert seen == [x.data_ptr()]


def test_every_forward_pass_is_seen_in_order():
    net = _net()
    seen = []
    with capture_inputs({"a": net[0]}, lambda key, value: seen.append(len(value))):
        for rows in (1, 4, 2):
            net(torch.randn(rows, 3))
    assert seen == [1, 4, 2]


def test_only_the_first_input_is_handed_over():
    bilinear = nn.Bilinear(3, 4, 2)
    x, y = torch.randn(5, 3), torch.randn(5, 4)
    seen = []
    with capture_inputs({"a": bilinear}, lambda key, value: seen.append(value)):
        bilinear(x, y)
    assert len(seen) == 1
    assert torch.equal(seen[0], x)


def test_the_output_does_not_change():
    net, x = _net(), torch.randn(5, 3)
    before = net(x)
    with capture_inputs({0: net[0], 2: net[2]}, lambda key, value: 17):
        assert torch.equal(net(x), before)


def test_nothing_is_seen_after_the_block():
    net = _net()
    seen = []
    with capture_inputs({0: net[0]}, lambda key, value: seen.append(key)):
        pass
    net(torch.randn(5, 3))
    assert seen == []
    assert _hooks(net) == 0


def test_hooks_are_removed_when_the_block_raises():
    net = _net()
    capture = capture_inputs({0: net[0], 2: net[2]}, lambda key, value: None)
    with pytest.raises(RuntimeError), capture:
        net(torch.randn(5, 99))
    assert _hooks(net) == 0


def test_hooks_are_removed_when_the_receiver_raises():
    net = _net()

    def receive(key, value):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), capture_inputs({0: net[0]}, receive):
        net(torch.randn(5, 3))
    assert _hooks(net) == 0


def test_hooks_are_removed_when_one_cannot_be_registered():
    net = _net()
    modules = {0: net[0], 1: "not a module"}
    with pytest.raises(AttributeError), capture_inputs(modules, lambda key, value: None):
        pass
    assert _hooks(net) == 0


def test_other_hooks_stay():
    net = _net()
    calls = []
    net[0].register_forward_pre_hook(lambda module, args: calls.append("mine"))
    with capture_inputs({0: net[0]}, lambda key, value: calls.append("captured")):
        net(torch.randn(5, 3))
    net(torch.randn(5, 3))
    assert calls == ["mine", "captured", "mine"]


def test_captures_can_be_nested():
    net = _net()
    seen = []
    with capture_inputs({"outer": net[0]}, lambda key, value: seen.append(key)):
        with capture_inputs({"inner": net[0]}, lambda key, value: seen.append(key)):
            net(torch.randn(5, 3))
        net(torch.randn(5, 3))
    assert seen == ["outer", "inner", "outer"]
