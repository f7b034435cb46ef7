"""Where texts are found, how their lines are joined, and what is refused in one sentence."""

import json

import pytest

from bipcore.data.calibration import load_calibration
from bipcore.data.texts import NAMED, find_text
from bipcore.errors import InputError
from tests.helpers.tiny import byte_tokenizer

WIKITEXT = " \n = Robert Boulter = \n \n Robert Boulter is an English actor . \n \n"
PTB = " no it was n't black monday \n but while the <unk> did n't fall N \n"
C4 = [
    "Beginners BBQ Class Taking Place in Missoula!",
    "Discussion in 'Mac OS X'\nposted by axboi87",
]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with the layout of the shared data, and no network."""
    for name in ("wikitext2", "ptb", "c4"):
        (tmp_path / name).mkdir()
    for split in ("test", "validation"):
        (tmp_path / f"wikitext2/{split}.txt").write_text(f"{WIKITEXT} {split} \n")
    (tmp_path / "ptb/test.txt").write_text(PTB)
    rows = [json.dumps({"text": text, "url": "http://x", "date": "2019"}) for text in C4]
    (tmp_path / "c4/c4_en_sample.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("BIPCORE_DATA", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def _refusal(name: str, purpose: str = "calibration") -> str:
    """The message with which a source is refused, at the latest when it is read."""
    with pytest.raises(InputError) as caught:
        list(find_text(name, purpose=purpose).read())
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_wikitext2_is_found_and_joined_as_its_perplexities_are(data):
    (text,) = find_text("wikitext2", purpose="test").read()
    lines = ["", " = Robert Boulter = \n", "", " Robert Boulter is an English actor . \n", ""]
    assert text == "\n\n".join([*lines, " test \n"])


def test_wikitext2_calibrates_on_the_validation_text_where_there_is_no_training_text(data):
    source = find_text("wikitext2", purpose="calibration")
    assert (source.name, source.split, source.continuous) == ("wikitext2", "validation", True)
    assert "validation" in next(source.read())


@pytest.mark.parametrize("name", ["wikitext2", "ptb"])
def test_the_training_text_goes_before_the_validation_text(data, name):
    (data / name / "train.txt").write_text("training words\n")
    (data / name / "validation.txt").write_text("validation words\n")
    source = find_text(name, purpose="calibration")
    assert source.split == "train"
    assert "training words" in next(source.read())


def test_ptb_sentences_are_joined_by_one_space(data):
    (text,) = find_text("ptb", purpose="test").read()
    assert text == "no it was n't black monday but while the <unk> did n't fall N"


def test_c4_documents_are_read_one_by_one(data):
    source = find_text("c4", purpose="calibration")
    assert not source.continuous
    assert list(source.read()) == C4
    assert list(source.read()) == C4


@pytest.mark.parametrize(
    ("name", "purpose"), [("wikitext2", "calibration"), ("ptb", "test"), ("c4", "calibration")]
)
def test_the_identity_of_a_local_text_is_that_of_its_content(data, name, purpose):
    before = find_text(name, purpose=purpose).identity
    assert find_text(name, purpose=purpose).identity == before
    for path in (data / name).iterdir():
        path.write_text(path.read_text().replace("a", "e"))
    assert find_text(name, purpose=purpose).identity != before


def test_a_named_text_can_be_calibrated_on(data):
    for name in ("wikitext2", "c4"):
        calibration = load_calibration(name, byte_tokenizer(), samples=2, seq_len=20, seed=0)
        assert (calibration.source, calibration.samples) == (name, 2)


@pytest.mark.parametrize("name", ["wikitext2", "ptb", "c4"])
def test_a_named_text_that_is_nowhere_says_what_was_tried_and_what_to_do(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("BIPCORE_DATA", str(tmp_path))
    message = _refusal(name)
    assert repr(name) in message
    assert str(tmp_path) in message
    assert "'builtin'" in message
    monkeypatch.delenv("BIPCORE_DATA")
    assert "BIPCORE_DATA is not set" in _refusal(name)


def test_a_data_folder_with_braces_in_its_name_is_named_in_the_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("BIPCORE_DATA", str(tmp_path / "{data}"))
    assert "{data}" in _refusal("ptb")


@pytest.mark.parametrize("file", ["wikitext2/validation.txt", "c4/c4_en_sample.jsonl"])
def test_a_named_file_without_text_has_no_tokens_to_calibrate_on(data, file):
    (data / file).write_text(" \n\n")
    with pytest.raises(InputError, match=r"has \d tokens|is empty"):
        load_calibration(file.split("/")[0], byte_tokenizer(), samples=1, seq_len=20, seed=0)


def test_the_builtin_test_topics_are_not_calibrated_on():
    calibration = set(find_text("builtin", purpose="calibration").read())
    test = set(find_text("builtin", purpose="test").read())
    assert len(calibration) > len(test) > 10
    assert calibration.isdisjoint(test)


def test_the_builtin_text_is_always_the_same():
    sources = [find_text("builtin", purpose="test") for _ in range(2)]
    assert list(sources[0].read()) == list(sources[1].read())
    assert sources[0].identity == sources[1].identity
    assert sources[0].identity != find_text("builtin", purpose="calibration").identity


def test_a_text_file_is_one_continuous_text(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Grüße,\n\nWorld \u2028 and line 2\n", encoding="utf-8")
    source = find_text(str(path), purpose="calibration")
    assert source.continuous
    assert list(source.read()) == ["Grüße,\n\nWorld \u2028 and line 2\n"]


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".JSONL"])
def test_a_jsonl_file_is_a_row_of_documents(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_text('{"text": "one\\ntwo"}\n\n{"id": 3, "text": "drei \u2028 vier"}', "utf-8")
    source = find_text(str(path), purpose="calibration")
    assert not source.continuous
    assert list(source.read()) == ["one\ntwo", "drei \u2028 vier"]


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_text("words")
    assert list(find_text("~/mine.txt", purpose="test").read()) == ["words"]


def test_a_missing_file_is_refused_with_the_names_there_are(tmp_path):
    message = _refusal(str(tmp_path / "nothing.txt"))
    assert "nothing.txt" in message
    assert all(name in message for name in NAMED)


@pytest.mark.parametrize(
    "name",
    ["wikitext", "C4", "w" * 5000, "~no-such-user/x.txt", "a\0b", ""],
    ids=["unknown", "upper case", "too long", "no such user", "a null byte", "empty"],
)
def test_a_name_that_is_neither_known_nor_a_file_is_refused(name):
    _refusal(name)


def test_a_folder_is_refused(tmp_path):
    assert "is a folder" in _refusal(str(tmp_path))


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
@pytest.mark.parametrize("content", [b"", b" \n\t\n"], ids=["nothing", "blanks"])
def test_an_empty_file_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    assert "is empty" in _refusal(str(path))


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
@pytest.mark.parametrize("content", [b"\x80\xff\x00", b"GGUF\x00\x01text", "ü".encode("utf-16")])
def test_a_binary_file_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    assert str(path) in _refusal(str(path))


@pytest.mark.parametrize(
    "line", ["words", '{"text": 3}', '{"body": "x"}', "[1]", "null", '"x"', "{", '{"text": null}']
)
def test_an_invalid_line_of_jsonl_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    message = _refusal(str(path))
    assert f"Line 3 of {path}" in message


def test_a_jsonl_document_that_no_tokenizer_can_read_is_refused(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "half a pair: \\ud83d, and more words"}\n')
    with pytest.raises(InputError):
        load_calibration(str(path), byte_tokenizer(), samples=1, seq_len=4, seed=0)


def test_a_purpose_that_does_not_exist_is_a_mistake_of_the_programmer():
    with pytest.raises(ValueError, match="purpose"):
        find_text("builtin", purpose="training")
