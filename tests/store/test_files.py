"""What may be written to: files and folders of ours, and nothing that cannot be taken back."""

import os

import pytest

from bipcore.errors import InputError
from bipcore.store.files import (
    MANIFEST,
    MANIFEST_FORMAT,
    check_destination,
    check_file,
    check_files,
    read_manifest,
    replacing,
    replacing_files,
    write_text,
)
from tests.helpers.folders import tree
from tests.helpers.targets import SPECIAL, state

pytestmark = pytest.mark.timeout(20)  # a FIFO that is opened hangs


def _export(folder, *names: str) -> None:
    """What looks like an earlier export."""
    folder.mkdir(parents=True)
    sizes = {name: (folder / name).write_text(name) for name in names or ("config.json",)}
    (folder / MANIFEST).write_text(
        f'{{"format": "{MANIFEST_FORMAT}", "files": {sizes}}}'.replace("'", '"')
    )


@pytest.mark.parametrize("check", [check_file, check_destination, lambda p: write_text(p, "x")])
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_or_folder_is_refused_and_stays(tmp_path, check, kind):
    SPECIAL[kind](tmp_path / "x")
    before = state(tmp_path)

    with pytest.raises(InputError, match=r"x is a (FIFO|socket|device); give"):
        check(tmp_path / "x")

    assert state(tmp_path) == before


@pytest.mark.parametrize("check", [check_file, check_destination])
@pytest.mark.parametrize(
    "name", ["", "  ", "~nosuchuser/x", "x" * 5000, "x/" * 1990, "a\0b", "loop/x"]
)
def test_a_name_that_no_path_can_have_is_refused_in_a_short_sentence(tmp_path, check, name):
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(InputError) as refused:
        check(tmp_path / name if name == "loop/x" else name)

    assert len(str(refused.value)) < 500
    assert "None" not in str(refused.value)


@pytest.mark.parametrize("check", [check_file, check_destination])
def test_a_parent_that_is_a_file_is_said(tmp_path, check):
    (tmp_path / "file").write_text("x")

    with pytest.raises(
        InputError, match=r"file( is no folder|: Not a directory|.*Not a directory)"
    ):
        check(tmp_path / "file" / "x")


