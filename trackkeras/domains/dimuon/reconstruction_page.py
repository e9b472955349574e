"""The page of an evaluated reconstruction: numbers, figures and one event, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trackkeras import plots
from trackkeras.domains.dimuon import reconstruction_figures as figures
from trackkeras.domains.dimuon.detectors import DETECTORS
from trackkeras.domains.dimuon.event_display import Shown, draw_matrix, draw_tracks
from trackkeras.domains.dimuon.momentum import COMPONENTS
from trackkeras.pages import render_page

Row = Mapping[str, Any]


def page(
    summary: Row, shown: Shown, softmax: NDArray[np.float32] | None, files: Sequence[str], command: str
) -> str:
    """Return the page.

    Args:
        summary: What `reconstruction_metrics.summarise` returns.
        shown: The event to show.
        softmax: What the finder says of it, or None.
        files: Names of the reconstructed files.
        command: The command that made the page.
    """
    muons, rules = summary["muons"], summary["rules"]
    return render_page(
        "sections.html.j2",
        kicker="trackkeras dimuon evaluate",
        title=", ".join(files),
        simulated=True,
        lead=f"{summary['events']:,} events with {muons['true']:,} true muons, of which "
        f"{muons['right']:,} were found rightly; {muons['found']:,} were found in all. Intervals hold 95 %, "
        "by resampling the muons.",
        sections=[
            {
                "title": "At a glance",
                "texts": [
                    f"A true muon counts if it has {rules['least_hits']} hits. A found one is right if "
                    f"{rules['least_share']:.0%} of its hits are those of the true muon of its charge, and "
                    f"it has {rules['least_share']:.0%} of that muon's hits; every other one is a fake."
                ],
                "cards": _cards(summary),
            },
            _occupancy(summary["bands"]),
            _momentum(summary),
            _detectors(summary),
            _event(shown, softmax),
        ],
        command=command,
    )


def _cards(summary: Row) -> list[Row]:
    shares = [
        {"label": label, "cell": summary[key] or {"value": None}, "note": note}
        for key, label, note in (
            ("efficiency", "efficiency", "of true muons are found rightly"),
            ("fake_rate", "fake rate", "of found muons are not right"),
            ("completeness", "completeness", "of a true muon's hits, on average"),
        )
    ]
    right = summary["momentum"]["right"]
    widths = [
        {"label": f"{name}, half width of 68 % [GeV]", "cell": right[name]["w68"], "note": "of right muons"}
        for name in COMPONENTS
    ] if right else []  # fmt: skip
    return [*shares, *widths]


def _occupancy(bands: Sequence[Row]) -> Row:
    return {
        "title": "Background",
        "figures": [_svg(figures.shares(bands), "shares", "efficiency and fake rate by background tracks")],
        "tables": [
            {
                "title": "",
                "columns": [
                    *("background tracks", "true muons", "efficiency", "found muons", "fake rate"),
                    "share of true hits found",
                ],
                "rows": [
                    [
                        band["label"],
                        band["true_muons"],
                        band["efficiency"],
                        band["found_muons"],
                        band["fake_rate"],
                        band["completeness"],
                    ]
                    for band in bands
                ],
            }
        ],
    }


def _momentum(summary: Row) -> Row:
    bands = summary["bands"]
    rows = [("right, all", summary["momentum"]["right"]), ("found, all", summary["momentum"]["found"])]
    rows += [
        (f"right, {band['label']} tracks", band["momentum"]["right"]) for band in bands if len(bands) > 1
    ]
    return {
        "title": "Momentum",
        "texts": ["Found less true momentum at the vertex [GeV]."],
        "figures": [
            _svg(figures.momentum(bands), "momentum", "momentum bias and spread by background tracks")
        ],
        "tables": [
            {
                "title": name,
                "columns": ["muons", "number", "bias", "standard deviation", "half width of 68 %"],
                "rows": [
                    [label, cells["muons"], *(cells[name][key] for key in ("mean", "std", "w68"))]
                    for label, cells in rows
                    if cells
                ],
            }
            for name in COMPONENTS
        ],
    }


def _detectors(summary: Row) -> Row:
    columns = ["true hits", "share found", "residual, mean", "rms", "exact", "within 2"]
    keys = ("true_hits", "completeness", "residual_mean", "residual_rms", "exact", "near")
    rows = summary["detectors"]
    kinds = [DETECTORS[row["number"] - 1].kind for row in rows]
    return {
        "title": "Hits",
        "texts": [
            "Share found: of the hits of true muons that count, those that the found muon has; its interval "
            "reckons with hits of one event being lost together. Residuals: found less true element, "
            "wherever both have one."
        ],
        "figures": [
            _svg(figures.detectors(rows, kinds), "detectors", "hits found and residuals by detector")
        ],
        "tables": [
            {
                "title": "By station",
                "columns": ["station", *columns],
                "rows": [
                    [f"{row['station']}, {row['kind']}s", *(row[key] for key in keys)]
                    for row in summary["stations"]
                ],
            },
            {
                "title": "By detector",
                "columns": ["detector", *columns],
                "rows": [[f"{row['number']} {row['name']}", *(row[key] for key in keys)] for row in rows],
            },
        ],
    }


def _event(shown: Shown, softmax: NDArray[np.float32] | None) -> Row:
    texts = [
        "Seen from above and from the side; bars are fired elements, as long as these are wide, those of "
        "stereo planes faint. Then the hit matrix"
        + (", and what the finder says." if softmax is not None else "; the file holds no softmaxTree.")
    ]
    return {
        "title": f"Event {shown.number}",
        "texts": texts,
        "figures": [
            _svg(draw_tracks(shown), "tracks", "hits and tracks of one event"),
            _svg(draw_matrix(shown, softmax), "matrix", "hit matrix of one event"),
        ],
    }


def _svg(figure: Figure, name: str, text: str) -> Markup:
    return plots.inline_svg(plots.render(figure, "svg").decode(), name, text)
