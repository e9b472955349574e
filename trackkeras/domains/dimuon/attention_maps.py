"""Where a finder with spatial attention looks: its maps for an event, and a figure of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from trackkeras.domain import Rows
from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.errors import UserError
from trackkeras.layers.attention import SPATIAL_MAP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLUS, MINUS, ATTENTION = "#e42536", "#5790fc", "#f89c20"
"""Colours of the muons' hits, and of full attention; none is white."""


def attention_maps(model: keras.Model, hits: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the spatial attention maps of a finder, from its first block to its last.

    Args:
        model: A finder.
        hits: Matrices of events, `(n, 62, 201)`.

    Returns:
        By the name of the block, `(n, rows, columns)`, from 0 to 1. Each block halves rows and columns.

    Raises:
        UserError: The network has no spatial attention.
    """
    outputs = {
        layer.name.removesuffix(SPATIAL_MAP): layer.output
        for layer in model.layers
        if layer.name.endswith(SPATIAL_MAP)
    }
    if not outputs:
        raise UserError(
            f"{model.name} has no spatial attention; networks of the preset finder_attention have it"
        )
    maps = keras.Model(model.input, outputs)({"hits": np.asarray(hits, np.float32)}, training=False)
    return {name: np.asarray(maps[name], np.float32)[..., 0] for name in outputs}


def attention_figure(maps: dict[str, NDArray[np.float32]], rows: Rows, title: str) -> Figure:
    """Draw the attention maps of one event, one panel each, with its hits and its true muons.

    Args:
        maps: As from `attention_maps`, of one event.
        rows: This event, as a row of the finder.
        title: Text above.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    from trackkeras.plots import INK, style

    colours = LinearSegmentedColormap.from_list("attention", ["white", ATTENTION])
    present = rows["hit_detector"][0] > 0
    with style():
        figure = Figure(figsize=(9.0, 1.0 + 2.4 * len(maps)), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(maps), sharex=True, sharey=True))
        for panel, (name, values) in zip(panels, maps.items(), strict=True):
            # Halving drops an odd last row or column: the map covers as many whole cells.
            rows_per, columns_per = PLANES // values.shape[1], ELEMENTS // values.shape[2]
            extent = (0, columns_per * values.shape[2], rows_per * values.shape[1] + 0.5, 0.5)
            image = panel.imshow(
                values[0], extent=extent, aspect="auto", cmap=colours, vmin=0.0, vmax=1.0, zorder=0
            )
            panel.plot(
                rows["hit_element"][0][present] + 0.5, rows["hit_detector"][0][present],
                linestyle="none", marker="s", markersize=1.5, color=INK, label="hits",
            )  # fmt: skip
            for muon, (label, colour) in enumerate((("mu+", PLUS), ("mu-", MINUS))):
                element = rows["elements"][0, muon]
                detector = np.flatnonzero(element > 0)
                panel.plot(
                    element[detector] + 0.5, detector + 1,
                    linestyle="none", marker="o", markersize=4, markerfacecolor="none", color=colour,
                    label=f"true {label}",
                )  # fmt: skip
            panel.set_ylabel("detector")
            panel.set_title(f"{name}, {values.shape[1]} x {values.shape[2]}", loc="left", fontsize=9)
            figure.colorbar(image, ax=panel, label="attention", pad=0.01)
        panels[-1].set(xlim=(0, ELEMENTS), ylim=(PLANES + 0.5, 0.5), xlabel="element")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=3, fontsize=9)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure
