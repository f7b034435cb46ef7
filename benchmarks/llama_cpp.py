"""Perplexity of GGUF exports by the real llama.cpp, beside that of the pruned model in memory.

    make llama-cpp
    BIPCORE_LLAMA_CPP=.venv/llama-cpp python benchmarks/llama_cpp.py --text wikitext2

The model is pruned by two plans, one with the same widths in every block and one with widths of
their own, and exported once for each type of weights. A line each: the architecture of llama.cpp,
the type, the size of the file, our perplexity on the first tokens of the text, that of llama.cpp on
the same tokens in the same windows, and by how much it is higher, in per cent.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bipcore.evaluation.metrics.texts import cut_windows, load_test_tokens
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from tests.helpers.llama_cpp import ask

SHAPES = {"uniform": {"allocation": "uniform"}, "global": {"allocation": "global"}}


def main() -> None:
    """Measure and print."""
    options = _options()
    pipeline = Pipeline()
    spec = ModelSpec(options.model, device="cpu")
    calibration = CalibrationSpec(options.calibration, samples=32, seq_len=256)
    text = EvaluationSpec(options.text, window=options.window, max_tokens=options.tokens)
    model, tokenizer = pipeline.model(spec)
    tokens = load_test_tokens(options.text, tokenizer, max_tokens=options.tokens)
    windows = cut_windows(model, tokens, options.window).tolist()
    for how in SHAPES.values():
        asked = PlanSpec(sparsity=options.sparsity, unit="kv-group", round_to=32, **how)
        plan = pipeline.plan(ScoreSpec(spec, calibration, "flap"), asked)
        ours = pipeline.evaluate(spec, text, plan)["perplexity"]
        for kind in options.kinds.split(","):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "model.gguf")
                made = {"format": "gguf", "quantize": kind}
                export = pipeline.export(spec, plan, file, **made)
                found = ask([{"file": str(file), "windows": windows}])[0]
                size = file.stat().st_size / 2**20
            theirs = math.exp(found["loss"] / sum(len(ids) - 1 for ids in windows))
            more = 100 * (theirs / ours - 1)
            row = f"{export.model_class:6} {kind:5} {size:7.1f} MiB {ours:10.4f} {theirs:10.4f}"
            print(f"{row} {more:+.4f} %", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--sparsity", type=float, default=0.2)
    parser.add_argument("--calibration", default="builtin")
    parser.add_argument("--text", default="builtin")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--kinds", default="f32,f16,q8_0")
    return parser.parse_args()


if __name__ == "__main__":
    main()
