"""A search, completely described and checked: what varies, what is asked for, how long, on which rows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tfrecords_tools.files import read_json
from trackkeras import domains
from trackkeras.config import Options, Run, differences, flatten, load_yaml, merge, unflatten, validate
from trackkeras.domain import Task, open_dataset, task_of
from trackkeras.errors import UserError
from trackkeras.presets import preset_values, run_from_values
from tuner.objectives import Quantity, check_limits, check_names, quantities
from tuner.space import EXTENDS, Space, chosen_differences, corners, parse_space

OracleName = Literal["random", "bayesian", "hyperband", "grid"]

BUDGET_KEYS = ("training.epochs", "training.time_budget_s", "training.checkpoint_every", "data.train_rows")
"""What a trial may spend; a search sets it, and the winner's preset leaves it to its parent."""

GENERAL = "training"
"""The search for networks of any domain."""

SET_BY_SEARCH = {
    "training.epochs": "--epochs",
    "training.time_budget_s": "--trial-budget",
    "training.checkpoint_every": "--keep",
}

MAY_CHANGE = ("trials", "budget_s", "keep", "search", "data")
"""What a resumed search may be given anew: how far it goes and where files lie, not what it computes."""


class SearchOptions(Options):
    """The content of a search file."""

    objectives: dict[str, float] = Field(min_length=1, description="Weights by quantity.")
    limits: dict[str, float] = Field({}, description="Networks beyond them are not trained.")
    oracle: OracleName = "random"
    epochs: int = Field(10, ge=1, description="Epochs of each trial; with hyperband of its longest ones.")
    space: dict[str, Any] = Field(min_length=1)


