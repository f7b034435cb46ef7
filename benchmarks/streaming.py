"""Seconds and peak memory of commands that run one block at a time, and of those that do not.

    python benchmarks/streaming.py              # random LLaMAs of 0.3, 0.6 and 1.1 billion
    python benchmarks/streaming.py --model demo --memory 200MiB

Each command runs in a process of its own on an empty store. Peak memory is the largest resident
size above that of a process that has only loaded the libraries. What a command takes streamed
must grow with a block, not with the model.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from random_model import SIZES, write

IMPORTS = "import bipcore.cli.main, bipcore.pipeline.pipeline, transformers; "
IMPORTS += "from transformers import AutoModelForCausalLM, LlamaForCausalLM"
ENOUGH = "100TB"


def run(command: list[str], cache: str) -> tuple[float, float]:
    """Seconds and peak resident MiB of a process."""
    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=nowhere,
            stderr=nowhere,
            env=os.environ | {"BIPCORE_CACHE": cache},
        )
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed; run it to see why.")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - start, used.ru_maxrss * unit / 2**20


def measure(name: str, memory: str, options: argparse.Namespace, bare: float) -> None:
    """Print a line for each command, streamed and, where the weights fit, resident."""
    size = ["--samples", str(options.samples), "--seq-len", str(options.seq_len)]
    text = ["--text", "builtin", "--window", "128", "--max-tokens", "512"]
    commands = {
        "score": ["score", name, "--criterion", "flap", *size],
        "evaluate": ["evaluate", name, *text],
    }
    if options.prune:
        cut = ["--preset", "recommended", "--sparsity", "0.5", "--no-evaluate"]
        commands["prune"] = ["prune", name, *cut, *size]
    for verb, command in commands.items():
        found = {}
        for how, allowed in (("resident", ENOUGH), ("streamed", memory)):
            if how == "resident" and not options.resident:
                continue
            with tempfile.TemporaryDirectory() as folder:
                more = ["--output", f"{folder}/out"] if verb == "prune" else []
                whole = ["-m", "bipcore", *command, *more, "--memory", allowed]
                seconds, peak = run(whole, options.cache or f"{folder}/store")
                found[how] = seconds, peak - bare
        line = "   ".join(f"{how} {s:6.1f} s {mib:7.0f} MiB" for how, (s, mib) in found.items())
        if len(found) == 2:
            ratios = [found["streamed"][i] / found["resident"][i] for i in range(2)]
            line += f"   ratio {ratios[0]:.2f} s {ratios[1]:.2f} MiB"
        print(f"{Path(name).name:10} {verb:9} {line}", flush=True)


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="demo, a folder or a hub id; else random ones")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.3b", "0.6b", "1.1b"])
    parser.add_argument("--memory", default="700MiB")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--prune", action="store_true", help="prune and export, too: slow")
    parser.add_argument("--resident", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache", default="", help="a store to use; else an empty one each time")
    options = parser.parse_args()
    _, bare = run(["-c", IMPORTS], options.cache or tempfile.gettempdir())
    print(f"the libraries take {bare:,.0f} MiB; {psutil.cpu_count()} cores")
    if options.model:
        measure(options.model, options.memory, options, bare)
        return
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            measure(str(write(Path(folder, size), size)), options.memory, options, bare)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
