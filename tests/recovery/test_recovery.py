"""Fine-tuning with LoRA: what it trains, what it leaves alone, going on where it was stopped."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from bipcore.errors import Cancelled, InputError
from bipcore.pruning.slicing import apply_plan
from bipcore.recovery.lora import LoraAdapter, merged
from bipcore.recovery.schedule import batch_of, learning_rate, steps_of
from bipcore.recovery.training import Tuned, recover
from bipcore.store.resume import Checkpoints
from tests.helpers.pruning import assert_same_outputs, logits_of, mixed_plan, plan_for
from tests.helpers.recoveries import SPEC, TOKENS, pruned
from tests.helpers.tiny import FAMILIES, one_thread, tiny_model, tiny_tokens  # noqa: F401


def state_of(model) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def held_out_loss(model, tokens=TOKENS[12:]) -> float:
    """Mean −log p of each next token, the slow way."""
    losses = []
    for row in tokens:
        with torch.no_grad():
            scores = model(row[None]).logits[0].log_softmax(-1)
        losses += [-float(scores[t, row[t + 1]]) for t in range(len(row) - 1)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_trained_on_widths_that_differ_from_block_to_block(name):
    model = pruned(name)
    done = recover(model, TOKENS, SPEC)
    assert done.history[-1].step == 6
    assert not same(state_of(merged(model, LoraAdapter(SPEC, done.tensors))), state_of(model))


def test_training_lowers_the_loss_on_what_it_was_trained_on():
    model = pruned()
    spec = replace(SPEC, epochs=8)
    whole = merged(model, LoraAdapter(spec, recover(model, TOKENS, spec).tensors))
    assert held_out_loss(whole, TOKENS[:12]) < held_out_loss(model, TOKENS[:12]) - 0.1


def test_the_dense_and_the_pruned_model_are_untouched():
    dense = tiny_model("mistral")
    model = apply_plan(dense, mixed_plan("mistral"))
    before = state_of(dense), state_of(model)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    done = recover(model, TOKENS, SPEC)
    merged(model, LoraAdapter(SPEC, done.tensors))
    assert same(state_of(dense), before[0])
    assert same(state_of(model), before[1])
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trained
    assert not any("lora" in name for name, _ in model.named_modules())


def test_the_merged_model_is_of_the_same_class_and_says_what_the_validation_said():
    model = pruned()
    done = recover(model, TOKENS, SPEC)
    whole = merged(model, LoraAdapter(SPEC, done.tensors))
    assert type(whole) is type(model)
    assert [p.shape for p in whole.parameters()] == [p.shape for p in model.parameters()]
    assert held_out_loss(whole) == pytest.approx(done.history[-1].validation, abs=1e-5)
    assert held_out_loss(model) == pytest.approx(done.history[0].validation, abs=1e-5)


def test_what_was_not_adapted_is_shared():
    model = pruned()
    spec = replace(SPEC, targets=("ffn",))
    whole = merged(model, LoraAdapter(spec, recover(model, TOKENS, spec).tensors))
    shared = {
        name
        for (name, a), (_, b) in zip(
            model.named_parameters(), whole.named_parameters(), strict=True
        )
        if a.data_ptr() == b.data_ptr()
    }
    changed = {name for name, _ in model.named_parameters()} - shared
    assert changed
    assert all(".mlp." in name for name in changed)


def test_an_adapter_that_was_not_trained_changes_nothing():
    model = pruned()
    spec = replace(SPEC, learning_rate=1e-30)
    whole = merged(model, LoraAdapter(spec, recover(model, TOKENS, spec).tensors))
    torch.testing.assert_close(logits_of(whole), logits_of(model), rtol=0, atol=1e-5)


def test_one_step_is_the_gradient_step_of_the_mean_loss_of_its_batch():
    """Against plain autograd on W + (α / r)·B A, with B = 0: the loss's gradient by B, clipped,
    and AdamW's first step, which is the learning rate times the sign of the gradient."""
    model = pruned()
    spec = replace(SPEC, epochs=1, samples=4, validation=0, targets=("down_proj",), alpha=8.0)
    done = recover(model, TOKENS[:4], spec)
    reference = pruned()
    block = reference.model.layers[1].mlp.down_proj
    block.weight.requires_grad_(True)
    logits = reference(TOKENS[:4]).logits[:, :-1]
    functional.cross_entropy(logits.flatten(0, 1), TOKENS[:4, 1:].flatten()).backward()
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_{}.weight"
    first, second = done.tensors[name.format("A")], done.tensors[name.format("B")]
    by_b = block.weight.grad @ first.T  # (d, r), up to the positive factor α / r
    clear = by_b.abs() > 1e-3 * by_b.abs().max()
    expected = -spec.learning_rate * by_b.sign()
    torch.testing.assert_close(second[clear], expected[clear], rtol=2e-2, atol=0)


