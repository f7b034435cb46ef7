"""Where two models differ, against a plain loop over both models' full logits."""

import math

import pytest
import torch

from bipcore.errors import InputError
from bipcore.evaluation.differences import LIKELIEST, differences, pieces, rows
from bipcore.evaluation.metrics import METRICS, measure
from tests.evaluation.test_divergence import changed
from tests.helpers.folders import byte_model, text_tokenizer
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens

WINDOW = 12


@torch.no_grad()
def _logits(model, tokens) -> torch.Tensor:
    """Those of every window, the last of which is shorter: (n, V), float64."""
    parts = [model(input_ids=row[None]).logits[0].double() for row in tokens.split(WINDOW)]
    return torch.cat(parts)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_token_is_as_a_plain_loop_finds_it(name):
    dense, tokens = tiny_model(name), tiny_tokens(1, 50)[0]
    model = changed(dense)
    found = differences(model, dense, tokens, window=WINDOW)
    assert torch.equal(found.tokens, tokens)
    own, other = (_logits(m, tokens).log_softmax(-1) for m in (model, dense))
    for place, (q, p) in enumerate(zip(own, other, strict=True)):
        apart = sum(a.exp() * (a - b) for a, b in zip(p, q, strict=True)).item()
        assert found.kl[place].item() == pytest.approx(apart, rel=1e-4, abs=1e-6)
        last = place % WINDOW == WINDOW - 1 or place == len(tokens) - 1
        for said, logs in ((found.dense, p), (found.other, q)):
            best = sorted(range(len(logs)), key=lambda token, logs=logs: -logs[token])
            assert said.likeliest[place].tolist() == best[:LIKELIEST]
            expected = [logs[token].exp().item() for token in best[:LIKELIEST]]
            assert said.probabilities[place].tolist() == pytest.approx(expected, rel=1e-4)
            if last:
                assert said.rank[place] == 0
                assert said.loss[place].isnan()
                continue
            following = int(tokens[place + 1])
            assert said.rank[place] == 1 + best.index(following)
            assert said.loss[place].item() == pytest.approx(-logs[following].item(), rel=1e-4)


def test_the_means_over_whole_windows_are_the_metrics():
    dense, tokens = tiny_model("llama"), tiny_tokens(1, 48)[0]
    model = changed(dense)
    found = differences(model, dense, tokens, window=WINDOW, batch_size=3)
    wanted = [METRICS["kl"], METRICS["agreement"], METRICS["perplexity"]]
    measured = measure(wanted, model, tokens, window=WINDOW, dense=dense)
    assert found.kl.double().mean().item() == pytest.approx(measured["kl"], rel=1e-5)
    assert found.agrees.double().mean().item() == pytest.approx(measured["agreement"])
    loss = found.other.loss.double().nanmean().item()
    assert math.exp(loss) == pytest.approx(measured["perplexity"], rel=1e-4)


def test_a_model_does_not_differ_from_itself():
    model, tokens = tiny_model("qwen2"), tiny_tokens(1, 30)[0]
    found = differences(model, model, tokens, window=WINDOW)
    assert found.kl.tolist() == [0.0] * 30
    assert found.agrees.all()


def test_passages_come_worst_first_and_are_parts_of_the_whole():
    dense, tokens = tiny_model("llama"), tiny_tokens(1, 50)[0]
    found = differences(changed(dense), dense, tokens, window=WINDOW)
    means = {start: found.kl[start : start + 16].mean().item() for start in (0, 16, 32, 48)}
    worst = sorted(means, key=means.get, reverse=True)
    assert [one.start for one in found.passages(16, 9)] == worst
    assert [one.start for one in found.passages(16, 2)] == worst[:2]
    assert [len(one) for one in found.passages(16, 9) if one.start == 48] == [2]
    part = found.part(16, 32)
    assert part.kl.tolist() == found.kl[16:32].tolist()
    assert part.other.loss.tolist() == pytest.approx(found.other.loss[16:32].tolist(), nan_ok=True)
    assert part.dense.likeliest.tolist() == found.dense.likeliest[16:32].tolist()
    assert found.passages(100, 1) == [range(50)]


def test_the_worst_come_first_with_what_was_read_and_what_follows():
    tokenizer, dense = text_tokenizer(), byte_model()
    tokens = torch.tensor(tokenizer("Where in a text do they differ?")["input_ids"])
    found = differences(changed(dense), dense, tokens, window=WINDOW)
    listed = list(rows(found, tokenizer, 4))
    apart = found.kl.tolist()
    assert [row["kl"] for row in listed] == sorted(apart, reverse=True)[:4]
    for row in listed:
        place = row["position"]
        assert row["kl"] == apart[place]
        assert row["token"] == tokenizer.decode(tokens[place : place + 1].tolist())
        last = place % WINDOW == WINDOW - 1 or place == len(tokens) - 1
        after = tokenizer.decode(tokens[place + 1 : place + 2].tolist())
        assert row["next"] == (None if last else after)
        assert row["before"] == tokenizer.decode(tokens[max(place - 12, 0) : place].tolist())
        assert (row["other"]["rank_of_next"] is None) == last


def test_a_window_that_the_model_cannot_read_is_refused():
    model = tiny_model("llama")
    with pytest.raises(InputError, match="positions"):
        differences(model, model, tiny_tokens(1, 5000)[0], window=5000)


@pytest.mark.parametrize(
    "text", ["Where in a text?", "naïve café — 日本語 🙂", "two\n\nlines  \t", ""]
)
def test_pieces_are_the_text_again(text):
    tokenizer = text_tokenizer()
    tokens = torch.tensor(tokenizer(text)["input_ids"], dtype=torch.long)
    found = pieces(tokens, tokenizer)
    assert len(found) == len(tokens)
    if text.isascii():
        assert "".join(found) == text
