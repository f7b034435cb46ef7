"""What an export holds, and what it leaves alone."""

import copy
import json
import re

import pytest
import torch
import yaml
from torch import nn

from bipcore.criteria import score
from bipcore.errors import InputError
from bipcore.export.export import load_pruned, read_export, same_export, save_pruned
from bipcore.models.loading import load_model
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import load_plan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.folders import edit_json, model_folder, text_tokenizer, tree, truncate
from tests.helpers.pruning import mixed_plan, plan_for
from tests.helpers.tiny import tiny_model

PLAN = plan_for("llama")


def _pruned() -> nn.Module:
    return apply_plan(tiny_model("llama"), PLAN)


def _save(folder, *, model=None, plan=PLAN, **options):
    return save_pruned(model or _pruned(), text_tokenizer(), folder, plan=plan, **options)


def _card(folder) -> tuple[dict, str]:
    """The front matter of the model card, and what follows it."""
    text = (folder / "README.md").read_text()
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, flags=re.DOTALL).groups()
    return yaml.safe_load(front), body


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_an_export_says_what_was_written(out):
    done = _save(out)
    assert (done.folder, done.model_class) == (str(out), "LlamaForCausalLM")
    assert done.parameters == sum(parameter.numel() for parameter in _pruned().parameters())
    assert done.bytes == sum(f.stat().st_size for f in out.iterdir() if f.name != "bipcore.json")
    assert done.max_logit_difference <= 1e-4


def test_an_export_holds_model_tokenizer_plan_and_card(out):
    _save(out)
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "plan.json",
        "README.md",
        "bipcore.json",
    } <= set(tree(out))


def test_an_export_holds_nothing_pickled_and_no_code(out):
    _save(out)
    suffixes = {file.suffix for file in out.rglob("*")}
    assert suffixes <= {".json", ".safetensors", ".md", ".jinja", ".txt"}


MIXED = mixed_plan("llama")


def _save_mixed(folder, **options):
    return _save(folder, model=apply_plan(tiny_model("llama"), MIXED), plan=MIXED, **options)


def test_an_export_that_needs_code_holds_one_file_more(out):
    assert _save(out).tier == 1
    plain = tree(out)
    done = _save_mixed(out)
    assert (done.tier, done.model_class) == (2, "PrunedLlamaForCausalLM")
    assert set(tree(out)) == {*plain, "modeling_pruned.py"}
    assert done.parameters == MIXED.pruned_shape.parameters
    assert read_export(out) == done


def test_the_card_of_an_export_that_needs_code_says_so_and_why(out):
    _save_mixed(out)
    _, body = _card(out)
    assert body.count(", trust_remote_code=True)") == 2
    for text in (
        "different widths",
        "modeling_pruned.py",
        "bipcore.load_pruned(",
        "8 -> 4 to 8",
    ):
        assert text in body
    _save(out)
    assert "trust_remote_code" not in _card(out)[1]


@pytest.mark.parametrize("mixed", [True, False])
def test_the_python_in_the_card_loads_the_export(tmp_path, monkeypatch, mixed):
    (_save_mixed if mixed else _save)(tmp_path / "path" / "to" / "out")
    code = re.search(r"```python\n(.*?)```", _card(tmp_path / "path" / "to" / "out")[1], re.DOTALL)[
        1
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.syspath_prepend(str(tmp_path / "hf"))
    names = {}
    exec(code, names)
    assert type(names["model"]).__name__.endswith("LlamaForCausalLM")
    assert names["tokenizer"].decode(names["tokenizer"]("naïve")["input_ids"]) == "naïve"


def test_an_export_of_before_there_were_tiers_is_of_tier_1(out):
    done = _save(out)
    manifest = json.loads((out / "bipcore.json").read_text())
    del manifest["tier"]
    (out / "bipcore.json").write_text(json.dumps(manifest))
    assert read_export(out) == done


def test_an_export_with_a_changed_modelling_file_is_not_taken_for_whole(out):
    done = _save_mixed(out, source="this")
    assert same_export(out, "this") == done
    with (out / "modeling_pruned.py").open("a") as file:
        file.write("# and more\n")
    assert same_export(out, "this") is None


def test_a_chat_template_goes_along(out):
    tokenizer = text_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}!"
    save_pruned(_pruned(), tokenizer, out, plan=PLAN)
    assert load_pruned(out)[1].chat_template == tokenizer.chat_template


def test_the_plan_in_the_folder_is_the_plan(out):
    _save(out)
    assert load_plan(out) == PLAN
    assert load_plan(out / "plan.json") == PLAN


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"format": "other/1"}', "\xff"])
def test_a_file_that_is_no_plan_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "plan.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError):
        load_plan(tmp_path)


