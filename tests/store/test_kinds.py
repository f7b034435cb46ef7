"""The list of kinds of stored results: names, versions, and that each comes back as it was."""

import importlib
import pkgutil

import bipcore
from bipcore.kinds import KINDS
from bipcore.store.kinds import Kind, digest, is_digest
from bipcore.store.runs import RunStore


def test_every_kind_has_a_name_of_its_own_and_says_what_it_holds():
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    assert all(kind.holds for kind in KINDS)


def test_every_kind_that_a_module_declares_is_listed():
    for found in pkgutil.walk_packages(bipcore.__path__, "bipcore."):
        if not found.name.endswith("__main__"):
            for name, value in vars(importlib.import_module(found.name)).items():
                assert not isinstance(value, Kind) or value in KINDS, f"{found.name}.{name}"


def test_what_older_stores_hold_is_found_unless_it_has_come_to_mean_something_else():
    versions = dict.fromkeys(("models", "plans", "plan-names", "teachers", "hashes"), 2)
    versions |= dict.fromkeys(("second-moments", "zero-shot", "reproductions"), 4)
    assert {kind.name: kind.version for kind in KINDS} == {
        kind.name: versions.get(kind.name, 3) for kind in KINDS
    }
    assert digest({"n": 1}) == "b271e2653a0d573d"


def test_a_kind_of_another_version_finds_nothing_of_the_one_before_and_leaves_others_alone(store):
    before, after, other = Kind("a", version=2), Kind("a", version=3), Kind("b")
    store.get(before, {"n": 1}, lambda: {"value": 1})
    store.get(other, {"n": 1}, lambda: {"value": 2})
    assert store.find(after, {"n": 1}) is None
    assert store.get(after, {"n": 1}, lambda: {"value": 3}) == {"value": 3}
    again = RunStore(store.root)
    assert again.get(before, {"n": 1}, dict) == {"value": 1}
    assert again.get(other, {"n": 1}, dict) == {"value": 2}


def test_a_kind_writes_and_reads_results_of_its_own(store):
    pairs = Kind(
        "pairs", write=lambda pair: ({}, {"pair": list(pair)}), read=lambda _, d: tuple(d["pair"])
    )
    assert store.get(pairs, 1, lambda: (1, 2)) == (1, 2)
    assert RunStore(store.root).get(pairs, 1, tuple) == (1, 2)
    (entry,) = store.entries(pairs)
    assert is_digest(entry.digest)
    assert store.named(pairs, entry.digest) == (1, 2)
    assert store.data_of(pairs, entry.digest) == {"pair": [1, 2]}
    assert store.named(pairs, "0" * 16) is store.named(pairs, "../pairs") is None
