"""GGUF files on the command line and on the page Export."""

from pathlib import Path

import pytest

from bipcore.cli.main import main
from bipcore.export.export import read_export
from tests.helpers.apptest import errors, field, open_page, settle
from tests.helpers.folders import edit_json, tree
from tests.helpers.gguf import merging_tokenizer, readable_model
from tests.helpers.passes import counted_passes

SMALL = ("--device", "cpu", "--samples", 4, "--seq-len", 16, "--sparsity", 0.5)
GGUF = ("--format", "gguf")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "model"
    readable_model("llama").save_pretrained(folder)
    merging_tokenizer().save_pretrained(folder)
    return str(folder)


def test_prune_writes_a_file_and_leaves_it_where_it_is_the_same(run, run_json, model, tmp_path):
    file = tmp_path / "new" / "model.gguf"
    command = ("prune", model, *SMALL, *GGUF, "--no-evaluate", "--output", file)
    found = run_json(*command, "--round-to", 32, "--quantize", "q8_0")
    assert {**found, "format": "gguf", "dtype": "q8_0", "model_class": "llama"} == found
    assert len(tree(file.parent)) == 4
    written = file.stat().st_mtime_ns
    printed = run(*command, "--round-to", 32, "--quantize", "q8_0")
    assert f"llama-quantize {file} {file.with_name('model-Q4_K_M.gguf')} Q4_K_M" in printed
    assert file.stat().st_mtime_ns == written
    assert run_json(*command, "--round-to", 32, "--quantize", "f16")["dtype"] == "f16"


REFUSED = {
    "widths": ((*GGUF, "--quantize", "q8_0"), "x.gguf", "give --round-to 32"),
    "type": ((*GGUF, "--quantize", "q5"), "x.gguf", "it has f32, f16, bf16, q8_0"),
    "format": (("--quantize", "q8_0"), "out", "Only the format gguf quantises weights"),
    "name": (GGUF, "out", "a name that ends in .gguf"),
    "forgotten": ((), "x.gguf", "give --format gguf"),
    "both": ((*GGUF, "--quantize", "f16", "--save-dtype", "float16"), "x.gguf", "not both"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_prune_refuses_before_it_scores(capsys, cache, model, tmp_path, case):
    options, name, sentence = REFUSED[case]
    words = ("prune", model, *SMALL, *options, "--output", tmp_path / name)
    with counted_passes() as passes:
        assert main([str(word) for word in words]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert len(printed.splitlines()) == 1
    assert (passes, (tmp_path / name).exists()) == ([], False)


def test_a_tokenizer_that_cannot_be_written_is_refused_before_it_scores(
    capsys, cache, model, tmp_path
):
    folder = tmp_path / "lower"
    readable_model("llama").save_pretrained(folder)
    merging_tokenizer().save_pretrained(folder)
    edit_json(folder / "tokenizer.json", normalizer={"type": "Lowercase"})
    words = ("prune", folder, *SMALL, *GGUF, "--output", tmp_path / "x.gguf")
    with counted_passes() as passes:
        assert main([str(word) for word in words]) == 2
    assert "its text goes through Lowercase first" in capsys.readouterr().err
    assert passes == []


UNKNOWN_WIDTHS = (*SMALL, "--allocation", "global", *GGUF)


def test_what_no_plan_makes_possible_is_refused_before_it_scores(capsys, cache, tmp_path):
    folder = tmp_path / "opt"
    readable_model("opt").save_pretrained(folder)
    merging_tokenizer().save_pretrained(folder)
    words = ("prune", folder, *UNKNOWN_WIDTHS, "--output", tmp_path / "x.gguf")
    with counted_passes() as passes:
        assert main([str(word) for word in words]) == 2
    assert "GGUF files of OPT are not written" in capsys.readouterr().err
    assert passes == []


def test_a_model_that_is_streamed_is_refused_before_it_scores(capsys, cache, model, tmp_path):
    words = ("prune", model, *SMALL, *GGUF, "--memory", "400KiB", "--output", tmp_path / "x.gguf")
    with counted_passes() as passes:
        assert main([str(word) for word in words]) == 2
    assert "The format gguf needs the whole model in memory" in capsys.readouterr().err
    assert passes == []


def test_the_page_exports_a_file(model, tmp_path):
    app = open_page("pages/export.py", model=model, seq_len="16", sparsity="0.5")
    app.selectbox(key="export-format").select("gguf").run()
    app.selectbox(key="quantize-gguf").select("q8_0").run()
    assert "give --round-to 32" in errors(app)[0]
    app.selectbox(key="quantize-gguf").select("f16").run()
    app.checkbox(key="measure").set_value(False)
    assert field(app, "File").value.endswith(".gguf")
    file = tmp_path / "page.gguf"
    field(app, "File").set_value(str(file))
    app.button(key="export").click().run()
    settle(app)
    assert errors(app) == []
    assert "GGUF file for llama.cpp" in app.success[-1].value
    assert "Read back as `llama`" in app.success[-1].value
    assert [Path(code.value.split()[-1]).name for code in app.code] == ["page.gguf", "Q4_K_M"]
    assert read_export(file).dtype == "f16"
