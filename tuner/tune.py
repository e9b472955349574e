"""The whole of `trackkeras tune`: make or continue a search folder, run trials, write what came out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tfrecords_tools.files import write_json
from tfrecords_tools.reader import Dataset
from trackkeras.config import flatten, parse_assignments, validate
from trackkeras.errors import UserError
from trackkeras.presets import load_run
from tuner.plan import Plan, check_same, load_search, read_plan

UNLIMITED = ("grid", "hyperband")
"""Oracles that end by themselves."""
DEFAULT_TRIALS = 20


def make_plan(
    preset: str,
    data: Path,
    *,
    search: str | None = None,
    assignments: list[str] | None = None,
    objectives: dict[str, float] | None = None,
    limits: dict[str, float] | None = None,
    oracle: str | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    **options: Any,
) -> Plan:
    """Return a checked plan: what is not given comes from the search file.

    Args:
        preset: The parent: name of a preset, or path of a YAML file.
        data: Dataset folder.
        search: Name of a shipped search, path of a YAML file, or None for the one of the preset's kind.
        assignments: `--set` overrides that every trial has.
        objectives: Weights by quantity.
        limits: Limits by quantity; they add to those of the file.
        oracle: `random`, `bayesian`, `hyperband` or `grid`.
        trials: How many; default 20, or as many as grid and Hyperband have.
        epochs: Epochs of a trial.
        **options: Further fields of `Plan`.

    Raises:
        UserError: Something is unknown, refused, or does not go together.
    """
    parent = load_run(preset, assignments or ())
    name, content = load_search(search, parent)
    given = {"objectives": objectives, "oracle": oracle, "epochs": epochs}
    values = content.model_dump() | {key: value for key, value in given.items() if value}
    values["limits"] = content.limits | (limits or {})
    if trials is None and values["oracle"] not in UNLIMITED:
        trials = DEFAULT_TRIALS
    plan = validate(
        Plan,
        {
            **values,
            **{key: value for key, value in options.items() if value is not None},
            "preset": preset,
            "search": name,
            "assignments": flatten(parse_assignments(assignments or ())),
            "trials": trials,
            "data": str(data.resolve()),
            "data_hash": Dataset(data).manifest.config_hash,
        },
        f"search {name!r}",
    )
    plan.check()
    return plan


def prepare_folder(folder: Path, plan: Plan, *, resume: bool, overwrite: bool) -> None:
    """Make the search folder, or check that it can be continued.

    Raises:
        UserError: It exists and neither `resume` nor `overwrite` is set, it belongs to another search, or it
            is something else.
    """
    if (folder / "plan.json").exists() and not overwrite:
        if not resume:
            raise UserError(f"{folder} exists; --resume continues it, --overwrite starts it again")
        check_same(read_plan(folder), plan, folder)
    elif folder.exists() and any(folder.iterdir()):
        if not (folder / "plan.json").exists():
            raise UserError(f"{folder} exists and is not a search folder; choose another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", plan.model_dump(mode="json"))


def tune(
    plan: Plan,
    folder: Path,
    *,
    workers: int | None = None,
    member: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any] | None:
    """Run a search and write `search.json`, `best.yaml` and `report.html`.

    Args:
        plan: What to search.
        folder: Search folder.
        workers: Processes that run trials beside each other on this host; None runs them in this one.
        member: Index of this job among those that share the search: 0 is the chief, others are workers.
        resume: Continue an interrupted search; with more `trials` or `budget_s`, also a finished one.
        overwrite: Remove an existing search first.

    Returns:
        The content of `search.json`; None for a worker.

    Raises:
        UserError: As `prepare_folder`, or the chief did not answer.
    """
    if member:
        from tuner.worker import run_worker

        run_worker(folder, member, plan)
        return None
    prepare_folder(folder, plan, resume=resume, overwrite=overwrite)
    if member is None and workers is None:
        from tuner.search import run_search

        oracle = run_search(plan, folder)
    else:
        from tuner.chief import run_chief

        oracle = run_chief(plan, folder, workers)
    return finish(plan, folder, oracle)


def finish(plan: Plan, folder: Path, oracle: Any) -> dict[str, Any]:
    """Write what came out of a search; return the content of `search.json`."""
    from tuner.outcome import summarise, write_outcome
    from tuner.report import write_search_report

    summary = summarise(plan, oracle)
    write_outcome(folder, summary)
    write_search_report(folder, summary)
    return summary
