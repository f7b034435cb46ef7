"""The share of outliers of a block against the slow way to count them."""

import pytest
import torch

from bipcore.criteria.outliers import OUTLIER, outlier_shares
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.models.adapters import Adapter
from tests.helpers.reference_blocks import reference_blocks
from tests.helpers.tiny import one_thread as one_thread
from tests.helpers.tiny import tiny_model, tiny_tokens

CALIBRATION = CalibrationSet.from_tokens(tiny_tokens())


@pytest.mark.parametrize("name", ["llama-gqa", "opt"])
def test_outliers_are_wanda_scores_above_five_times_their_blocks_mean(name):
    model = tiny_model(name)
    with torch.no_grad():
        Adapter(model).blocks[1].down.weight[0] *= 30
    found = outlier_shares(Adapter(model), collect_statistics(model, CALIBRATION))
    blocks = zip(Adapter(model).blocks, reference_blocks(model, tiny_tokens()), strict=True)
    for share, (block, reference) in zip(found, blocks, strict=True):
        weights, scores = block.weights(), []
        for site, names in {"qkv": "qkv", "o": "o"}.items():
            scores += [(getattr(weights, n), reference.inputs[site]) for n in names]
        scores += [(w, reference.inputs["up"]) for w in (weights.gate, weights.up) if w is not None]
        scores += [(weights.down, reference.inputs["down"])]
        every = torch.cat([(w.abs() * x.double().norm(dim=0)).flatten() for w, x in scores])
        assert share == pytest.approx(float((every > OUTLIER * every.mean()).double().mean()))
    assert max(found) > 0
