"""Speed against error of every method on every form of the field, in one run.

Sample: tracks from the collision point, p uniform in its logarithm, 2 to 100 GeV, z 2000 -> 12,000 mm in the
field `lhcb`, as a closed form and written to a grid of 81 x 81 x 146 nodes; tracks that leave the grid on the
way are left out. Every round takes every row's processor time once, on one thread, so that all rows see the
same machine; the table gives medians of the rounds.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.domains.extrapolation.fields import Field, make_field
from trackkeras.domains.extrapolation.grid import write_grid
from trackkeras.domains.extrapolation.kernels import MAXWELL
from trackkeras.domains.extrapolation.propagation import Status, propagate
from trackkeras.domains.extrapolation.tableaus import TABLEAUS
from trackkeras.errors import UserError
from trackkeras.units import GEV

Z0, DZ = 2000.0, 10_000.0
MOMENTA = (2.0, 100.0)
SLOPES = (0.25, 0.2)
VERTEX_WIDTH = 20.0

STEPS = (50.0, 100.0, 200.0)
TOLERANCES = (1e-5, 1e-3, 1e-1)

BASE = ("trilinear grid", "rk4_aligned", "100 mm")
"""The row that `ratio` refers to."""

REFERENCE_ROWS = 1000
REFERENCE_STEP = 1.0
REFERENCE_TOLERANCE = 1e-10

ACTS_ROWS = 500

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One row: `run()` propagates `tracks` tracks, `error` [um] is that of the first of them."""

    field: str
    method: str
    setting: str
    run: Callable[[], Any]
    tracks: int
    error: Array
    field_calls: float | None


def measure(tracks: int, rounds: int = 5) -> list[dict[str, Any]]:
    """Measure every method.

    Args:
        tracks: Number of tracks that a row propagates.
        rounds: Number of rounds.

    Returns:
        One row per field, method and step or tolerance, with microseconds per track on one core, mean, 95th
        percentile and largest position error [um], field calls per track, and the median over the rounds of
        the row's time per track over that of `BASE`.
    """
    if tracks < 1 or rounds < 1:
        raise UserError(f"tracks and rounds must be at least 1, received {tracks} and {rounds}")
    with tempfile.TemporaryDirectory() as folder:
        fields = dict(_fields(Path(folder) / "lhcb.txt"))
        state = _sample(fields, tracks)
        cases = [case for name, field in fields.items() for case in _cases(name, field, state)]
        cases += _acts(Path(folder) / "lhcb.txt", fields[BASE[0]], state)
        times = np.empty((rounds, len(cases)))
        for measured in times:
            for index, case in enumerate(cases):
                start = time.thread_time()
                case.run()
                measured[index] = 1e6 * (time.thread_time() - start) / case.tracks
    base = [(case.field, case.method, case.setting) for case in cases].index(BASE)
    return [
        {
            "field": case.field,
            "method": case.method,
            "step_or_tolerance": case.setting,
            "us_per_track": statistics.median(times[:, index]),
            "mean_error_um": float(case.error.mean()),
            "p95_error_um": float(np.quantile(case.error, 0.95)),
            "max_error_um": float(case.error.max()),
            "field_calls": case.field_calls,
            "ratio": statistics.median(times[:, index] / times[:, base]),
        }
        for index, case in enumerate(cases)
    ]


def _fields(path: Path) -> Iterator[tuple[str, Field]]:
    lhcb = make_field("lhcb")
    write_grid(lhcb, path)
    units: dict[str, Any] = {"path": path, "length": "mm", "field": "T"}
    yield "trilinear grid", make_field("grid", **units)
    yield "tricubic grid", make_field("grid", interpolation="cubic", **units)
    yield "closed form", lhcb


def _sample(fields: dict[str, Field], tracks: int) -> Array:
    """Return tracks that reach the end in every field, `(tracks, 5)`."""
    rng = np.random.default_rng(0)
    found: list[Array] = []
    while sum(map(len, found)) < tracks:
        n = tracks + 64
        momentum = GEV * MOMENTA[0] * (MOMENTA[1] / MOMENTA[0]) ** rng.random(n)
        slope = rng.uniform(-1.0, 1.0, (n, 2)) * SLOPES
        place = Z0 * slope + rng.normal(0.0, VERTEX_WIDTH, (n, 2))
        state = np.column_stack([place, slope, rng.choice([-1.0, 1.0], n) / momentum])
        for field in fields.values():
            state = state[propagate(field, state, Z0, DZ, method="rk4_aligned").status == Status.OK]
        found.append(state)
    return np.concatenate(found)[:tracks]


