"""Every step of pruning on a GPU, beside the CPU in float32: one command, no network.

    python benchmarks/gpu.py                                # 1.1 and 7 billion, in bfloat16
    python benchmarks/gpu.py --size 7b --blocks 8           # of 7 billion's width, a quarter deep
    python benchmarks/gpu.py --size tiny --device cpu       # to try the script itself

Random weights of a real shape (`random_model`) are loaded, scored, pruned with least squares,
measured, run, exported, read back and streamed block by block, and the same is done on the CPU in
float32. A line a step: seconds, their ratio to a plain forward pass of the calibration tokens
through the blocks, peak memory of the device (on the CPU: of the process), and each difference with
its bound; `gpu_bounds.py` has the reasons. Seconds are not judged. Exit status 1 where a bound is
broken, 2 where nothing could be run. It needs torch, transformers, accelerate, safetensors,
tokenizers, numpy, pandas, psutil and sentencepiece, not what the app, the command line and the
tasks need.
"""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu_bounds import (
    SPARSITY,
    Bounds,
    Check,
    difference,
    moments_apart,
    score_checks,
    worst,
)
from random_model import SIZES, config_of, write

from bipcore import __version__
from bipcore.criteria import CRITERIA, Scores, score
from bipcore.criteria.moments import SecondMoments, second_moments_by_block
from bipcore.criteria.statistics import Statistics, collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.evaluation.metrics import perplexity
from bipcore.evaluation.profiling import device_name
from bipcore.export.export import load_pruned, save_pruned
from bipcore.models.adapters import Adapter
from bipcore.models.generation import Sampling, stream
from bipcore.models.loading import empty_model, load_model
from bipcore.models.memory import PeakMemory, free_memory, weight_bytes
from bipcore.models.running import capture_inputs
from bipcore.models.streaming import named_parts
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.compensation import compensate
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.slicing import apply_plan

ONE_PASS = [one.name for one in CRITERIA.values() if one.needs in ("activations", "weights")]
"""The criteria that are scored: all that one forward pass serves."""
CHOSEN = "llm-bip"
PROMPT, NEW_TOKENS = "The sky is", 32


@dataclass(eq=False)
class Side:
    """A model on one device, and what has been made of it so far."""

    model: nn.Module
    tokenizer: Any
    calibration: CalibrationSet
    test: Tensor
    statistics: Statistics | None = None
    scores: dict[str, Scores] = field(default_factory=dict)
    plan: PruningPlan | None = None
    pruned: nn.Module | None = None

    @torch.no_grad()
    def logits(self, model: nn.Module, tokens: Tensor | None = None) -> Tensor:
        """The logits of ``tokens`` (1, T), by default the first sample, float32 on the CPU."""
        tokens = self.calibration.tokens[:1] if tokens is None else tokens
        tokens = tokens.to(Adapter(model).input_device)
        return model(input_ids=tokens, use_cache=False).logits[0].float().cpu()  # (T, V)

    @torch.no_grad()
    def forward(self) -> None:
        """The calibration tokens through the blocks, nothing else."""
        adapter = Adapter(self.model)
        for batch in self.calibration.tokens.split(4):
            adapter.run_blocks(batch.to(adapter.input_device))

    def watch(self) -> None:
        """The same with the statistics being collected."""
        self.statistics = collect_statistics(self.model, self.calibration)

    def score(self) -> None:
        """The scores of all criteria that one pass serves."""
        self.scores = {name: score(self.model, self.statistics, name) for name in ONE_PASS}

    def prune(self, plan: PruningPlan) -> None:
        """Cut, and refit what stays from the second moments of one block after the other."""
        self.plan, self.pruned = plan, apply_plan(self.model, plan)
        moments = SecondMoments(_reader(second_moments_by_block(self.model, self.calibration)))
        compensate(self.pruned, self.model, plan, "least-squares", moments=moments)

    def losses(self) -> list[float]:
        """In nats a token, of the model as it was and as it is."""
        window = self.calibration.seq_len
        both = (perplexity(model, self.test, window=window) for model in (self.model, self.pruned))
        return [math.log(value) for value in both]

    def generate(self) -> Tensor:
        """A prompt and its greedy continuation by the pruned model, but for the last token."""
        steps: list[Tensor] = []
        embedding = {"": self.pruned.get_input_embeddings()}
        with capture_inputs(embedding, lambda _, ids: steps.append(ids.detach().cpu())):
            sampling = Sampling(max_new_tokens=NEW_TOKENS, chat=False)
            list(stream(self.pruned, self.tokenizer, PROMPT, sampling))
        return torch.cat(steps, dim=1)  # (1, T)