def test_the_size_of_a_forward_pass_does_not_matter():
    model = pruned()
    results = [recover(model, TOKENS, SPEC, micro_batch=size).tensors for size in (1, 3, 64)]
    for other in results[1:]:
        for name, value in results[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=2e-4)


def test_the_same_spec_gives_the_same_adapter_and_another_seed_another():
    model = pruned()
    once, again = (recover(model, TOKENS, SPEC).tensors for _ in range(2))
    assert same(once, again)
    assert not same(once, recover(model, TOKENS, replace(SPEC, seed=1)).tensors)


def test_the_state_of_the_global_generator_does_not_change():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    recover(pruned(), TOKENS, replace(SPEC, dropout=0.2))
    assert torch.equal(torch.rand(3), expected)


def stop_at(step: int):
    """A progress callable that cancels in the middle of optimiser step ``step``."""

    def progress(fraction: float, message: str) -> None:
        if message.startswith(f"Step {step} "):
            raise Cancelled

    return progress


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, dropout=0.3), replace(SPEC, patience=9)])
@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_cancelled_run_goes_on_to_exactly_the_same_adapter(store, spec, step):
    model, whole = pruned(), recover(pruned(), TOKENS, spec)
    kept = Checkpoints(store, "this run")
    with pytest.raises(Cancelled):
        recover(model, TOKENS, spec, checkpoints=kept, progress=stop_at(step))
    assert kept.steps() == [step - 1]
    seen = []
    done = recover(model, TOKENS, spec, checkpoints=kept, watch=seen.append)
    assert len(seen[0]) == step + 1
    assert same(done.tensors, whole.tensors)
    assert done.history == whole.history


def test_a_checkpoint_is_kept_as_often_as_asked_and_only_the_last(store):
    kept = Checkpoints(store, "this run")
    steps = []
    recover(
        pruned(),
        TOKENS,
        SPEC,
        checkpoints=kept,
        checkpoint_seconds=0,
        watch=lambda history: steps.append(kept.steps()),
    )
    assert steps == [[], [0], [1], [2], [3], [4], [5]]
    assert kept.steps() == [6]


def test_training_stops_when_the_held_out_loss_does_not_improve_and_keeps_the_best():
    spec = replace(SPEC, learning_rate=0.5, epochs=20, patience=2, validate_every=1)
    model = pruned()
    done = recover(model, TOKENS, spec)
    looks = [step.validation for step in done.history]
    assert done.history[-1].step < steps_of(spec)
    assert done.chosen == looks.index(min(looks)) == done.history[-1].step - 2
    whole = merged(model, LoraAdapter(spec, done.tensors))
    assert held_out_loss(whole) == pytest.approx(min(looks), rel=1e-3)


def test_the_last_step_counts_where_training_does_not_stop_early():
    done = recover(pruned(), TOKENS, replace(SPEC, learning_rate=0.5))
    assert done.chosen == 6


