"""What a search asks for: objectives in physical units, limits, one score for the oracle, the Pareto list.

A metric of the domain (`pos_95_mm`) is taken on validation rows at the epoch whose weights are kept. Beside
them stand quantities of the network itself, which need no training.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trackkeras.domain import Task
from trackkeras.errors import UserError


@dataclass(frozen=True)
class Quantity:
    """A number that a trial has.

    Attributes:
        name: Its key, with the unit as suffix.
        label: Text for tables and axes.
        better: Whether less or more of it is wanted.
        early: Whether it is known before the training, so that a limit saves the training.
    """

    name: str
    label: str
    better: Literal["less", "more"] = "less"
    early: bool = False


PARAMETERS, LATENCY, TIME, RATE = "parameters", "latency_us", "us_per_row", "rows_per_s"

OF_THE_NETWORK = (
    Quantity(PARAMETERS, "trainable parameters", early=True),
    Quantity("operations", "operations per row", early=True),
    Quantity(LATENCY, "time of one row [µs]", early=True),
    Quantity(TIME, "time per row, many at once [µs]", early=True),
    Quantity(RATE, "rows per second, many at once", better="more", early=True),
)
"""Known before training. Times and rate are measured on this machine, the others are exact."""


def quantities(task: Task) -> dict[str, Quantity]:
    """Return everything that a search over this task's networks may ask for, by name."""
    known = [Quantity("val_loss", "validation loss")]
    known += [
        Quantity(metric.name, metric.name + ("" if metric.unit == "1" else f" [{metric.unit}]"))
        for metric in task.metrics()
    ]
    return {quantity.name: quantity for quantity in (*known, *OF_THE_NETWORK)}


def check_names(names: Iterable[str], known: Mapping[str, Quantity], what: str) -> None:
    """Raise a UserError for the first name that is no quantity."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise UserError(f"{what}: no quantity named {name!r}; {hint}")


def check_limits(limits: Mapping[str, float], known: Mapping[str, Quantity]) -> None:
    """Raise a UserError for a limit that could not save a training."""
    check_names(limits, known, "limit")
    for name in limits:
        if not known[name].early:
            early = ", ".join(quantity.name for quantity in OF_THE_NETWORK)
            raise UserError(f"limit: {name!r} is known only after a training; limits are on {early}")


def broken_limits(
    limits: Mapping[str, float], values: Mapping[str, float], known: Mapping[str, Quantity]
) -> list[str]:
    """Return a sentence for each limit that a network breaks."""
    broken = []
    for name, limit in limits.items():
        more = known[name].better == "more"
        if values[name] < limit if more else values[name] > limit:
            broken.append(f"{name} {values[name]:.6g} {'<' if more else '>'} {limit:.6g}")
    return broken


def score(
    objectives: Mapping[str, float], values: Mapping[str, float], known: Mapping[str, Quantity]
) -> float:
    """Return the number that the oracle makes small.

    The sum of the logarithms of all objectives, each times its weight (negative where more is better): units
    drop out, and with `pos_95_mm: 1, parameters: 0.1` a network may be ten times as large if its error is
    smaller by a factor of 10**0.1 = 1.26. The order by a single objective is the order of its values.
    """
    return sum(
        (weight if known[name].better == "less" else -weight) * math.log10(max(values[name], 1e-300))
        for name, weight in objectives.items()
    )


def pareto(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], known: Mapping[str, Quantity]
) -> list[int]:
    """Return the indices of the rows that no other row beats: as good in all quantities, better in one.

    Args:
        rows: Values by name; a row without one of them is beaten by none and left out.
        names: The quantities that count.
        known: Says which direction is better.
    """
    signs = [1.0 if known[name].better == "less" else -1.0 for name in names]
    points = {
        index: [sign * row[name] for sign, name in zip(signs, names, strict=True)]
        for index, row in enumerate(rows)
        if all(row.get(name) is not None for name in names)
    }
    return [
        index
        for index, point in points.items()
        if not any(
            all(theirs <= own for theirs, own in zip(other, point, strict=True)) and other != point
            for other in points.values()
        )
    ]
