"""The Dask launcher runs the same pure function; without Dask it says what to install."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from tfrecords_tools.errors import RecordError
from tfrecords_tools.examples import uniform_schema
from tfrecords_tools.generate import Recipe, generate
from tfrecords_tools.launch_dask import CLUSTERS, dask_launcher

RECIPE = Recipe(uniform_schema(2, 64), "tfrecords_tools.examples:uniform", {"width": 2}, 3, 1200, 5, "test")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_unknown_cluster_is_named() -> None:
    with pytest.raises(RecordError, match="no Dask cluster named 'pbs'; there are: local, slurm, htcondor"):
        dask_launcher("pbs", 1)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_without_dask_one_line_says_what_to_install(
    cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RecordError, match=r"needs the extra `dask` .*: install 'trackkeras\[dask\]'"):
        dask_launcher(cluster, 1)


def test_the_bytes_are_those_of_every_other_road(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra `dask`")
    generate(tmp_path / "here", RECIPE)
    seen: list[tuple[int, int, int, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Dask, about ports and the event loop
        generate(
            tmp_path / "dask",
            RECIPE,
            launcher=dask_launcher("local", 2),
            progress=lambda *now: seen.append(now),
        )
    assert files(tmp_path / "dask") == files(tmp_path / "here")
    assert seen[-1] == (1200, 1200, 5, 5)
