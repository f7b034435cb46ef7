"""One export of each tier, kind of rotary embedding and family, read by an older transformers."""

import json

import pytest
import torch

from bipcore.export.older_readers import OLDEST
from tests.helpers.fresh import Read, read_exports, run_older
from tests.helpers.pruning import generated_by, logits_of
from tests.helpers.ropes import OTHERS, ROPES, export_all, model_with_rope
from tests.helpers.tiny import one_thread as one_thread

pytestmark = pytest.mark.readers

CASES = [f"{name}.{tier}" for name in ROPES | OTHERS for tier in (1, 2)]
"""What a dynamic embedding keeps of earlier tokens goes with the length there was then, so what it
generates depends on what was run before."""


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> tuple[Read, dict]:
    """What a process with the older transformers says of every export, and what was exported."""
    root = tmp_path_factory.mktemp("exported")
    pruned = {}
    for name in ROPES | OTHERS:
        made = export_all(model_with_rope(name), root / name)
        pruned |= {f"{name}.{tier}": model for tier, model in made.items()}
    return read_exports(root, run=run_older, trust_remote_code=True), pruned


def test_the_reader_is_the_oldest_that_the_cards_name(read):
    versions = {facts["transformers"] for facts in read[0].facts.values()}
    assert [".".join(version.split(".")[:2]) for version in versions] == [OLDEST]
    assert sorted(read[0].facts) == sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_an_older_reader_gives_the_same_logits(read, case):
    found, pruned = read
    expected = logits_of(pruned[case])
    torch.testing.assert_close(found.outputs[f"{case}.logits"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("dynamic")])
def test_an_older_reader_generates_the_same_tokens(read, case):
    found, pruned = read
    assert torch.equal(found.outputs[f"{case}.generated"], generated_by(pruned[case]))
    assert found.facts[case]["cache"]


@pytest.mark.parametrize("case", CASES)
def test_an_older_reader_loads_every_weight_no_other_and_the_tokenizer(read, case):
    facts = read[0].facts[case]
    assert facts["unmatched"] == []
    assert facts["parameters"] == sum(p.numel() for p in read[1][case].parameters())
    assert facts["tokens"] == [7, 5]


@pytest.mark.parametrize("case", CASES)
def test_the_card_names_the_version(read, case):
    assert f"transformers {OLDEST} or later" in (read[0].root / case / "README.md").read_text()


def test_an_older_reader_is_not_warned_of_what_it_does_not_know(read):
    warned = [line for line in read[0].err.splitlines() if "nrecognized" in line]
    assert warned == []
    assert json.loads((read[0].root / "yarn.1" / "config.json").read_text())["rope_scaling"]
