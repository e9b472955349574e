"""Explicit Runge-Kutta methods as data: a method is its tableau.

A new method is a new entry of `TABLEAUS`; no code knows one by name. The module is light on purpose: the
options of a run name a method and a step without loading Numba.

The equations of motion are of second order, `u'' = f(z, u, u')` with `u = (x, y)`, and every kernel evaluates
a method in Nyström's form,

    k_i = f(z + c_i h,  u + c_i h u' + h² sum_j p_ij k_j,  u' + h sum_j a_ij k_j)
    u  <- u + h u' + h² sum_i q_i k_i,        u' <- u' + h sum_i b_i k_i.

A Runge-Kutta method is the special case `p = a a`, `q = b a` (E. Hairer, S. P. Nørsett and G. Wanner, Solving
Ordinary Differential Equations I, section II.14).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from trackkeras.errors import UserError

DEFAULT_STEP = 100.0
"""Longest step [mm] of a method without error control unless another is asked for.

Position error of RK4 against 2.5 mm steps, 20,000 tracks of the default contract in the field `lhcb` [um]:

    step [mm]     25       50       75       100      150      200      400
    mean          0.0003   0.005    0.024    0.076    0.38     1.2      19
    95 %          0.0004   0.006    0.028    0.089    0.44     1.4      20
    worst         1.1      18       90       290      1450     4700     135,000

The worst tracks have the lowest momenta, near the slope limit. At 100 mm the mean is below the rounding of
the inputs and outputs to float32.
"""

DEFAULT_LONGEST_STEP = 1000.0
"""Longest step [mm] of a method with error control: it cannot step over a magnet that it has not seen."""

DEFAULT_TOLERANCE = 1e-3
"""Error [mm] that one step of a method with error control may add to the position at the end plane."""

TIGHTEST_TOLERANCE = 1e-11
"""Smallest tolerance [mm]; below, the rounding of positions of several metres is larger than the error."""

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Tableau:
    """An explicit method with `s` stages.

    Attributes:
        order: Global order: the error over a fixed length falls as `step ** order`.
        a: Stage weights, row `i` has `i` entries.
        b: Weights of the final sum, `s` entries.
        c: Nodes, `s` entries; the row sums of `a`.
        error: Weights of the error estimate, `b` less those of the embedded method; empty if there is none.
        error_order: Order of the embedded method; 0 if there is none.
        positions: Weights `p` of the stage positions, `a a` if empty.
        position_b: Weights `q` of the final position, `b a` if empty.
        same_field: Stages that stand at the place of the stage before them and use its field again.
        reuse: The last stage's field serves as the first stage's of the next step.
        aligned: Steps end on planes: those of the field's grid, or multiples of the step.
    """

    order: int
    a: Rows
    b: tuple[float, ...]
    c: tuple[float, ...]
    error: tuple[float, ...] = ()
    error_order: int = 0
    positions: Rows = ()
    position_b: tuple[float, ...] = ()
    same_field: tuple[int, ...] = ()
    reuse: bool = False
    aligned: bool = False

    @property
    def stages(self) -> int:
        """Number of slope evaluations per step."""
        return len(self.b)

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error and chooses its steps."""
        return bool(self.error)

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is the first stage of the next step."""
        return self.c[-1] == 1.0 and (*self.a[-1], 0.0) == self.b

    @property
    def field_calls(self) -> int:
        """Field evaluations per step, all steps but a track's first."""
        return self.stages - len(self.same_field) - int(self.reuse or self.first_same_as_last)


def _pair(
    order: int, a: Rows, c: tuple[float, ...], b: tuple[float, ...], other: tuple[float, ...]
) -> Tableau:
    """Return an embedded pair that goes on with `b`; `other` is the method of one order less."""
    error = tuple(here - there for here, there in zip(b, other, strict=True))
    return Tableau(order=order, a=a, b=b, c=c, error=error, error_order=order - 1)


_RK4 = Tableau(
    order=4,
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 1 / 2, 1 / 2, 1.0),
)

TABLEAUS = {
    "midpoint": Tableau(order=2, a=((), (1 / 2,)), b=(0.0, 1.0), c=(0.0, 1 / 2)),
    "ralston3": Tableau(
        order=3,
        a=((), (1 / 2,), (0.0, 3 / 4)),
        b=(2 / 9, 1 / 3, 4 / 9),
        c=(0.0, 1 / 2, 3 / 4),
    ),
    "rk4": _RK4,
    "rk4_aligned": replace(_RK4, aligned=True),
    # E. Lund et al., JINST 4 (2009) P04001: two field calls per step instead of four.
    "nystrom4": Tableau(
        order=4,
        a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
        c=(0.0, 1 / 2, 1 / 2, 1.0),
        positions=((), (1 / 8,), (1 / 8, 0.0), (0.0, 0.0, 1 / 2)),
        position_b=(1 / 6, 1 / 6, 1 / 6, 0.0),
        same_field=(2,),
        reuse=True,
    ),
    # J. R. Cash and A. H. Karp, ACM Trans. Math. Softw. 16 (1990) 201.
    "cash_karp": _pair(
        order=5,
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (3 / 10, -9 / 10, 6 / 5),
            (-11 / 54, 5 / 2, -70 / 27, 35 / 27),
            (1631 / 55296, 175 / 512, 575 / 13824, 44275 / 110592, 253 / 4096),
        ),
        c=(0.0, 1 / 5, 3 / 10, 3 / 5, 1.0, 7 / 8),
        b=(37 / 378, 0.0, 250 / 621, 125 / 594, 0.0, 512 / 1771),
        other=(2825 / 27648, 0.0, 18575 / 48384, 13525 / 55296, 277 / 14336, 1 / 4),
    ),
    # J. R. Dormand and P. J. Prince, J. Comput. Appl. Math. 6 (1980) 19.
    "dormand_prince45": _pair(
        order=5,
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
        other=(5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
    ),
    # Ch. Tsitouras, Comput. Math. Appl. 62 (2011) 770.
    "tsitouras5": Tableau(
        order=5,
        a=(
            (),
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
            (
                5.86145544294642,
                -12.92096931784711,
                8.159367898576159,
                -0.071584973281401,
                -0.028269050394068383,
            ),
            (
                0.09646076681806523,
                0.01,
                0.4798896504144996,
                1.379008574103742,
                -3.290069515436081,
                2.324710524099774,
            ),
        ),
        c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
        b=(
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
            0.0,
        ),
        error=(
            -0.00178001105222577714,
            -0.0008164344596567469,
            0.007880878010261995,
            -0.1447110071732629,
            0.5823571654525552,
            -0.45808210592918697,
            0.015151515151515152,
        ),
        error_order=4,
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
