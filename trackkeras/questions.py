"""Five questions about convergence, answered with the numbers of the runs at hand.

Where these runs do not allow an answer, that is the answer. Only trainings that share data and training
options are compared with each other; kind, size, seed and the options of a kind may differ.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trackkeras.convergence import RISE, SHARE, Convergence


@dataclass(frozen=True)
class Answer:
    """An answer, with the numbers that it rests on.

    Attributes:
        question: What is asked.
        text: The answer, sentence by sentence.
        columns: Headings of the table.
        rows: Its cells: text or numbers.
    """

    question: str
    text: tuple[str, ...]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()


def answers(
    networks: Sequence[Mapping[str, Any]], progress: Sequence[Convergence], metric: str, sample: str
) -> list[Answer]:
    """Return the answers to the five questions.

    Args:
        networks: Rows of `comparison_table` for the networks on one sample, with `metrics`.
        progress: How their trainings went.
        metric: The headline metric.
        sample: Name of the sample.
    """
    return [
        _does_physics_help(networks, progress, metric, sample),
        _how_fast(progress),
        _does_physics_converge(progress),
        _size_and_speed(progress),
        _overfitting(progress),
    ]


def _does_physics_help(
    networks: Sequence[Mapping[str, Any]], progress: Sequence[Convergence], metric: str, sample: str
) -> Answer:
    question = "Does the physics loss help?"
    cells = {row["run"]: row["metrics"].get(metric) or {} for row in networks}
    rows: list[tuple[Any, ...]] = []
    verdicts = []
    replicated = True
    for group in _grouped(progress, lambda run: (run.alike, run.size)):
        sides = [[run for run in group if run.physics is physics] for physics in (False, True)]
        known = [[run for run in side if cells.get(run.run, {}).get("value") is not None] for side in sides]
        if not all(known):
            continue
        without, with_physics = (min(side, key=lambda run: float(cells[run.run]["value"])) for side in known)
        replicated = replicated and all(len(side) > 1 for side in known)
        verdicts.append(_verdict(cells[with_physics.run], cells[without.run]))
        for run in sorted(itertools.chain(*known), key=lambda run: float(cells[run.run]["value"])):
            rows.append(
                (run.size, run.run, run.kind, "yes" if run.physics else "no", cells[run.run]["value"])
            )
    if not rows:
        return Answer(
            question,
            (
                "These runs do not allow an answer: none with and none without a physics loss share size, "
                "data and training options.",
            ),
        )
    counts = {word: verdicts.count(word) for word in ("better", "worse", "not distinguishable")}
    text = [
        f"{metric} on the rows {sample}, best run with a physics loss against best run without, in each of "
        f"{len(verdicts)} comparable {_plural('size', len(verdicts))}: "
        f"{', '.join(f'{word} in {count}' for word, count in counts.items())}."
    ]
    if not replicated:
        text.append(
            "Not every side has several trainings, and the intervals cover the choice of rows alone: another "
            "seed may turn close results around."
        )
    return Answer(question, tuple(text), ("size", "run", "kind", "physics loss", metric), tuple(rows))


def _verdict(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say how one cell compares with another; intervals that overlap decide nothing."""

    def bounds(cell: Mapping[str, Any]) -> tuple[float, float]:
        value = cell["value"]
        low, high = cell.get("low"), cell.get("high")
        return (value if low is None else low), (value if high is None else high)

    (low, high), (other_low, other_high) = bounds(one), bounds(other)
    if high < other_low:
        return "better"
    return "worse" if low > other_high else "not distinguishable"


def _how_fast(progress: Sequence[Convergence]) -> Answer:
    question = f"How many epochs until {SHARE:.0%} of the final accuracy?"
    if not progress:
        return Answer(question, ("These runs do not allow an answer: none has a history.",))
    ordered = sorted(progress, key=lambda run: run.converged)
    text = []
    for kind, group in itertools.groupby(sorted(progress, key=lambda run: run.kind), lambda run: run.kind):
        epochs = [run.converged for run in group]
        count = f"{len(epochs)} {_plural('run', len(epochs))}"
        text.append(f"{kind}: {statistics.median(epochs):g} epochs, the median over {count}.")
    improving = sum(run.improving for run in progress)
    if improving:
        text.append(
            f"{improving} of {len(progress)} runs had their best epoch last, as is common where the learning "
            "rate decays to nothing: a longer schedule may reach further, and would move the mark."
        )
    columns = ("run", "kind", "epochs", f"to {SHARE:.0%}", "share of all", "best epoch", "seconds per epoch")
    rows = tuple(
        (
            run.run,
            run.kind,
            run.epochs,
            run.converged,
            f"{run.converged / run.epochs:.0%}",
            run.best_epoch,
            None if run.seconds is None else run.seconds / run.epochs,
        )
        for run in ordered
    )
    return Answer(question, tuple(text), columns, rows)


