"""One exported bundle with its C++ header for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bundle(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network as a bundle, with its header."""
    from trackkeras.export import export

    return export(trained_run, tmp_path_factory.mktemp("bundles"), cpp=True)
