"""A study: many trainings as one list of data, run one after the other or as the tasks of an array."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tfrecords_tools.errors import RecordError
from trackkeras import domains
from trackkeras.config import Options, Run, load_yaml, validate
from trackkeras.errors import UserError
from trackkeras.presets import load_run

Outcome = Literal["done", "finished before", "failed"]


class ExperimentOptions(Options):
    """What a list says about one experiment."""

    preset: str | None = Field(None, description="Name of the preset; the experiment's own unless given.")
    set: dict[str, Any] = Field(
        default_factory=dict, description="Overrides, as --set of `trackkeras train`."
    )
    sample: str | None = Field(None, description="Name of the dataset to train on; None for the study's own.")
    also: tuple[str, ...] = Field((), description="Names of datasets whose test rows are evaluated as well.")


@dataclass(frozen=True)
class Experiment:
    """One training of a study.

    Attributes:
        name: Name of the run.
        group: Heading of the list under which it stands.
        options: What the list says.
    """

    name: str
    group: str
    options: ExperimentOptions

    def run(self, assignments: Iterable[str] = ()) -> Run:
        """Return the configuration, with overrides that all experiments share.

        Raises:
            UserError: As `load_run`.
        """
        own = [f"{key}={json.dumps(value)}" for key, value in self.options.set.items()]
        return load_run(self.options.preset or self.name, [*own, *assignments])


@dataclass(frozen=True)
class Result:
    """How an experiment went: `reason` says why the training ended, or what failed."""

    experiment: Experiment
    outcome: Outcome
    reason: str


def study_files() -> dict[str, Path]:
    """Return every shipped list by name, found as `domains/*/studies/*.yaml`."""
    folders = [Path(folder) for folder in domains.__path__]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*/studies/*.yaml"))}


def load_study(study: str) -> list[Experiment]:
    """Return the experiments of a shipped list or of a user's YAML file, in its order.

    Raises:
        UserError: No such list, or it is not as described at the head of the shipped ones.
    """
    shipped = study_files()
    path = Path(study) if study.endswith((".yaml", ".yml")) else shipped.get(study)
    if path is None:
        raise UserError(f"no study named {study!r}; there are: {', '.join(shipped)} (a file ends in .yaml)")
    experiments: dict[str, Experiment] = {}
    for group, entries in load_yaml(path).items():
        if not isinstance(entries, Mapping):
            raise UserError(f"{path}: group {group!r} must map names to experiments, received {entries!r}")
        for name, values in entries.items():
            if name in experiments:
                raise UserError(f"{path}: two experiments are named {name!r}")
            options = validate(ExperimentOptions, values or {}, f"{path}, {group}.{name}")
            experiments[str(name)] = Experiment(str(name), str(group), options)
    return list(experiments.values())


def choose(experiments: Sequence[Experiment], patterns: Sequence[str]) -> list[Experiment]:
    """Return the experiments whose name or group one of the patterns matches; all if there is none.

    Raises:
        UserError: A pattern matches nothing.
    """
    for pattern in patterns:
        if not any(_matches(experiment, pattern) for experiment in experiments):
            words = [word for experiment in experiments for word in (experiment.group, experiment.name)]
            near = difflib.get_close_matches(pattern, words, n=1)
            groups = ", ".join(dict.fromkeys(experiment.group for experiment in experiments))
            hint = f"did you mean {near[0]!r}?" if near else f"the groups are: {groups}"
            raise UserError(f"no experiment and no group matches {pattern!r}; {hint}")
    return [
        experiment
        for experiment in experiments
        if not patterns or any(_matches(experiment, pattern) for pattern in patterns)
    ]


def _matches(experiment: Experiment, pattern: str) -> bool:
    return fnmatchcase(experiment.name, pattern) or fnmatchcase(experiment.group, pattern)


def check_study(
    experiments: Iterable[Experiment], samples: Mapping[str, Path], assignments: Sequence[str] = ()
) -> None:
    """Find what is wrong with any of the experiments before the first one starts.

    Raises:
        UserError: An experiment's configuration does not stand, or a dataset that it names is not given.
    """
    for experiment in experiments:
        try:
            run = experiment.run(assignments)
        except UserError as error:
            raise UserError(f"experiment {experiment.name!r}: {error}") from None
        wanted = (
            *([experiment.options.sample] if experiment.options.sample else []),
            *experiment.options.also,
        )
        for name in wanted:
            if name not in samples:
                maker = f"trackkeras generate {run.domain} --preset {name} --out DIR"
                raise UserError(
                    f"experiment {experiment.name!r} needs the dataset {name!r}: "
                    f"give it with --sample {name}=DIR, made by `{maker}`"
                )


def run_study(
    experiments: Sequence[Experiment],
    data: Path,
    runs: Path,
    *,
    samples: Mapping[str, Path],
    assignments: Sequence[str] = (),
    resume: bool = False,
    limit: int | None = None,
) -> Iterator[Result]:
    """Train and evaluate experiments one after the other; one that fails does not stop the others.

    Args:
        experiments: What to run.
        data: Dataset of those that name none.
        runs: Folder of the runs.
        samples: Further datasets by name.
        assignments: Overrides that all experiments share.
        resume: Leave finished runs as they are, and go on with interrupted ones.
        limit: Evaluate on the first rows only.

    Yields:
        The result of each, as soon as it is known.
    """
    import keras

    from trackkeras.evaluation import evaluate
    from trackkeras.report import write_report
    from trackkeras.training import train

    for experiment in experiments:
        path, options = runs / experiment.name, experiment.options
        before = resume and (path / "metrics.json").is_file()
        try:
            source = samples[options.sample] if options.sample else data
            folder = train(experiment.run(assignments), source, path, resume=resume)
            reason = str(folder.read("state.json")["reason"])
            if not before:
                evaluate(path, limit=limit, also={name: samples[name] for name in options.also})
                write_report(path)
            yield Result(experiment, "finished before" if before else "done", reason)
        except (UserError, RecordError, OSError, ArithmeticError) as error:
            yield Result(experiment, "failed", " ".join(str(error).split()))
        finally:
            keras.backend.clear_session(free_memory=True)