def test_the_card_names_base_model_and_licence_for_machines(out):
    _save(out, base_model="owner/name", licence="apache-2.0")
    front, _ = _card(out)
    assert (front["base_model"], front["license"]) == ("owner/name", "apache-2.0")
    assert front["library_name"] == "transformers"
    assert "pruned" in front["tags"]


@pytest.mark.parametrize("name", ["/home/someone/model", "./model", ""])
def test_a_base_model_of_this_machine_is_no_link_in_the_card(out, name):
    _save(out, base_model=name)
    assert "base_model" not in _card(out)[0]


def test_the_card_tells_people_what_was_done_and_how_to_load_it(out):
    _save(out, figures={"Perplexity, x": ("14.10", "22.65")})
    _, body = _card(out)
    for text in ("# out", "from_pretrained", "random", "50.0%", "8 -> 4", "96 -> ", "LlamaFor"):
        assert text in body
    assert "| Perplexity, x | 14.10 | 22.65 |" in body


def test_the_realised_share_stands_in_the_card(out):
    _save(out)
    _, body = _card(out)
    assert f"{PLAN.realised:.2%}" in body
    assert f"{PLAN.realised_total:.2%}" in body


def test_load_pruned_gives_the_pruned_model_and_tokenizer(out):
    _save(out)
    model, tokenizer = load_pruned(out)
    expected = _pruned().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert tokenizer.decode(tokenizer("naïve")["input_ids"]) == "naïve"


def test_load_pruned_of_another_folder_is_refused(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is not an export"):
        load_pruned(tmp_path)


def test_a_pruned_model_can_be_pruned_and_exported_again(out):
    _save(out)
    model, _ = load_pruned(out)
    plan = make_plan(score(model, None, "random"), sparsity=0.3)
    _save(out, model=apply_plan(model, plan), plan=plan)
    assert load_plan(out) == plan


def test_the_dense_model_is_bit_for_bit_what_it_was(out):
    model = tiny_model("llama")
    weights, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    _save(out, model=apply_plan(model, PLAN))
    assert model.config.to_dict() == config
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_the_pruned_model_in_memory_is_what_it_was(out):
    pruned = apply_plan(tiny_model("llama"), plan_for("llama", 0.25))
    weights, config = copy.deepcopy(pruned.state_dict()), pruned.config.to_dict()
    _save(out, model=pruned, plan=plan_for("llama", 0.25))
    assert type(pruned).__name__ == "LlamaForCausalLM"
    assert pruned.config.to_dict() == config
    assert all(torch.equal(value, weights[name]) for name, value in pruned.state_dict().items())


def test_generation_settings_without_sampling_are_made_valid(out):
    pruned = _pruned()
    pruned.generation_config.temperature = 0.7
    pruned.generation_config.top_p = 0.9
    _save(out, model=pruned)
    settings = load_pruned(out)[0].generation_config
    assert (settings.temperature, settings.top_p, settings.do_sample) == (0.7, 0.9, True)
    assert not pruned.generation_config.do_sample


def test_half_precision_stays_half_precision(tmp_path, out):
    dense, tokenizer = load_model(str(model_folder(tmp_path / "dense")), dtype="bfloat16")
    plan = make_plan(score(dense, None, "random"), sparsity=0.5)
    save_pruned(apply_plan(dense, plan), tokenizer, out, plan=plan)
    assert load_pruned(out, dtype="bfloat16")[0].dtype == torch.bfloat16
    weights = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    assert weights < 2.3 * plan.pruned_shape.parameters


def test_readers_older_than_transformers_5_find_the_rope_base(out):
    _save(out)
    config = json.loads((out / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]


def test_files_may_be_read_by_whom_the_user_lets(tmp_path, out):
    _save(out)
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert {file.stat().st_mode for file in out.iterdir()} == {usual}


def test_an_export_of_the_same_source_is_recognised(out):
    done = _save(out, source="this model and plan")
    assert same_export(out, "this model and plan") == done == read_export(out)


def test_an_export_of_another_source_or_of_none_is_not_taken_for_the_same(out):
    _save(out, source="this model and plan")
    assert same_export(out, "another plan") is None
    _save(out)
    assert same_export(out, "") is None


def test_a_damaged_export_is_not_taken_for_whole(out):
    _save(out, source="this")
    truncate(out / "model.safetensors", by=8)
    assert same_export(out, "this") is None


def test_an_export_that_misses_a_file_is_not_taken_for_whole(out):
    _save(out, source="this")
    (out / "tokenizer.json").unlink()
    assert same_export(out, "this") is None


def test_a_manifest_of_another_format_is_no_export(out):
    _save(out)
    edit_json(out / "bipcore.json", format="other/1")
    with pytest.raises(InputError, match="is not an export"):
        read_export(out)
