"""Exports to a full disk: a process that may write no file larger than some bytes."""

import json
from pathlib import Path

import pytest

from bipcore.export.export import save_pruned
from bipcore.pruning.slicing import apply_plan
from tests.helpers.folders import tree
from tests.helpers.gguf import merging_tokenizer, plan_of, readable_model
from tests.helpers.processes import Call, with_bipcore
from tests.helpers.pruning import plan_for
from tests.helpers.tiny import tiny_model, word_tokenizer

CASES = {
    "at-once": (0, 94),
    "configuration": (300, 94),
    "weights": (100_000, 94),
    "tokenizer": (500_000, 40_000),
    "earlier": (100_000, 94),
    "keys": (1_000, None),
    "tensors": (100_000, None),
}
"""How many bytes a file may have, and how many words the tokenizer: in "tokenizer" its file is
larger than that of the weights; None: it is a GGUF file."""

_WRITER = """
import json, resource, signal, sys
from bipcore.errors import InputError
from tests.export.test_full_disk import CASES, save

said = {}
for case, (limit, words) in CASES.items():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(f"{sys.argv[1]}/{case}/parent/out", words, sparsity=0.25)
        said[case] = "it was written"
    except Exception as error:
        said[case] = f"{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
print(json.dumps(said))
"""


def save(folder, words: int | None = 94, *, sparsity: float = 0.5):
    if words is None:
        model = readable_model("llama")
        plan = plan_of(model, sparsity=sparsity)
        file, tokenizer = f"{folder}.gguf", merging_tokenizer()
        return save_pruned(apply_plan(model, plan), tokenizer, file, plan=plan, format="gguf")
    plan = plan_for("llama", sparsity)
    pruned = apply_plan(tiny_model("llama"), plan)
    return save_pruned(pruned, word_tokenizer(words), folder, plan=plan)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in tree(folder) if "." in path}


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """The folder of all cases, what was in "earlier" before, and what each export said."""
    root = tmp_path_factory.mktemp("full")
    for case in CASES:
        (root / case).mkdir()
    save(root / "earlier" / "parent" / "out")
    before = _contents(root / "earlier")
    done = with_bipcore().start(Call(_WRITER, [str(root)], str(root))).wait()
    assert done.status == 0, done.err
    return root, before, json.loads(done.out)


@pytest.mark.parametrize("case", CASES)
def test_a_full_disk_is_one_sentence(tried, case):
    _, _, said = tried
    assert said[case].startswith("InputError: ")
    assert "nothing was kept" in said[case]
    assert "nothing was kept" in said[case]


@pytest.mark.parametrize("case", [case for case in CASES if case != "earlier"])
def test_a_full_disk_leaves_nothing_half_written(tried, case):
    root, _, _ = tried
    assert [path for path in tree(root / case) if path != "parent"] == []


@pytest.mark.parametrize("case", [case for case in CASES if case != "earlier"])
def test_a_full_disk_leaves_no_empty_parent(tried, case):
    root, _, _ = tried
    assert not (root / case / "parent").exists()


def test_a_full_disk_leaves_the_earlier_export_whole(tried):
    root, before, _ = tried
    assert _contents(root / "earlier") == before
