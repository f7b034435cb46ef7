"""What others read of an export: no path of this machine, and no name that is taken for markup."""

import json
import re
from dataclasses import replace

import pytest
import yaml

from bipcore.export.export import save_pruned
from bipcore.export.public import is_hub_id, plain, public_name, public_plan
from bipcore.pruning.plan import load_plan
from bipcore.pruning.slicing import apply_plan
from bipcore.recovery.lora import LoraAdapter, adapter_tensors, with_adapter
from bipcore.specs import RecoverySpec
from tests.helpers.folders import text_tokenizer
from tests.helpers.pruning import plan_for
from tests.helpers.tiny import tiny_model

PLAN = plan_for("llama")
NAMES = (
    "a|b",
    "two\nlines\n---\nlicense: mit",
    'quo"ted',
    "it's",
    "[x](http://example.org)",
    "![x](http://example.org/x.png)",
    "<script>alert(1)</script>",
    "`code` ``` fence",
    "www.example.org",
    "# *bold* ~~gone~~",
    "back\\slash",
)


def _export(folder, plan=PLAN, **options) -> tuple[dict, str]:
    """The front matter and the rest of the card of an export."""
    model = apply_plan(tiny_model("llama"), plan)
    save_pruned(model, text_tokenizer(), folder, plan=plan, **options)
    text = (folder / "README.md").read_text()
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, flags=re.DOTALL).groups()
    return yaml.safe_load(front), body


def _outside_code(body: str) -> str:
    return re.sub(r"```python\n.*?\n```", "", body, flags=re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_marks_up_a_card(tmp_path, name):
    plan = replace(PLAN, spec={**PLAN.spec, "criterion": name, "calibration_text": name})
    folder = tmp_path / name.replace("/", "-")
    front, body = _export(folder, plan, base_model=name, licence=name, figures={name: (name, name)})
    assert front == {
        "license": name,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["pruned", "structured-pruning"],
    }
    shown = _outside_code(body)
    for live in (
        r"\]\(http",
        "<script",
        "://",
        r"\[x",
        "\n---\nlicense",
        r"www\.example",
        r"\*bold",
    ):
        assert re.search(rf"(?<!\\){live}", shown) is None
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 4}
    assert shown.count("\n# ") == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_lines_of_python_name_the_folder_whatever_it_is_called(tmp_path, name):
    folder = tmp_path / name.replace("/", "-")
    _, body = _export(folder)
    (code,) = re.findall(r"```python\n(.*?)\n```", body, flags=re.DOTALL)
    assert len(code.splitlines()) == 4
    asked = []
    names = {"AutoModelForCausalLM": _Asked(asked), "AutoTokenizer": _Asked(asked)}
    exec("\n".join(code.splitlines()[2:]), names)
    assert asked == [f"path/to/{folder.name}"] * 2


class _Asked:
    def __init__(self, asked: list[str]):
        self.from_pretrained = asked.append


def _said_of(folder) -> str:
    """Everything that an export says, but for its weights."""
    files = (file for file in folder.rglob("*") if file.suffix not in (".safetensors", ".py"))
    return "\n".join(file.read_text() for file in files if file.is_file())


def test_an_export_says_no_path_of_this_machine(tmp_path):
    secret = tmp_path / "secret-place"
    calibration = {"source": f"{secret}/calibration.txt", "samples": 2, "seq_len": 8, "seed": 0}
    said = {
        "model": f"{secret}/my-model",
        "calibration_text": f"{secret}/calibration.txt, 2 × 8 tokens, seed 0",
        "compensation_calibration": calibration,
    }
    plan = replace(PLAN, spec={**PLAN.spec, **said})
    spec = RecoverySpec(source=f"{secret}/training.txt", rank=2)
    model = apply_plan(tiny_model("llama"), plan)
    adapter = LoraAdapter(spec, adapter_tensors(with_adapter(model, spec)))
    _export(tmp_path / "out", plan, base_model=f"{secret}/my-model", adapter=adapter)
    everything = _said_of(tmp_path / "out")
    assert "secret-place" not in everything
    assert str(tmp_path) not in everything
    for name in ("my-model", "calibration.txt, 2 × 8 tokens", "training.txt"):
        assert name in (tmp_path / "out" / "README.md").read_text()
    assert load_plan(tmp_path / "out").blocks == plan.blocks
    manifest = json.loads((tmp_path / "out" / "bipcore.json").read_text())
    assert manifest["base_model"] == "my-model"


def test_a_plan_that_names_no_path_is_exported_as_it_is():
    plan = replace(PLAN, spec={**PLAN.spec, "model": "owner/name", "options": {"norm": 2}})
    assert public_plan(plan) == plan


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("owner/name", "owner/name"),
        ("owner/name@main", "owner/name@main"),
        ("builtin", "builtin"),
        ("/home/someone/model", "model"),
        ("/home/someone/model/", "model"),
        ("~/model", "model"),
        ("./model", "model"),
        ("../some/model", "model"),
        ("some/folder/model", "model"),
        ("", ""),
    ],
)
def test_of_a_path_the_last_part_is_public(name, public):
    assert public_name(name) == public


def test_a_folder_that_looks_like_a_model_of_the_hub_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert (public_name("owner/name"), is_hub_id("owner/name")) == ("name", False)
    assert is_hub_id("owner/other")


def test_words_without_markup_stay_as_they_are():
    for words in ("9 -> 0 to 9", "50.0%", "llm-bip", "builtin, 32 × 256 tokens, seed 0", "1,234"):
        assert plain(words) == words