def _cases(name: str, field: Field, state: Array) -> Iterator[Case]:
    reference = _reference(field, state)
    for method, tableau in TABLEAUS.items():
        if tableau.order < 4:
            continue
        settings: list[tuple[str, dict[str, float]]] = (
            [(f"{tolerance:g} mm", {"tolerance": tolerance}) for tolerance in TOLERANCES]
            if tableau.adaptive
            else [(f"{step:g} mm", {"step": step}) for step in STEPS]
        )
        for setting, options in settings:
            run = partial(propagate, field, state, Z0, DZ, method=method, **options)  # type: ignore[arg-type]
            done = run()
            yield Case(
                name,
                method,
                setting,
                run,
                len(state),
                _error(done.state, reference),
                float(done.field_calls.mean()),
            )


def _reference(field: Field, state: Array) -> Array:
    """Return final states: 1 mm RK4 on a grid, error control at a tight tolerance in a closed form."""
    first = state[:REFERENCE_ROWS]
    if field.kind == MAXWELL:
        exact = {"method": "dormand_prince45", "tolerance": REFERENCE_TOLERANCE}
    else:
        exact = {"step": REFERENCE_STEP}
    return propagate(field, first, Z0, DZ, threads=2, **exact).state  # type: ignore[arg-type]


def _error(final: Array, reference: Array) -> Array:
    """Return distances [um] of the tracks that have a reference."""
    n = min(len(final), len(reference))
    error = 1000.0 * np.hypot(*(final[:n, :2] - reference[:n, :2]).T)
    return error[np.isfinite(error)]


def acts_case(folder: Path, tracks: int = ACTS_ROWS) -> Case | None:
    """Return ACTS on the trilinear map, or None where `pyacts` is not installed.

    Args:
        folder: Where the map is written.
        tracks: Number of tracks.
    """
    if importlib.util.find_spec("acts") is None:
        return None
    path = folder / "lhcb.txt"
    field = next(_fields(path))[1]
    (case,) = _acts(path, field, _sample({BASE[0]: field}, tracks))
    return case


def _acts(path: Path, field: Field, state: Array) -> list[Case]:
    """Return ACTS' EigenStepper called from Python on the same map, if `pyacts` is installed.

    Start parameters are made beforehand and do not count. Its step control is that of its defaults.
    """
    try:
        import acts
    except ImportError:
        return []
    magnet = acts.MagneticFieldMapXyz(
        str(path), lengthUnit=acts.UnitConstants.mm, bFieldUnit=acts.UnitConstants.T
    )
    quiet = acts.logging.Level.FATAL
    propagator = acts.EigenVoidPropagator(acts.EigenStepper(magnet), acts.VoidNavigator(), quiet)
    options = acts.PropagatorPlainOptions(
        acts.GeometryContext.dangerouslyDefaultConstruct(), acts.MagneticFieldContext()
    )
    options.loopProtection = False
    end = acts.Transform3(acts.Vector3(0.0, 0.0, Z0 + DZ))
    target = acts.Surface.createPlane(end, acts.RectangleBounds(1e5, 1e5))
    first = state[:ACTS_ROWS]
    starts = []
    for x, y, tx, ty, qop in first.tolist():
        length = math.sqrt(1 + tx * tx + ty * ty)
        direction = acts.Vector3(tx / length, ty / length, 1 / length)
        position = acts.Vector4(x, y, Z0, 0.0)
        particle = acts.ParticleHypothesis.muon
        starts.append(
            acts.BoundTrackParameters.createCurvilinear(position, direction, qop * GEV, None, particle)
        )

    def run() -> list[Any]:
        return [propagator.propagateToSurface(start, target, options) for start in starts]

    final = np.array([[end.parameters[0], end.parameters[1]] for end in run()])
    version = ".".join(map(str, acts.__version__))
    error = _error(final, _reference(field, first))
    return [Case(BASE[0], f"EigenStepper, pyacts {version}", "default", run, len(first), error, None)]