def test_the_tokens_trained_on_are_counted():
    done = recover(pruned(), TOKENS, SPEC)
    assert isinstance(done, Tuned)
    assert done.tokens == 2 * 12 * 16
    assert done.seconds > 0


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own():
    spec = replace(SPEC, samples=10, epochs=3)
    assert steps_of(spec) == 9
    epochs = [torch.cat([batch_of(spec, 3 * e + i) for i in range(3)]).tolist() for e in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_learning_rate_rises_then_falls_as_a_cosine():
    spec = replace(SPEC, samples=40, epochs=1, warmup=0.2, learning_rate=1.0)
    rates = [learning_rate(spec, step) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    assert [s.learning_rate for s in recover(pruned(), TOKENS, SPEC).history[1:3]] == [
        SPEC.learning_rate,
        learning_rate(SPEC, 1),
    ]


def test_sublayers_that_are_gone_are_left_out():
    from bipcore.pruning.editing import drop_attention, drop_ffn

    plan = drop_ffn(drop_attention(plan_for("llama"), 0), 2)
    model = apply_plan(tiny_model("llama"), plan)
    done = recover(model, TOKENS, SPEC)
    assert not any("layers.0.self_attn" in name or "layers.2.mlp" in name for name in done.tensors)
    whole = merged(model, LoraAdapter(SPEC, done.tensors))
    assert whole(TOKENS[:2]).logits.isfinite().all()


def test_the_merged_model_generates_with_the_cache_and_padding_as_the_adapted_one():
    from peft import set_peft_model_state_dict

    from bipcore.recovery.lora import with_adapter

    model = pruned("qwen2").double()  # so that the order of the additions does not show
    done = recover(model, TOKENS, SPEC)
    tuned = with_adapter(model, SPEC).double()
    set_peft_model_state_dict(tuned, dict(done.tensors))
    assert_same_outputs(merged(model, LoraAdapter(SPEC, done.tensors)), tuned)


def test_half_precision_is_trained_and_merged_in_its_own_type():
    model = pruned().to(torch.bfloat16)
    done = recover(model, TOKENS, SPEC)
    assert {value.dtype for value in done.tensors.values()} == {torch.float32}
    assert merged(model, LoraAdapter(SPEC, done.tensors)).dtype == torch.bfloat16


def test_float16_gradients_do_not_vanish():
    model = pruned().to(torch.float16)
    done = recover(model, TOKENS, SPEC)
    assert all(bool(v.any()) for k, v in done.tensors.items() if "lora_B" in k)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 0}, "rank of a recovery is a whole number, at least 1, not 0"),
        ({"samples": 0}, "training samples is a whole number, at least 1"),
        ({"batch_size": 0}, "batch size"),
        ({"epochs": -1}, "epochs"),
        ({"validate_every": 0}, "steps between two looks"),
        ({"seq_len": 1}, "at least 2, not 1"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"learning_rate": math.nan}, "above 0"),
        ({"alpha": -1.0}, "above 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"warmup": 1.0}, "below 1"),
        ({"weight_decay": -0.1}, "from 0 to 100"),
        ({"validation": -1}, "at least 0"),
        ({"patience": -1}, "at least 0"),
        ({"patience": 1, "validation": 0}, "have to be held out"),
        ({"seed": -1}, "seed"),
        ({"seq_len": 129}, "128 positions"),
        ({"samples": 13}, "13 + 4 samples"),
        ({"targets": ("nose",)}, "(q_proj, k_proj"),
        ({"targets": ()}, "not an empty list"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(change, said):
    with pytest.raises(InputError) as error:
        recover(pruned(), TOKENS, replace(SPEC, **change))
    assert said in str(error.value)


def test_a_learning_rate_that_breaks_the_model_is_said():
    spec = replace(SPEC, learning_rate=10, weight_decay=100, alpha=1e6, epochs=5)
    with pytest.raises(InputError, match="lower learning rate"):
        recover(pruned(), TOKENS, spec)


def test_an_adapter_of_another_model_is_refused():
    done = recover(pruned(), TOKENS, SPEC)
    other = apply_plan(tiny_model("llama"), plan_for("llama", 0.3))
    with pytest.raises(InputError, match="made for another model"):
        merged(other, LoraAdapter(SPEC, done.tensors))
