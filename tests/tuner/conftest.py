"""One small search for the whole session, with trials of every fate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner.plan import Plan
from tuner.tune import make_plan

SEARCH = """
objectives: {pos_95_mm: 1, parameters: 0.1}
limits: {parameters: 180}
epochs: 2
space:
  model.hidden: {choice: [[8, 8], [4], [16]]}
  data.batch_size: {choice: [512, 1024]}
  training.learning_rate: {choice: [1e-3, 3e-3, 1e30]}
  training.clip_norm: null
  training.warmup_epochs: 0
"""
"""[16] has 196 parameters and breaks the limit; a learning rate of 1e30 makes the loss infinite."""

SEED = 67
"""Gives four trials: the preset itself, one that fails, one beyond the limit, one that completes."""


@pytest.fixture(scope="session")
def search_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "fates.yaml"
    path.write_text(SEARCH)
    return path


@pytest.fixture(scope="session")
def plan(dataset: Path, search_file: Path) -> Plan:
    return make_plan("mlp_tiny", dataset, search=str(search_file), trials=4, seed=SEED)


@pytest.fixture(scope="session")
def searched(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the whole search, in one process, and the content of its `search.json`."""
    from tuner.tune import tune

    folder = tmp_path_factory.mktemp("searches") / "whole"
    summary = tune(plan, folder)
    assert summary is not None
    return folder, summary


MEASURED = ("latency_us", "us_per_row", "rows_per_s")


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a trial computes, without what a clock says."""
    kept = {key: value for key, value in record.items() if key not in ("worker", "wall_s", "seconds")}
    if "metrics" in kept:
        kept["metrics"] = {key: value for key, value in kept["metrics"].items() if key not in MEASURED}
    return kept


@pytest.fixture
def computed() -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """A function that takes the clock out of records."""
    return lambda records: [without_times(record) for record in records]
