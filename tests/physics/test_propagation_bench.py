"""The table of speed against error: complete, consistent, and true about the errors that it prints."""

import numpy as np
import pytest

from trackkeras.domains.extrapolation import propagation_bench
from trackkeras.domains.extrapolation.propagation_bench import BASE, measure
from trackkeras.domains.extrapolation.tableaus import TABLEAUS
from trackkeras.errors import UserError


@pytest.fixture(scope="module")
def rows():
    return measure(tracks=100, rounds=2)


def test_every_accurate_method_is_there_once_per_field_and_setting(rows):
    keys = [(row["field"], row["method"], row["step_or_tolerance"]) for row in rows]
    assert len(set(keys)) == len(keys)
    ours = {method for _, method, _ in keys if method in TABLEAUS}
    assert ours == {name for name, tableau in TABLEAUS.items() if tableau.order >= 4}
    assert {"trilinear grid", "closed form"} <= {field for field, _, _ in keys}


def test_the_base_row_has_ratio_one(rows):
    base = next(row for row in rows if (row["field"], row["method"], row["step_or_tolerance"]) == BASE)
    assert base["ratio"] == 1.0
    assert all(row["us_per_track"] > 0 and row["ratio"] > 0 for row in rows)


def test_steps_between_the_planes_are_good_to_a_micrometre(rows):
    error = {(row["field"], row["method"], row["step_or_tolerance"]): row["mean_error_um"] for row in rows}
    assert error["trilinear grid", "rk4_aligned", "100 mm"] < 1.0
    assert error["closed form", "rk4", "100 mm"] < 0.1
    assert error["trilinear grid", "rk4", "200 mm"] > 10.0
    for row in rows:
        assert 0 < row["mean_error_um"] <= row["max_error_um"]
        assert np.isfinite(row["p95_error_um"])


@pytest.mark.parametrize(("tracks", "rounds"), [(0, 1), (10, 0)])
def test_nothing_to_measure_is_refused(tracks, rounds, monkeypatch):
    monkeypatch.setattr(propagation_bench, "_fields", None)
    with pytest.raises(UserError, match=f"must be at least 1, received {tracks} and {rounds}"):
        measure(tracks, rounds)
