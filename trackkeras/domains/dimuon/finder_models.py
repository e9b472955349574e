"""Networks that find tracks: from the matrix of an event to a probability of every element, per muon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras

from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES
from trackkeras.domains.dimuon.finder_hitset import hitset
from trackkeras.domains.dimuon.finder_loss import SIGNAL, FinderModel
from trackkeras.domains.dimuon.finder_options import FinderOptions, Size
from trackkeras.domains.dimuon.finder_roads import roads
from trackkeras.layers.attention import axial, channel_and_spatial
from trackkeras.layers.conv import conv, residual
from trackkeras.layers.unet import unet_plus_plus

MUONS = ("track_mup", "track_mum")
"""The outputs: mu+ and mu-."""


@dataclass(frozen=True)
class Plan:
    """A convolutional network with dense layers at its end.

    Attributes:
        stages: Filters and number of convolutions, or of residual blocks, before each halving.
        dense: Units of the dense layers.
        dropout: Dropout after each of them. None of them is followed by a batch normalisation, whose
            statistics it would bias.
        blocks: Whether stages but the first consist of residual blocks.
        normalise: Whether convolutions are normalised.
        attention: Whether blocks end in channel and spatial attention.
        rank: Numbers per detector and muon from which probabilities of elements are made by one matrix for
            all; None: a dense layer makes all 24,924 of them.
    """

    stages: tuple[tuple[int, int], ...]
    dense: tuple[int, ...]
    dropout: tuple[float, ...]
    blocks: bool = False
    normalise: bool = True
    attention: bool = False
    rank: int | None = None


_TINY = ((2, 1), (4, 1))

PLANS: dict[str, dict[Size, Plan]] = {
    "basic": {
        "tiny": Plan(_TINY, (8,), (0.5,), rank=2),
        "small": Plan(((16, 1), (32, 1), (32, 1)), (256,), (0.5,), rank=16),
        "medium": Plan(((32, 1), (64, 1), (64, 1)), (256,), (0.5,), rank=32),
        "full": Plan(((32, 1), (64, 1), (128, 1)), (256,), (0.5,)),
    },
    "prod": {
        "tiny": Plan(_TINY, (8,), (0.3,), normalise=False, rank=2),
        "small": Plan(
            ((16, 2), (32, 2), (64, 3), (64, 3), (64, 3)), (256, 256), (0.3, 0.0), normalise=False, rank=16
        ),
        "medium": Plan(
            ((32, 2), (64, 2), (128, 3), (128, 3), (128, 3)), (512, 512), (0.3, 0.0), normalise=False, rank=32
        ),
        "full": Plan(
            ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
            (4096, 2048, 1024),
            (0.3, 0.3, 0.0),
            normalise=False,
        ),
    },
    "acc": {
        "tiny": Plan(_TINY, (8,), (0.3,), blocks=True, rank=2),
        "small": Plan(
            ((16, 1), (32, 1), (64, 1), (64, 1), (64, 1)), (256, 256), (0.3, 0.0), blocks=True, rank=16
        ),
        "medium": Plan(
            ((32, 1), (64, 1), (128, 1), (128, 1), (128, 1)), (512, 512), (0.3, 0.0), blocks=True, rank=32
        ),
        "full": Plan(
            ((64, 1), (128, 1), (256, 1), (512, 1), (512, 1)),
            (4096, 2048, 1024),
            (0.4, 0.3, 0.0),
            blocks=True,
        ),
    },
}
"""By network and size; `full` has the layers of the originals."""

PLANS["attention"] = {size: replace(plan, attention=True) for size, plan in PLANS["acc"].items()}


def build_finder(options: FinderOptions, *, training: bool) -> keras.Model:
    """Build a track finder.

    Args:
        options: Which, and how large.
        training: Whether it carries its loss.

    Returns:
        A model from `hits` `(n, 62, 201)` to `track_mup` and `track_mum` `(n, 62, 201)`: a probability of
        each element in each detector, that of 0 for none. In training the flagship also gives `signal`
        `(n, 62, 201)`, the probability that a muon fired the element.
    """
    hits = keras.Input((PLANES, ELEMENTS), name="hits", dtype="float32")
    outputs = NETWORKS[options.network](hits, options, training)
    if not training:
        outputs = {name: outputs[name] for name in MUONS}
    kind = FinderModel if training else keras.Model
    return kind({"hits": hits}, outputs, name=f"finder_{options.network}")


def convolutional(hits: Any, options: FinderOptions, training: bool) -> dict[str, Any]:
    """Return the outputs of a network of `PLANS` from `hits`."""
    plan = PLANS[options.network][options.size]
    found = keras.layers.Reshape((PLANES, ELEMENTS, 1), name="image")(hits)
    for number, (filters, count) in enumerate(plan.stages):
        for index in range(count):
            name = f"stage_{number}_{index}"
            if plan.blocks and number:
                found = residual(found, filters, name)
            else:
                found = conv(found, filters, name, normalise=plan.normalise)
            if plan.attention and number:
                found = channel_and_spatial(found, name)
        found = keras.layers.MaxPooling2D(name=f"halve_{number}")(found)
    found = keras.layers.Flatten(name="flat")(found)
    for index, (units, rate) in enumerate(zip(plan.dense, plan.dropout, strict=True)):
        found = keras.layers.Dense(units, activation="relu", name=f"dense_{index}")(found)
        if rate:
            found = keras.layers.Dropout(rate, name=f"dropout_{index}")(found)
    scores = {}
    if plan.rank is not None:
        elements = keras.layers.Dense(ELEMENTS, name="elements")
    for name in MUONS:
        if plan.rank is None:
            flat = keras.layers.Dense(PLANES * ELEMENTS, name=f"{name}_scores")(found)
            scores[name] = keras.layers.Reshape((PLANES, ELEMENTS), name=f"{name}_rows")(flat)
        else:
            flat = keras.layers.Dense(PLANES * plan.rank, name=f"{name}_slots")(found)
            scores[name] = elements(keras.layers.Reshape((PLANES, plan.rank), name=f"{name}_rows")(flat))
    return probabilities(scores)


MARGIN = ((0, 64 - PLANES), (0, 208 - ELEMENTS))
"""Empty rows and columns after the matrix, so that it can be halved four times."""


def flagship(hits: Any, options: FinderOptions, training: bool) -> dict[str, Any]:
    """Return the outputs of two U-Net++ from `hits`: what is a muon's hit, then which muon's.

    No dropout: every layer here is followed by a batch normalisation further on, whose statistics it would
    bias.
    """
    image = keras.layers.Reshape((PLANES, ELEMENTS, 1), name="image")(hits)
    padded = keras.layers.ZeroPadding2D(MARGIN, name="padded")(image)
    widths = options.filters
    found = unet_plus_plus(padded, [width // 2 for width in widths], "denoise")
    clean = keras.layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name="clean")(found)
    found = unet_plus_plus(clean, widths, "segment")
    found = axial(found, max(widths[0] // 8, 1), "attention")
    return probabilities(
        {name: _cut(keras.layers.Conv2D(1, 1, name=f"{name}_scores")(found), name) for name in MUONS}
    ) | {SIGNAL: _cut(clean, SIGNAL)}


def _cut(image: Any, name: str) -> Any:
    """Return `(n, 62, 201)` from `(n, 64, 208, 1)`."""
    inside = keras.layers.Cropping2D(MARGIN, dtype="float32", name=f"{name}_inside")(image)
    return keras.layers.Reshape((PLANES, ELEMENTS), dtype="float32", name=f"{name}_image")(inside)


def probabilities(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the softmax over the elements of each detector of both muons' scores `(n, 62, 201)`.

    A softmax over all detectors at once would share one unit of probability among 124 rows.
    """
    return {name: keras.layers.Softmax(dtype="float32", name=name)(scores[name]) for name in MUONS}


NETWORKS: dict[str, Callable[[Any, FinderOptions, bool], dict[str, Any]]] = {
    "basic": convolutional,
    "prod": convolutional,
    "acc": convolutional,
    "attention": convolutional,
    "flagship": flagship,
    "roads": roads,
    "hitset": hitset,
}
"""Functions from `hits` to the outputs, by `model.network`; the last argument says whether to train them."""
