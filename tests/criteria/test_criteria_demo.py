"""Every criterion against the slow reference on the demo model, in its first and last block."""

import pytest
import torch

from bipcore.criteria import score
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.calibration import load_calibration
from tests.helpers.reference import reference_blocks, reference_scores

BLOCKS = (0, 29)


@pytest.fixture(scope="module")
def calibrated(demo):
    """The statistics and the reference's blocks on the same tokens of real text."""
    model, tokenizer = demo
    calibration = load_calibration("builtin", tokenizer, samples=4, seq_len=64, seed=0)
    reference = reference_blocks(model, calibration.tokens, BLOCKS)
    return collect_statistics(model, calibration), dict(zip(BLOCKS, reference, strict=True))


@pytest.mark.parametrize(
    "criterion", ["llm-bip", "llm-bip-gated", "wanda", "wanda-sp", "flap", "magnitude"]
)
def test_scores_equal_the_reference_on_the_demo_model(demo, calibrated, criterion):
    statistics, reference = calibrated
    scores = score(demo[0], statistics, criterion)
    rtol = 2e-3 if criterion == "flap" else 1e-4  # a variance below the squared mean loses digits
    for index in BLOCKS:
        expected = reference_scores(reference[index], criterion)
        for field in ("attention", "heads", "kv_groups", "ffn"):
            actual = getattr(scores.blocks[index], field).double()
            torch.testing.assert_close(actual, expected[field], rtol=rtol, atol=0)
