"""Published weights: small, complete, and the same network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trackkeras.checkpoints import load_model
from trackkeras.domain import find_task
from trackkeras.publishing import rounded
from trackkeras.runs import RunFolder, open_run

TASK = find_task("extrapolation", "mlp")


def weights(path: Path) -> list[np.ndarray]:
    return load_model(RunFolder(path).best, TASK).get_weights()


def test_what_is_published_is_the_same_network_in_fewer_bytes(
    trained_run: Path, tmp_path: Path, run: Any
) -> None:
    code, printed, _ = run("publish", trained_run, "--out", tmp_path / "all", "--json")
    assert code == 0
    made = tmp_path / "all"
    assert json.loads(printed)["bytes"].keys() == {path.name for path in made.iterdir()}
    for before, after in zip(weights(trained_run), weights(made), strict=True):
        np.testing.assert_array_equal(before, after)
    assert RunFolder(made).best.stat().st_size < RunFolder(trained_run).best.stat().st_size
    assert open_run(made)[1] == open_run(trained_run)[1]
    assert set(RunFolder(made).read("normalization.json")) == {"state", "z0", "dz", "final_state"}
    assert not Path(RunFolder(made).read("dataset.json")["path"]).is_absolute()


def test_fewer_digits_change_trained_weights_alone_and_by_half_a_digit(
    trained_run: Path, tmp_path: Path, run: Any
) -> None:
    assert run("publish", trained_run, "--out", tmp_path / "half", "--digits", 11)[0] == 0
    pairs = list(zip(weights(trained_run), weights(tmp_path / "half"), strict=True))
    changed = [
        float(np.max(np.abs(after - before) / np.abs(before + (before == 0)))) for before, after in pairs
    ]
    assert 0 < max(changed) <= 2.0**-11
    assert min(changed) == 0, "normalisation stays exact"


@given(st.floats(-1e30, 1e30), st.integers(2, 53))
def test_rounding_is_to_the_nearest_and_happens_once(value: float, digits: int) -> None:
    once = rounded(np.array([value]), digits)
    assert abs(once[0] - value) <= abs(value) * 2.0**-digits
    np.testing.assert_array_equal(rounded(once, digits), once)
    np.testing.assert_array_equal(rounded(np.array([-value]), digits), -once)


def test_nothing_is_replaced_and_bad_digits_are_refused(trained_run: Path, tmp_path: Path, run: Any) -> None:
    code, _, error = run("publish", trained_run, "--out", tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    assert "exists; choose another folder" in error
    code, _, error = run("publish", trained_run, "--out", tmp_path / "x", "--digits", 1)
    assert (code, error.count("\n")) == (2, 1)
    assert "2 to 53 binary digits, received 1" in error
    code, _, error = run("publish", tmp_path, "--out", tmp_path / "x")
    assert code == 2
    assert "is not a run folder" in error
    assert not any(tmp_path.iterdir())
