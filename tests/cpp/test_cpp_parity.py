"""A bundle in C++ against Keras on the rows of a dataset: all engines are compared, a difference shows."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import native
from trackkeras import cpp_parity
from trackkeras.domain import find_task
from trackkeras.errors import UserError

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="there is no C++ compiler")


@pytest.fixture
def command(run: Any) -> Any:
    """Run the command in this process; returns exit code, stdout, stderr."""
    return partial(run, "compare-with-cpp")


def test_every_function_in_every_engine_is_compared_with_keras(
    command: Any, bundle: Path, trained_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "parity.json"
    code, out, _ = command(bundle, "--run", trained_run, "--rows", 200, "--output", file, "--json")
    assert code == 0
    report = json.loads(out)
    assert json.loads(file.read_text()) == report
    found = {(row["signature"], row["engine"], row["output"]): row for row in report["rows"]}
    outputs = {"serving_default": ["final_state"], "state_and_jacobian": ["final_state", "jacobian"]}
    assert set(found) == {
        (name, engine, output)
        for name, names in outputs.items()
        for engine in cpp_parity.LABELS.values()
        for output in names
    }
    for (name, engine, _), row in found.items():
        assert row["rows"] == 200
        assert 0 <= row["share_of_allowance"] < 1
        assert (row["largest_difference"] > 0) == (row["equal_rows"] < 1)
        if name == "serving_default" and engine != cpp_parity.LABELS["generated"]:
            assert row["equal_rows"] > 0.9


def test_a_difference_beyond_the_rule_is_a_failed_check(
    command: Any, bundle: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines that answer something else, in the one row that matters."""

    def wrong(self: object, kind: str, model: str, rows: Any, inputs: Any, outputs: Any, name: str) -> Any:
        return {tensor.name: np.full((len(rows["z0"]), *tensor.shape), 7.0, "float32") for tensor in outputs}

    monkeypatch.setattr(native.Program, "apply", wrong)
    monkeypatch.setattr(native, "build", lambda *_, **__: Path("apply"))
    code, out, _ = command(bundle, "--run", trained_run, "--rows", 5)
    assert code == 1
    assert "share_of_allowance" in out
    assert "final_state" in out


def test_what_cannot_be_compared_is_named(
    command: Any, bundle: Path, trained_run: Path, tmp_path: Path
) -> None:
    for arguments, message in (
        ((bundle, "--run", tmp_path), "is not a run folder"),
        ((bundle,), "runs/small is not a run folder"),
        ((bundle, "--run", trained_run, "--rows", 0), "rows must be at least 1, received 0"),
        ((bundle, "--run", trained_run, "--split", "none"), "none"),
        ((tmp_path / "none",), "no such bundle"),
    ):
        code, out, err = command(*arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err, err
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    other = tmp_path / "other"
    shutil.copytree(trained_run, other)
    with pytest.raises(UserError, match="was exported from the run 'small', received"):
        cpp_parity.compare_engines(bundle, other)


def test_first_rows_are_those_of_the_task_not_of_the_dataset() -> None:
    """Events with one, two or no muon: chunks are read until there are enough muons."""

    class Source:
        directory = "folder"
        read = 0

        def chunks(self, split: str, columns: object, rows: int) -> Any:
            rng = np.random.default_rng(0)
            for _ in range(50):
                self.read += 1
                yield {
                    "elements": rng.integers(0, 9, (rows, 2, 62)),
                    "drift": np.zeros((rows, 2, 62), "float32"),
                    "momentum": rng.normal(size=(rows, 2, 3)).astype("float32"),
                    "muon": rng.integers(0, 2, (rows, 2)),
                }

    task, source = find_task("dimuon", "momentum"), Source()
    rows = cpp_parity.first_rows(task, source, "train", 30)  # type: ignore[arg-type]
    assert {len(column) for column in rows.values()} == {30}
    assert source.read < 5
    source.chunks = lambda *_, **__: iter(())  # type: ignore[method-assign]
    with pytest.raises(UserError, match="folder has no rows in 'train'"):
        cpp_parity.first_rows(task, source, "train", 30)  # type: ignore[arg-type]
