"""What the Pareto page puts beside networks: every Runge-Kutta method at every setting, coarse ones included.

The methods run in Numba on a trilinear and on a tricubic map of the field `lhcb` and on its closed form, and
two of them in C++ on the trilinear map. A track that leaves the map on a coarse path has no answer: it counts
as an infinite error of that method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.native import find_compiler, write_column
from trackkeras.domain import Rows
from trackkeras.domains.extrapolation.cpp_baseline import CppBaseline
from trackkeras.domains.extrapolation.cpp_baseline import Method as CppMethod
from trackkeras.domains.extrapolation.fields import Field, make_field
from trackkeras.domains.extrapolation.grid import write_grid
from trackkeras.domains.extrapolation.grid_nodes import NODES
from trackkeras.domains.extrapolation.kernels import MAXWELL
from trackkeras.domains.extrapolation.propagation import Propagated, propagate
from trackkeras.domains.extrapolation.tableaus import TABLEAUS

STEPS = (50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)
TOLERANCES = (1e-3, 1e-1, 1.0, 10.0, 100.0)
LONG_STEPS = 2500.0
"""Longest step [mm] that is tried beside the default for tolerances of 1 mm and more."""

CPP_METHODS = (
    *(CppMethod("rk4", step, f"rk4, steps of {step:g} mm") for step in STEPS[1:]),
    *(CppMethod("adaptive", tolerance, f"cash_karp, {tolerance:g} mm") for tolerance in TOLERANCES),
)

FINE_STEP = 20.0
"""Step [mm] of the reference on a map: aligned with its planes, five steps to the cell."""
EXACT: dict[str, Any] = {"method": "dormand_prince45", "tolerance": 1e-6, "step": 250.0}
"""Reference of the closed form."""

MAP, CUBIC_MAP, CLOSED_FORM = "trilinear map", "tricubic map", "closed form"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contestant:
    """One point of the page before it has a time.

    Attributes:
        name: Label, unique on the page.
        kind: `network` or `classical`.
        field: `trilinear map`, `tricubic map` or `closed form` for a classical method, else empty.
        engine: What runs it.
        method: Name of the tableau, or of the bundle.
        setting: Step or tolerance; empty for a network.
        positions: Final x and y [mm], `(n, 2)`; NaN where there is no answer.
        microseconds: Function that runs it once and returns the time per track [us].
    """

    name: str
    kind: str
    field: str
    engine: str
    method: str
    setting: str
    positions: Array
    microseconds: Callable[[], float]


def make_fields(folder: Path) -> dict[str, Field]:
    """Return the closed form and its maps of 81 x 81 x 146 nodes; the map's file is put in `folder`."""
    lhcb, path = make_field("lhcb"), folder / "lhcb.txt"
    write_grid(lhcb, path, NODES)
    units: dict[str, Any] = {"path": path, "length": "mm", "field": "T"}
    return {
        MAP: make_field("grid", **units),
        CUBIC_MAP: make_field("grid", interpolation="cubic", **units),
        CLOSED_FORM: lhcb,
    }


def reference(field: Field, rows: Rows) -> Propagated:
    """Propagate finely enough that no figure of the page sees a difference; no limit on slopes."""
    exact = EXACT if field.kind == MAXWELL else {"method": "rk4_aligned", "step": FINE_STEP}
    return propagate(field, *columns(rows), max_slope=np.inf, threads=2, **exact)  # type: ignore[arg-type]


def columns(rows: Rows) -> tuple[Array, Array, Array]:
    """Return `state` `(n, 5)`, `z0` `(n,)` and `dz` `(n,)` in double precision."""
    state, z0, dz = (np.ascontiguousarray(rows[name], dtype=np.float64) for name in ("state", "z0", "dz"))
    return state, z0.reshape(-1), dz.reshape(-1)


def settings(method: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Return label and options of every setting of a method."""
    if not TABLEAUS[method].adaptive:
        yield from ((f"steps of {step:g} mm", {"step": step}) for step in STEPS)
        return
    for tolerance in TOLERANCES:
        yield f"{tolerance:g} mm", {"tolerance": tolerance}
        if tolerance >= 1.0:
            yield (
                f"{tolerance:g} mm, steps up to {LONG_STEPS:g} mm",
                {"tolerance": tolerance, "step": LONG_STEPS},
            )


def numba_contestants(fields: Mapping[str, Field], rows: Rows) -> Iterator[Contestant]:
    """Return every method at every setting in Numba, on one thread."""
    arrays = columns(rows)
    for where, field in fields.items():
        for method in TABLEAUS:
            for setting, options in settings(method):
                run = partial(propagate, field, *arrays, method=method, max_slope=np.inf, **options)  # type: ignore[arg-type]
                yield Contestant(
                    name=f"{method}, {setting}, {where}",
                    kind="classical",
                    field=where,
                    engine="Numba",
                    method=method,
                    setting=setting,
                    positions=run().state[:, :2],
                    microseconds=partial(thread_time, run, len(arrays[0])),
                )


def cpp_contestants(rows: Rows, folder: Path) -> Iterator[Contestant]:
    """Return the methods in C++ on the trilinear map; nothing without a compiler."""
    if find_compiler() is None:
        return
    for name, column in rows.items():
        write_column(folder, name, column)
    baseline = CppBaseline(folder)
    for method in CPP_METHODS:
        final, _ = baseline.propagate(method, folder)

        def once(method: CppMethod = method) -> float:
            return float(baseline.run(method, folder)["p50_us"])

        yield Contestant(
            name=f"C++ {method.label}, {MAP}",
            kind="classical",
            field=MAP,
            engine="C++",
            method="rk4" if method.name == "rk4" else "cash_karp",
            setting=method.label.partition(", ")[2],
            positions=final["final_state"][:, :2],
            microseconds=once,
        )


def thread_time(run: Callable[[], object], tracks: int) -> float:
    """Return the processor time per track [us] of one call on this thread."""
    start = time.thread_time()
    run()
    return 1e6 * (time.thread_time() - start) / tracks
