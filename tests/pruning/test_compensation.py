"""What is made up for: least squares against lstsq, the bias against replaced activations."""

from contextlib import contextmanager
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from bipcore.criteria import CRITERIA
from bipcore.criteria.moments import SecondMoments, collect_second_moments
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.models.adapters import Adapter
from bipcore.pruning.compensation import compensate, too_few_tokens
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.refit import RIDGES, refit, refit_held_out
from bipcore.pruning.resolving import compensation_for
from bipcore.pruning.slicing import apply_plan
from tests.helpers.pairs import in_turn
from tests.helpers.pruning import UNITS, generated_by, mixed_plan, plan_for, scores_of
from tests.helpers.reference_blocks import PATHS, reference_blocks
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

TOKENS = tiny_tokens(8, 32)
WHOLE = BlockPlan(tuple(range(8)), tuple(range(96)))
UNIT_CASES = [(name, unit) for name in FAMILIES for unit in UNITS[name]]
each_unit = pytest.mark.parametrize(("name", "unit"), UNIT_CASES)
each_family = pytest.mark.parametrize("name", FAMILIES)


def _without(name: str, heads=WHOLE.heads, channels=WHOLE.channels) -> PruningPlan:
    """The middle block keeps these, the others everything."""
    return PruningPlan(scores_of(name).shape, (WHOLE, BlockPlan(heads, channels), WHOLE))


