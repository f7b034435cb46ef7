"""The run store: what is stored comes back, and only what is whole."""

import json
import shutil
import time
import warnings
from dataclasses import asdict, replace

import pytest
import torch

from bipcore.errors import InputError
from bipcore.specs import CalibrationSpec, ScoreSpec
from bipcore.store.entries import Damaged
from bipcore.store.kinds import Kind, digest, stored_as_it_is
from bipcore.store.outbox import Outbox, keep
from bipcore.store.runs import RunStore, cache_root, plain_data_of
from tests.helpers.folders import tree, truncate

SPEC = {"model": "demo", "samples": 4}


def _result() -> tuple[dict, dict]:
    return {"x": torch.arange(6.0).view(2, 3), "y": torch.tensor(3)}, {"fingerprint": "ab"}


def _never():
    raise AssertionError("it was computed again")


def _stored(store: RunStore):
    """The folder of an entry that has just been written."""
    store.get(stored_as_it_is("scores"), SPEC, _result)
    return store.path(Kind("scores"), SPEC)


def test_tensors_and_data_come_back_as_they_were(store):
    _stored(store)
    tensors, data = RunStore(store.root).get(stored_as_it_is("scores"), SPEC, _never)
    assert data == _result()[1]
    assert tensors.keys() == {"x", "y"}
    assert all(torch.equal(tensors[name], value) for name, value in _result()[0].items())


def test_tensors_that_do_not_lie_in_one_piece_come_back(store):
    x = torch.arange(6.0).view(2, 3).T
    store.get(stored_as_it_is("scores"), SPEC, lambda: ({"x": x}, {}))
    assert torch.equal(store.get(stored_as_it_is("scores"), SPEC, _never)[0]["x"], x)


def test_a_dictionary_comes_back_as_it_was(store):
    stored = {"perplexity": 14.125, "text": "naïve", "tokens": [1, 2], "none": None}
    store.get(Kind("evaluations"), SPEC, lambda: stored)
    assert store.get(Kind("evaluations"), SPEC, _never) == stored


def test_infinity_comes_back(store):
    store.get(Kind("evaluations"), SPEC, lambda: {"perplexity": float("inf")})
    assert store.get(Kind("evaluations"), SPEC, _never) == {"perplexity": float("inf")}


def test_the_first_call_returns_what_was_computed(store):
    assert store.get(Kind("evaluations"), SPEC, lambda: {"a": 1}) == {"a": 1}


def test_a_folder_is_built_once_and_holds_what_was_built(store):
    folder = store.folder(Kind("models"), SPEC, lambda new: (new / "w.bin").write_bytes(b"abc"))
    assert (folder / "w.bin").read_bytes() == b"abc"
    assert store.folder(Kind("models"), SPEC, lambda new: _never()) == folder


def test_the_spec_lies_beside_the_result(store):
    assert json.loads((_stored(store) / "spec.json").read_text())["spec"] == SPEC


def test_an_entry_lies_under_its_kind_and_digest(store):
    assert _stored(store) == store.root / "scores" / digest(SPEC)


def test_different_specs_and_kinds_do_not_meet(store):
    store.get(Kind("a"), SPEC, lambda: {"n": 1})
    store.get(Kind("b"), SPEC, lambda: {"n": 2})
    store.get(Kind("a"), SPEC | {"samples": 5}, lambda: {"n": 3})
    assert store.get(Kind("a"), SPEC, _never) == {"n": 1}
    assert store.get(Kind("b"), SPEC, _never) == {"n": 2}


def test_the_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})


def test_the_digest_of_a_dataclass_is_that_of_its_fields_in_any_order():
    spec = CalibrationSpec(seed=3)
    assert digest(spec) == digest(dict(reversed(asdict(spec).items())))


@pytest.mark.parametrize(
    "other",
    [{"a": [1, 3]}, {"a": [2, 1]}, {"a": [1, 2], "b": None}, {"a": ["1", 2]}, {"a": [1, 2.5]}],
)
def test_the_digest_depends_on_every_value(other):
    assert digest(other) != digest({"a": [1, 2]})


def test_options_of_a_criterion_are_part_of_the_digest():
    assert digest(ScoreSpec(options=(("seed", 1),))) != digest(ScoreSpec(options=(("seed", 2),)))


