"""Numbers of an evaluation against plain NumPy, and the honesty of its verdicts."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domain import Axis, Sample, find_task
from trackkeras.domains.extrapolation.baselines import straight_line
from trackkeras.errors import UserError
from trackkeras.evaluation import band_index, evaluate_sample, intervals, rows_digest
from trackkeras.evaluation import evaluate as evaluate_run
from trackkeras.report import write_report

TASK = find_task("extrapolation", "mlp")


def tracks(n: int = 500, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    momentum = np.exp(rng.uniform(np.log(0.5), np.log(100), n))
    state = np.column_stack([rng.normal(0, 500, (n, 2)), rng.normal(0, 0.1, (n, 2)), 1e-3 / momentum])
    dz = rng.uniform(1000, 9000, (n, 1))
    final = state.copy()
    final[:, :2] += dz * state[:, 2:4] + rng.normal(0, 10, (n, 2))
    final[:, 2:4] += rng.normal(0, 1e-3, (n, 2))
    return {"state": state, "z0": np.zeros((n, 1)), "dz": dz, "final_state": final}


def shifted(by: float):
    def predict(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"final_state": rows["final_state"] + np.array([by, 0, 0, 0, 0])}

    return predict


def evaluate(network, n: int = 500):
    estimators = {
        "network": ({"label": "net", "kind": "network", "cost": 1.0}, network),
        "straight_line": ({"label": "line", "kind": "baseline", "cost": 4}, straight_line),
    }
    return evaluate_sample(TASK, Sample("test", "made up", tracks(n)), estimators)


def test_metrics_equal_their_definition() -> None:
    result, residuals = evaluate(straight_line)
    rows = tracks()
    error = straight_line(rows)["final_state"] - rows["final_state"]
    pos = np.hypot(error[:, 0], error[:, 1])
    values = {name: entry["value"] for name, entry in result["metrics"]["network"].items()}
    assert values["pos_mean_mm"] == pytest.approx(pos.mean())
    assert values["pos_std_mm"] == pytest.approx(pos.std())
    assert values["pos_95_mm"] == pytest.approx(np.quantile(pos, 0.95))
    assert values["slope_mean"] == pytest.approx(np.hypot(error[:, 2], error[:, 3]).mean())
    assert values["tx_mean"] == pytest.approx(np.abs(error[:, 2]).mean())
    np.testing.assert_allclose(residuals["test/network/x"], error[:, 0], rtol=1e-5)
    momentum = 1e-3 / rows["state"][:, 4]
    band = result["bands"][0]
    inside = (momentum >= 5) & (momentum < 10)
    assert band["rows"][3] == inside.sum()
    assert band["metrics"]["network"]["pos_mean_mm"][3]["value"] == pytest.approx(pos[inside].mean())
    assert sum(band["rows"]) == len(pos)


def test_a_network_worse_than_its_baseline_is_named() -> None:
    good, _ = evaluate(shifted(0.01))
    assert good["worse_than_baseline"] == []
    assert good["targets"]["pos_mean_mm"]["met"]
    bad, _ = evaluate(shifted(1000.0))
    named = {(item["axis"], item["metric"]) for item in bad["worse_than_baseline"]}
    assert ("p", "pos_mean_mm") in named
    assert not bad["targets"]["pos_mean_mm"]["met"]


def test_bands_with_few_rows_are_empty_not_guessed() -> None:
    result, _ = evaluate(shifted(1.0), n=30)
    for band in result["bands"]:
        for count, entry in zip(band["rows"], band["metrics"]["network"]["pos_mean_mm"], strict=True):
            assert (entry is None) == (count < 20)


def test_non_finite_predictions_are_refused() -> None:
    with pytest.raises(UserError, match="network gives 500 non-finite predictions on sample 'test'"):
        evaluate(shifted(np.nan))


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(0, 1e6), min_size=1, max_size=200),
    statistic=st.sampled_from(["mean", "std", "median", "p68", "p95", "p99"]),
)
def test_intervals_are_finite_and_scale(values: list[float], statistic: str) -> None:
    column = np.array(values)
    entry = intervals(column, [statistic])[statistic]
    assert np.isfinite(list(entry.values())).all()
    assert entry["low"] <= entry["high"]
    doubled = intervals(2 * column, [statistic])[statistic]
    for key, value in entry.items():
        assert doubled[key] == pytest.approx(2 * value, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("n", [400, 20_000])
def test_intervals_cover_the_truth_as_often_as_they_claim(n: int) -> None:
    """The mean of an exponential is 1; 95 % intervals of 200 samples miss it in 10 +- 3 cases."""
    rng = np.random.default_rng(4)
    missed = 0
    for seed in range(200):
        entry = intervals(rng.exponential(1.0, n), ["mean"], seed)["mean"]
        missed += not entry["low"] <= 1.0 <= entry["high"]
    assert 2 <= missed <= 24


def test_band_edges() -> None:
    axis = Axis("a", "a", lambda rows: rows["a"], (0.5, 1.0, 2.0))
    values = np.array([0.4, 0.5, 0.99, 1.0, 2.0, 2.1])
    assert band_index(axis, {"a": values}).tolist() == [-1, 0, 0, 1, 1, -1]
    rounded = np.array([0.5 * (1 - 1e-7), 2.0 * (1 + 1e-7)])
    assert band_index(axis, {"a": rounded}).tolist() == [0, 1], "a float32 rounding is not outside"


def test_digest_sees_every_value() -> None:
    rows = tracks(50)
    other = {name: column.copy() for name, column in rows.items()}
    assert rows_digest(rows) == rows_digest(other)
    other["dz"][7] = np.nextafter(other["dz"][7], np.inf)
    assert rows_digest(rows) != rows_digest(other)


def test_maps_hold_the_metric_of_each_cell() -> None:
    """The cells of momentum and distance, against a selection of the rows."""
    result, _ = evaluate(straight_line, n=2000)
    rows = tracks(2000)
    error = straight_line(rows)["final_state"] - rows["final_state"]
    pos, momentum, distance = np.hypot(error[:, 0], error[:, 1]), 1e-3 / rows["state"][:, 4], rows["dz"][:, 0]
    chart = result["maps"][1]
    assert [axis["name"] for axis in chart["axes"]] == ["p", "abs_dz"]
    assert chart["metric"] == "pos_mean_mm"
    momenta, distances = (axis["edges"] for axis in chart["axes"])
    inside = (momenta[4] <= momentum) & (momentum < momenta[5])
    inside &= (distances[1] <= distance) & (distance < distances[2])
    assert chart["rows"][1][4] == inside.sum() > 20
    assert chart["values"]["network"][1][4] == pytest.approx(pos[inside].mean())
    sparse = [
        value is None
        for line, counts in zip(chart["values"]["network"], chart["rows"], strict=True)
        for value, count in zip(line, counts, strict=True)
        if count < 20
    ]
    assert all(sparse)


def test_cells_worse_than_the_floor_are_named_with_both_values() -> None:
    """A network of one error everywhere, and a line whose error grows with the distance."""
    rows = tracks(4000)
    rows["final_state"] = straight_line(rows)["final_state"]
    rows["final_state"][:, 0] += rows["dz"][:, 0] / 1000  # mm
    estimators = {
        "network": ({"label": "net", "kind": "network", "cost": 1.0}, shifted(4.0)),
        "straight_line": ({"label": "line", "kind": "baseline", "cost": 4}, straight_line),
    }
    result, _ = evaluate_sample(TASK, Sample("test", "made up", rows), estimators)
    floor = result["floor"]
    assert floor["baseline"] == "straight_line"
    assert [entry["axes"] for entry in floor["maps"]] == [["z0", "dz"], ["p", "abs_dz"]]
    _, found = floor["maps"]
    momenta, distances = (axis["edges"] for axis in result["maps"][1]["axes"])
    assert found["cells"] == (len(momenta) - 1) * (len(distances) - 1)
    # the line is better up to 4 m, in every band of momentum
    expected = [
        [[low, high], [near, far]]
        for near, far in pairwise(distances)
        if near + far < 2 * 4000
        for low, high in pairwise(momenta)
    ]
    assert [item["cell"] for item in found["worse"]] == expected
    for item in found["worse"]:
        assert item["network"] == pytest.approx(4.0)
        assert item["baseline"] == pytest.approx(sum(item["cell"][1]) / 2000, rel=0.05)
    del estimators["straight_line"]
    assert evaluate_sample(TASK, Sample("test", "made up", rows), estimators)[0]["floor"] is None


def test_half_width_is_that_of_the_central_interval() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1001.0)) - 300
    assert intervals(values, ["w68"])["w68"]["value"] == pytest.approx(341.0)


def test_published_weights_are_evaluated_without_their_history(trained_run: Path, tmp_path: Path) -> None:
    published = tmp_path / "published"
    shutil.copytree(trained_run, published, ignore=shutil.ignore_patterns("history.json", "checkpoints"))
    result = evaluate_run(published, None, "test", limit=300)
    assert result["samples"][0]["rows"] == 300
    assert not (published / "history.json").exists()
    assert "no loss curves" in write_report(published).read_text()