def test_a_parent_that_is_missing_is_said_of_a_file_and_made_for_a_folder(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        check_file(tmp_path / "no" / "x.csv")

    assert check_destination(tmp_path / "no" / "x") == tmp_path / "no" / "x"
    assert tree(tmp_path) == []


@pytest.mark.parametrize("check", [check_file, check_destination])
def test_a_folder_in_which_nothing_can_be_made_is_refused_beforehand(check):
    with pytest.raises(InputError, match="cannot be written"):
        check("/proc/self/x")


def test_a_link_into_a_folder_that_is_missing_says_which(tmp_path):
    (tmp_path / "link").symlink_to("no/file")
    with pytest.raises(InputError, match=r"link cannot be written: there is no folder .*/no\."):
        check_file(tmp_path / "link")


def test_parents_that_were_made_for_a_folder_go_with_it(tmp_path):
    with pytest.raises(KeyError), replacing(tmp_path / "a" / "b" / "c", size=0):
        raise KeyError
    assert tree(tmp_path) == []


def test_a_link_to_a_file_is_followed_and_stays(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")

    write_text(tmp_path / "link", "new")

    assert os.readlink(tmp_path / "link") == "file"
    assert (tmp_path / "file").read_text() == "new"


def test_a_dangling_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("file")

    write_text(tmp_path / "link", "new")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_link_to_a_folder_is_followed_and_stays(tmp_path):
    _export(tmp_path / "folder")
    (tmp_path / "link").symlink_to("folder")

    with replacing(check_destination(tmp_path / "link"), size=0) as unfinished:
        (unfinished / "new.json").write_text("new")

    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path) == ["folder", "folder/new.json", "link"]


def test_a_file_that_is_not_ours_is_overwritten_by_force_alone(tmp_path):
    (tmp_path / "x").write_text("a thesis")
    how = {"kind": "a plan", "ours": lambda file: False}

    with pytest.raises(InputError, match=r"x is not a plan and is not overwritten; .* --force"):
        check_file(tmp_path / "x", **how)

    assert check_file(tmp_path / "x", **how, force=True) == tmp_path / "x"


def test_an_empty_file_holds_nothing_to_lose(tmp_path):
    (tmp_path / "x").touch()
    assert check_file(tmp_path / "x", kind="a plan", ours=lambda file: False)


def test_a_file_keeps_its_mode(tmp_path):
    (tmp_path / "x").write_text("old")
    (tmp_path / "x").chmod(0o640)

    write_text(tmp_path / "x", "new")

    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_text_that_is_no_unicode_is_written_all_the_same(tmp_path):
    write_text(tmp_path / "x", "a\udcff")
    assert (tmp_path / "x").read_text() == "a?"


@pytest.mark.parametrize(
    "manifest",
    [
        "[]",
        "{}",
        "[" * 100_000,
        "1" * 5000,
        "\0",
        '{"format": "bipcore-export/1", "files": null}',
        '{"format": "bipcore-export/1", "files": ["thesis.tex"]}',
    ],
)
def test_a_manifest_that_is_none_is_not_believed(tmp_path, manifest):
    (tmp_path / MANIFEST).write_text(manifest)
    (tmp_path / "thesis.tex").write_text("x")

    assert read_manifest(tmp_path) == {}
    with pytest.raises(InputError, match="holds something else"):
        check_destination(tmp_path)


def test_what_was_put_beside_an_export_while_it_was_made_stays(tmp_path):
    _export(tmp_path / "out")

    held = pytest.raises(InputError, match="holds something else")
    with held, replacing(tmp_path / "out", size=0):
        (tmp_path / "out" / "thesis.tex").write_text("x")

    assert tree(tmp_path) == ["out", f"out/{MANIFEST}", "out/config.json", "out/thesis.tex"]


def test_a_folder_where_a_disk_is_mounted_is_refused():
    with pytest.raises(InputError, match=r"mounted|working folder"):
        check_destination("/proc")


MARKS = {"a.x": b"weights", "a.md": b"card", "a.json": b"manifest"}


def _write(folder, *, mark: str = "") -> None:
    for name, said in MARKS.items():
        (folder / name).write_bytes(said + mark.encode())


def test_files_take_their_places_together_and_leave_others_alone(tmp_path):
    _write(tmp_path)
    (tmp_path / "mine").write_text("mine")
    target = check_files(tmp_path / "a.x", MARKS)
    with replacing_files(target, MARKS, size=0) as unfinished:
        _write(unfinished, mark=" new")
        assert (tmp_path / "a.x").read_bytes() == b"weights"
    assert tree(tmp_path) == ["a.json", "a.md", "a.x", "mine"]
    assert all((tmp_path / name).read_bytes() == said + b" new" for name, said in MARKS.items())


def _fail_to_replace(target) -> None:
    with replacing_files(target, MARKS, size=0) as unfinished:
        _write(unfinished, mark=" new")
        raise KeyError


def test_files_are_as_they_were_where_writing_them_fails(tmp_path):
    _write(tmp_path)
    with pytest.raises(KeyError):
        _fail_to_replace(tmp_path / "a.x")
    assert tree(tmp_path) == ["a.json", "a.md", "a.x"]
    assert (tmp_path / "a.x").read_bytes() == b"weights"


def test_parents_that_were_made_for_files_go_with_them(tmp_path):
    target = check_files(tmp_path / "b" / "c" / "a.x", MARKS)
    with pytest.raises(KeyError), replacing_files(target, MARKS, size=0):
        raise KeyError
    assert tree(tmp_path) == []


def test_the_last_file_is_not_left_beside_those_of_another_export(tmp_path, monkeypatch):
    _write(tmp_path)
    moved = []

    def killed(source, target):
        moved.append(target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with (
        pytest.raises(KeyboardInterrupt),
        replacing_files(tmp_path / "a.x", MARKS, size=0) as unfinished,
    ):
        _write(unfinished, mark=" new")
    assert moved == [tmp_path / "a.x"]
    assert tree(tmp_path) == ["a.md", "a.x"]


@pytest.mark.parametrize("name", MARKS)
def test_files_of_others_are_not_overwritten(tmp_path, name):
    _write(tmp_path)
    (tmp_path / name).write_text("a thesis")
    with pytest.raises(InputError, match=f"{name} is no part of an export of bipcore"):
        check_files(tmp_path / "a.x", MARKS)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "a.md").mkdir()
    with pytest.raises(InputError, match=r"a\.md is a folder"):
        check_files(tmp_path / "a.x", MARKS)
