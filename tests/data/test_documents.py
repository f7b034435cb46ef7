"""Files of records: what is read of each kind, under which field, and what is refused."""

import datetime
import gzip
import json
import os
import socket
from itertools import product

import pandas as pd
import pytest
from tokenizers import normalizers

from bipcore.data import documents
from bipcore.data.calibration import load_calibration
from bipcore.data.documents import read_documents
from bipcore.data.texts import find_text
from bipcore.errors import InputError
from bipcore.evaluation.metrics import load_test_tokens
from tests.helpers.tiny import byte_tokenizer, word_tokenizer

TEXTS = ["one\n“two”", "three, four", "5 \u2028 6"]
ROWS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
CHAT = [{"role": "user", "content": "w1 w2"}, {"role": "assistant", "content": "w3"}]


def _write(path, rows):
    """``rows`` as the kind of file that the name of ``path`` says."""
    name = path.name.lower()
    if ".parquet" in name:
        pd.DataFrame(rows).to_parquet(path)
        return path
    lines = "\n".join(json.dumps(row) for row in rows)
    text = json.dumps(rows) if ".json" in name and ".jsonl" not in name else lines
    if ".csv" in name or ".tsv" in name:
        separator = "\t" if ".tsv" in name else ","
        text = pd.DataFrame(rows).to_csv(index=False, sep=separator)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def _read(path, field=""):
    return list(find_text(str(path), purpose="test", field=field).read())


def _refusal(path, field="") -> str:
    """The sentence with which a file is refused, at the latest when it is read."""
    with pytest.raises(InputError) as caught:
        _read(path, field)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert path.name in message
    return message


KINDS = ["x.json", "x.jsonl", "x.ndjson", "x.csv", "x.tsv", "x.parquet", "X.JSON", "x.y.csv"]
PACKED = ["x.json.gz", "x.jsonl.gz", "x.csv.gz", "x.JSONL.GZ"]


@pytest.mark.parametrize("name", [*KINDS, *PACKED])
def test_the_texts_of_every_kind_of_file_are_those_that_were_written(tmp_path, name):
    path = _write(tmp_path / name, ROWS)
    assert _read(path) == TEXTS
    assert not find_text(str(path), purpose="test").continuous


@pytest.mark.parametrize("name", [*KINDS, *PACKED])
def test_another_field_is_read_where_it_is_named(tmp_path, name):
    path = _write(tmp_path / name, [{"content": text, "n": 1} for text in TEXTS])
    assert _read(path, "content") == TEXTS
    message = _refusal(path)
    assert 'no field "text"; it has content, n' in message
    assert "--text-field" in message
    assert 'no field "body"' in _refusal(path, "body")


def test_a_packed_text_file_is_one_continuous_text(tmp_path):
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress("Grüße\n\nWelt".encode()))
    source = find_text(str(path), purpose="calibration")
    assert source.continuous
    assert list(source.read()) == ["Grüße\n\nWelt"]


def test_json_of_one_record_a_line_is_read_too(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert _read(path) == TEXTS


def test_json_of_one_record_is_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ROWS[1], indent=1))
    assert _read(path) == TEXTS[1:2]


def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("\ufefftext,id\nwords,1\n".encode())
    assert _read(path) == ["words"]


def test_a_long_cell_with_lines_and_quotes_is_read_whole(tmp_path):
    text = 'a "quoted", line\n' * 20_000
    assert _read(_write(tmp_path / "x.csv", [{"text": text}])) == [text]


def test_instructions_without_a_text_are_refused_with_their_fields(tmp_path):
    path = _write(tmp_path / "alpaca.json", [{"instruction": "a", "input": "", "output": "b"}])
    assert "it has instruction, input, output" in _refusal(path)
    assert _read(path, "output") == ["b"]


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.parquet"])
def test_messages_are_read_as_a_conversation(tmp_path, name):
    path = _write(tmp_path / name, [{"id": 1, "messages": CHAT}])
    assert _read(path) == _read(path, "messages") == [CHAT]


def test_a_text_goes_before_the_messages(tmp_path):
    path = _write(tmp_path / "x.json", [{"messages": CHAT, "text": "words"}])
    assert _read(path) == ["words"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        1.5,
        True,
        {},
        {"a": "b"},
        [],
        ["words"],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"from": "human", "value": "words"}],
        "half a pair: \ud83d",
    ],
)
@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_what_is_no_text_is_refused_with_its_place(tmp_path, name, value):
    path = _write(tmp_path / name, [{"text": "fine"}, {"text": value}])
    message = _refusal(path)
    assert ("Record 2" if name == "x.json" else "Line 2") in message
    assert 'no text under "text", but' in message


@pytest.mark.parametrize("value", [None, 3, 2.5, [1], {"a": 1}, b"bytes", datetime.date.today()])
def test_what_is_no_text_in_parquet_is_refused(tmp_path, value):
    path = _write(tmp_path / "x.parquet", [{"text": value, "id": 1}])
    assert 'no text under "text", but' in _refusal(path)


def test_a_row_with_more_or_fewer_cells_than_fields_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,text\n1,fine\n2,one,too many\n")
    assert "Line 3" in _refusal(path)


