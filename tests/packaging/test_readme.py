"""The README's example of the library, as it stands there, on a tiny model."""

import re
from pathlib import Path

import bipcore
from tests.helpers.folders import model_folder
from tests.helpers.papers import texts_folder
from tests.helpers.tiny import one_thread as one_thread

README = Path(__file__).parents[2] / "README.md"
SMALLER = {'"demo"': "MODEL", "seq_len=256": "seq_len=32", "seq_len=128": "seq_len=32"}
SMALLER |= {"window=256": "window=32"}


def test_the_example_of_the_library_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    for written, smaller in SMALLER.items():
        assert written in code
        code = code.replace(written, smaller)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIPCORE_DATA", str(texts_folder(tmp_path / "texts")))
    names = {"MODEL": str(model_folder(tmp_path / "model"))}
    exec(compile(code, str(README), "exec"), names)  # the project's own README
    assert len(capsys.readouterr().out.splitlines()) == 2
    loaded, _ = bipcore.load_pruned(tmp_path / "out")
    assert bipcore.load_plan(tmp_path / "out").realised == names["plan"].realised
    assert sum(p.numel() for p in loaded.parameters()) < sum(
        p.numel() for p in names["model"].parameters()
    )
