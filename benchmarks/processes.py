"""What several processes gain: the time of one process over that of several, one thread each.

The main process walks the calibration set and the test windows alone while the others wait, then
all do it in step; the two take turns, so that both meet the same machine. The medians of the
repeats count; beside their ratio is that of the shortest times, which other work on the machine
changes least. The results are compared, too.

    python benchmarks/processes.py --processes 2
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bipcore import CalibrationSet, collect_statistics, load_model, perplexity
from bipcore.models import processes


def launch(options: argparse.Namespace) -> int:
    """Start this file in several processes; the exit status."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    words = [*launcher, str(options.processes), __file__, *sys.argv[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], env=environment, check=False).returncode


def seconds(function) -> tuple[float, object]:
    """The time of one call, and what it gave."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def measure(options: argparse.Namespace) -> None:
    """Print both times and their ratio, for statistics and for perplexity."""
    is_main = processes.join().is_main
    torch.set_num_threads(1)
    model, _ = load_model(options.model, device="cpu")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    shape = (options.samples, options.seq_len)
    tokens = torch.randint(vocabulary, shape, generator=generator)

    def squares() -> torch.Tensor:
        found = collect_statistics(model, CalibrationSet.from_tokens(tokens), batch_size=2)
        return torch.cat([block.down.mean_square for block in found.blocks])

    def loss() -> torch.Tensor:
        return torch.tensor(perplexity(model, tokens, window=options.seq_len))

    for name, walk in (("statistics", squares), ("perplexity", loss)):
        processes.in_step(walk)  # warm-up
        rows = []
        for _ in range(options.repeats):
            alone = seconds(walk) if is_main else (0.0, None)
            processes.in_step(lambda: None)  # the others wait for the main process
            rows.append((alone, seconds(lambda walk=walk: processes.in_step(walk))))
        if is_main:
            times = [[row[way][0] for row in rows] for way in (0, 1)]
            one, many = map(statistics.median, times)
            best = min(times[0]) / min(times[1])
            expected, found = rows[0][0][1].double(), rows[0][1][1].double()
            off = ((found - expected).norm() / expected.norm()).item()
            print(f"{name}: 1 process {one:.2f} s, {options.processes} processes {many:.2f} s")
            print(f"  ratio {one / many:.2f}, of the shortest {best:.2f}")
            print(f"  relative difference of the results {off:.1e}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not processes.launched():
        return launch(options)
    measure(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
