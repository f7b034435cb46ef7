"""Kills `bipcore shrink` at random moments, starts it again each time, and compares what it exports
with that of a run which nothing disturbed, byte for byte.

Run from the repository root: ``python benchmarks/shrink_killed.py [--kills 10] [--seed 0]``. It
makes a tiny random model and everything else in a folder of its own, which goes in the end, and
exits with status 1 where a file differs.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.helpers.folders import model_folder  # noqa: E402

WORDS = ("--target", "params=80%", "--samples", "4", "--seq-len", "32", "--search", "20")
WORDS += ("--search-samples", "2", "--tokens", "3200", "--train-seq-len", "32", "--validation", "2")
WORDS += ("--validate-every", "10", "--window", "32", "--max-tokens", "192", "--device", "cpu")


def started(model: Path, place: Path) -> subprocess.Popen:
    """The command, with the store and the output of ``place``, in a process group of its own."""
    place.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "bipcore", "shrink", str(model), *WORDS, "--force"]
    places = {"BIPCORE_CACHE": str(place / "store"), "PYTHONPATH": str(ROOT)}
    env = {**os.environ, **places, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (place / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [*words, "--output", "small"],
            cwd=place,
            env=env,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def ended(model: Path, place: Path) -> float:
    """Run the command to its end; the seconds. Exits with what it said where it fails."""
    since = time.monotonic()
    if started(model, place).wait():
        sys.exit((place / "said.txt").read_text())
    return time.monotonic() - since


def killed_after(model: Path, place: Path, seconds: float) -> bool:
    """Start the command and kill it after so many seconds; False where it had ended by then."""
    process = started(model, place)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    if status:
        sys.exit((place / "said.txt").read_text())
    return False


def different(first: Path, second: Path) -> list[str]:
    """The names of the files below two folders that are not the same."""
    trees = [
        {str(file.relative_to(at)): file for file in at.rglob("*") if file.is_file()}
        for at in (first, second)
    ]
    names = sorted({*trees[0], *trees[1]})
    return [
        name
        for name in names
        if any(name not in tree for tree in trees)
        or trees[0][name].read_bytes() != trees[1][name].read_bytes()
    ]


def main() -> None:
    """Print every kill and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = model_folder(root / "model", "mistral")
        whole = ended(model, root / "whole")
        print(f"undisturbed: {whole:.1f} s", flush=True)
        for number in range(1, options.kills + 1):
            seconds = moments.uniform(0.1, 1) * whole
            killed = killed_after(model, root / "killed", seconds)
            entries = len(list((root / "killed" / "store").glob("*/*")))
            said = "killed" if killed else "had ended"
            if not killed:  # the next one begins anew, so that there is something to stop
                shutil.rmtree(root / "killed")
            print(f"{number}: {said} after {seconds:.1f} s, {entries} entries stored", flush=True)
        print(f"then to its end: {ended(model, root / 'killed'):.1f} s", flush=True)
        exports = root / "whole" / "small", root / "killed" / "small"
        count = sum(file.is_file() for file in exports[0].rglob("*"))
        found = different(*exports)
        print(f"{count - len(found)} of {count} files are the same, byte for byte")
        if found:
            sys.exit(f"different: {', '.join(found)}")


if __name__ == "__main__":
    main()
