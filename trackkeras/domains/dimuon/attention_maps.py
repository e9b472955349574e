"""Where a finder with spatial attention looks: its maps for an event, and a figure of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def attention_summary(maps: dict[str, NDArray[np.float32]], rows: Rows) -> dict[str, dict[str, Any]]:
    """Return of each map of one event how large it is, and its mean, on which hits.

    Args:
        maps: As from `attention_maps`, of one event.
        rows: This event, as a row of the finder.

    Returns:
        By the name of the block: `rows`, `columns`, `mean`, and the means `on_muons`, `on_others`,
        `on_nothing` over cells with a hit of a true muon, with other hits alone, and without a hit; None
        where there is no such cell.
    """
    hit = rows["hit_detector"][0] > 0
    fired = np.zeros((PLANES, ELEMENTS), dtype=bool)
    fired[rows["hit_detector"][0][hit] - 1, rows["hit_element"][0][hit]] = True
    _, detector = np.nonzero(rows["elements"][0])
    true = np.zeros_like(fired)
    true[detector, rows["elements"][0][rows["elements"][0] > 0]] = True
    result: dict[str, dict[str, Any]] = {}
    for name, (values,) in maps.items():
        muon, hits = (_covered(cells, values.shape) for cells in (true, fired))
        where = {"on_muons": muon, "on_others": hits & ~muon, "on_nothing": ~hits & ~muon}
        result[name] = {
            "rows": values.shape[0],
            "columns": values.shape[1],
            "mean": float(values.mean()),
            **{key: float(values[cells].mean()) if cells.any() else None for key, cells in where.items()},
        }
    return result


def _covered(cells: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which cells of a map of some shape cover a marked one."""
    high, wide = cell_size(shape)
    whole = cells[: high * shape[0], : wide * shape[1]]
    return np.asarray(whole.reshape(shape[0], high, shape[1], wide).any(axis=(1, 3)))


def cell_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many detectors and elements a cell of a map of some shape covers, both powers of two.

    Halving drops an odd last row or column, so that the cells may cover less than all.
    """
    high, wide = (
        1 << (size // cells).bit_length() - 1 for size, cells in zip((PLANES, ELEMENTS), shape, strict=True)
    )
    return high, wide


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
            rows_per, columns_per = cell_size(values.shape[1:])
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