def _reader(blocks: Iterator[dict[str, Tensor]]) -> Callable[[str], Tensor]:
    """Reads tensors of ``blocks``, which are asked for in their order: one block's are held."""
    held: dict[str, Tensor] = {}

    def read(name: str) -> Tensor:
        while name not in held:
            held.clear()
            held.update(next(blocks))
        return held[name]

    return read


def choice_check(ids: Tensor, prompt: int, side: Side, bounds: Bounds) -> Check:
    """How far below the greatest logit of ``side`` the chosen tokens lie, in standard deviations
    of its logits."""
    logits = side.logits(side.pruned, ids)[prompt - 1 : -1]  # (n, V)
    chosen = logits.gather(1, ids[0, prompt:, None])[:, 0]
    gap = (logits.max(1).values - chosen) / logits.std(1)
    return Check("chosen logits below the greatest by", float(gap.max()), bounds.choice)


class Report:
    """Prints a line a step, and keeps the checks that failed."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.forward, self.failed = device, math.nan, []

    def measure(self, function: Callable[[], Any]) -> tuple[Any, float, int]:
        """What ``function`` gives, its seconds, and the peak memory in bytes."""
        self._wait()
        with PeakMemory(self.device) as peak:
            start = time.perf_counter()
            found = function()
            self._wait()
            seconds = time.perf_counter() - start
        return found, seconds, peak.bytes

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def line(self, step: str, seconds: float, peak: int, *checks: Check) -> None:
        """Print a step."""
        figures = f"{seconds:8.3f} s {seconds / self.forward:8.2f} x {peak / 2**20:9,.0f} MiB"
        print(f"{step:10} {figures}  " + "; ".join(map(str, checks)), flush=True)
        self.failed += [f"{step}: {check}" for check in checks if not check.holds]


def run(size: str, options: argparse.Namespace, report: Report, folder: Path) -> None:
    """All steps with a model of ``size``."""
    source = str(write(folder / size, size, options.blocks))
    blocks = config_of(size, options.blocks).num_hidden_layers
    bounds = Bounds(getattr(torch, options.dtype), blocks)
    how = {"device": options.device, "dtype": options.dtype}
    (model, tokenizer), *loading = report.measure(lambda: load_model(source, **how))
    texts = made_up(model, options)
    side = Side(model, tokenizer, *texts)
    exact = Side(load_model(source, device="cpu", dtype="float32")[0], tokenizer, *texts)

    side.forward()  # what is set up once is not counted
    _, report.forward, peak = report.measure(side.forward)
    report.line("load", *loading)
    apart = difference(side.logits(side.model), exact.logits(exact.model))
    report.line("forward", report.forward, peak, Check("logits differ by", apart, bounds.logits))
    make_smaller(side, exact, bounds, report)
    use(side, exact, bounds, report)
    export(side, exact, bounds, report, folder / f"{size}-pruned", how)
    stream_blocks(side, source, bounds, report, how)


def make_smaller(side: Side, exact: Side, bounds: Bounds, report: Report) -> None:
    """From the statistics to the pruned model: both sides take the plan of the device."""
    _, *cost = report.measure(side.watch)
    exact.watch()
    apart = moments_apart(side.statistics, exact.statistics)
    report.line("statistics", *cost, Check("moments differ by", apart, bounds.scores))

    _, *cost = report.measure(side.score)
    exact.score()
    report.line("score", *cost, *score_checks(side.scores, exact.scores, bounds))

    plan = make_plan(side.scores[CHOSEN], sparsity=SPARSITY)
    _, *cost = report.measure(lambda: side.prune(plan))
    exact.prune(plan)
    apart = difference(side.logits(side.pruned), exact.logits(exact.pruned))
    report.line("prune", *cost, Check("logits differ by", apart, bounds.pruned))


def use(side: Side, exact: Side, bounds: Bounds, report: Report) -> None:
    """Perplexity, and a continuation."""
    losses, *cost = report.measure(side.losses)
    apart = worst(abs(a - b) for a, b in zip(losses, exact.losses(), strict=True))
    report.line("evaluate", *cost, Check("nats a token differ by", apart, bounds.loss))

    ids, *cost = report.measure(side.generate)
    prompt = len(side.tokenizer(PROMPT)["input_ids"])
    report.line("generate", *cost, choice_check(ids, prompt, exact, bounds))


def export(
    side: Side, exact: Side, bounds: Bounds, report: Report, out: Path, how: dict[str, str]
) -> None:
    """Writing the pruned model to ``out``, and loading it from there."""
    make = partial(save_pruned, side.pruned, side.tokenizer, out, plan=side.plan)
    done, *cost = report.measure(make)
    shown = side.logits(side.pruned)
    apart = done.max_logit_difference / float(shown.abs().max())
    report.line("export", *cost, Check("read back, logits differ by", apart, bounds.again))

    again, *cost = report.measure(lambda: load_pruned(out, **how)[0])
    found = side.logits(again)
    apart = difference(found, exact.logits(exact.pruned))
    checks = [Check("logits differ by", apart, bounds.pruned)]
    checks.append(Check("from memory by", difference(found, shown), bounds.again))
    report.line("read back", *cost, *checks)


def stream_blocks(
    side: Side, source: str, bounds: Bounds, report: Report, how: dict[str, str]
) -> None:
    """The statistics once more, with the blocks of ``source`` brought in one after the other."""
    size = weight_bytes(side.model)
    model, tokenizer = load_model(source, **how, memory=str(size))
    streamed = Side(model, tokenizer, side.calibration, side.test)
    _, *cost = report.measure(streamed.watch)
    parts = len(list(named_parts(model)))
    rest = Check("parts on the disk", parts, len(side.statistics.blocks), least=True)
    apart = moments_apart(streamed.statistics, side.statistics)
    report.line("streamed", *cost, rest, Check("moments differ by", apart, bounds.again))


def made_up(model: nn.Module, options: argparse.Namespace) -> tuple[CalibrationSet, Tensor]:
    """Random tokens: calibration (N, T), and as many to measure on (N·T,)."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    shape = 2, options.samples, options.seq_len
    tokens = torch.randint(3, vocabulary, shape, generator=generator)
    return CalibrationSet.from_tokens(tokens[0]), tokens[1].flatten()


