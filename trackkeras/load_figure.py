"""The figure of a load test: latency against the rate of answers, in the look of all figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from trackkeras.plots import BASELINE_COLOURS, INK, NETWORK_COLOURS, PAPER, style

_LOOKS: dict[str, dict[str, Any]] = {
    "closed": {"color": BASELINE_COLOURS[1], "marker": "s", "markerfacecolor": PAPER},
    "open": {"color": NETWORK_COLOURS[0], "marker": "o"},
}
_QUANTILES = {"p50_ms": ("median", "-"), "p99_ms": ("99 %", "--")}


def load_figure(result: Mapping[str, Any]) -> Figure:
    """Draw p50 and p99 against the rate of answers, for closed and open loops, and the saturation point.

    Args:
        result: What `serving.loadtest.load_test` returns.
    """
    with style():
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots()
        for loop, look in _LOOKS.items():
            steps = [step for step in result["steps"] if step["loop"] == loop and step["p50_ms"] is not None]
            for key, (label, line) in _QUANTILES.items():
                if steps:
                    rates = [step["requests_per_s"] for step in steps]
                    axes.plot(
                        rates,
                        [step[key] for step in steps],
                        linestyle=line,
                        linewidth=1.6,
                        label=f"{loop} loop, {label}",
                        **look,
                    )
        if result["saturation_per_s"] is not None:
            word = "keeps up to" if result["saturated"] else "keeps up to at least"
            label = f"{word} {result['saturation_per_s']:.0f}/s"
            axes.axvline(result["saturation_per_s"], color=INK, linewidth=0.9, linestyle=":", label=label)
        axes.set_yscale("log")
        axes.set_xlim(left=0)
        axes.set_xlabel("answers per second")
        axes.set_ylabel("latency [ms]")
        axes.grid(True, which="major")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(
                loc="upper left",
                frameon=True,
                facecolor=PAPER,
                edgecolor="none",
                framealpha=0.85,
                handlelength=3.5,
            )
        axes.set_title(
            f"{result['model']}, {result['rows']} rows per request, {result['errors']} errors", loc="left"
        )
    return figure
