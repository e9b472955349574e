"""Networks and classical methods on the same tracks in one run: p95 of the position error against time.

The truth is the closed form of the field `lhcb`, finely propagated. A method on a map of it also makes the
map's error; `own_p95_mm` leaves that out: it is the error against fine steps on the same map. A network is
called ahead of the methods on the map only where it is with the smaller of the two.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundle import Bundle, read_bundle
from serving.native import find_compiler, write_column
from serving.runtime import load
from serving.signature import DEFAULT_SIGNATURE
from trackkeras.domain import Rows
from trackkeras.domains.extrapolation import pareto_methods as methods
from trackkeras.domains.extrapolation.cpp_comparison import BATCH, CppNetwork
from trackkeras.domains.extrapolation.fields import Field
from trackkeras.domains.extrapolation.generation_options import PRESETS
from trackkeras.domains.extrapolation.inference_baselines import INPUTS
from trackkeras.domains.extrapolation.pareto_methods import CLOSED_FORM, CUBIC_MAP, MAP, Contestant
from trackkeras.domains.extrapolation.simulate import make_shard
from trackkeras.errors import UserError
from trackkeras.pareto import Point, Standing, dominates, frontier, judge, standing
from trackkeras.progress import Progress

LIMIT_MM = 0.5
"""Position error [mm] that 95 % of the tracks shall keep."""

SAMPLES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "default": ("the default sample: 0.5 to 100 GeV, |dz| 1 to 10 m", {}),
    "crossing": (
        "the crossing of the magnet, z 2665 to 7826 mm, 2 to 100 GeV; the other limits are the default's",
        PRESETS["crossing"],
    ),
    "vertex_crossing": (
        "the same crossing, tracks from the vertex region alone (pv_fraction 1)",
        {**PRESETS["crossing"], "pv_fraction": 1.0},
    ),
}
"""What is drawn: description, and options of the generator."""

Row = dict[str, Any]


def measure(paths: Sequence[Path], rows: int, rounds: int = 5, seed: int = 2026) -> dict[str, Any]:
    """Measure all networks and all classical methods on all samples.

    Args:
        paths: Version folders of bundles of this domain.
        rows: Tracks that are drawn for each sample.
        rounds: Turns in which every point is timed once; their median counts.
        seed: Seed of the samples.

    Returns:
        `limit_mm`, `rounds`, `seed`, `batch`, `cpp` (whether there was a compiler), `load` (at the start and
        the end), `samples`: `name`,
        `description`, `drawn` and `rows` (those that stay inside the maps), `map_p95_mm` (the error of the
        trilinear and of the tricubic map itself), `points`, `networks` and `verdict`; see `_sample`.

    Raises:
        UserError: No bundle, one of another domain, two of one name, or too few rows or rounds.
        ServingError: A bundle is broken.
    """
    if rounds < 1:
        raise UserError(f"rounds must be at least 1, received {rounds}")
    if rows < 2 * BATCH:
        raise UserError(f"rows must be at least {2 * BATCH}, received {rows}")
    bundles = _bundles(paths)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fields = methods.make_fields(folder)
        compiled = {bundle.name: _compiled(bundle, folder / bundle.name) for bundle in bundles}
        samples = [
            _sample(key, bundles, compiled, fields, folder / f"sample_{key}", (rows, rounds, seed))
            for key in SAMPLES
        ]
    return {
        "limit_mm": LIMIT_MM,
        "rounds": rounds,
        "seed": seed,
        "batch": BATCH,
        "cpp": find_compiler() is not None,
        "load": [load_before, os.getloadavg()[0]],
        "samples": samples,
    }


def _bundles(paths: Sequence[Path]) -> list[Bundle]:
    found: dict[str, Bundle] = {}
    for path in paths:
        bundle = read_bundle(path)
        domain = bundle.description["domain"]
        if domain != "extrapolation":
            raise UserError(f"the Pareto page is about extrapolation; {path} is a bundle of {domain!r}")
        if bundle.name in found:
            raise UserError(f"{found[bundle.name].path} and {path} are both named {bundle.name!r}")
        found[bundle.name] = bundle
    if not found:
        raise UserError("name at least one bundle")
    return list(found.values())


def _compiled(bundle: Bundle, folder: Path) -> CppNetwork | None:
    """Return the generated header as programs; None where there is no header or no compiler."""
    if find_compiler() is None or not any(bundle.path.glob("*.hpp")):
        return None
    folder.mkdir()
    return CppNetwork(bundle, folder)


def _sample(
    name: str,
    bundles: Sequence[Bundle],
    compiled: Mapping[str, CppNetwork | None],
    fields: Mapping[str, Field],
    folder: Path,
    plan: tuple[int, int, int],
) -> dict[str, Any]:
    """Measure one sample.

    `points` are rows of name, kind, field, engine, method, setting, time per track [us], mean and p95 of the
    position error [mm], `own_p95_mm`, share of tracks without an answer, and whether the point is on the
    frontier of all. `networks` says of each network which classical point beats it.
    """
    drawn, rounds, seed = plan
    folder.mkdir()
    description, options = SAMPLES[name]
    rows = _tracks(options, drawn, seed)
    exact = {where: methods.reference(field, rows).state[:, :2] for where, field in fields.items()}
    kept = np.isfinite([values[:, 0] for values in exact.values()]).all(axis=0)
    if kept.sum() < BATCH:
        raise UserError(f"only {kept.sum()} tracks of the sample {name!r} stay inside the map; draw more")
    rows = {key: column[kept] for key, column in rows.items()}
    exact = {where: values[kept] for where, values in exact.items()}
    for key in INPUTS:
        write_column(folder, key, rows[key])
    networks = [*_networks(bundles, compiled, rows, folder)]
    classical = [*methods.cpp_contestants(rows, folder), *methods.numba_contestants(fields, rows)]
    order = _alternating(networks, classical)
    times: list[list[float]] = [[] for _ in order]
    progress = Progress(f"bench pareto, {name}", rounds * len(order), "runs")
    for turn in range(rounds):
        for index, contestant in enumerate(order):
            times[index].append(contestant.microseconds())
            progress.update(turn * len(order) + index + 1)
    progress.finish(rounds * len(order))
    table = [_row(one, statistics.median(taken), exact) for one, taken in zip(order, times, strict=True)]
    return {
        "name": name,
        "description": description,
        "options": dict(options),
        "drawn": drawn,
        "rows": int(kept.sum()),
        "map_p95_mm": {
            where: _quantile(_distance(exact[where], exact[CLOSED_FORM])) for where in (MAP, CUBIC_MAP)
        },
        **conclusions(table, LIMIT_MM),
    }


def _tracks(options: Mapping[str, Any], count: int, seed: int) -> Rows:
    chunks = [columns for columns, _ in make_shard(options, np.random.default_rng(seed), count)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in INPUTS}


def _networks(
    bundles: Sequence[Bundle], compiled: Mapping[str, CppNetwork | None], rows: Rows, folder: Path
) -> Iterator[Contestant]:
    count = len(rows["state"])
    for bundle in bundles:
        backend = load(bundle)

        def run(backend: Any = backend) -> NDArray[Any]:
            parts = [
                backend.run(
                    DEFAULT_SIGNATURE, {key: column[first : first + BATCH] for key, column in rows.items()}
                )
                for first in range(0, count, BATCH)
            ]
            return np.concatenate([part["final_state"] for part in parts])

        final = run()[:, :2].astype(float)
        once = partial(methods.thread_time, run, count)
        yield _network(bundle, "ONNX Runtime", final, once)
        program = compiled[bundle.name]
        if program is not None:
            final = program.predict(rows)["final_state"][:, :2].astype(float)
            yield _network(bundle, "generated C++", final, partial(_in_batches, program, folder))


def _in_batches(program: CppNetwork, folder: Path) -> float:
    return program.times(folder)[1]


def _network(bundle: Bundle, engine: str, positions: NDArray[Any], microseconds: Any) -> Contestant:
    name = f"{bundle.name}, {engine}"
    return Contestant(name, "network", "", engine, bundle.name, "", positions, microseconds)


def _alternating(networks: Sequence[Contestant], classical: Sequence[Contestant]) -> list[Contestant]:
    """Spread the networks evenly among the others, so that both see the same machine."""
    placed = [
        ((index + 0.5) / len(group), one)
        for group in (networks, classical)
        for index, one in enumerate(group)
    ]
    return [one for _, one in sorted(placed, key=lambda pair: pair[0])]


def _row(one: Contestant, time: float, exact: Mapping[str, NDArray[Any]]) -> Row:
    error = _distance(one.positions, exact[CLOSED_FORM])
    own = _distance(one.positions, exact[one.field or CLOSED_FORM])
    missing = ~np.isfinite(one.positions).all(axis=1)
    return {
        **{key: getattr(one, key) for key in ("name", "kind", "field", "engine", "method", "setting")},
        "us_per_track": time,
        "mean_mm": None if missing.all() else float(error[~missing].mean()),
        "p95_mm": _quantile(error),
        "own_p95_mm": _quantile(own),
        "lost": float(missing.mean()),
    }


def _distance(positions: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    """Return distances [mm], `(n,)`; infinite where there is no answer."""
    distance = np.hypot(*(positions - truth).T)
    return np.where(np.isfinite(distance), distance, np.inf)


def _quantile(distance: NDArray[Any]) -> float | None:
    value = float(np.quantile(distance, 0.95, method="higher"))
    return value if np.isfinite(value) else None


# -- what follows from the numbers -------------------------------------------------------------------------


def conclusions(table: Sequence[Row], limit: float) -> dict[str, Any]:
    """Return the points with their frontier, what beats each network, and the verdict.

    Args:
        table: Rows of points, as `measure` gives them.
        limit: Position error [mm] of the verdict.
    """
    points = [_point(row) for row in table]
    best = {point.name for point in frontier(points)}
    networks = [point for point, row in zip(points, table, strict=True) if row["kind"] == "network"]
    classical = [point for point, row in zip(points, table, strict=True) if row["kind"] == "classical"]
    # Fine steps on the map answer for the map: rivals have the smaller of both errors.
    on_map = [
        min(_point(row), _point(row, "own_p95_mm"), key=lambda point: point.error)
        for row in table
        if row["field"] in (MAP, CUBIC_MAP)
    ]
    verdict = judge(networks, on_map, limit)
    return {
        "points": [row | {"frontier": row["name"] in best} for row in table],
        "networks": [
            {
                "name": network.name,
                "p95_mm": _finite(network.error),
                "us_per_track": network.us,
                "all": _standing(standing(network, classical)),
                "on_map": _standing(standing(network, on_map)),
                "beats": sum(dominates(network, rival) for rival in classical),
            }
            for network in networks
        ],
        "classical": len(classical),
        "verdict": {
            "limit_mm": limit,
            "ahead": verdict.ahead,
            "within": verdict.within,
            "best": _named(verdict.best),
            "rival": _named(verdict.rival),
            "standing": _standing(verdict.standing),
        },
    }


def _point(row: Row, error: str = "p95_mm") -> Point:
    return Point(row["name"], row["us_per_track"], np.inf if row[error] is None else row[error])


def _standing(found: Standing) -> Row:
    return {
        "beaten_by": _named(found.beaten_by),
        "equal_error": _named(found.equal_error),
        "equal_time": _named(found.equal_time),
        "time_ratio": found.time_ratio,
        "error_ratio": found.error_ratio,
    }


def _named(point: Point | None) -> Row | None:
    if point is None:
        return None
    return {"name": point.name, "us_per_track": point.us, "p95_mm": _finite(point.error)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
