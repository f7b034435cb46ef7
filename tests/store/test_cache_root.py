"""Where the run store lies: in a checkout, installed, and where the environment says."""

import pytest

from bipcore.store.runs import cache_root


@pytest.fixture
def package(monkeypatch, tmp_path):
    """The folder above a package that lies elsewhere; where its user caches is ``user/``."""
    monkeypatch.delenv("BIPCORE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr("bipcore.store.runs.__file__", str(tmp_path / "bipcore/store/runs.py"))
    return tmp_path


def test_the_root_in_a_checkout_lies_beside_the_package(package):
    for name in ("app.py", "pyproject.toml"):
        (package / name).touch()
    assert cache_root() == package / "cache"


@pytest.mark.parametrize("beside", [[], ["app.py"], ["pyproject.toml"]])
def test_the_root_of_an_installed_package_is_in_the_users_cache_folder(package, beside):
    for name in beside:
        (package / name).touch()
    assert cache_root() == package / "user" / "bipcore"


def test_the_users_cache_folder_lies_in_the_home_folder_by_default(package, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(package / "home"))
    assert cache_root() == package / "home" / ".cache" / "bipcore"


@pytest.mark.parametrize("beside", [[], ["app.py", "pyproject.toml"]])
def test_the_environment_wins_wherever_the_package_lies(package, beside, monkeypatch):
    for name in beside:
        (package / name).touch()
    monkeypatch.setenv("BIPCORE_CACHE", str(package / "chosen"))
    assert cache_root() == package / "chosen"