def too_large(size: str, options: argparse.Namespace, device: torch.device) -> str | None:
    """Why a model of ``size`` is left out; None where it fits."""
    model = empty_model(config_of(size, options.blocks))
    weights = sum(weight.numel() for weight in model.parameters())
    here, itemsize = torch.device("cpu"), getattr(torch, options.dtype).itemsize
    # dense and pruned, and a copy while it is read back; of a block moments and what solves them
    room = 32 * SIZES[size]["ffn"] ** 2 + 2**30
    needs = {here: 4 * 2 * weights + room}
    needs[device] = needs.get(device, 0) + 3 * itemsize * weights + room
    for place, need in needs.items():
        if need > (free := free_memory(place)):
            return f"about {need / 2**30:.0f} GiB on {place}, and {free / 2**30:.0f} are free"
    return None


def main() -> int:
    """Run what the options ask for; returns the exit status."""
    options = _options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here; --device cpu tries the script.", file=sys.stderr)
        return 2
    device = torch.device(options.device)
    torch.manual_seed(0)
    print(
        f"bipcore {__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    )
    report, done = Report(device), 0
    for size in options.size:
        print(f"\n{size} in {options.dtype} on {device_name(options.device)}", flush=True)
        if reason := too_large(size, options, device):
            print(f"left out: it needs {reason}")
            continue
        with tempfile.TemporaryDirectory(dir=options.room) as folder:
            os.environ["BIPCORE_CACHE"] = f"{folder}/store"
            run(size, options, report, Path(folder))
        done += 1
    for failure in report.failed:
        print(f"off: {failure}", file=sys.stderr)
    return 1 if report.failed else 0 if done else 2


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["1.1b", "7b"])
    parser.add_argument("--blocks", type=int, help="at most so many; by default all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--room", help="a folder for the models; by default the system's own")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
