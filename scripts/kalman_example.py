#!/usr/bin/env python
"""Fit simulated tracks through UT and SciFi with a Kalman filter: Runge-Kutta, and a network beside it.

A network takes the legs of 1 to 10 m, which is the one through the magnet; the legs between the planes of a
station are shorter than anything it was trained for and go by Runge-Kutta in both fits.

Examples:
    scripts/kalman_example.py --tracks 2000
    scripts/kalman_example.py --bundle bundles/mlp_medium-first/1 --json
    scripts/kalman_example.py --bundle bundles/hybrid_medium-hybrid_medium/1 --engine cpp
    scripts/kalman_example.py --address 127.0.0.1:8500 --model mlp_medium-first
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle import read_bundle
from serving.errors import ServingError
from serving.query import connect
from serving.runtime import load
from trackkeras.domains.extrapolation import kalman, make_field
from trackkeras.domains.extrapolation.cpp_comparison import CppNetwork
from trackkeras.domains.extrapolation.fields import field_options
from trackkeras.domains.extrapolation.jacobian import NAME
from trackkeras.errors import UserError
from trackkeras.progress import Progress
from trackkeras.units import STATE

BATCH = 1000


def main() -> None:
    """Read the command line and fit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracks", type=int, default=2000, help="number of tracks")
    parser.add_argument("--seed", type=int, default=1, help="seed of tracks and hits")
    parser.add_argument("--p-min", type=float, default=2.0, help="smallest momentum [GeV]")
    parser.add_argument("--p-max", type=float, default=100.0, help="largest momentum [GeV]")
    parser.add_argument("--field", default="lhcb", help="field of the simulation and of Runge-Kutta")
    parser.add_argument("--bundle", type=Path, help="version folder of a bundle, run in this process")
    parser.add_argument(
        "--engine",
        choices=("onnx", "cpp"),
        default="onnx",
        help="what runs the bundle: ONNX Runtime, or the header of `export --cpp`",
    )
    parser.add_argument("--address", help="HOST:PORT (gRPC) or http://HOST:PORT (REST) of a server")
    parser.add_argument("--model", help="name of the served model")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    try:
        arguments = parser.parse_args()
        with ExitStack() as stack:
            report = compare(arguments, predictor(arguments, stack))
    except (UserError, ServingError) as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        print(json.dumps(report, indent=1, allow_nan=False))
    else:
        show(report)


def predictor(arguments: argparse.Namespace, stack: ExitStack) -> tuple[str, kalman.Predict] | None:
    """Return the network's name and its function, if one is asked for.

    Raises:
        UserError: Contradicting options, or a network without `state_and_jacobian`.
    """
    address, model = arguments.address, arguments.model
    if (address is None) != (model is None) or (address and arguments.bundle):
        raise UserError("name a network by --bundle, or by --address with --model")
    if address:
        client = stack.enter_context(connect(address))
        return model, lambda inputs: client.predict(model, inputs, signature=NAME, timeout=60.0)
    if arguments.bundle:
        bundle = read_bundle(arguments.bundle)
        if arguments.engine == "cpp":
            if not any(bundle.path.glob("*.hpp")):
                raise UserError(f"{arguments.bundle} has no C++ header; export the run again with --cpp")
            program = CppNetwork(bundle, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            return program.label, program.predict_with_jacobian
        backend = load(bundle)
        if NAME not in backend.signatures:
            raise UserError(f"{arguments.bundle} has no signature {NAME!r}; export the run again")
        return bundle.name, lambda inputs: backend.run(NAME, inputs)
    return None


def compare(arguments: argparse.Namespace, found: tuple[str, kalman.Predict] | None) -> dict[str, Any]:
    """Simulate, fit with every extrapolator, and return what came of it."""
    field = make_field(**field_options(arguments.field, {}))
    layers = kalman.upgraded_detector()
    tracks = kalman.simulate(
        field, layers, arguments.tracks, arguments.seed, arguments.p_min, arguments.p_max
    )
    classical = kalman.runge_kutta(field)
    fits = {"Runge-Kutta": classical}
    if found is not None:
        fits[found[0]] = kalman.network(found[1], classical)
    return {
        "sample": f"{arguments.tracks} simulated tracks from the origin, {arguments.p_min:g} to "
        f"{arguments.p_max:g} GeV, field {arguments.field}, no material, seed {arguments.seed}",
        "legs": len(layers.z) - 1,
        "legs_of_the_network": kalman.network_legs(layers) if found is not None else 0,
        "fits": {name: run(name, transport, layers, tracks) for name, transport in fits.items()},
    }


def run(
    name: str, transport: kalman.Transport, layers: kalman.Layers, tracks: kalman.Tracks
) -> dict[str, Any]:
    """Fit all tracks, some at a time."""
    count = len(tracks.hits)
    progress = Progress(f"fit {name}", count, "tracks")
    parts = []
    for first in range(0, count, BATCH):
        part = slice(first, first + BATCH)
        parts.append(kalman.fit(transport, layers, tracks.hits[part], tracks.seeds[part]))
        progress.update(min(first + BATCH, count))
    progress.finish(count)
    fitted = kalman.Filtered(
        *(np.concatenate([getattr(part, key) for part in parts]) for key in ("state", "covariance", "chi2"))
    )
    return kalman.quality(layers, tracks.states[:, 0], fitted)


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    print(report["sample"])
    print(f"{report['legs_of_the_network']} of {report['legs']} legs by the network, the others Runge-Kutta")
    fits = report["fits"]
    width = 2 + max(22, *map(len, fits))
    print(f"{'':<28}" + "".join(f"{name:>{width}}" for name in fits))
    for key, label in (
        ("lost", "lost tracks"),
        ("chi2_per_ndof_mean", "chi2/ndof, mean"),
        ("chi2_per_ndof_median", "chi2/ndof, median"),
        ("momentum_bias", "p/p_true - 1, median"),
        ("momentum_resolution", "p/p_true - 1, 68 %"),
    ):
        print(f"{label:<28}" + "".join(f"{values[key]:>{width}.4g}" for values in fits.values()))
    for name in STATE:
        pulls = [values["pulls"][name] for values in fits.values()]
        cells = [f"{pull['median']:.3g} +- {pull['half_width_68']:.3g}" for pull in pulls]
        print(f"{f'pull of {name}, median, 68 %':<28}" + "".join(f"{cell:>{width}}" for cell in cells))


if __name__ == "__main__":
    main()
