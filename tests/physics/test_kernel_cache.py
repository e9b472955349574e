"""The folder of compiled kernels changes with any source, and never overrides the user's choice."""

import os
import shutil
from pathlib import Path

import pytest

from trackkeras import kernel_cache


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the package's sources whose cache lies in tmp_path."""
    package = Path(kernel_cache.__file__).parent
    copy = tmp_path / "trackkeras"
    shutil.copytree(package / "domains", copy / "domains", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kernel_cache, "__file__", str(copy / "kernel_cache.py"))
    monkeypatch.setattr("sys.modules", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return copy


def chosen(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    kernel_cache.use_own_cache()
    return os.environ.get("NUMBA_CACHE_DIR")


def test_any_changed_source_means_another_folder(sources, monkeypatch):
    first = chosen(monkeypatch)
    assert first == chosen(monkeypatch)
    assert Path(first).is_dir()
    kernels = sources / "domains" / "extrapolation" / "kernels.py"
    kernels.write_text(kernels.read_text() + "# changed\n")
    assert chosen(monkeypatch) != first


def test_the_users_choice_stands(sources, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "elsewhere")
    kernel_cache.use_own_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == "elsewhere"


def test_a_home_that_cannot_be_written_to_is_no_error(sources, tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocker))
    assert chosen(monkeypatch) is None
