"""Measured and estimated peak memory of commands, and their ratio.

    python benchmarks/estimates.py                          # the demo model, in memory and streamed
    python benchmarks/estimates.py --model out/llama-1.1b --memory 700MiB --dtype bfloat16

Each command runs in a process of its own on an empty store, but for the demo model, which is
converted before. Measured is the largest resident size above that of a process that has only
loaded the libraries. `benchmarks/random_model.py` writes the 1.1 B model.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from streaming import IMPORTS, run


def estimated(command: list[str]) -> float:
    """The estimate for a command, in MiB."""
    verb, model, *options = command
    words = ["-m", "bipcore", "estimate", model, "--for", verb, *options, "--json"]
    found = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    return json.loads(found.stdout)["memory"] / 2**20


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--memory", nargs="+", default=["auto", "200MiB"])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--samples", default="16")
    parser.add_argument("--seq-len", default="256")
    parser.add_argument("--window", default="256")
    parser.add_argument("--max-tokens", default="1024")
    parser.add_argument("--commands", nargs="+", default=["score", "evaluate", "prune"])
    options = parser.parse_args()
    size = ["--samples", options.samples, "--seq-len", options.seq_len]
    text = ["--window", options.window, "--max-tokens", options.max_tokens]
    more = {"score": size, "evaluate": text, "prune": [*size, *text, "--preset", "recommended"]}
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder, "full")
        subprocess.run(
            [sys.executable, "-c", "import bipcore; bipcore.load_model('demo')"],
            env=os.environ | {"BIPCORE_CACHE": str(full)},
            capture_output=True,
            check=True,
        )
        _, bare = run(["-c", IMPORTS], folder)
        print(f"the libraries take {bare:,.0f} MiB", flush=True)
        for memory in options.memory:
            for verb in options.commands:
                command = [verb, options.model, *more[verb], "--memory", memory]
                command += ["--dtype", options.dtype]
                shutil.copytree(full, Path(folder, "cache"))
                output = ["--output", f"{folder}/out"] if verb == "prune" else []
                whole = ["-m", "bipcore", *command, *output]
                seconds, peak = run(whole, f"{folder}/cache")
                said, seen = estimated(command), peak - bare
                print(
                    f"{verb:9} --memory {memory:8} measured {seen:6,.0f} MiB, estimated "
                    f"{said:6,.0f} MiB, ratio {said / seen:.2f} ({seconds:.0f} s)",
                    flush=True,
                )
                shutil.rmtree(Path(folder, "cache"))
                shutil.rmtree(Path(folder, "out"), ignore_errors=True)


if __name__ == "__main__":
    main()
