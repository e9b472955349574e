"""Scores, limits and the Pareto list: order and invariants, beside an independent count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackkeras.domain import find_task
from trackkeras.errors import UserError
from tuner.importance import importance
from tuner.objectives import broken_limits, pareto, quantities, score
from tuner.plan import parse_duration, parse_weights
from tuner.space import parse_space

KNOWN = quantities(find_task("extrapolation", "mlp"))
POSITIVE = st.floats(1e-6, 1e6)
ROWS = st.lists(
    st.fixed_dictionaries({"pos_95_mm": st.integers(1, 5), "parameters": st.integers(1, 5)}), max_size=12
)


@given(POSITIVE, POSITIVE)
def test_one_objective_keeps_its_order_and_more_may_be_better(one: float, other: float) -> None:
    for name, sign in (("pos_95_mm", 1), ("rows_per_s", -1)):
        difference = score({name: 1.0}, {name: one}, KNOWN) - score({name: 1.0}, {name: other}, KNOWN)
        assert np.sign(difference) in (0, sign * np.sign(one - other))


@given(POSITIVE, POSITIVE, st.floats(0.01, 100))
def test_units_drop_out(error: float, parameters: float, unit: float) -> None:
    weights = {"pos_95_mm": 1.0, "parameters": 0.1}
    first = score(weights, {"pos_95_mm": error, "parameters": parameters}, KNOWN)
    second = score(weights, {"pos_95_mm": 3 * error, "parameters": parameters / 7}, KNOWN)
    scaled = score(weights, {"pos_95_mm": unit * error, "parameters": parameters}, KNOWN)
    scaled -= score(weights, {"pos_95_mm": 3 * unit * error, "parameters": parameters / 7}, KNOWN)
    assert scaled == pytest.approx(first - second, abs=1e-9)


def test_the_weight_is_the_exchange_rate() -> None:
    weights = {"pos_95_mm": 1.0, "parameters": 0.1}
    small = score(weights, {"pos_95_mm": 10**0.1, "parameters": 1000}, KNOWN)
    assert score(weights, {"pos_95_mm": 1.0, "parameters": 10_000}, KNOWN) == pytest.approx(small)


@given(ROWS)
def test_the_pareto_list_is_what_nobody_beats(rows: list[dict[str, Any]]) -> None:
    names = ["pos_95_mm", "parameters"]
    front = pareto(rows, names, KNOWN)
    points = np.array([[row[name] for name in names] for row in rows]).reshape(-1, 2)
    expected = [
        index
        for index, point in enumerate(points)
        if not ((points <= point).all(axis=1) & (points < point).any(axis=1)).any()
    ]
    assert front == expected
    assert bool(front) == bool(rows)


def test_a_trial_without_a_quantity_is_not_on_the_list() -> None:
    assert pareto(
        [{"pos_95_mm": 1.0}, {"pos_95_mm": 2.0, "parameters": 3}], ["pos_95_mm", "parameters"], KNOWN
    ) == [1]


def test_limits_bound_what_is_wanted() -> None:
    values = {"parameters": 1000, "rows_per_s": 5e4}
    assert broken_limits({"parameters": 1000, "rows_per_s": 5e4}, values, KNOWN) == []
    assert broken_limits({"parameters": 999}, values, KNOWN) == ["parameters 1000 > 999"]
    assert broken_limits({"rows_per_s": 1e5}, values, KNOWN) == ["rows_per_s 50000 < 100000"]


SPACE = parse_space(
    {
        "training.learning_rate": {"log": [1e-4, 1e-2]},
        "model.activation": {"choice": ["silu", "tanh"]},
        "model.hidden": {"list": {"choice": [8, 16]}, "length": [1, 3]},
        "training.ema": {"choice": [None, 0.9]},
    },
    "test",
)


def trials(count: int, decides: str) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        settings = {
            "training.learning_rate": float(10 ** rng.uniform(-4, -2)),
            "model.activation": str(rng.choice(["silu", "tanh"])),
            "model.hidden": [8] * int(rng.integers(1, 4)),
            "training.ema": [None, 0.9][rng.integers(2)],
        }
        value = {
            "training.learning_rate": np.log(settings["training.learning_rate"]),
            "model.activation": settings["model.activation"] == "tanh",
            "model.hidden": len(settings["model.hidden"]),
        }[decides]
        found.append({"settings": settings, "score": float(value)})
    return found


@pytest.mark.parametrize("decides", ["training.learning_rate", "model.activation", "model.hidden"])
def test_what_decides_is_found(decides: str) -> None:
    shares = importance(SPACE, trials(24, decides))
    assert next(iter(shares)) == decides
    assert shares[decides] > 0.9
    assert sum(shares.values()) == pytest.approx(1.0)
    assert set(shares) == {parameter.key for parameter in SPACE}


def test_few_or_equal_trials_say_nothing() -> None:
    assert importance(SPACE, trials(7, "model.hidden")) == {}
    assert importance(SPACE, [{**row, "score": 1.0} for row in trials(20, "model.hidden")]) == {}


def test_durations_and_weights() -> None:
    assert [parse_duration(text) for text in ("90", "90s", "1.5m", "2h", "1d")] == [90, 90, 90, 7200, 86400]
    for text in ("", "m", "-3s", "0", "3 weeks"):
        with pytest.raises(UserError, match="a duration is a number"):
            parse_duration(text)
    assert parse_weights(["a", "b=0.5"], "objective", 1.0) == {"a": 1.0, "b": 0.5}
    for item in ("a", "a=", "=3", "a=x"):
        with pytest.raises(UserError, match="--limit needs NAME=NUMBER"):
            parse_weights([item], "limit", None)
