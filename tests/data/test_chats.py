"""Chat templates: what they write is what transformers writes, and what they may not do."""

import json
import time

import pytest

from bipcore.data.chats import as_texts, chat_template, render_chats
from bipcore.errors import InputError
from tests.helpers.tiny import byte_tokenizer

CHAT = [
    {"role": "system", "content": "Be brief: “ü” <b>."},
    {"role": "user", "content": "Hi\n", "tool_calls": None},
    {"role": "assistant", "content": "Hello"},
]

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "blocks": "  {% for m in messages %}\n  {{ m.content | trim }}\n  {% endfor %}\nend\n",
    "special tokens": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ none_such }}",
    "tools": "{% if not tools is none %}tools{% endif %}{{ documents }}{{ messages | length }}",
    "json": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2, sort_keys=true) }}",
    "loops": "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}x{% endfor %}",
    "a namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}{{ dict(a=1) }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "the year": "{{ strftime_now('%Y') }}{{ messages[1].tool_calls is defined }}",
    "a filter": "{{ messages | map(attribute='role') | join(',') | upper }}{{ '<&>' }}",
}


def _tokenizer(template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_is_written_as_transformers_writes_it(name, prompt):
    tokenizer = _tokenizer(TEMPLATES[name])
    wanted = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=prompt)
    found = render_chats(tokenizer, [CHAT, CHAT[1:]], way_out="-", generation_prompt=prompt)
    assert found[0] == wanted
    assert len(found) == 2


def test_the_template_called_default_is_used_of_several():
    tokenizer = _tokenizer({"default": "plain", "tool_use": "tools"})
    assert chat_template(tokenizer) == "plain"
    assert chat_template(_tokenizer({"rag": "documents"})) is None
    assert chat_template(_tokenizer(None)) is None


def _refusal(template: str) -> str:
    with pytest.raises(InputError) as caught:
        render_chats(_tokenizer(template), [CHAT], way_out="do something else")
    message = str(caught.value)
    assert message.endswith("; do something else.")
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_a_template_that_refuses_is_quoted():
    said = "Roles must start\nwith a system turn."
    message = _refusal(f"{{{{ raise_exception({json.dumps(said)}) }}}}")
    assert "refuses this: Roles must start" in message


def test_a_template_that_never_ends_is_ended(monkeypatch):
    monkeypatch.setattr("bipcore.data.chats._SECONDS", 2)
    start = time.perf_counter()
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    message = _refusal(loop)
    assert "takes more than 2 seconds" in message
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 10000000000 }}",
        "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% set ns = namespace(s='xy') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}{{ ns.s }}",
        "{{ '%9999999999s' | format('x') }}",
    ],
)
def test_a_template_that_makes_gigabytes_is_stopped(template):
    message = _refusal(template)
    assert "makes more than" in message or "takes more than" in message


@pytest.mark.parametrize(
    "template",
    [
        "{% for",
        "{{ messages.nothing.more }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{% include 'x' %}",
        "{{ messages | no_such_filter }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ namespace(__class__=1) }}",
    ],
)
def test_a_template_that_fails_is_one_sentence(template):
    assert "cannot be used: " in _refusal(template)


def test_texts_pass_by_the_template_and_keep_their_order():
    tokenizer = _tokenizer("<{{ messages | length }}>")
    documents = ["one", CHAT, "two", CHAT[:1], *["three"] * 100, CHAT]
    assert list(as_texts(documents, tokenizer)) == [
        *("one", "<3>", "two", "<1>"),
        *["three"] * 100,
        "<3>",
    ]


def test_a_conversation_that_the_template_refuses_says_what_else_could_be_read():
    tokenizer = _tokenizer("{{ raise_exception('no') }}")
    with pytest.raises(InputError, match="--text-field"):
        list(as_texts([CHAT], tokenizer))
