"""Streams of text, token for token what `generate` gives, and how the next token is chosen."""

import itertools

import pytest
import torch
from torch import nn

from bipcore.errors import InputError
from bipcore.models.generation import Sampling, encode_prompt, stream
from tests.helpers.chains import ENDS, chain_model
from tests.helpers.folders import text_tokenizer
from tests.helpers.tiny import FAMILIES, tiny_model, word_tokenizer

PROMPT = "w3 w14 w15 w9"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(94)


def _last(model, tokenizer, prompt: str = PROMPT, **settings):
    """The end of a stream."""
    return list(stream(model, tokenizer, prompt, Sampling(**settings)))[-1]


def _generate(model, tokenizer, prompt: str, *, new: int, chat: bool = True):
    """What stock `generate` says: the number of new tokens, and their text."""
    ids = encode_prompt(tokenizer, prompt, chat=chat)
    ends = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=0,
    )[0, ids.shape[1] :]
    return len(output), tokenizer.decode(output, skip_special_tokens=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_what_generate_gives_on_every_family(name, tokenizer):
    model = tiny_model(name)
    found = _last(model, tokenizer, max_new_tokens=24)
    assert (found.tokens, found.text) == _generate(model, tokenizer, PROMPT, new=24)


def test_a_prompt_has_the_logits_of_its_last_token_alone(tokenizer):
    model, shapes = tiny_model("llama"), []
    model.lm_head.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    _last(model, tokenizer, max_new_tokens=3)
    assert [tuple(shape) for shape in shapes] == [(1, 1, 97)] * 3


def test_a_token_without_an_embedding_is_named_before_anything_is_generated(model):
    with pytest.raises(InputError, match=r"Token id 99 \('w96'\) is beyond .* vocabulary of 97"):
        next(stream(model, word_tokenizer(200), "w1 w96", Sampling()))


def test_a_prompt_that_is_half_a_character_is_refused(model, tokenizer):
    with pytest.raises(InputError, match="is not text"):
        next(stream(model, tokenizer, "caf\udce9", Sampling()))


def test_a_template_that_refuses_says_how_to_do_without_it(model):
    tokenizer = word_tokenizer(94)
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(InputError, match=r"refuses this: no; turn .* off \(--no-chat\)"):
        next(stream(model, tokenizer, "w1", Sampling()))
    assert _last(model, tokenizer, "w1", chat=False, max_new_tokens=2).tokens == 2


def test_a_template_that_writes_nothing_is_refused(model):
    tokenizer = word_tokenizer(94)
    tokenizer.chat_template = "{{ nothing }}"
    with pytest.raises(InputError, match="has no tokens"):
        next(stream(model, tokenizer, "w1", Sampling()))


@pytest.mark.parametrize("chat", [True, False])
def test_greedy_is_what_generate_gives_on_the_demo_model(demo, chat):
    prompt = "Name three colours."
    found = _last(*demo, prompt, max_new_tokens=12, chat=chat)
    assert (found.tokens, found.text) == _generate(*demo, prompt, new=12, chat=chat)


def test_every_step_continues_the_one_before(model, tokenizer):
    steps = list(stream(model, tokenizer, PROMPT, Sampling(max_new_tokens=9)))
    assert [step.tokens for step in steps] == list(range(1, 10))
    texts = [step.text for step in steps]
    assert all(b.startswith(a) for a, b in itertools.pairwise(texts))
    assert [step.done for step in steps] == [False] * 8 + [True]


def test_a_stream_that_reached_the_limit_did_not_stop_by_itself(model, tokenizer):
    assert not _last(model, tokenizer, max_new_tokens=3).stopped


SAMPLED = {"max_new_tokens": 16, "temperature": 1.5}


def test_sampling_with_a_seed_can_be_repeated(model, tokenizer):
    first, second = (_last(model, tokenizer, seed=3, **SAMPLED).text for _ in range(2))
    assert first == second


def test_another_seed_gives_another_text(model, tokenizer):
    texts = {_last(model, tokenizer, seed=seed, **SAMPLED).text for seed in range(4)}
    assert len(texts) == 4


def test_sampling_leaves_the_global_generator_alone(model, tokenizer):
    before = torch.get_rng_state()
    _last(model, tokenizer, **SAMPLED)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}])
def test_sampling_from_the_likeliest_alone_is_greedy(model, tokenizer, settings):
    greedy = _last(model, tokenizer, max_new_tokens=16)
    assert _last(model, tokenizer, **SAMPLED, **settings).text == greedy.text


def test_a_low_temperature_is_nearly_greedy(model, tokenizer):
    greedy = _last(model, tokenizer, max_new_tokens=16)
    found = _last(model, tokenizer, max_new_tokens=16, temperature=1e-4)
    assert found.text == greedy.text


