"""`trackkeras dimuon mass`: the mass of found pairs, as numbers and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trackkeras.console import JsonOption, print_json
from trackkeras.domains.dimuon.command_files import new_files, number_of_events, shown
from trackkeras.domains.dimuon.command_options import OverwriteOption
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.dimuon.mass import MassResponse
    from trackkeras.domains.dimuon.mass_fit import Peak
    from trackkeras.domains.dimuon.pairs import Pairs

PICTURES = (".png", ".svg")


def mass(
    files: Annotated[list[str], typer.Argument(help="Reconstructed files; a pattern in quotes.")],
    out: Annotated[Path, typer.Option(help="Picture to write, .png or .svg.")] = Path("mass.png"),
    min_p_right: Annotated[
        float, typer.Option(help="Least qpright of both muons; needs a quality network.")
    ] = 0.0,
    min_hits: Annotated[int, typer.Option(help="Fewest hits of both muons.")] = 1,
    window: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="Masses in the fit [GeV].")
    ] = (2.0, 5.0),
    bins: Annotated[int, typer.Option(help="Bins in the window.")] = 60,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit the peak in the mass of found pairs, and set pairs of different events beside it.

    The fit is a Gaussian on an exponential; its errors are those of the likelihood. Where the truth is known,
    pairs of different events show how far the mass follows it: a slope below 1 narrows any peak.

    Example: trackkeras dimuon mass qtracker_reco.root --min-p-right 0.5 --out mass.png
    """
    picture_kind(out)
    from tfrecords_tools.files import expand, new_file
    from trackkeras.domains.dimuon.mass import mixed_response
    from trackkeras.domains.dimuon.mass_fit import fit_peak
    from trackkeras.domains.dimuon.pairs import SHIFTS, Cuts, read_pairs
    from trackkeras.domains.dimuon.rus_reading import read_rus

    cuts = Cuts(min_p_right, min_hits)
    (path,) = new_files([out], overwrite)
    paths = expand(files)
    total = sum(map(number_of_events, paths))
    chunks = ((events, file) for file in paths for events in read_rus(file))
    pairs = read_pairs(shown(chunks, "mass", total), cuts)
    peak = fit_peak(pairs.mass(), window, bins)
    known = pairs.known
    response = None
    if known.sum() > SHIFTS:
        truth, found = pairs.truth[known], pairs.momentum[known]
        response = mixed_response((truth[:, 0], truth[:, 1]), (found[:, 0], found[:, 1]), SHIFTS)
    from trackkeras import plots
    from trackkeras.domains.dimuon.mass_figure import draw

    content = plots.render(draw(pairs, peak, response), picture_kind(out))
    with new_file(path) as stream:
        stream.write(content)
    result = summary(pairs, peak, response) | {
        "cuts": {"min_p_right": min_p_right, "min_hits": min_hits},
        "files": [str(file) for file in paths],
        "picture": str(path),
    }
    if as_json:
        print_json(result)
    else:
        print("\n".join(_lines(result, peak)))


def picture_kind(path: Path) -> str:
    """Return `png` or `svg`.

    Raises:
        UserError: The name ends otherwise.
    """
    if path.suffix not in PICTURES:
        raise UserError(f"a picture's name must end in {' or '.join(PICTURES)}, received {path}")
    return path.suffix[1:]


def summary(pairs: Pairs, peak: Peak, response: MassResponse | None) -> dict[str, Any]:
    """Return all numbers as plain data; masses in GeV."""
    from dataclasses import asdict

    import numpy as np

    found = pairs.mass()
    low, high = np.quantile(found, [0.159, 0.841])
    truth = pairs.true_mass()
    fit = {name: asdict(getattr(peak, name)) for name in ("mass", "width", "signal", "background")}
    return {
        "events": pairs.events,
        "pairs": len(pairs),
        "fit": fit
        | {
            "window": [float(peak.edges[0]), float(peak.edges[-1])],
            "bins": len(peak.counts),
            "pairs": int(peak.counts.sum()),
            "chi2": peak.chi2,
            "ndf": peak.ndf,
        },
        "mean": float(found.mean()),
        "median": float(np.median(found)),
        "half_width_68": float(high - low) / 2,
        "truth": {"pairs": len(truth), "mean": float(truth.mean()), "sd": float(truth.std())}
        if len(truth)
        else None,
        "mixed": asdict(response) if response is not None else None,
    }


def _lines(result: dict[str, Any], peak: Peak) -> list[str]:
    lines = [
        f"{result['pairs']:,} pairs of {result['events']:,} events, {result['fit']['pairs']:,} in the window",
        str(peak),
        f"in the peak {peak.signal}, beside it {peak.background}; chi2 {peak.chi2:.1f} for {peak.ndf}",
    ]
    if result["truth"]:
        lines.append(f"true mass {result['truth']['mean']:.4f} GeV, sd {result['truth']['sd']:.4f} GeV")
    if result["mixed"]:
        mixed = result["mixed"]
        lines.append(
            f"pairs of different events: slope {mixed['slope']:.3f} against the true mass, bias "
            f"{mixed['bias']:+.3f} GeV, half width {mixed['width']:.3f} GeV"
        )
    return [*lines, f"{result['picture']}: written"]