def test_two_fields_of_one_name_are_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text,text\nfirst,second\n")
    assert 'two fields called "text"' in _refusal(path)


@pytest.mark.parametrize("name", [*KINDS, "x.jsonl.gz"])
def test_empty_texts_are_left_out_and_nothing_else_is_refused(tmp_path, name):
    path = _write(tmp_path / name, [{"text": ""}, {"text": " \n"}, {"text": "words"}])
    assert _read(path) == ["words"]
    path = _write(tmp_path / name, [{"text": ""}] * 500)
    assert "is empty: there is no text in its 500 records" in _refusal(path)
    with pytest.raises(InputError, match="is empty"):
        load_calibration(str(path), byte_tokenizer(), samples=1, seq_len=4, seed=0)
    with pytest.raises(InputError, match="is empty"):
        load_test_tokens(str(path), byte_tokenizer())


def test_a_text_without_tokens_is_not_made_up_of_ends_of_texts(tmp_path):
    path = _write(tmp_path / "x.jsonl", [{"text": "\u200b"}] * 500)
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(InputError, match="has 0 tokens"):
        load_calibration(str(path), tokenizer, samples=1, seq_len=4, seed=0)


WRONG = {
    "nothing": b"",
    "blank lines": b"\n\n",
    "no text": b"\x80\xff\x00",
    "parquet of garbage": b"PAR1garbagePAR1",
    "gzip cut short": gzip.compress(b'{"text": "words"}', mtime=0)[:-9],
    "UTF-16": "[]".encode("utf-16"),
    "an open object": b'{"text": "words"',
    "nested deeply": b"[" * 100_000,
    "a huge number": b'[{"text": ' + b"9" * 5000 + b"}]",
    "an open quote": b'id,body\n1,"open',
}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *product(("x.json", "x.jsonl", "x.csv", "x.parquet", "x.json.gz"), WRONG),
        ("x.gz", "gzip cut short"),
    ],
)
def test_wrong_content_under_any_name_is_one_sentence(tmp_path, name, what):
    path = tmp_path / name
    path.write_bytes(WRONG[what])
    _refusal(path)


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a folder"])
@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.parquet"])
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, kind, name):
    monkeypatch.chdir(tmp_path)
    if kind == "a FIFO":
        os.mkfifo(name)
    elif kind == "a socket":
        socket.socket(socket.AF_UNIX).bind(name)
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"is {kind}"):
        find_text(name, purpose="calibration")


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.csv", "x.json"])
def test_a_file_beyond_the_size_that_is_read_is_refused_before_it_is_read(
    tmp_path, monkeypatch, name
):
    path = _write(tmp_path / name, ROWS)
    monkeypatch.setattr(documents, "MOST", path.stat().st_size)
    assert list(find_text(str(path), purpose="test").read())
    monkeypatch.setattr(documents, "MOST", path.stat().st_size - 1)
    with pytest.raises(InputError, match="the most that is read"):
        find_text(str(path), purpose="test")


@pytest.mark.parametrize("name", ["x.txt.gz", "x.jsonl.gz", "x.csv.gz", "x.json.gz"])
def test_a_packed_file_that_grows_beyond_the_size_that_is_read_is_refused(
    tmp_path, monkeypatch, name
):
    path = _write(tmp_path / name, [{"text": "word " * 2000}] * 10)
    monkeypatch.setattr(documents, "MOST", 50_000)
    assert "the most that is read" in _refusal(path)


def test_records_are_read_one_by_one(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "first"}\n' + "no JSON\n")
    assert next(read_documents(path)) == "first"


def test_a_file_is_not_read_again_to_see_that_it_is_the_same(tmp_path, monkeypatch):
    path = _write(tmp_path / "x.jsonl", ROWS)
    os.utime(path, (1, 1))
    before = find_text(str(path), purpose="test").identity
    assert find_text(str(path), purpose="test").identity == before
    _write(path, ROWS[:1])
    assert find_text(str(path), purpose="test").identity != before


def test_conversations_are_joined_where_a_model_has_no_chat_template(tmp_path):
    path = _write(tmp_path / "x.json", [{"messages": CHAT}])
    tokenizer = word_tokenizer()
    calibration = load_calibration(str(path), tokenizer, samples=1, seq_len=4, seed=0)
    assert calibration.tokens.tolist() == [[4, 5, 6, tokenizer.eos_token_id]]


def test_conversations_go_through_the_chat_template_where_there_is_one(tmp_path):
    path = _write(tmp_path / "x.json", [{"messages": CHAT}, {"text": "w9"}])
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}w7 {{ m.content }} {% endfor %}"
    assert load_test_tokens(str(path), tokenizer).tolist() == [10, 4, 5, 10, 6, 12]


@pytest.mark.parametrize("name", ["blank.jsonl.gz", "blank.csv.gz", "blank.json.gz"])
def test_a_small_file_of_endless_empty_lines_is_refused_soon(tmp_path, monkeypatch, name):
    monkeypatch.setattr(documents, "_MOST_BLANK", 1000)
    file = tmp_path / name
    file.write_bytes(gzip.compress(b"text\n" * (name == "blank.csv.gz") + b"\n" * 5000))
    with pytest.raises(InputError, match=r"empty lines on end|not JSON"):
        list(read_documents(file))