def _flip_a_bit(folder):
    file = folder / "data.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "tensors truncated": lambda folder: truncate(folder / "data.safetensors", by=4),
    "tensors emptied": lambda folder: (folder / "data.safetensors").write_bytes(b""),
    "tensors changed": _flip_a_bit,
    "tensors gone": lambda folder: (folder / "data.safetensors").unlink(),
    "data truncated": lambda folder: truncate(folder / "data.json", by=3),
    "data changed": lambda folder: (folder / "data.json").write_text('{"fingerprint": "cd"}'),
    "data gone": lambda folder: (folder / "data.json").unlink(),
    "spec gone": lambda folder: (folder / "spec.json").unlink(),
    "spec truncated": lambda folder: truncate(folder / "spec.json", by=20),
    "spec no object": lambda folder: (folder / "spec.json").write_text("[]"),
    "spec binary": lambda folder: (folder / "spec.json").write_bytes(b"\xff\x00"),
    "spec without files": lambda folder: (folder / "spec.json").write_text('{"spec": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_computed_again_with_one_warning(store, damage):
    folder = _stored(store)
    DAMAGE[damage](folder)
    computed = []
    with pytest.warns(UserWarning, match="damaged") as caught:
        tensors, data = store.get(
            stored_as_it_is("scores"), SPEC, lambda: computed.append(1) or _result()
        )
    assert (len(computed), len(caught)) == (1, 1)
    assert data == _result()[1]
    assert torch.equal(tensors["x"], _result()[0]["x"])


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_set_aside_and_the_new_one_is_whole(store, damage):
    folder = _stored(store)
    DAMAGE[damage](folder)
    with pytest.warns(UserWarning, match="damaged"):
        store.get(stored_as_it_is("scores"), SPEC, _result)
    assert sorted(entry.whole for entry in store.entries()) == [False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.get(stored_as_it_is("scores"), SPEC, _never)


def test_a_damaged_folder_entry_is_built_again(store):
    def build(new):
        (new / "w.bin").write_bytes(b"abc")

    (store.folder(Kind("models"), SPEC, build) / "w.bin").write_bytes(b"a")
    with pytest.warns(UserWarning, match=r"w\.bin is truncated"):
        folder = store.folder(Kind("models"), SPEC, build)
    assert (folder / "w.bin").read_bytes() == b"abc"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
def test_an_interrupted_computation_leaves_nothing_behind(store, error):
    def stop():
        raise error("stop")

    with pytest.raises(error):
        store.get(stored_as_it_is("scores"), SPEC, stop)
    assert not store.root.exists() or tree(store.root) in ([], ["scores"])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_build_leaves_nothing_behind(store, error):
    def stop(new):
        (new / "half").write_text("x")
        raise error("stop")

    with pytest.raises(error):
        store.folder(Kind("models"), SPEC, stop)
    assert list(store.entries()) == []
    assert store.find(Kind("models"), SPEC) is None


@pytest.mark.parametrize("root", ["/proc/no-such-folder", "below-a-file"])
def test_a_root_that_cannot_be_written_is_one_sentence(tmp_path, root):
    (tmp_path / "file").write_text("x")
    store = RunStore(tmp_path / "file" / "store" if root == "below-a-file" else root)
    with pytest.raises(InputError, match="cannot be written") as raised:
        store.get(Kind("a"), SPEC, dict)
    assert "BIPCORE_CACHE" in str(raised.value)


def test_reading_makes_no_folder(store):
    assert store.find(Kind("scores"), SPEC) is None
    assert list(store.entries()) == []
    assert not store.root.exists()


def test_the_root_is_what_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert RunStore().root == tmp_path


def test_entries_say_kind_spec_and_size(store):
    folder = _stored(store)
    (entry,) = store.entries()
    assert (entry.kind, entry.digest, entry.spec) == ("scores", digest(SPEC), SPEC)
    assert entry.size == sum(file.stat().st_size for file in folder.iterdir())


def test_clear_removes_everything_and_says_how_much(store):
    _stored(store)
    store.get(Kind("evaluations"), SPEC, lambda: {"a": 1})
    size = sum(entry.size for entry in store.entries())
    assert store.clear() == size > 0
    assert list(store.entries()) == []


def test_clear_can_be_told_one_kind(store):
    _stored(store)
    store.get(Kind("evaluations"), SPEC, lambda: {"a": 1})
    store.clear("scores")
    assert [entry.kind for entry in store.entries()] == ["evaluations"]


def test_clear_removes_what_was_set_aside(store):
    truncate(_stored(store) / "data.json", by=2)
    with pytest.warns(UserWarning, match="damaged"):
        store.find(Kind("scores"), SPEC)
    store.clear()
    assert list(store.entries()) == []


def test_clear_leaves_what_is_being_written(store):
    def build(new):
        (new / "half").write_text("x")
        RunStore(store.root).clear()
        (new / "rest").write_text("y")

    folder = store.folder(Kind("models"), SPEC, build)
    assert {"half", "rest"} <= {file.name for file in folder.iterdir()}


def test_clear_removes_what_was_left_over_long_ago(store):
    (store.root / "models" / f"{digest(SPEC)}.tmp-0badcafe").mkdir(parents=True)
    store.clear()
    assert len(list(store.entries())) == 1
    store.clear(unfinished_older_than=0)
    assert list(store.entries()) == []


def test_clearing_an_empty_store_frees_nothing(store):
    assert store.clear() == 0


def test_entries_can_be_had_of_one_kind(store):
    _stored(store)
    store.get(Kind("evaluations"), SPEC, lambda: {"perplexity": 1.0})
    assert {entry.kind for entry in store.entries()} == {"scores", "evaluations"}
    assert [entry.kind for entry in store.entries(Kind("evaluations"))] == ["evaluations"]


def test_an_entry_can_be_removed_and_the_others_stay(store):
    _stored(store)
    store.get(Kind("evaluations"), SPEC, lambda: {"perplexity": 1.0})
    store.remove(Kind("scores"), SPEC)
    store.remove(Kind("scores"), SPEC)  # it is gone already
    assert [entry.kind for entry in store.entries()] == ["evaluations"]


def test_an_entry_that_another_process_removes_meanwhile_is_left_out(store):
    for number in range(3):
        store.get(Kind("evaluations"), {"number": number}, lambda: {"perplexity": 1.0})
    entries = store.entries()
    first = next(entries)
    others = [store.root / "evaluations" / name for name in tree(store.root / "evaluations")]
    for folder in others:
        if folder.is_dir() and folder != first.path:
            shutil.rmtree(folder)
    assert list(entries) == []


def test_how_an_entry_was_made_is_kept_and_is_no_part_of_what_it_is(store):
    before = time.time()
    kind = Kind("evaluations")
    store.get(kind, SPEC, lambda: {"a": 1}, lambda: {"plan": "30 %"})
    store.get(kind, SPEC, _never, _never)
    (entry,) = store.entries(kind)
    assert entry.digest == digest(SPEC)
    assert before <= entry.made["at"] <= time.time()
    assert 0 <= entry.made["seconds"] < 60
    assert entry.made["plan"] == "30 %"
    assert (entry.version, entry.fault) == (kind.version, "")


def test_what_says_its_own_seconds_is_believed_and_a_folder_is_timed_too(store):
    store.get(Kind("evaluations"), SPEC, dict, lambda: {"seconds": 12.5})
    store.folder(Kind("models"), SPEC, lambda folder: (folder / "x").write_text("x"))
    said = {entry.kind: entry.made["seconds"] for entry in store.entries()}
    assert said["evaluations"] == 12.5
    assert 0 <= said["models"] < 60


def test_a_manifest_of_before_is_read_and_says_nothing_of_how_it_was_made(store):
    folder = _stored(store)
    manifest = json.loads((folder / "spec.json").read_text())
    del manifest["made"]
    (folder / "spec.json").write_text(json.dumps(manifest))
    again = RunStore(store.root)
    assert again.get(stored_as_it_is("scores"), SPEC, _never)[1] == _result()[1]
    (entry,) = again.entries()
    assert (entry.whole, entry.made) == (True, {})


def test_a_process_that_leaves_the_writing_to_another_says_how_it_was_made(store):
    outbox = Outbox(store.root)
    outbox.get(Kind("evaluations"), SPEC, lambda: {"a": 1}, lambda: {"plan": "30 %"})
    (parcel,) = outbox.hand_over()
    keep(store, parcel)
    (entry,) = store.entries()
    assert entry.made["plan"] == "30 %"
    assert entry.made["seconds"] == parcel.made["seconds"]


def test_plain_data_is_read_without_the_tensors_and_checked(store):
    folder = _stored(store)
    (folder / "data.safetensors").write_bytes(bytes((folder / "data.safetensors").stat().st_size))
    (entry,) = store.entries()
    assert plain_data_of(entry) == _result()[1]
    text = (folder / "data.json").read_text()
    (folder / "data.json").write_text(text.replace("ab", "cd"))
    (entry,) = store.entries()
    assert entry.fault == ""  # sizes show nothing
    with pytest.raises(Damaged, match="has changed"):
        plain_data_of(entry)


def test_nothing_outside_of_the_store_is_deleted(store, tmp_path):
    _stored(store)
    (entry,) = store.entries()
    aside = tmp_path / "scores" / entry.digest
    shutil.copytree(entry.path, aside)
    for path in (aside, entry.path.parent, store.root):
        assert store.delete([replace(entry, path=path)]) == 0
    for kind in ("..", "../scores", "."):
        path = store.root / kind / entry.digest
        shutil.copytree(entry.path, path, dirs_exist_ok=True)
        assert store.delete([replace(entry, kind=kind, path=path)]) == 0
        assert path.exists()
    assert aside.exists()
    assert store.delete([entry]) == entry.size
    assert not entry.path.exists()
