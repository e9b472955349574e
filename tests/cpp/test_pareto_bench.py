"""The Pareto page from end to end with one tiny bundle: what it contains, not how fast it was."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving import native
from trackkeras.domains.extrapolation import cpp_baseline, pareto_bench, pareto_methods
from trackkeras.domains.extrapolation.grid import NODES
from trackkeras.domains.extrapolation.tableaus import TABLEAUS
from trackkeras.errors import UserError

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="there is no C++ compiler")

COARSE = tuple(
    (first, last, step) for (first, last, _), step in zip(NODES, (500.0, 500.0, 250.0), strict=True)
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of a hundredth of the nodes, one sample, two settings of a method."""
    monkeypatch.setattr(cpp_baseline, "NODES", COARSE)
    monkeypatch.setattr(pareto_methods, "NODES", COARSE)
    monkeypatch.setattr(pareto_methods, "STEPS", (200.0, 800.0))
    monkeypatch.setattr(pareto_methods, "TOLERANCES", (1e-3,))
    monkeypatch.setattr(pareto_methods, "CPP_METHODS", pareto_methods.CPP_METHODS[:2])
    samples = pareto_bench.SAMPLES
    monkeypatch.setattr(pareto_bench, "SAMPLES", {"crossing": samples["crossing"]})


@pytest.fixture
def run(run: Any) -> Any:
    """Run a command of `trackkeras bench pareto`."""
    return partial(run, "bench", "pareto")


def test_one_command_makes_the_page(small: None, bundle: Path, tmp_path: Path, run: Any) -> None:
    out = tmp_path / "pareto"
    code, printed, _ = run(bundle, "--out", out, "--rows", 2048, "--rounds", 1, "--json")
    assert code == 0
    report = json.loads(printed)
    assert sorted(path.name for path in out.iterdir()) == [
        f"pareto.{kind}" for kind in ("html", "json", "md", "png")
    ]
    assert json.loads((out / "pareto.json").read_text()).items() >= report.items()
    assert {"limit_mm", "rounds", "seed", "batch", "cpp", "load", "machine", "samples"} <= set(report)
    (sample,) = report["samples"]
    assert 0 < sample["rows"] <= sample["drawn"] == 2048
    check_points(sample)


def check_points(sample: dict[str, Any]) -> None:
    points = {point["name"]: point for point in sample["points"]}
    assert len(points) == len(sample["points"])
    networks = [point for point in points.values() if point["kind"] == "network"]
    assert [point["engine"] for point in networks] == ["ONNX Runtime", "generated C++"]
    onnx, header = networks
    assert header["p95_mm"] == pytest.approx(onnx["p95_mm"], rel=1e-3)
    classical = [point for point in points.values() if point["kind"] == "classical"]
    for where in ("trilinear map", "tricubic map", "closed form"):
        assert {point["method"] for point in classical if point["field"] == where} == set(TABLEAUS)
    assert all(point["us_per_track"] > 0 for point in points.values())
    # a finer step is more accurate, and in its own field nothing but the step counts
    for method in ("midpoint", "nystrom4", "rk4"):
        coarse, fine = (points[f"{method}, steps of {step} mm, closed form"] for step in (800, 200))
        assert fine["p95_mm"] < coarse["p95_mm"]
        assert fine["own_p95_mm"] == fine["p95_mm"]
        on_map = points[f"{method}, steps of 200 mm, trilinear map"]
        assert on_map["own_p95_mm"] < on_map["p95_mm"] > fine["p95_mm"]
    # two programs, one method: the same errors
    assert points["C++ rk4, steps of 200 mm, trilinear map"]["p95_mm"] == pytest.approx(
        points["rk4, steps of 200 mm, trilinear map"]["p95_mm"], rel=1e-3
    )
    assert any(point["frontier"] for point in classical)
    assert {network["name"] for network in sample["networks"]} == {point["name"] for point in networks}
    assert set(sample["verdict"]) == {"limit_mm", "ahead", "within", "best", "rival", "standing"}


def test_what_cannot_be_measured_is_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rows must be at least 2048, received 10"):
        pareto_bench.measure([bundle], 10)
    with pytest.raises(UserError, match="rounds must be at least 1, received 0"):
        pareto_bench.measure([bundle], 4096, rounds=0)
    with pytest.raises(UserError, match="name at least one bundle"):
        pareto_bench.measure([], 4096)
    with pytest.raises(UserError, match="are both named 'mlp_tiny-small'"):
        pareto_bench.measure([bundle, bundle], 4096)
    other = tmp_path / "mlp_tiny-small/1"
    shutil.copytree(bundle, other)
    description = json.loads((other / "bundle.json").read_text())
    (other / "bundle.json").write_text(json.dumps(description | {"domain": "pointing"}))
    with pytest.raises(UserError, match="is a bundle of 'pointing'"):
        pareto_bench.measure([other], 4096)


def test_nothing_is_left_of_a_refused_command(tmp_path: Path, run: Any) -> None:
    for words in ((tmp_path / "none/1", "--out", tmp_path / "out"), (tmp_path, "--out", tmp_path / "a/b")):
        code, printed, error = run(*words)
        assert (code, printed) == (2, "")
        assert error.startswith("error: no such ")
        assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
