"""A metric over the cells of two truth variables, and curves, as the plain data of `metrics.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domain import Axis, Curve

Bands = tuple[NDArray[Any], ...]
"""Band numbers of each row in two variables, each `(n,)`; -1 is outside."""


def empty_map(pair: tuple[Axis, Axis], bands: Bands, metric: str) -> dict[str, Any]:
    """Return a map without values: axes, the metric's name and the rows in each cell, line by line."""
    axes = [
        {"name": axis.name, "label": axis.label, "log": axis.log, "edges": list(axis.edges)} for axis in pair
    ]
    counts = _cells(pair, bands, lambda inside: int(inside.sum()))
    return {"axes": axes, "metric": metric, "rows": counts, "values": {}}


def cell_values(
    pair: tuple[Axis, Axis],
    bands: Bands,
    errors: NDArray[Any],
    statistic: Callable[[NDArray[Any]], Any],
    fewest: int,
) -> list[list[float | None]]:
    """Return a statistic of the errors in every cell, line by line; None in those with too few rows."""

    def value(inside: NDArray[Any]) -> float | None:
        return float(statistic(errors[inside])) if inside.sum() >= fewest else None

    return _cells(pair, bands, value)


def _cells(pair: tuple[Axis, Axis], bands: Bands, value: Callable[[NDArray[Any]], Any]) -> list[list[Any]]:
    columns, lines = (range(len(axis.edges) - 1) for axis in pair)
    return [[value((bands[0] == column) & (bands[1] == line)) for column in columns] for line in lines]


def below_floor(
    charts: Sequence[Mapping[str, Any]], floor: str | None, network: str = "network"
) -> dict[str, Any] | None:
    """Say in which cells of the maps a network is worse than the baseline that none may be worse than.

    Args:
        charts: Maps with the values of both.
        floor: Name of the baseline; None for a task without one.
        network: Name of the network.

    Returns:
        `baseline`, and `maps`: for each its `axes` (names), its `metric`, the number of `cells` that could be
        compared, and `worse`, their limits and both values where the network's is the larger one. None
        without such a baseline.
    """
    if floor is None or not all(floor in chart["values"] for chart in charts):
        return None
    return {"baseline": floor, "maps": [_below(chart, floor, network) for chart in charts]}


def _below(chart: Mapping[str, Any], floor: str, network: str) -> dict[str, Any]:
    compared, worse = 0, []
    across, along = (list(pairwise(axis["edges"])) for axis in chart["axes"])
    for line, limits in enumerate(along):
        for column, others in enumerate(across):
            own, other = (chart["values"][name][line][column] for name in (network, floor))
            if own is None or other is None:
                continue
            compared += 1
            if own > other:
                worse.append({"cell": [list(others), list(limits)], "network": own, "baseline": other})
    names = [axis["name"] for axis in chart["axes"]]
    return {"axes": names, "metric": chart["metric"], "cells": compared, "worse": worse}


def plain_curve(curve: Curve) -> dict[str, Any]:
    """Return a curve as JSON has it, with None for what is not a number."""

    def numbers(values: NDArray[Any]) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    lines = [
        {"label": line.label, "kind": line.kind, "x": numbers(line.x), "y": numbers(line.y)}
        for line in curve.lines
    ]
    keys = ("name", "title", "x_label", "y_label", "log")
    return {key: getattr(curve, key) for key in keys} | {"lines": lines}
