"""Models whose parts rest on the disk: the same numbers, and nothing of them left in memory."""

import re
import shutil

import pytest
import torch
from safetensors import safe_open

from bipcore.criteria import score
from bipcore.criteria.moments import SecondMoments, collect_second_moments
from bipcore.criteria.statistics import SITES, collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.evaluation.metrics import METRICS, measure, perplexity
from bipcore.evaluation.reconstruction import reconstruction_errors
from bipcore.models.adapters import Adapter
from bipcore.models.loading import load_model
from bipcore.models.memory import read_size
from bipcore.models.streaming import Stream, is_streamed, present, tensors_of
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.compensation import compensate
from bipcore.pruning.propagation import score_pruned
from bipcore.pruning.slicing import apply_plan
from bipcore.store.unfinished import is_temporary
from tests.helpers.folders import byte_model
from tests.helpers.pairs import in_turn
from tests.helpers.tiny import FAMILIES, byte_tokenizer, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

CALIBRATION = CalibrationSet.from_tokens(tiny_tokens())


@pytest.fixture
def both(tmp_path, cache):
    """The model of a family in memory, and streamed from a folder, in a budget of half of it."""

    def load(name, **how):
        whole = tiny_model(name)
        whole.save_pretrained(tmp_path / name, max_shard_size="100KB")
        byte_tokenizer().save_pretrained(tmp_path / name)
        size = sum(p.numel() * p.element_size() for p in whole.parameters())
        budget = size * (2 if "dtype" in how else 4) // 4096
        how = {"device": "cpu", "memory": f"{budget}KiB"} | how
        streamed, _ = load_model(str(tmp_path / name), **how)
        assert is_streamed(streamed)
        return whole, streamed

    return load


def _at_rest(model) -> bool:
    parts = (model.get_input_embeddings(), *(b.module for b in Adapter(model).blocks))
    return all(p.is_meta for part in parts for p in part.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_streamed_model_gives_the_same_logits_and_tokens(both, name):
    whole, streamed = both(name)
    tokens = tiny_tokens(2, 12)
    with torch.no_grad():
        assert torch.equal(streamed(input_ids=tokens).logits, whole(input_ids=tokens).logits)
    how = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(streamed.generate(tokens, **how), whole.generate(tokens, **how))
    assert _at_rest(streamed)
    for (key, one), (other_key, other) in zip(
        tensors_of(streamed), whole.state_dict().items(), strict=True
    ):
        assert key == other_key
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_statistics_scores_moments_and_perplexity_are_the_same(both, name):
    whole, streamed = both(name)
    found = [collect_statistics(model, CALIBRATION, batch_size=2) for model in (whole, streamed)]
    for one, other in zip(*(f.blocks for f in found), strict=True):
        for site in SITES:
            expected, got = getattr(one, site).mean_square, getattr(other, site).mean_square
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)
    for criterion in ("llm-bip", "wanda", "magnitude", "importance-propagation"):
        scores = [score(m, f, criterion) for m, f in zip((whole, streamed), found, strict=True)]
        for one, other in zip(*(s.blocks for s in scores), strict=True):
            torch.testing.assert_close(other.ffn, one.ffn, rtol=1e-6, atol=0)
            torch.testing.assert_close(other.heads, one.heads, rtol=1e-6, atol=0)
    moments = [collect_second_moments(model, CALIBRATION) for model in (whole, streamed)]
    assert all(torch.equal(moments[0][key], moments[1][key]) for key in moments[0])
    text = tiny_tokens(3, 16).reshape(-1)
    figures = [perplexity(model, text, window=16, batch_size=2) for model in (whole, streamed)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)
    assert _at_rest(streamed)


@pytest.mark.parametrize(
    ("name", "compensation"), in_turn(FAMILIES, ("none", "bias", "least-squares"), each=1)
)
def test_a_pruned_streamed_model_is_the_pruned_model(both, name, compensation):
    whole, streamed = both(name)
    statistics = collect_statistics(whole, CALIBRATION)
    plan = make_plan(score(whole, statistics, "llm-bip"), sparsity=0.4, protect_first=1)
    moments = SecondMoments(collect_second_moments(whole, CALIBRATION).__getitem__)
    given = {"statistics": statistics, "moments": moments}
    pruned = [
        compensate(apply_plan(model, plan), model, plan, compensation, **given)
        for model in (whole, streamed)
    ]
    assert is_streamed(pruned[1])
    assert _at_rest(pruned[1])
    tokens = tiny_tokens(2, 12)
    with torch.no_grad():
        expected, got = (model(input_ids=tokens).logits for model in pruned)
        assert torch.equal(got, expected)
        again = apply_plan(pruned[1], make_plan(score(pruned[1], None, "magnitude"), sparsity=0.3))
        twice = apply_plan(pruned[0], make_plan(score(pruned[0], None, "magnitude"), sparsity=0.3))
        assert torch.equal(again(input_ids=tokens).logits, twice(input_ids=tokens).logits)
        assert torch.equal(streamed(input_ids=tokens).logits, whole(input_ids=tokens).logits)
    pairs = ((pruned[0], whole), (pruned[1], streamed))
    how = {"tokens": tokens.reshape(-1), "window": 12}
    kls = [measure([METRICS["kl"]], model, dense=dense, **how)["kl"] for model, dense in pairs]
    assert kls[0] == kls[1] > 0


