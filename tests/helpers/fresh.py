"""Exported folders, loaded by stock transformers in a process that has no bipcore."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.helpers.processes import Call, Ended, without_bipcore
from tests.helpers.tiny import padded_batch

_READER = """
import json, sys
from pathlib import Path
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.modules["bipcore"] = None  # importing it fails, installed or not
torch.set_num_threads(1)
root, how = Path(sys.argv[1]), json.loads(sys.argv[2])
given = load_file(root / "batch.safetensors")
tokens, mask = given["tokens"], given["mask"]
options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
outputs, facts = {}, {}
for folder in sorted(path for path in root.iterdir() if (path / "config.json").is_file()):
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **how)
    with torch.no_grad():
        logits = model(tokens, attention_mask=mask).logits[mask.bool()]
        new = model.generate(tokens, **options)
        uncached = model.generate(tokens, use_cache=False, **options)
    outputs |= {f"{folder.name}.logits": logits, f"{folder.name}.generated": new}
    facts[folder.name] = {
        "class": type(model).__name__,
        "module": type(model).__module__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "unmatched": sorted(map(str, [*report["missing_keys"], *report["unexpected_keys"]])),
        "tokens": AutoTokenizer.from_pretrained(folder, **how)("w4 w2")["input_ids"],
        "cache": torch.equal(new, uncached),
        "transformers": transformers.__version__,
    }
save_file(outputs, root / "outputs.safetensors")
print(json.dumps(facts))
"""


@dataclass(frozen=True)
class Read:
    """What a fresh process says of the exports in the folders of ``root``: facts by folder name;
    outputs are "name.logits" and "name.generated", for a padded batch. ``err``: its stderr."""

    root: Path
    facts: dict[str, dict]
    outputs: dict[str, Tensor]
    err: str


def run_fresh(root: Path, script: str, *arguments: str) -> Ended:
    """Run ``script`` in the folder ``root``, offline, in a process that cannot import bipcore."""
    return without_bipcore().start(Call(script, arguments, str(root))).wait()


def run_older(root: Path, script: str, *arguments: str) -> Ended:
    """`run_fresh` with the older `transformers` in the folder that READERS names; without it there
    is nothing to test."""
    if not (folder := os.environ.get("READERS")):
        pytest.skip("make readers installs an older transformers and runs this")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": folder,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(root / "hf"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def read_exports(root: Path, *, run=run_fresh, **how: bool) -> Read:
    """Load every export below ``root`` with the options ``how``, and run it, all in one process
    that ``run`` starts."""
    tokens, mask = padded_batch()
    save_file({"tokens": tokens, "mask": mask}, root / "batch.safetensors")
    done = run(root, _READER, str(root), json.dumps(how))
    assert done.status == 0, done.err
    outputs = load_file(root / "outputs.safetensors")
    return Read(root, json.loads(done.out), outputs, done.err)
