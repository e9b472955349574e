"""Classical extrapolation on the same rows as the network, and what each method costs.

Costs are operations per track: every floating-point addition, subtraction, multiplication, division and
square root of the kernels as they are written (an exponential counts as its polynomial). Comparisons,
selections and integer arithmetic are free. A test counts the kernels' source and holds the constants to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.config import validate
from trackkeras.domain import Baseline, Rows
from trackkeras.domains.extrapolation import kernels
from trackkeras.domains.extrapolation.fields import Field
from trackkeras.domains.extrapolation.generation_options import GenerateOptions
from trackkeras.domains.extrapolation.polynomial import polynomial_of
from trackkeras.domains.extrapolation.propagation import Status, integrate, stage_table
from trackkeras.domains.extrapolation.tableaus import TABLEAUS, Tableau
from trackkeras.units import KAPPA

EXPONENTIAL = 32
"""Operations of one exponential."""

FIELD_POINT = {
    kernels.GAUSSIAN: 36,
    kernels.MAXWELL: 98,
    kernels.TWO_DIPOLE: 42,
    kernels.GRID: 75,
    kernels.GRID_CUBIC: 543,
    kernels.GRID_NEAREST: 11,
    kernels.VARIABLE_GRID: 75,
    kernels.VARIABLE_GRID_CUBIC: 573,
    kernels.VARIABLE_GRID_NEAREST: 11,
}
"""Operations of one field call by kind; for `MAXWELL` of each row of its parameters."""

DERIVATIVE = 24
"""Operations of dtx/dz and dty/dz once the field is known."""

STRAIGHT_LINE = 4
"""Two multiplications and two additions."""

PARABOLA = DERIVATIVE + 13
"""Operations beside its one field call: derivative, KAPPA qop (1), kicks (2), slopes (2), positions (8)."""

BEND_RESIDUAL = 4 * (EXPONENTIAL + 11) + 26
"""Operations of the network's output layer: four field nodes, two sums, the limit and the final state."""

Predict = Callable[[Rows], Rows]


def field_operations(field: Field) -> int:
    """Return the operations of one field call."""
    rows = len(field.params) // kernels.TERM_SIZE if field.kind == kernels.MAXWELL else 1
    return rows * FIELD_POINT[field.kind]


def step_operations(field: Field, tableau: Tableau) -> int:
    """Return the operations of one Runge-Kutta step.

    A step needs its plane (3) and its square (1), a stage its plane (2), the derivative and, unless it takes
    it from another stage, the field. In each of two components a term of a sum is a product of three numbers
    and an addition, and so is the straight part of a position that is not the first.
    """
    positions, slopes, nodes = stage_table(tableau)
    terms = np.count_nonzero(positions) + np.count_nonzero(slopes) + np.count_nonzero(nodes)
    calls = tableau.stages - len(tableau.same_field) - int(tableau.reuse)
    return 4 + 6 * int(terms) + tableau.stages * (2 + DERIVATIVE) + calls * field_operations(field)


def mlp_operations(widths: Sequence[int], activation: int = EXPONENTIAL + 2) -> int:
    """Return the operations of a dense network.

    Args:
        widths: Numbers of inputs, of each layer's units, and of outputs.
        activation: Operations per hidden unit; the default is that of x / (1 + exp(-x)).
    """
    dense = sum(2 * inputs * units for inputs, units in pairwise(widths))
    return dense + activation * sum(widths[1:-1])


def equal_cost_steps(field: Field, operations: float) -> int:
    """Return how many RK4 steps fit into a number of operations; at least 1."""
    return max(1, int(operations // step_operations(field, TABLEAUS["rk4"])))


def straight_line(rows: Rows) -> Rows:
    """Extrapolate without a field.

    Args:
        rows: Columns `state` `(n, 5)`, `dz` `(n, 1)`.

    Returns:
        `final_state` `(n, 5)` float64.
    """
    state, _, dz = _columns(rows)
    final = state.copy()
    final[:, :2] += dz[:, None] * state[:, 2:4]
    return {"final_state": final}


def parabola(field: Field) -> Predict:
    """Return an extrapolation of second order: the bending at z0 holds all the way.

    The returned function raises UserError for rows that start outside the field's volume.
    """

    def predict(rows: Rows) -> Rows:
        state, z0, dz = _columns(rows)
        x, y, tx, ty, qop = state.T
        bx, by, bz = field.field(x, y, z0).T
        factor = KAPPA * qop * np.sqrt(1 + tx * tx + ty * ty)
        kick_x = dz * factor * (tx * ty * bx - (1 + tx * tx) * by + ty * bz)
        kick_y = dz * factor * ((1 + ty * ty) * bx - tx * ty * by - tx * bz)
        final = [x + dz * (tx + 0.5 * kick_x), y + dz * (ty + 0.5 * kick_y), tx + kick_x, ty + kick_y, qop]
        return {"final_state": np.stack(final, axis=1)}

    return predict


def rk4_equal_cost(field: Field, n_steps: int, threads: int | None = None) -> Predict:
    """Return RK4 with the same number of equal steps for every track, on as many threads as `propagate`.

    A track whose coarse path leaves the field's volume gets its straight line: the comparison is over all
    rows, and a method must answer each.
    """

    def predict(rows: Rows) -> Rows:
        state, z0, dz = _columns(rows)
        steps = np.full(len(state), n_steps, np.int64)
        done = integrate(field, state, z0, dz, steps, TABLEAUS["rk4"], np.inf, threads)
        failed = (done.status != Status.OK)[:, None]
        return {"final_state": np.where(failed, straight_line(rows)["final_state"], done.state)}

    return predict


def default_baselines(dataset_config: Mapping[str, Any], operations: float) -> tuple[Baseline, ...]:
    """Return the methods that stand beside a network.

    Args:
        dataset_config: The generator's options from the manifest. Where they name no field, as for imported
            tracks, only the straight line can be computed.
        operations: Cost of the network per track.
    """
    line = Baseline("straight_line", "straight line", straight_line, STRAIGHT_LINE)
    if "field" not in dataset_config:
        return (line,)
    known = {"field": dataset_config["field"]}  # the rest describes the sample, or what was merged
    field = validate(GenerateOptions, known, "the dataset's generator").make_field()
    steps = equal_cost_steps(field, operations)
    polynomial = polynomial_of(dataset_config)
    return (
        line,
        Baseline(
            "parabola",
            f"parabola (field {field.name})",
            parabola(field),
            PARABOLA + field_operations(field),
        ),
        Baseline(
            "polynomial",
            f"fitted polynomial, {polynomial.terms} coefficients (field {field.name})",
            polynomial,
            polynomial.operations + BEND_RESIDUAL,
        ),
        Baseline(
            "rk4_equal_cost",
            f"RK4, {steps} step{'s' * (steps > 1)} (equal cost, field {field.name})",
            rk4_equal_cost(field, steps),
            steps * step_operations(field, TABLEAUS["rk4"]),
        ),
    )


def _columns(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return `state` `(n, 5)`, `z0` `(n,)`, `dz` `(n,)`, contiguous float64."""
    state, z0, dz = (np.ascontiguousarray(rows[name], dtype=np.float64) for name in ("state", "z0", "dz"))
    return state, z0.reshape(-1), dz.reshape(-1)