@pytest.mark.parametrize("name", ["llama", "gemma2", "opt"])
def test_reconstruction_errors_are_the_same_and_each_block_is_read_once(both, name, monkeypatch):
    whole, streamed = both(name)
    plans = {str(s): make_plan(score(whole, None, "magnitude"), sparsity=s) for s in (0.3, 0.5)}
    errors = []
    reads = []
    real = Stream.read
    monkeypatch.setattr(Stream, "read", lambda *given: reads.append(1) or real(*given))
    for model in (whole, streamed):
        pruned = {key: apply_plan(model, plan) for key, plan in plans.items()}
        errors.append(reconstruction_errors(model, pruned, CALIBRATION, batch_size=2))
    for key in plans:
        for figure in ("accumulated", "local", "dense_mean_abs"):
            expected, got = (getattr(found[key], figure) for found in errors)
            assert got == pytest.approx(expected, rel=1e-6)
    assert len(reads) == len(Adapter(whole).blocks) * (1 + len(plans)) + 1  # and the embedding
    assert _at_rest(streamed)


@pytest.mark.parametrize("name", ["llama", "neox", "phi3"])
def test_scores_on_the_output_of_pruned_blocks_are_the_same(both, name):
    whole, streamed = both(name)
    choice = {"sparsity": 0.4}
    scores = [score_pruned(m, CALIBRATION, "llm-bip", choice=choice) for m in (whole, streamed)]
    for one, other in zip(*(s.blocks for s in scores), strict=True):
        torch.testing.assert_close(other.ffn, one.ffn, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["llama", "gemma3", "opt"])
def test_in_another_number_type_it_is_the_model_in_that_type(both, tmp_path, name):
    _, streamed = both(name, dtype="bfloat16")
    whole, _ = load_model(str(tmp_path / name), device="cpu", dtype="bfloat16")
    tokens = tiny_tokens(2, 12)
    with torch.no_grad():
        assert torch.equal(streamed(input_ids=tokens).logits, whole(input_ids=tokens).logits)


def test_what_runs_is_there_while_it_is_held_and_read_once(both, monkeypatch):
    _, streamed = both("llama")
    block = Adapter(streamed).blocks[1].module
    opened = []
    real = safe_open

    def counted(file, **how):
        opened.append(file)
        return real(file, **how)

    monkeypatch.setattr("bipcore.models.streaming.safetensors.safe_open", counted)
    with present(block):
        count = len(opened)
        assert not any(p.is_meta for p in block.parameters())
        with present(block):
            pass
        assert not any(p.is_meta for p in block.parameters())
    assert count
    assert len(opened) == count
    assert all(p.is_meta for p in block.parameters())


def test_an_exception_leaves_nothing_in_memory(both):
    _, streamed = both("llama")
    with pytest.raises(IndexError):
        streamed(input_ids=torch.tensor([[10**6]]))
    assert _at_rest(streamed)


def test_hidden_states_that_do_not_fit_go_through_the_disk(both, cache, monkeypatch):
    whole, streamed = both("llama")
    monkeypatch.setattr("bipcore.models.running._HIDDEN_SHARE", 0.0)
    one, other = (collect_statistics(model, CALIBRATION) for model in (whole, streamed))
    torch.testing.assert_close(
        other.blocks[2].down.mean_abs, one.blocks[2].down.mean_abs, rtol=1e-9, atol=0
    )
    assert not [path for path in cache.root.iterdir() if is_temporary(path.name)]


def test_a_tie_that_is_said_of_two_different_tensors_is_not_believed(tmp_path, cache):
    model = byte_model()
    model.config.tie_word_embeddings = True
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    tokens = tiny_tokens(1, 8)
    how = {"device": "cpu"}
    whole, _ = load_model(str(tmp_path / "model"), **how)
    streamed, _ = load_model(str(tmp_path / "model"), memory="400KiB", **how)
    assert is_streamed(streamed)
    assert torch.equal(streamed(input_ids=tokens).logits, whole(input_ids=tokens).logits)


def test_a_folder_that_goes_while_it_streams_is_one_sentence(both, tmp_path):
    _, streamed = both("llama")
    shutil.rmtree(tmp_path / "llama")
    with pytest.raises(InputError, match="cannot be read any more"):
        collect_statistics(streamed, CALIBRATION)
    assert _at_rest(streamed)


def test_a_full_disk_while_it_streams_is_one_sentence_and_leaves_nothing(both, cache, monkeypatch):
    _, streamed = both("llama")
    monkeypatch.setattr("bipcore.models.running._HIDDEN_SHARE", 0.0)

    def full(tensors, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bipcore.store.scratch.save_file", full)
    with pytest.raises(InputError, match="No space left on device; free some space"):
        collect_statistics(streamed, CALIBRATION)
    assert not [path for path in cache.root.iterdir() if is_temporary(path.name)]


def test_a_budget_below_the_largest_part_is_refused_with_what_would_do(both):
    with pytest.raises(InputError, match="too little for the largest part") as caught:
        both("llama", memory="9KiB")
    least = re.search(r"at least ([\d,]+) MiB", str(caught.value))
    assert least


@pytest.mark.parametrize(
    ("said", "size"),
    [("700MiB", 700 * 2**20), ("24GB", 24 * 10**9), ("1.5g", 3 * 2**29), ("auto", None)],
)
def test_sizes_are_read_as_people_write_them(said, size):
    assert read_size(said) == size


@pytest.mark.parametrize("said", ["", "0", "-1", "many", "1e9", "5 apples", "9" * 40, "iB"])
def test_what_is_no_size_is_one_sentence(said):
    with pytest.raises(InputError, match="auto or a size such as"):
        read_size(said)


def test_what_needs_the_whole_model_says_so(both):
    _, streamed = both("llama")
    with pytest.raises(InputError, match="gradients needs the whole model in memory"):
        score(streamed, None, "llm-pruner", calibration=CALIBRATION)