def _does_physics_converge(progress: Sequence[Convergence]) -> Answer:
    question = "Does the physics loss converge?"
    known = [run for run in progress if "physics_loss" in run.val]
    if not known:
        return Answer(question, ("These runs do not allow an answer: none reports a physics loss.",))
    rows, fell, settled, exact = [], 0, 0, 0
    for run in known:
        pde, ic = run.val.get("pde_loss"), run.val.get("ic_loss")
        total = run.val["physics_loss"]
        fell += bool(total[-1] < total[0])
        settled += bool(_late_change(total) < RISE)
        exact += ic is not None and not ic.any()
        rows.append((run.run, *_first_and_last(pde), *_first_and_last(ic), f"{_late_change(total):.1%}"))
    text = [
        f"It fell in {fell} of {len(known)} runs, and in {settled} it changed by less than {RISE:.0%} over "
        "the last quarter of the epochs.",
    ]
    if exact:
        text.append(f"In {exact} the initial condition holds by construction: ic_loss is 0 throughout.")
    columns = ("run", "pde_loss, first", "last", "ic_loss, first", "last", "change in the last quarter")
    return Answer(question, tuple(text), columns, tuple(rows))


def _late_change(values: Any) -> float:
    """Return the largest relative change to the end within the last quarter of the epochs."""
    late = values[-max(2, len(values) // 4) :]
    return float(np.abs(late / values[-1] - 1.0).max()) if values[-1] else 0.0


def _first_and_last(values: Any) -> tuple[float | None, float | None]:
    return (None, None) if values is None else (float(values[0]), float(values[-1]))


def _size_and_speed(progress: Sequence[Convergence]) -> Answer:
    question = "Do larger networks converge faster?"
    rows: list[tuple[Any, ...]] = []
    text = []
    for group in _grouped(progress, lambda run: (run.alike, run.kind, run.options)):
        sizes = sorted({run.parameters for run in group})
        if len(sizes) < 2:
            continue
        epochs = [
            statistics.median(run.converged for run in group if run.parameters == size) for size in sizes
        ]
        steps = [late - early for early, late in itertools.pairwise(epochs)]
        trend = "no clear trend"
        if all(step == 0 for step in steps):
            trend = "the same number of epochs"
        elif all(step <= 0 for step in steps):
            trend = "fewer epochs the larger the network"
        elif all(step >= 0 for step in steps):
            trend = "more epochs the larger the network"
        text.append(f"{group[0].kind}, {sizes[0]:,} to {sizes[-1]:,} parameters: {trend}.")
        for run in sorted(group, key=lambda run: run.parameters):
            seconds = None if run.seconds is None else run.seconds * run.converged / run.epochs
            rows.append((run.kind, run.run, run.parameters, run.converged, seconds))
    if not rows:
        return Answer(
            question,
            (
                "These runs do not allow an answer: no two of one kind differ in size and share data and "
                "training options.",
            ),
        )
    columns = ("kind", "run", "parameters", f"epochs to {SHARE:.0%}", f"seconds to {SHARE:.0%}")
    return Answer(question, tuple(text), columns, tuple(rows))


def _overfitting(progress: Sequence[Convergence]) -> Answer:
    question = "Do the networks overfit?"
    if not progress:
        return Answer(question, ("These runs do not allow an answer: none has a history.",))
    found = [run for run in progress if run.overfits]
    names = f" ({', '.join(run.run for run in found)})" if found else ""
    text = (
        f"{len(found)} of {len(progress)} runs{names}: the validation loss ended more than {RISE:.0%} above "
        "its lowest value while the training loss fell on.",
        "A training loss is the mean over an epoch in which the weights improve, so it lags behind.",
    )
    columns = ("run", "training loss", "validation loss", "ratio", "above the lowest")
    rows = tuple(
        (run.run, float(run.train["loss"][-1]), float(run.val["loss"][-1]), run.gap, f"{run.rise:.1%}")
        for run in sorted(progress, key=lambda run: -run.gap)
    )
    return Answer(question, text, columns, rows)


def _grouped(
    progress: Iterable[Convergence], key: Callable[[Convergence], Hashable]
) -> list[list[Convergence]]:
    groups: dict[Hashable, list[Convergence]] = {}
    for run in progress:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
