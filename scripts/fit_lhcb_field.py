#!/usr/bin/env python
"""Fit the field `lhcb` again and print its parameters and how well they do.

Reads the first rows of the sample of tracks through the LHCb map (the profile and the integral stand in the
package). Nothing is written: the printed table is what `trackkeras/domains/extrapolation/lhcb.py` holds.

Example:
    scripts/fit_lhcb_field.py --data ../shared/data --terms 6
    scripts/fit_lhcb_field.py --data ../shared/data --check      # judge the shipped parameters, no fit
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from trackkeras.domains.extrapolation import lhcb, real_data
from trackkeras.domains.extrapolation.field_fit import (
    FitOptions,
    Profile,
    Tracks,
    fit_maxwell,
    rounded,
    track_errors,
)
from trackkeras.domains.extrapolation.field_report import describe
from trackkeras.domains.extrapolation.fields import Field, make_field
from trackkeras.errors import UserError
from trackkeras.units import qop_from_allen


def main() -> None:
    """Parse the arguments, fit, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, default=real_data.data_folder(), help="folder that holds lhcb/")
    parser.add_argument(
        "--terms", type=int, default=len(lhcb.TERMS), help="terms to fit (default: %(default)s)"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=real_data.FIT_ROWS,
        help="tracks to fit, from the first (default: %(default)s)",
    )
    parser.add_argument("--starts", type=int, default=FitOptions().starts, help="(default: %(default)s)")
    parser.add_argument(
        "--evaluations", type=int, default=FitOptions().evaluations, help="(default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the starting points (default: %(default)s)")
    parser.add_argument(
        "--check", action="store_true", help="judge the shipped parameters instead of fitting"
    )
    arguments = parser.parse_args()
    try:
        run(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")


def run(arguments: argparse.Namespace) -> None:
    """Fit, or take what is shipped, and print.

    Raises:
        UserError: The data is absent, or the rows asked for are not those set aside for the fit.
    """
    if arguments.data is None:
        raise UserError("no data folder; name it with --data")
    if not 1 <= arguments.rows <= real_data.FIT_ROWS:
        raise UserError(
            f"--rows is 1 to {real_data.FIT_ROWS}, the rows set aside for it; received {arguments.rows}"
        )
    tracks = fit_tracks(arguments.data)
    fitted, rest = tracks[: arguments.rows], tracks[arguments.rows :]
    if arguments.check:
        terms = lhcb.TERMS
    else:
        options = FitOptions(starts=arguments.starts, evaluations=arguments.evaluations)
        profile = Profile(lhcb.PROFILE_Z, -lhcb.PROFILE_ABS_B, lhcb.PROFILE_INTEGRAL)
        result = fit_maxwell(profile, fitted, arguments.terms, arguments.seed, options, log=print)
        terms = rounded(result.terms)
    print("TERMS = (")
    for row in terms:
        print(f"    {row},")
    print(")")
    magnet = make_field("maxwell", terms=terms)
    print_properties(magnet)
    print_errors("rows of the fit", magnet, fitted)
    if len(rest):
        print_errors("rows left out of the fit", magnet, rest)
    if arguments.check:
        for name, rows in (
            ("rows never used", real_data.real_field_crossing(arguments.data)),
            ("C++ states 3000 to 12000 mm", real_data.cpp_states(arguments.data)),
        ):
            z0, dz = float(rows["z0"][0, 0]), float(rows["dz"][0, 0])
            print_errors(name, magnet, Tracks(rows["state"], rows["final_state"], z0, z0 + dz))


def fit_tracks(data: Path) -> Tracks:
    """Return the tracks set aside for the fit."""
    path = data / "lhcb" / "real_field_crossing_4000.npz"
    try:
        with np.load(path) as arrays:
            start, end = (arrays[name][: real_data.FIT_ROWS].copy() for name in ("X_plane", "Y_true"))
    except OSError:
        raise UserError(f"cannot read {path}; --data names the folder that holds lhcb/") from None
    start[:, 4] = qop_from_allen(start[:, 4])
    return Tracks(start, end, *real_data.CROSSING_Z)


def print_properties(magnet: Field) -> None:
    """Print what the fit must keep besides the tracks."""
    by = magnet.field(0.0, 0.0, lhcb.PROFILE_Z)[:, 1]
    report = describe(magnet)
    print(f"profile: largest difference {np.abs(by + lhcb.PROFILE_ABS_B).max():.4f} T")
    print(
        f"integral of By on the axis: {report['integral_Tm']['By']:.4f} T m, map {lhcb.PROFILE_INTEGRAL} T m"
    )
    for region in (lhcb.ACCEPTANCE, lhcb.START_REGION):
        strongest = np.linalg.norm(magnet.field(*region.surface(261, 41)), axis=1).max()
        print(f"largest |B|: {strongest:.2f} T (limit {region.limit:g} T) for {region.text}")
    print(f"div B {report['divergence_T_per_mm']:.1e}, curl B {report['curl_T_per_mm']:.1e} T/mm")


def print_errors(name: str, magnet: Field, tracks: Tracks) -> None:
    """Print median and 95th percentile of the position error."""
    errors = track_errors(magnet, tracks, step=25.0)
    middle, high = np.percentile(errors, [50, 95])
    lost = int(np.isinf(errors).sum())
    print(f"position error, {len(tracks)} {name}: median {middle:.3f} mm, p95 {high:.2f} mm, {lost} lost")


if __name__ == "__main__":
    main()
