"""Explicit Runge-Kutta methods as data: a method is its Butcher tableau.

A new method is a new entry of `TABLEAUS`; no code knows one by name. The module is light on purpose: the
options of a run name a method and a step without loading Numba.
"""

from __future__ import annotations

from dataclasses import dataclass

from trackkeras.errors import UserError

DEFAULT_STEP = 100.0
"""Longest step [mm] of RK4 unless another is asked for.

Position error against 2.5 mm steps, 20,000 tracks of the default contract in the field `lhcb` [um]:

    step [mm]     25       50       75       100      150      200      400
    mean          0.0003   0.005    0.024    0.076    0.38     1.2      19
    95 %          0.0004   0.006    0.028    0.089    0.44     1.4      20
    worst         1.1      18       90       290      1450     4700     135,000

The worst tracks have the lowest momenta, near the slope limit. At 100 mm the mean is below the rounding of
the inputs and outputs to float32.
"""


@dataclass(frozen=True)
class Tableau:
    """An explicit method with `s` stages.

    Attributes:
        order: Global order: the error over a fixed length falls as `step ** order`.
        a: Stage weights, row `i` has `i` entries.
        b: Weights of the final sum, `s` entries.
        c: Nodes, `s` entries; the row sums of `a`.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]

    @property
    def stages(self) -> int:
        """Number of field calls per step."""
        return len(self.b)


TABLEAUS = {
    "midpoint": Tableau(order=2, a=((), (1 / 2,)), b=(0.0, 1.0), c=(0.0, 1 / 2)),
    "ralston3": Tableau(
        order=3,
        a=((), (1 / 2,), (0.0, 3 / 4)),
        b=(2 / 9, 1 / 3, 4 / 9),
        c=(0.0, 1 / 2, 3 / 4),
    ),
    "rk4": Tableau(
        order=4,
        a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
        c=(0.0, 1 / 2, 1 / 2, 1.0),
    ),
}


def find_tableau(method: str) -> Tableau:
    """Return the tableau called `method`.

    Raises:
        UserError: There is no such method.
    """
    if method not in TABLEAUS:
        raise UserError(f"no integration method named {method!r}; there are: {', '.join(TABLEAUS)}")
    return TABLEAUS[method]