def _exact(model: nn.Module, tokens: Tensor = TOKENS) -> SecondMoments:
    """The second moments in float64, from the activations."""
    blocks, count = reference_blocks(model, tokens), tokens.numel()

    def read(name: str) -> Tensor:  # "1.down", "1.down.held"
        if name == "tokens":
            return torch.tensor(count)
        index, site, *held = name.split(".")
        x = blocks[int(index)].inputs[site]
        return x[count - count // 5 :] if held else x.T @ x / count

    return SecondMoments(read)


def _least_squares(model: nn.Module, plan: PruningPlan, tokens=TOKENS, **options) -> nn.Module:
    moments = options.pop("moments", None) or _exact(model, tokens)
    pruned = apply_plan(model, plan)
    return compensate(pruned, model, plan, "least-squares", moments=moments, **options)


def _bias(model: nn.Module, plan: PruningPlan, tokens: Tensor = TOKENS) -> nn.Module:
    statistics = collect_statistics(model, CalibrationSet.from_tokens(tokens))
    return compensate(apply_plan(model, plan), model, plan, "bias", statistics=statistics)


def _module(model: nn.Module, block: int, site: str) -> nn.Linear:
    """`o` or `down` of a block."""
    paths = PATHS[model.config.model_type]
    return model.get_submodule(f"{paths.block.format(block)}.{getattr(paths, site)}")


def _kept(model: nn.Module, plan: PruningPlan, block: int, site: str) -> list[int]:
    """The inputs of `o` or `down` that stay."""
    if site == "down":
        return list(plan.blocks[block].channels)
    width = _module(model, block, "o").in_features // 8
    return [head * width + i for head in plan.blocks[block].heads for i in range(width)]


def _sites(model: nn.Module, plan: PruningPlan, tokens: Tensor = TOKENS):
    """Of every output projection: where, its dense inputs (tokens, n) and weight, what it keeps."""
    for index, block in enumerate(reference_blocks(model, tokens)):
        for site in ("o", "down"):
            weight = _module(model, index, site).weight.detach().double()
            yield (index, site), block.inputs[site], weight, _kept(model, plan, index, site)


@each_unit
def test_least_squares_without_a_ridge_is_that_of_lstsq(name, unit):
    model, plan = tiny_model(name), mixed_plan(name, unit)
    pruned = _least_squares(model, plan, ridge=0.0)
    for (index, site), x, weight, kept in _sites(model, plan):
        if len(kept) == x.shape[1]:
            continue
        wanted = torch.linalg.lstsq(x[:, kept], x @ weight.T, driver="gelsd").solution.T
        found = _module(pruned, index, site).weight.double()
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@each_unit
def test_the_outputs_of_the_sublayers_come_closer(name, unit):
    model, plan, many = tiny_model(name), plan_for(name, 0.4, unit=unit), tiny_tokens(32, 48)
    calibration = CalibrationSet.from_tokens(many)
    moments = SecondMoments(collect_second_moments(model, calibration).__getitem__)
    pruned = _least_squares(model, plan, moments=moments)
    closer = []
    for (index, site), x, weight, kept in _sites(model, plan, many):
        dense = x @ weight.T
        refitted = x[:, kept] @ _module(pruned, index, site).weight.double().T
        cut = x[:, kept] @ weight[:, kept].T
        before, after = ((part - dense).square().mean() for part in (cut, refitted))
        assert after <= before * (1 + 1e-6)
        if len(kept) < x.shape[1]:
            closer.append(after / before)
    assert sum(closer) / len(closer) < 0.95


@each_family
def test_a_ridge_without_end_gives_the_sliced_weights(name):
    model, plan = tiny_model(name), plan_for(name, 0.4)
    pruned, sliced = _least_squares(model, plan, ridge=1e12), apply_plan(model, plan)
    for key, value in sliced.state_dict().items():
        torch.testing.assert_close(pruned.state_dict()[key], value, rtol=0, atol=1e-6)


def test_the_ridge_pulls_towards_the_weights_that_were():
    torch.manual_seed(0)
    x, weight, kept = torch.randn(50, 12).double(), torch.randn(5, 12).double(), [0, 3, 4, 9, 11]
    moments = x.T @ x / 50
    squares = moments.diagonal()[kept]
    pull = torch.diag((0.3 * squares.clamp_min(squares.median())).sqrt())
    found = refit(weight, moments, torch.tensor(kept), ridge=0.3)
    rows = torch.cat([x[:, kept] / 50**0.5, pull])
    wanted = torch.cat([x @ weight.T / 50**0.5, pull @ weight[:, kept].T])
    torch.testing.assert_close(found, torch.linalg.lstsq(rows, wanted).solution.T)


def test_an_input_that_was_nearly_silent_gets_no_large_weight():
    """Though it would stand in for what goes, were it as loud as it takes."""
    torch.manual_seed(0)
    x, weight, kept = torch.randn(50, 12).double(), torch.randn(5, 12), [0, 3, 4, 9, 11]
    x[:, 3] = 1e-6 * x[:, 1]
    fitted = refit(weight, x.T @ x / 50, torch.tensor(kept), ridge=1e-4)
    assert fitted.abs().max() < 10 * weight.abs().max()


def _drawn(tokens: int, seed: int, *, noise: float) -> tuple[Tensor, Tensor, list[int], Tensor]:
    """Inputs (tokens, 40) with something in common, fresh ones, the kept, and a weight."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(8, 40, generator=generator).double()

    def draw(count: int) -> Tensor:
        hidden = torch.randn(count, 8, generator=generator).double()
        return hidden @ mixed + noise * torch.randn(count, 40, generator=generator).double()

    return draw(tokens), draw(4000), list(range(28)), torch.randn(6, 40, generator=generator)


def _error(x: Tensor, weight: Tensor, kept: list[int], fitted: Tensor) -> float:
    return float((x[:, kept] @ fitted.T - x @ weight.double().T).square().mean())


@pytest.mark.parametrize("noise", [0.1, 3.0, 1000.0])
@pytest.mark.parametrize("tokens", [10, 30, 300])
def test_the_ridge_that_is_chosen_is_the_best_on_what_is_held_out(tokens, noise):
    for seed in range(5):
        x, _, kept, weight = _drawn(tokens, seed, noise=noise)
        held, fitted_on = x[tokens - tokens // 5 :], x[: tokens - tokens // 5]
        errors = {None: _error(held, weight, kept, weight[:, kept].double())}
        for ridge in RIDGES:
            squares = x.square().mean(0)[kept]
            pull = torch.diag((ridge * squares.clamp_min(squares.median())).sqrt())
            rows = torch.cat([fitted_on[:, kept] / len(fitted_on) ** 0.5, pull])
            wide = weight.double().T
            wanted = torch.cat([fitted_on @ wide / len(fitted_on) ** 0.5, pull @ wide[kept]])
            fitted = torch.linalg.lstsq(rows, wanted, driver="gelsd").solution.T
            errors[ridge] = _error(held, weight, kept, fitted)
        found, chosen = refit_held_out(
            weight, x.T @ x / tokens, torch.tensor(kept), held_out=held, tokens=tokens
        )
        assert errors[chosen] == pytest.approx(min(errors.values()), rel=1e-4)
        if chosen is None:
            assert torch.equal(found, weight[:, kept].double())
        else:
            again = refit(weight, x.T @ x / tokens, torch.tensor(kept), ridge=chosen)
            torch.testing.assert_close(found, again)


def test_with_few_tokens_it_does_no_harm_on_fresh_ones_and_with_many_good():
    for tokens, at_most in ((10, 1.05), (30, 1.0), (3000, 0.2)):
        for seed in range(5):
            x, fresh, kept, weight = _drawn(tokens, seed, noise=0.5)
            held = x[tokens - tokens // 5 :]
            found, _ = refit_held_out(
                weight, x.T @ x / tokens, torch.tensor(kept), held_out=held, tokens=tokens
            )
            before = _error(fresh, weight, kept, weight[:, kept].double())
            assert _error(fresh, weight, kept, found) <= at_most * before


def test_nothing_held_out_leaves_the_weights():
    x, _, kept, weight = _drawn(4, 0, noise=1)
    found, ridge = refit_held_out(weight, x.T @ x / 4, torch.tensor(kept), held_out=x[:0], tokens=4)
    assert ridge is None
    assert torch.equal(found, weight[:, kept].double())


def test_few_tokens_for_the_width_are_said_with_how_many_would_do():
    plan = plan_for("llama", 0.3)
    widest = max(len(block.channels) for block in plan.blocks)
    assert too_few_tokens(plan, 3 * widest) is None
    said = too_few_tokens(plan, 3 * widest - 1)
    assert f"{widest} inputs" in said
    assert f"{3 * widest:,} tokens would do" in said
    assert too_few_tokens(plan_for("llama", 0.0), 1) is None


@pytest.mark.parametrize(("name", "ridge"), in_turn(FAMILIES, (None, 0.0), each=1))
def test_fewer_tokens_than_channels_do_no_harm(name, ridge):
    options = {} if ridge is None else {"ridge": ridge}
    model, plan, few = tiny_model(name), plan_for(name, 0.3), tiny_tokens(1, 12)
    moments = collect_second_moments(model, CalibrationSet.from_tokens(few))
    options = options | {"moments": SecondMoments(moments.__getitem__)}
    pruned = _least_squares(model, plan, **options)
    assert all(parameter.isfinite().all() for parameter in pruned.parameters())
    assert pruned(TOKENS).logits.isfinite().all()
    for (index, site), x, weight, kept in _sites(model, plan, few):
        fitted = _module(pruned, index, site).weight.double()
        errors = [
            ((x[:, kept] @ w.T) - x @ weight.T).square().mean() for w in (fitted, weight[:, kept])
        ]
        assert errors[0] <= errors[1]
        if "ridge" not in options:
            assert fitted.abs().max() < 20 * weight.abs().max()


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_inputs_that_are_always_0_keep_their_weights(ridge):
    weight, kept = torch.randn(4, 6), torch.tensor([0, 2, 5])
    found = refit(weight, torch.zeros(6, 6), kept, ridge=ridge)
    torch.testing.assert_close(found.float(), weight[:, kept])
    x = torch.randn(30, 6) * torch.tensor([1.0, 1, 0, 1, 1, 1])
    found = refit(weight, x.T @ x / 30, kept, ridge=ridge)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, 1].float(), weight[:, 2])


@pytest.mark.parametrize("name", ["llama-gqa", "opt", "neox", "phi3"])
def test_weights_of_a_narrow_type_are_refitted_in_float64_and_stay_narrow(name):
    model, plan = tiny_model(name).bfloat16(), plan_for(name, 0.4)
    moments = collect_second_moments(model, CalibrationSet.from_tokens(TOKENS))
    moments = SecondMoments(moments.__getitem__)
    pruned = _least_squares(model, plan, moments=moments, ridge=0.1)
    assert {parameter.dtype for parameter in pruned.parameters()} == {torch.bfloat16}
    for index, site in product(range(3), ("o", "down")):
        weight = _module(model, index, site).weight.detach().double()
        kept = torch.tensor(_kept(model, plan, index, site))
        wanted = refit(weight, moments.of(index, site), kept, ridge=0.1).bfloat16()
        assert torch.equal(_module(pruned, index, site).weight, wanted)
    assert pruned(TOKENS).logits.isfinite().all()


@pytest.mark.parametrize(("name", "make"), in_turn(FAMILIES, (_least_squares, _bias), each=1))
def test_the_dense_model_and_what_is_shared_with_it_are_not_touched(name, make):
    model, plan = tiny_model(name), mixed_plan(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    config = model.config.to_dict()
    pruned = make(model, plan)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.config.to_dict() == config
    assert pruned.config.to_dict() == apply_plan(model, plan).config.to_dict()
    shared = [p.data_ptr() for p in Adapter(pruned).blocks[0].module.parameters()]
    assert shared == [p.data_ptr() for p in Adapter(model).blocks[0].module.parameters()]
    assert all(p.requires_grad for p in pruned.parameters())
    assert all(p.is_contiguous() for p in pruned.parameters())


@pytest.mark.parametrize(("name", "make"), in_turn(FAMILIES, (_least_squares, _bias), each=1))
def test_sparsity_0_changes_nothing(name, make):
    model = tiny_model(name)
    pruned = make(model, plan_for(name, 0))
    assert pruned.state_dict().keys() == model.state_dict().keys()
    for one, other in zip(pruned.parameters(), model.parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr()


@contextmanager
def _means_for_what_goes(model: nn.Module, plan: PruningPlan, tokens: Tensor):
    """The dense model, but for its removed inputs of `o` and `down`: their means stand in."""

    def hook(kept: list[int], means: list[float]):
        def replaced(module, args):
            (x,) = args
            x = x.clone()
            for j, mean in enumerate(means):
                if j not in kept:
                    x[..., j] = mean
            return (x,)

        return replaced

    handles = []
    for (index, site), x, _, kept in _sites(model, plan, tokens):
        means = [sum(column.tolist()) / len(column) for column in x.T]
        module = _module(model, index, site)
        handles.append(module.register_forward_pre_hook(hook(kept, means)))
    yield model
    for handle in handles:
        handle.remove()


@each_unit
def test_the_bias_stands_in_with_the_means_of_what_went(name, unit):
    model, plan = tiny_model(name), plan_for(name, 0.4, unit=unit)
    pruned, other = _bias(model, plan), tiny_tokens(3, 20, seed=9)
    with torch.no_grad(), _means_for_what_goes(model, plan, TOKENS) as reference:
        expected = reference(other).logits
    assert (model(other).logits - expected).abs().max() > 0.1
    torch.testing.assert_close(pruned(other).logits, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(("name", "gone"), in_turn(FAMILIES, ("heads", "channels"), each=1))
def test_of_a_sublayer_that_is_gone_the_bias_leaves_the_mean(name, gone):
    model, plan = tiny_model(name), _without(name, **{gone: ()})
    pruned, other = _bias(model, plan), tiny_tokens(3, 20, seed=9)
    with torch.no_grad(), _means_for_what_goes(model, plan, TOKENS) as reference:
        expected = reference(other).logits
    torch.testing.assert_close(pruned(other).logits, expected, rtol=1e-4, atol=2e-4)
    assert generated_by(pruned).shape == (3, 24)


@pytest.mark.parametrize(("name", "gone"), in_turn(FAMILIES, ("heads", "channels"), each=1))
def test_least_squares_leave_a_sublayer_that_is_gone_as_it_is(name, gone):
    model, plan = tiny_model(name), _without(name, **{gone: ()})
    sliced, pruned = apply_plan(model, plan), _least_squares(model, plan)
    for one, other in zip(pruned.parameters(), sliced.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(pruned(TOKENS).logits, sliced(TOKENS).logits)


@pytest.mark.parametrize(("name", "make"), in_turn(FAMILIES, (_least_squares, _bias), each=1))
def test_parameters_are_counted_as_they_are(name, make):
    for plan in (plan_for(name, 0.3), mixed_plan(name), _without(name, heads=())):
        pruned = make(tiny_model(name), plan)
        counted = sum(parameter.numel() for parameter in pruned.parameters())
        shape = Adapter(pruned).shape
        assert shape.parameters == counted
        assert shape.other_parameters >= Adapter(tiny_model(name)).shape.other_parameters


def test_none_changes_nothing():
    model, plan = tiny_model("llama"), plan_for("llama", 0.4)
    pruned = apply_plan(model, plan)
    before = [parameter.data_ptr() for parameter in pruned.parameters()]
    assert compensate(pruned, model, plan, "none") is pruned
    assert [parameter.data_ptr() for parameter in pruned.parameters()] == before


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("auto", "none, bias, least-squares"),
        ("no-such-kind", "no compensation 'no-such-kind'"),
        (None, "no compensation None"),
        ("bias", "needs statistics"),
        ("least-squares", "needs second moments"),
    ],
)
def test_what_is_unknown_or_missing_is_refused(kind, says):
    model, plan = tiny_model("llama"), plan_for("llama", 0.4)
    with pytest.raises(InputError, match=says):
        compensate(apply_plan(model, plan), model, plan, kind)


def test_auto_is_what_the_criterions_authors_use():
    assert compensation_for("auto", CRITERIA["flap"]) == "bias"
    assert compensation_for("auto", CRITERIA["llm-bip"]) == "none"
    assert compensation_for("least-squares", CRITERIA["flap"]) == "least-squares"