class Plan(Options):
    """One search.

    The budget of a trial is its epochs, which give the same trials everywhere, or seconds, which give more
    epochs on a faster or less loaded machine.
    """

    preset: str
    search: str
    space: dict[str, Any]
    assignments: dict[str, Any] = Field({}, description="What every trial has, by dotted key.")
    objectives: dict[str, float]
    limits: dict[str, float] = Field({})
    oracle: OracleName = "random"
    seed: int = Field(1, ge=1, description="0 would mean a random one to KerasTuner.")
    trials: int | None = Field(20, ge=1)
    epochs: int = Field(10, ge=1)
    trial_budget_s: float | None = Field(None, gt=0)
    budget_s: float | None = Field(None, gt=0, description="No trial starts later than this.")
    keep: int = Field(1, ge=1, description="How many of the best models stay on disk.")
    data: str
    data_hash: str

    @cached_property
    def parsed_space(self) -> Space:
        """The space as parameters."""
        return parse_space(self.space, f"search {self.search!r}")

    @cached_property
    def parent(self) -> Run:
        """The preset itself with the assignments, before anything varies."""
        return self.run({})

    @property
    def task(self) -> Task:
        """What the parent's network is for."""
        return task_of(self.parent)

    @cached_property
    def known(self) -> dict[str, Quantity]:
        """What a trial can be asked for."""
        return quantities(self.task)

    @property
    def lead(self) -> str:
        """The objective that tables and figures show first."""
        return next(iter(self.objectives))

    def run(self, settings: Mapping[str, Any], epochs: int | None = None) -> Run:
        """Return the configuration of a trial.

        Args:
            settings: Option values by dotted key; `extends` names another preset than the plan's.
            epochs: Epochs, where the oracle decides about them.

        Raises:
            UserError: The run's configuration refuses a key, a value, or the combination.
        """
        chosen = dict(settings)
        name, values = preset_values(str(chosen.pop(EXTENDS, self.preset)))
        budget = {
            "training.epochs": self.epochs if epochs is None else epochs,
            "training.time_budget_s": self.trial_budget_s,
            "training.checkpoint_every": 1_000_000,  # a trial needs its newest checkpoint only
        }
        for layer in (self.assignments, budget, chosen):
            values = merge(values, unflatten(layer))
        return run_from_values({**values, "preset": name})

    def preset_changes(self, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the preset that a trial extends, and what its own preset would have to say."""
        extends = str(settings.get(EXTENDS, self.preset))
        asked = {key: value for key, value in self.assignments.items() if key not in BUDGET_KEYS}
        return extends, chosen_differences({**asked, **settings}, self.resolved(extends))

    def resolved(self, preset: str) -> dict[str, Any]:
        """Return a preset's option values by dotted key, as JSON has them."""
        name, values = preset_values(preset)
        return flatten(run_from_values({**values, "preset": name}).model_dump(mode="json"))

    def start(self) -> dict[str, Any]:
        """Return the parent's own option values by dotted key: the first trial, where the space has them."""
        return {**flatten(self.parent.model_dump()), EXTENDS: self.preset}

    def check(self) -> None:
        """Check everything before anything starts.

        Raises:
            UserError: The first key, value, objective or limit that is refused, or an unsuitable dataset.
        """
        self.check_values()
        source = open_dataset(Path(self.data), self.parent)
        if "validation" not in source.splits:
            raise UserError(f"{self.data} has no validation rows, by which trials are compared")

    def check_values(self) -> None:
        """Try every value, and both ends of every range.

        Raises:
            UserError: The first key, value, objective or limit that is refused.
        """
        for key in set(self.assignments) & set(SET_BY_SEARCH):
            raise UserError(f"--set {key}: a search sets it itself; use {SET_BY_SEARCH[key]}")
        for key, settings in corners(self.parsed_space):
            try:
                run = self.run(settings)
            except UserError as error:
                raise UserError(
                    f"search {self.search!r}: {key} = {settings[key]!r} is refused: {error}"
                ) from None
            if quantities(task_of(run)).keys() != self.known.keys():
                raise UserError(f"search {self.search!r}: {settings[key]!r} is judged by other metrics")
        check_names(self.objectives, self.known, "objective")
        for name, weight in self.objectives.items():
            if not weight > 0:
                raise UserError(f"objective: the weight of {name!r} must be positive, received {weight:g}")
        check_limits(self.limits, self.known)


def search_files(domain: str) -> dict[str, Path]:
    """Return search files by name: those for any domain, and those in `domains/DOMAIN/searches`."""
    own = [Path(folder) / domain / "searches" for folder in domains.__path__]
    folders = [Path(__file__).parent / "searches", *own]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def load_search(search: str | None, parent: Run) -> tuple[str, SearchOptions]:
    """Return name and content of a search file.

    Args:
        search: Name of a shipped one, path of a YAML file, or None for the one of the preset's kind, or else
            the one for all.
        parent: The run of the preset.

    Raises:
        UserError: There is no such search, or its content is refused.
    """
    if search is not None and search.endswith((".yaml", ".yml")):
        path, name = Path(search), search
    else:
        shipped = search_files(parent.domain)
        name = search or (parent.model.kind if parent.model.kind in shipped else GENERAL)
        if name not in shipped:
            near = difflib.get_close_matches(name, shipped, n=1)
            known = f"there are: {', '.join(shipped) or 'none'}"
            hint = f"did you mean {near[0]!r}?" if near else known
            raise UserError(
                f"domain {parent.domain!r} has no search named {name!r}; {hint} (a file must end in .yaml)"
            )
        path = shipped[name]
    return name, validate(SearchOptions, load_yaml(path), f"search {name!r}")


def parse_weights(items: list[str], what: str, default: float | None) -> dict[str, float]:
    """Turn `["pos_95_mm", "parameters=0.1"]` into weights or limits by name.

    Raises:
        UserError: A value is missing or no number.
    """
    found: dict[str, float] = {}
    for item in items:
        name, separator, text = item.partition("=")
        try:
            value = float(text) if separator else default
        except ValueError:
            value = None
        if value is None or not name:
            raise UserError(f"--{what} needs NAME=NUMBER, received {item!r}")
        found[name] = value
    return found


_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Return seconds for `90`, `90s`, `30m`, `2h` or `1d`.

    Raises:
        UserError: It is no positive duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UserError(f"a duration is a number with s, m, h or d, such as 90s or 30m; received {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


def read_plan(folder: Path) -> Plan:
    """Return the plan of a search folder.

    Raises:
        UserError: The folder holds none.
    """
    path = folder / "plan.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a search folder (no plan.json); `trackkeras tune` makes one")
    return validate(Plan, read_json(path), str(path))


def check_same(old: Plan, new: Plan, folder: Path) -> None:
    """Raise a UserError unless a resumed search computes the same as before."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    different = [
        f"{key} was {was!r}, is {now!r}"
        for key, was, now in differences(before, after)
        if key.split(".")[0] not in MAY_CHANGE
    ]
    if different:
        raise UserError(f"{folder} was searched with another plan: {'; '.join(different)}")
