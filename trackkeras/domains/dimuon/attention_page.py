"""The page of a finder's attention: its maps of one event, and how much of it falls on which hits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from trackkeras import plots
from trackkeras.pages import render_page


def page(run: str, event: str, figure: Figure, maps: Mapping[str, Mapping[str, Any]], command: str) -> str:
    """Return the page, one HTML file that loads nothing.

    Args:
        run: Name of the run.
        event: What event it is.
        figure: Result of `attention_maps.attention_figure`.
        maps: Result of `attention_maps.attention_summary`.
        command: The command that made the page.
    """
    svg = plots.inline_svg(plots.render(figure, "svg").decode(), "attention", "attention maps of one event")
    return render_page(
        "sections.html.j2",
        kicker="trackkeras dimuon attention",
        title=run,
        simulated=True,
        lead=f"Where the network looks in {event}.",
        sections=[
            {
                "title": "Maps",
                "texts": [
                    "Each block multiplies what it has found by a map from 0 to 1. A cell of a map covers "
                    "several detectors and elements, as the network halves both from stage to stage."
                ],
                "figures": [svg],
            },
            {
                "title": "Attention by hit",
                "texts": [
                    "Mean of the map over its cells with a hit of the true muons, with other hits alone, and "
                    "without a hit. A block that tells muons from background has the first above the second."
                ],
                "tables": [
                    {
                        "title": "",
                        "columns": ["block", "detectors x elements", "muons' hits", "other hits", "no hit"],
                        "rows": [
                            [
                                name,
                                f"{summary['rows']} x {summary['columns']}",
                                *(summary[key] for key in ("on_muons", "on_others", "on_nothing")),
                            ]
                            for name, summary in maps.items()
                        ],
                    }
                ],
            },
        ],
        command=command,
    )
