"""What the statistics add to a forward pass: the ratio of the two, in one process.

Both run the same batches through the decoder blocks, without the language-model head; each figure
is the median of the repeats, which take turns so that both meet the same machine. Afterwards the
statistics' memory is measured at few and at many samples.

    python benchmarks/statistics_overhead.py
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bipcore import CalibrationSet, collect_statistics, load_model
from bipcore.models.adapters import Adapter
from bipcore.models.memory import PeakMemory


def seconds(function) -> float:
    """The time of one call, with all that it starts on a GPU."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    model, _ = load_model(options.model)
    adapter = Adapter(model)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    shape = (options.samples, options.seq_len)
    calibration = CalibrationSet.from_tokens(torch.randint(vocabulary, shape, generator=generator))

    @torch.no_grad()
    def plain() -> None:
        for batch in calibration.tokens.split(options.batch_size):
            adapter.run_blocks(batch.to(adapter.input_device))

    def collected() -> None:
        collect_statistics(model, calibration, batch_size=options.batch_size)

    for warm_up in (plain, collected):
        warm_up()
    times = [(seconds(plain), seconds(collected)) for _ in range(options.repeats)]
    forward, statistic = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"plain forward pass   {forward:8.3f} s")
    print(f"with statistics      {statistic:8.3f} s")
    print(f"ratio                {statistic / forward:8.3f}")

    for samples in (options.batch_size, 4 * options.batch_size):
        tokens = calibration.tokens.repeat(-(-samples // options.samples), 1)[:samples]
        with PeakMemory(adapter.input_device) as peak:
            collect_statistics(
                model, CalibrationSet.from_tokens(tokens), batch_size=options.batch_size
            )
        print(f"peak memory, {samples:3d} samples {peak.bytes / 2**20:8.0f} MiB")


if __name__ == "__main__":
    main()
