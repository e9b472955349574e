"""One shard of generated tracks: draw, propagate, count what is rejected, redraw until the shard is full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrecords_tools.schema import Feature, Schema
from trackkeras.config import validate
from trackkeras.domain import Rows
from trackkeras.domains.extrapolation.fields import Field
from trackkeras.domains.extrapolation.generation_options import GenerateOptions
from trackkeras.domains.extrapolation.propagation import Status, propagate
from trackkeras.domains.extrapolation.sampling import Points, draw_tracks
from trackkeras.errors import UserError
from trackkeras.kernel_cache import compiling

BATCH = 16384
"""Most draws at a time; small enough for a smooth progress display."""

BATCH_STATES = 1 << 18
"""Most states at planes at a time: some 10 MB in double precision, however many planes a track has."""

HOPELESS_DRAWS = 50_000
HOPELESS_ACCEPTANCE = 1e-3

_OUTSIDE_BOX = 100
_REASONS = {
    "outside_box": _OUTSIDE_BOX,
    "left_volume": int(Status.LEFT_VOLUME),
    "slope_limit": int(Status.SLOPE_LIMIT),
    "not_finite": int(Status.NOT_FINITE),
}
_STATE_UNIT = "mm, mm, 1, 1, 1/MeV"


def extrapolation_schema(options: GenerateOptions | None = None) -> Schema:
    """Return the record schema of the extrapolation domain, with the columns that the options add."""
    features = [
        Feature("state", "float32", (5,), _STATE_UNIT, "x, y, tx, ty, q/p at z0"),
        Feature("z0", "float32", (1,), "mm", "plane of the input state"),
        Feature("dz", "float32", (1,), "mm", "signed distance to the output plane"),
        Feature("final_state", "float32", (5,), _STATE_UNIT, "x, y, tx, ty, q/p at z0 + dz"),
    ]
    if options and options.planes:
        k = options.planes
        features += [
            Feature("planes", "float32", (k,), "mm", "intermediate planes z, in the order of the track"),
            Feature("states_at", "float32", (k, 5), _STATE_UNIT, "x, y, tx, ty, q/p at `planes`"),
        ]
    if options and options.importance:
        features.append(
            Feature("weight", "float32", (1,), "1", "density of ln p: uniform over that of the draws", 0.0)
        )
    return Schema(name="extrapolation", features=tuple(features))


def make_shard(
    config: Mapping[str, Any], rng: np.random.Generator, rows: int
) -> Iterator[tuple[Rows, dict[str, int]]]:
    """Generate `rows` tracks in chunks.

    Args:
        config: Values for `GenerateOptions`.
        rng: Source of randomness; the rows are a function of it, of `config` and of `rows` alone.
        rows: Number of accepted tracks.

    Yields:
        The columns of `extrapolation_schema(options)`, `(m, *shape)` float32, and the counts of this chunk:
        `tried`, and the rejected ones by reason. `tried` less the rejected ones is `m`.

    Raises:
        UserError: A bad option, or options under which next to no track is accepted.
    """
    options = validate(GenerateOptions, config, "generate extrapolation")
    field = options.make_field()
    _compile_once(field, options.method)
    points = Points(options.sampling, rng)
    most = min(BATCH, 1 << (BATCH_STATES // (options.planes + 1)).bit_length() - 1)
    tried = accepted = 0
    while accepted < rows:
        wanted = rows - accepted
        # Draw a little more than the acceptance so far asks for: few chunks, little thrown away at the end.
        likely = (accepted + 1) / (tried + 2)
        draws = draw_tracks(options, points, points.size(int(1.05 * wanted / likely) + 64, most))

        start = draws.inside.nonzero()[0]
        planes = _planes(options, rng, draws.z0[start], draws.dz[start])
        done = propagate(
            field,
            draws.state[start],
            draws.z0[start],
            draws.dz[start],
            step=options.step,
            method=options.method,
            tolerance=options.tolerance,
            max_slope=options.slope_limit,
            planes=planes if options.planes else None,
        )
        reason = np.full(len(draws.inside), _OUTSIDE_BOX, np.int8)
        reason[start] = done.status

        good = (reason == Status.OK).nonzero()[0][:wanted]
        seen = int(good[-1]) + 1 if len(good) == wanted else len(reason)  # later draws were never needed
        counts = {"tried": seen} | {
            name: int(np.count_nonzero(reason[:seen] == code)) for name, code in _REASONS.items()
        }
        tried += seen
        accepted += len(good)
        if tried > HOPELESS_DRAWS and accepted < HOPELESS_ACCEPTANCE * tried:
            raise UserError(
                f"only {accepted} of {tried} drawn tracks stay inside the field and the slope limit: "
                "raise p_min, shorten dz_max or narrow the box"
            )
        arrived = (done.status == Status.OK).nonzero()[0][: len(good)]
        columns = {
            "state": draws.state[good],
            "z0": draws.z0[good, None],
            "dz": draws.dz[good, None],
            "final_state": done.state[arrived].astype(np.float32),
        }
        if options.planes:
            columns["planes"] = planes[arrived]
            assert done.states is not None
            columns["states_at"] = done.states[arrived].astype(np.float32)
        if options.importance:
            columns["weight"] = draws.weight[good, None]
        yield columns, counts


@lru_cache
def _compile_once(field: Field, method: str) -> None:
    """Let one process of this host compile the kernels while the others wait for its cache."""
    with compiling():
        middle = 0.5 * (field.volume[4] + field.volume[5])
        propagate(field, np.zeros((1, 5)), middle, 1.0, method=method)


def _planes(
    options: GenerateOptions, rng: np.random.Generator, z0: NDArray[np.float32], dz: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the intermediate planes of every track [mm], `(n, planes)`, in its order, rounded."""
    k = options.planes
    if options.plane_spacing == "random":
        shares = np.sort(rng.random((len(z0), k)), axis=1)
    else:
        shares = np.arange(1.0, k + 1.0)[None] / (k + 1.0)
    return (z0[:, None].astype(np.float64) + dz[:, None] * shares).astype(np.float32)
