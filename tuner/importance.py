"""How much each hyperparameter decided, as far as the trials of a search can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from tuner.space import Parameter, Space, leaves

FEWEST_TRIALS = 8
TREES, SHUFFLES = 200, 10


def importance(space: Space, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of each searched key in what decided the score, largest first; the sum is 1.

    A random forest (L. Breiman, Machine Learning 45, 2001) learns the score from the settings; a key counts
    as much as the forest's error grows when its column is shuffled among the trials. It describes the trials
    that were made, no other ones, and keys that always changed together share what they did.

    Args:
        space: The searched space.
        records: Finished trials with `settings` and `score`.

    Returns:
        Shares by key; empty where fewer than 8 trials finished, or all are equally good.
    """
    parameters = leaves(space)
    rows = [record for record in records if record.get("score") is not None]
    target = np.array([record["score"] for record in rows])
    if len(rows) < FEWEST_TRIALS or not np.ptp(target) > 0:
        return {}
    columns, owner = [], []
    for key, parameter in parameters.items():
        for column in _columns(parameter, [record["settings"].get(key) for record in rows]):
            columns.append(column)
            owner.append(key)
    table = np.stack(columns, axis=1)
    forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=0).fit(table, target)
    found = permutation_importance(forest, table, target, n_repeats=SHUFFLES, random_state=0)
    shares = dict.fromkeys(parameters, 0.0)
    for key, value in zip(owner, found.importances_mean, strict=True):
        shares[key] += max(0.0, float(value))
    total = sum(shares.values())
    if total == 0:
        return {}
    return {key: value / total for key, value in sorted(shares.items(), key=lambda item: -item[1])}


def _columns(parameter: Parameter, values: Sequence[Any]) -> list[NDArray[Any]]:
    """Return numbers for the values of one key; -1 where it was not asked."""
    if parameter.kind == "list":
        lengths = [-1 if value is None else len(value) for value in values]
        assert parameter.element is not None
        totals = [-1.0 if value is None else sum(_columns(parameter.element, value)[0]) for value in values]
        return [np.array(lengths, float), np.array(totals, float)]
    if parameter.kind in ("choice", "boolean"):
        return [np.array([-1 if value is None else parameter.values.index(value) for value in values], float)]
    numbers = np.array([np.nan if value is None else float(value) for value in values])
    numbers = np.log(numbers) if parameter.log else numbers
    low = np.nanmin(numbers) - 1.0 if np.isfinite(numbers).any() else 0.0
    return [np.nan_to_num(numbers, nan=low)]
