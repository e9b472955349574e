"""The search folder: every file of a search, by name.

searches/NAME/
  plan.json            the whole search, resolved; a resumed one must be the same
  oracle.json          KerasTuner's oracle with all its trials, replaced in one step after every change
  chief.json           where the chief of a search in several processes listens
  trials/NN/           the run folder of a trial, see `trackkeras.runs`, without what nobody needs later
  trials/NN/trial.json what came of it: settings, quantities, score, or why there are none
  search.json          the table of all trials, importance, Pareto list and winner
  best.yaml            the winner as a preset
  report.html, plots/
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfrecords_tools.files import read_json, write_json

COMPLETED, PRUNED, FAILED = "completed", "pruned", "failed"

SPENT = ("checkpoints", "tensorboard")
"""Folders of a run that nobody needs when its trial is over."""


def trial_folder(folder: Path, trial: str) -> Path:
    """Return the run folder of a trial."""
    return folder / "trials" / trial


def read_record(folder: Path, trial: str) -> dict[str, Any] | None:
    """Return what came of a trial, or None while it is not over."""
    path = trial_folder(folder, trial) / "trial.json"
    return dict(read_json(path)) if path.is_file() else None


def epochs_done(folder: Path, trial: str) -> int:
    """Return the epochs of an interrupted trial that need not be made again."""
    path = trial_folder(folder, trial) / "state.json"
    return int(read_json(path)["epoch"]) if path.is_file() else 0


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write what came of a trial, in one step."""
    path = trial_folder(folder, record["trial"])
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "trial.json", record)


def remove_losers(folder: Path, records: Iterable[dict[str, Any]], keep: int) -> None:
    """Remove what finished trials left beside their numbers: all checkpoints, and all but the best models.

    It runs after every trial, so a search needs the room of `keep` models and of the trials in progress. An
    interrupted removal is finished by the next one.

    Args:
        folder: Search folder.
        records: What came of the finished trials.
        keep: How many models stay, those with the smallest score.
    """
    records = list(records)
    ranked = sorted((row for row in records if row["status"] == COMPLETED), key=lambda row: row["score"])
    kept = {row["trial"] for row in ranked[:keep]}
    for record in records:
        path = trial_folder(folder, record["trial"])
        for name in SPENT:
            shutil.rmtree(path / name, ignore_errors=True)
        if record["trial"] not in kept:
            (path / "best.keras").unlink(missing_ok=True)
