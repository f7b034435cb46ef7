"""How long the server works when a slider moves: Scores and Plan, for a model of LLaMA-7B's shape.

The scores are synthetic (32 blocks, 32 heads, 11,008 channels) and stand in the run store under
the settings of the page, so that the page finds them as it would find its own. Each run of a page
is one whole server-side rerun, timed in this process without a browser; the first, which reads
the store, is shown apart.

    python benchmarks/app_latency.py
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from streamlit.testing.v1 import AppTest
from transformers import LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bipcore.criteria import BlockScores, Scores
from bipcore.criteria.base import SCORES
from bipcore.models.adapters import Adapter
from bipcore.models.loading import empty_model
from bipcore.models.shapes import ModelShape
from bipcore.pipeline.provenance import score_identity
from bipcore.specs import CalibrationSpec, ModelSpec, ScoreSpec
from bipcore.store.runs import RunStore

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("pages/scores.py", "pages/plan.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=15)
    options = parser.parse_args()
    config = LlamaConfig(architectures=["LlamaForCausalLM"])  # the defaults are LLaMA-7B's
    shape = Adapter(empty_model(config)).shape
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BIPCORE_CACHE"] = f"{folder}/cache"
        config.save_pretrained(f"{folder}/llama-7b-shape")
        model = ModelSpec(f"{folder}/llama-7b-shape")
        spec = ScoreSpec(model, CalibrationSpec())
        scores = synthetic(shape)
        RunStore().get(SCORES, score_identity(spec), lambda: scores)
        for page in PAGES:
            show(page, *timed(page, model.name, options.moves))


def synthetic(shape: ModelShape) -> Scores:
    """Scores spread like real ones, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)

    def spread(count: int) -> torch.Tensor:
        return torch.randn(count, generator=generator).exp()

    blocks = []
    for block in shape.blocks:
        attention = spread(block.heads * shape.head_dim)
        heads = attention.view(block.heads, -1).sum(1)
        blocks.append(BlockScores(attention, heads, heads.clone(), spread(block.channels)))
    return Scores(tuple(blocks), "llm-bip", {}, shape, "synthetic")


def timed(page: str, model: str, moves: int) -> tuple[float, list[float]]:
    """Seconds of the first run, and of one rerun for each new place of the sparsity slider."""
    app = AppTest.from_file(str(ROOT / page), default_timeout=120)
    app.query_params["model"] = model
    app.run()
    for asked in [button for button in app.button if button.key == "load-link"]:
        asked.click()
    start = time.perf_counter()
    app.run()
    first, seconds = time.perf_counter() - start, []
    slider = sparsity_slider(app)
    for move in range(moves):
        slider.set_value(25 + 3 * move)
        start = time.perf_counter()
        app.run()
        seconds.append(time.perf_counter() - start)
        slider = sparsity_slider(app)
    return first, seconds


def sparsity_slider(app: AppTest):
    """The slider of a page that came out without an error."""
    problems = [element.value for element in (*app.exception, *app.error)]
    assert not problems, problems
    return next(s for s in app.sidebar.slider if s.label.startswith("Sparsity"))


def show(page: str, first: float, seconds: list[float]) -> None:
    median, worst = statistics.median(seconds), max(seconds)
    print(
        f"{page}: slider to redraw, median {median * 1e3:.0f} ms, slowest {worst * 1e3:.0f} ms of "
        f"{len(seconds)}; first run {first * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
