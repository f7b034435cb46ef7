"""Running a model one block at a time: the same hidden states, and nothing left behind."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from bipcore.models.adapters import Adapter
from bipcore.models.running import Entrance, enter_blocks, record_calls
from bipcore.pruning.slicing import apply_plan
from tests.helpers.pruning import mixed_plan
from tests.helpers.tiny import CONFIGS, FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

RUNS = [
    (name, implementation)
    for name in FAMILIES
    for implementation in ("sdpa", "eager")
    if (name, implementation) != ("gemma2", "sdpa")  # its softcap has no sdpa
]


@torch.no_grad()
def _states(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    """What enters the first block of a whole forward pass, and what every block gives."""
    states: list[Tensor] = []
    modules = [block.module for block in Adapter(model).blocks]
    handles = [modules[0].register_forward_pre_hook(lambda m, args: states.append(args[0].clone()))]
    for module in modules:
        handles.append(module.register_forward_hook(lambda m, args, y: states.append(y.clone())))
    model(tokens)
    for handle in handles:
        handle.remove()
    return states


@torch.no_grad()
def _walked(model: nn.Module, entrance: Entrance) -> list[Tensor]:
    """The same, one block at a time."""
    states = [entrance.hidden]
    for index, block in enumerate(Adapter(model).blocks):
        states.append(entrance.run(index, block.module, states[-1]))
    return states


def _with(model: nn.Module, implementation: str) -> nn.Module:
    model.set_attn_implementation(implementation)
    return model


def _forwards(model: nn.Module) -> list:
    """The `forward` of every module that has one of its own, not that of its class."""
    return [module.__dict__.get("forward") for module in model.modules()]


@pytest.mark.parametrize(("name", "implementation"), RUNS)
def test_the_blocks_give_the_models_own_hidden_states_bit_for_bit(name, implementation):
    model, tokens = _with(tiny_model(name), implementation), tiny_tokens(3)
    walked = _walked(model, enter_blocks(Adapter(model), tokens))
    assert len(walked) == len(_states(model, tokens)) == 4
    assert all(map(torch.equal, walked, _states(model, tokens)))


@pytest.mark.parametrize(("name", "implementation"), RUNS)
def test_the_dense_entrance_serves_a_pruned_copy(name, implementation):
    model, tokens = _with(tiny_model(name), implementation), tiny_tokens(3)
    pruned = apply_plan(model, mixed_plan(name))
    walked = _walked(pruned, enter_blocks(Adapter(model), tokens))
    assert all(map(torch.equal, walked, _states(pruned, tokens)))
    assert not torch.equal(walked[-1], _states(model, tokens)[-1])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_block_can_be_run_again_on_the_same_hidden_state(name):
    model = tiny_model(name)
    entrance = enter_blocks(Adapter(model), tiny_tokens(2))
    before, block = entrance.hidden.clone(), Adapter(model).blocks[1].module
    with torch.no_grad():
        first = entrance.run(1, block, entrance.hidden)
        assert torch.equal(entrance.run(1, block, entrance.hidden), first)
    assert torch.equal(entrance.hidden, before)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_block_is_run_and_no_cache_is_made(name):
    model = tiny_model(name)
    ran = []
    for block in Adapter(model).blocks:
        block.o.register_forward_pre_hook(lambda module, args: ran.append(module))
    entrance = enter_blocks(Adapter(model), tiny_tokens(2))
    assert ran == []
    assert len(entrance.arguments) == 3
    for named in entrance.arguments:
        assert (named.get("past_key_values"), named.get("layer_past")) == (None, None)


def test_there_is_no_gradient():
    assert not enter_blocks(Adapter(tiny_model("llama")), tiny_tokens(2)).hidden.requires_grad


@pytest.mark.parametrize(("name", "chance"), [("neox", "hidden_dropout"), ("opt", "layerdrop")])
def test_blocks_are_entered_in_evaluation_mode_and_the_mode_comes_back(name, chance):
    config = CONFIGS[name]()
    setattr(config, chance, 0.99)
    model = AutoModelForCausalLM.from_config(config).eval()
    quiet = enter_blocks(Adapter(model), tiny_tokens(2))
    model.train()
    entrance = enter_blocks(Adapter(model), tiny_tokens(2))
    assert torch.equal(entrance.hidden, quiet.hidden)
    assert len(entrance.arguments) == 3
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_forward_comes_back(name):
    model = tiny_model(name)
    before, logits = _forwards(model), model(tiny_tokens(2)).logits
    enter_blocks(Adapter(model), tiny_tokens(2))
    assert _forwards(model) == before
    assert torch.equal(model(tiny_tokens(2)).logits, logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_forward_comes_back_after_an_exception(name):
    model = tiny_model(name)
    before = _forwards(model)
    with pytest.raises(IndexError):
        enter_blocks(Adapter(model), torch.full((2, 8), 10**6))
    assert _forwards(model) == before


def test_a_wrapper_around_forward_comes_back_and_is_run():
    model, tokens = tiny_model("llama"), tiny_tokens(2)
    expected = _states(model, tokens)
    for block in Adapter(model).blocks:
        add_hook_to_module(block.module, AlignDevicesHook(execution_device="cpu"))
    before = _forwards(model)
    assert sum(forward is not None for forward in before) == 3
    walked = _walked(model, enter_blocks(Adapter(model), tokens))
    assert all(a is b for a, b in zip(_forwards(model), before, strict=True))
    assert all(map(torch.equal, walked, expected))


def test_recorded_modules_hand_on_what_they_get():
    first, second = nn.Linear(3, 4), nn.ReLU()
    x = torch.randn(2, 3)
    with record_calls([first, second]) as calls:
        assert first(x, scale=2) is x
        assert second(x) is x
    assert [named for _, named in calls] == [{"scale": 2}, {}]
    assert all(given is x for given, _ in calls)


def test_nothing_is_recorded_after_the_block():
    linear = nn.Linear(3, 4)
    with record_calls([linear]) as calls:
        pass
    assert linear(torch.randn(2, 3)).shape == (2, 4)
    assert calls == []


def test_a_module_of_two_places_comes_back():
    linear = nn.Linear(3, 4)
    with record_calls([linear, linear]) as calls:
        linear(linear(torch.randn(2, 3)))
    assert len(calls) == 2
    assert "forward" not in vars(linear)


def test_recorded_modules_come_back_when_the_block_raises():
    own = nn.ReLU()
    own.forward = wrapper = nn.functional.relu
    plain = nn.Linear(3, 4)
    with pytest.raises(ZeroDivisionError), record_calls([own, plain]):
        raise ZeroDivisionError
    assert vars(own)["forward"] is wrapper
    assert "forward" not in vars(plain)


def test_records_can_be_nested():
    linear, x = nn.Linear(3, 4), torch.randn(2, 3)
    with record_calls([linear]) as outer:
        with record_calls([linear]) as inner:
            linear(x)
        linear(x)
        linear(x)
    assert (len(outer), len(inner)) == (2, 1)
    assert linear(x).shape == (2, 4)