@torch.no_grad()
def test_top_k_samples_from_the_k_likeliest_and_all_of_them(model, tokenizer):
    logits = model(encode_prompt(tokenizer, PROMPT, chat=False)).logits[0, -1]
    likely = {tokenizer.decode(token) for token in logits.topk(3).indices}
    settings = {"max_new_tokens": 1, "temperature": 50.0, "top_k": 3}
    found = {_last(model, tokenizer, seed=seed, **settings).text for seed in range(30)}
    assert found == likely


def _take_turns(streams) -> list[list[str]]:
    """The texts of every stream, each advanced by one token a round until it ends."""
    texts = [[] for _ in streams]
    for states in itertools.zip_longest(*streams):
        for seen, state in zip(texts, states, strict=True):
            if state is not None:
                seen.append(state.text)
    return texts


def test_streams_in_turn_give_what_each_gives_alone(tokenizer):
    cases = [
        (tiny_model("llama"), Sampling(12)),
        (tiny_model("mistral", seed=5), Sampling(12, temperature=1.5, seed=2)),
    ]
    alone = [
        [step.text for step in stream(model, tokenizer, PROMPT, settings)]
        for model, settings in cases
    ]
    in_turn = [stream(model, tokenizer, PROMPT, settings) for model, settings in cases]
    assert _take_turns(in_turn) == alone


def test_a_stream_counts_its_own_time_only(model, tokenizer, monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr("bipcore.models.generation.time.perf_counter", lambda: next(ticks))
    steps = list(stream(model, tokenizer, PROMPT, Sampling(max_new_tokens=4)))
    assert [(step.prompt_seconds, step.seconds) for step in steps] == [(1, n) for n in range(4)]
    assert [step.tokens_per_second for step in steps] == [None, 1, 1, 1]


@pytest.mark.parametrize("where", ["model", "tokenizer"])
def test_a_stream_stops_at_an_end_of_text_of_either(where):
    model, tokenizer = chain_model("aé!z"), text_tokenizer()
    end = tokenizer.convert_tokens_to_ids("!")
    if where == "model":
        model.generation_config.eos_token_id = [end, ENDS]
    else:
        tokenizer.eos_token = "!"
    found = _last(model, tokenizer, "a", max_new_tokens=9)
    assert (found.text, found.tokens) == ("é", 3)
    assert found.stopped
    assert found.done


def test_half_a_character_is_held_back_until_it_is_whole():
    model, tokenizer = chain_model("a€é"), text_tokenizer()
    sampling = Sampling(max_new_tokens=9)
    texts = [step.text for step in stream(model, tokenizer, "a", sampling)]
    assert texts[:5] == ["", "", "€", "€", "€é"]


def test_half_a_character_at_the_limit_is_shown_as_such():
    found = _last(chain_model("a€é"), text_tokenizer(), "a", max_new_tokens=4)
    assert found.text == "€\ufffd"


TEMPLATE = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}>"


def test_the_chat_template_is_used_where_there_is_one():
    tokenizer = text_tokenizer()
    tokenizer.chat_template = TEMPLATE
    ids = encode_prompt(tokenizer, "hello", chat=True)
    assert tokenizer.decode(ids[0]) == "[user: hello]>"


def test_the_chat_template_is_left_out_on_request():
    tokenizer = text_tokenizer()
    tokenizer.chat_template = TEMPLATE
    assert tokenizer.decode(encode_prompt(tokenizer, "hello", chat=False)[0]) == "hello"


def test_a_model_without_a_chat_template_reads_the_prompt_as_it_is():
    tokenizer = text_tokenizer()
    assert tokenizer.decode(encode_prompt(tokenizer, "hello", chat=True)[0]) == "hello"


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_an_empty_prompt_is_refused(model, tokenizer, prompt):
    with pytest.raises(InputError, match="prompt is empty"):
        stream(model, tokenizer, prompt, Sampling())


def test_a_prompt_beyond_the_models_positions_is_refused_at_once(model, tokenizer):
    with pytest.raises(InputError, match="120 tokens and 9 new ones do not fit the model's 128"):
        stream(model, tokenizer, "w1 " * 120, Sampling(max_new_tokens=9))


def test_a_prompt_that_just_fits_is_continued_to_the_end(model, tokenizer):
    model = tiny_model("opt")  # whose positions are a table: beyond it there is nothing
    found = _last(model, tokenizer, "w1 " * 120, max_new_tokens=8, temperature=1.5)
    assert found.tokens == 8 or found.stopped


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
    ],
)
def test_impossible_sampling_is_refused(settings):
    with pytest.raises(InputError, match="at least"):
        Sampling(**settings)
