"""What is said of the families is what exports of their tiny models do."""

import json
from pathlib import Path

import pytest

from bipcore.cli.main import main
from bipcore.errors import InputError
from bipcore.export.export import save_pruned
from bipcore.export.formats import FORMATS
from bipcore.export.gguf.architectures import architecture_of
from bipcore.export.supported import TESTED, every_support, sample_plans, support_of
from bipcore.models.adapters import Adapter
from bipcore.models.families import FAMILIES, base_type
from bipcore.pruning.slicing import apply_plan
from tests.helpers.gguf import merging_tokenizer, readable_model
from tests.helpers.tiny import CONFIGS, HEADS_STAY, MORE_CONFIGS, random_model
from tests.helpers.tiny import one_thread as one_thread

ROOT = Path(__file__).parents[2]
OTHERS = ("llama-gqa", "phi3-mha", "neox-sequential", "stablelm-parallel")
"""Tiny models that a field of their configuration sets apart from others of their family."""
AS_PUBLISHED = {"ernie4_5": {"use_bias": False}}
"""Of tiny models that have biases which published ones do not have: these fields."""
NAMES = [name for name in CONFIGS | MORE_CONFIGS if name not in OTHERS]


def _model(name: str):
    if name in CONFIGS:
        return readable_model(name)
    config = MORE_CONFIGS[name]()
    fields = {"vocab_size": 260} | AS_PUBLISHED.get(name, {})
    return random_model(type(config)(**config.to_dict() | fields))


def _exported(model, plan, format: str, place: Path) -> str | None:
    """The class, or architecture, that an export has; None where it is refused."""
    try:
        pruned = apply_plan(model, plan)
        target = place / ("a.gguf" if format == "gguf" else format)
        done = save_pruned(pruned, merging_tokenizer(), target, plan=plan, format=format)
    except InputError:
        return None
    assert done.format == format
    return done.model_class


@pytest.mark.parametrize("name", NAMES)
def test_exports_are_taken_and_refused_as_is_said(tmp_path, name):
    model = _model(name)
    said = support_of(base_type(model.config.model_type))
    for number, (kind, plan) in enumerate(sample_plans(Adapter(model).shape).items()):
        place = tmp_path / str(number)
        place.mkdir()
        found = {each: _exported(model, plan, each, place) for each in FORMATS}
        assert tuple(each for each, done in found.items() if done) == said.formats[kind], kind
        if said.gguf[kind]:
            assert architecture_of(apply_plan(model, plan)).name == said.gguf[kind], kind


@pytest.mark.parametrize("name", NAMES)
def test_the_units_are_those_of_a_tiny_model(name):
    model = _model(name)
    shared = any(block.heads != block.kv_heads for block in Adapter(model).shape.blocks)
    said = support_of(model.config.model_type).units
    can_share = hasattr(model.config, "num_key_value_heads")
    if name in HEADS_STAY:
        assert said == ()
        return
    assert said == (("query-head", "kv-group") if can_share else ("head",))
    assert can_share or not shared


def test_every_family_says_what_to_know_of_it():
    assert [one.model_type for one in every_support()] == [*FAMILIES]
    assert all(one.quirk.endswith(".") for one in every_support())


def test_the_version_is_the_one_that_tests_run_with():
    assert f"transformers=={TESTED}\n" in (ROOT / "constraints.txt").read_text()


def test_the_page_is_what_the_command_prints(capsys):
    assert main(["families", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs/families.md").read_text()


def test_the_readme_names_the_models_that_people_look_for():
    readme = " ".join((ROOT / "README.md").read_text().split())
    for family in FAMILIES.values():
        for name in family.models:
            assert name in readme, name


def test_json_has_every_family(capsys):
    assert main(["families", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["families"]
    assert [one["model_type"] for one in found] == [*FAMILIES]
    assert main(["families", "--json", "--markdown"]) == 2
