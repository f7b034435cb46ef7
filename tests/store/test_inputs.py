"""Reading what a user names: only regular files, of a stated size, and one sentence otherwise."""

import os
import re
import socket

import pytest

from bipcore.errors import InputError
from bipcore.store.inputs import (
    named_path,
    parse_json,
    read_json,
    read_text,
    read_yaml,
    regular_file,
    short,
)


def test_a_text_is_read_without_its_byte_order_mark(tmp_path):
    file = tmp_path / "plan.json"
    file.write_bytes(b"\xef\xbb\xbf" + '{"a": "ä"}'.encode())

    assert read_text(file, "The plan") == '{"a": "ä"}'
    assert read_json(str(file), "The plan") == {"a": "ä"}


def test_a_link_to_a_file_is_that_file(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")

    assert read_text(tmp_path / "link", "The text") == "x"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: os.mkfifo(path), "is a FIFO; give a regular file"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "is a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: path.mkdir(), "is a folder; give a file"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is not UTF-8 text"),
    ],
)
def test_what_is_no_regular_file_of_text_is_refused_at_once(tmp_path, make, said):
    make(tmp_path / "x")

    with pytest.raises(InputError, match=said):
        read_text(tmp_path / "x", "The text")


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(2**40)  # sparse

    with pytest.raises(InputError, match="256 MiB are the most"):
        read_text(tmp_path / "x", "The text")


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 5000, "a\0b"])
def test_a_name_that_no_path_can_have_is_refused_in_a_short_sentence(name):
    with pytest.raises(InputError, match=r"The text .* cannot be read: ") as refused:
        regular_file(named_path(name, "The text"), "The text")

    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "too many digits"),
        ('{"a": 1,\n]', "line 2"),
        ("", "line 1"),
    ],
)
def test_json_that_cannot_be_read_says_why(text, said):
    with pytest.raises(InputError, match=said):
        parse_json(text, "The plan")


def test_a_short_name_is_one_line():
    assert short("a\n[/x]\x1b[31m") == "a�[/x]�[31m"
    assert len(short("x" * 5000)) == 200


def test_yaml_is_read(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("samples: 4\nname: [a, b]\n")

    assert read_yaml(file, "The spec file") == {"samples": 4, "name": ["a", "b"]}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2\nb: }", "line 2: "),
        ("[" * 5000, "it is nested too deeply"),
        ("- " * 5000, "it is nested too deeply"),
        ("a: " + "9" * 5000, "too many digits"),
        ("a: 2020-13-45", "month must be in 1..12"),
        ("a: !!bool maybe", "it has no 'maybe'"),
        ("a: !!timestamp maybe", "not of the form"),
        ("a: !!python/name:os.system x", "could not determine a constructor"),
        ("a: \x00", "not allowed"),
    ],
)
def test_what_is_no_yaml_is_one_sentence(tmp_path, text, said):
    file = tmp_path / "x.yaml"
    file.write_text(text)

    with pytest.raises(InputError, match=re.escape(said)) as refused:
        read_yaml(file, "The spec file")

    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500
