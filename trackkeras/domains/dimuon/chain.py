"""From the hits of an event to its muons and their mass, in one graph of operations that ONNX has.

The steps are those of `trackkeras dimuon reconstruct`: the finder's most probable element of every detector
is moved to one that fired (`refinement.refine`), whose drift distance goes to the other networks with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from trackkeras.domains.dimuon.chain_export import MUONS
from trackkeras.domains.dimuon.detectors import ELEMENTS
from trackkeras.domains.dimuon.events import CHARGES
from trackkeras.domains.dimuon.finder import MUONS as FINDER_OUTPUTS
from trackkeras.units import GEV, MUON_MASS

_NUMBERS = np.arange(ELEMENTS, dtype=np.float32)
_CHARGES = np.array(CHARGES, dtype=np.float32)[:, None]
_FAR = np.float32(4 * ELEMENTS)


class Chain(keras.Model):
    """Finder, refinement, momentum and quality, one after the other.

    Args:
        finder: From `hits` `(n, 62, 201)` to `track_mup` and `track_mum`, alike.
        momentum: From `elements`, `drift`, `charge` to `momentum` and `sigma`.
        quality: From the same and `momentum` to `p_right` and `error`; None for a chain without.
        window: Farthest distance from prediction to hit, in elements; None for any.
    """

    def __init__(
        self,
        finder: keras.Model,
        momentum: keras.Model,
        quality: keras.Model | None = None,
        window: int | None = None,
    ) -> None:
        super().__init__(name="chain")
        self.finder, self.momentum, self.quality = finder, momentum, quality
        self.window = window

    def call(self, inputs: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Return the outputs of `chain_export.chain_signature`, by name.

        Args:
            inputs: `hits`, 1 where an element fired, and `drift` [cm], absolute, each `(n, 62, 201)`.
            training: Not used.
        """
        hits = inputs["hits"]
        found = self.finder({"hits": hits}, training=False)
        # Keras' own looks at signs of zeros by casting bits, for which ONNX has no operation
        plus, minus = (tf.argmax(found[name], axis=-1) for name in FINDER_OUTPUTS)
        refined = ops.stack(refine_tensors(hits, plus, minus, self.window), axis=1)
        answer = self._muons(inputs["drift"], refined)
        outputs = {
            f"{name}_{muon}": values[:, index]
            for name, values in answer.items()
            for index, muon in enumerate(MUONS)
        }
        return {**outputs, "mass": mass(*(outputs[f"momentum_{muon}"] for muon in MUONS))}

    def _muons(self, drift: Any, elements: Any) -> dict[str, Any]:
        """Return what the networks say of both muons with these hits, `(n, 2, 62)`; outputs `(n, 2, ...)`."""
        at = ops.equal(_NUMBERS, elements[..., None])
        there = ops.sum(ops.where(at, ops.abs(drift)[:, None], 0.0), axis=-1) * ops.minimum(elements, 1.0)
        elements = ops.cast(elements, "int32")
        charge = _CHARGES * ops.ones_like(there[:, :, :1])
        # as rows of one batch, so that each network is in the graph once
        inputs = {"elements": elements, "drift": there, "charge": charge}
        inputs = {name: ops.reshape(values, (-1, values.shape[-1])) for name, values in inputs.items()}
        answer = dict(self.momentum(inputs, training=False))
        if self.quality is not None:
            answer |= self.quality({**inputs, "momentum": answer["momentum"]}, training=False)
        unfolded = {name: ops.reshape(values, (-1, 2, values.shape[-1])) for name, values in answer.items()}
        return {"elements": elements, **unfolded}


def refine_tensors(hits: Any, plus: Any, minus: Any, window: int | None = None) -> tuple[Any, Any]:
    """Return the fired elements next to the predicted ones of both muons, each `(n, 62)` float32.

    The rules are those of `refinement.refine`, with one hit per fired element: one hit never goes to both
    muons, and of two equally near elements the lower counts.

    Args:
        hits: `(n, 62, 201)`, more than 0.5 where an element fired; column 0 is none.
        plus: Predicted elements of the mu+, `(n, 62)`; 0 for none stays 0.
        minus: Of the mu-.
        window: Farthest distance from prediction to hit, in elements; None for any.
    """
    fired = ops.logical_and(hits > 0.5, _NUMBERS > 0.0)
    plus, minus = ops.cast(plus, "float32"), ops.cast(minus, "float32")
    first, second = _nearest(fired, plus), _nearest(fired, minus)
    # what each would have if the other one kept a hit that both want
    next_first, next_second = (
        _nearest(ops.logical_and(fired, ops.not_equal(_NUMBERS, taken[..., None])), wanted)
        for taken, wanted in ((first, plus), (second, minus))
    )
    shared = ops.logical_and(first > 0.0, ops.equal(first, second))
    # the next hits of both exist together, or not at all
    other = ops.minimum(next_first, 1.0)
    keep_first = ops.abs(plus - first) + other * ops.abs(minus - next_second)
    keep_second = ops.abs(minus - second) + other * ops.abs(plus - next_first)
    to_first = keep_first <= keep_second
    first, second = (
        ops.where(ops.logical_and(shared, ops.logical_not(to_first)), next_first, first),
        ops.where(ops.logical_and(shared, to_first), next_second, second),
    )
    if window is None:
        return first, second
    return _within(window, plus, first), _within(window, minus, second)


def _nearest(fired: Any, wanted: Any) -> Any:
    """Return the fired element nearest to a wanted one, `(n, 62)`; 0 if none fired, or 0 is wanted."""
    offset = _NUMBERS - wanted[..., None]
    # twice the distance, and one more above: distinct whole numbers, from which the element follows
    key = 2.0 * ops.abs(offset) + ops.cast(offset > 0.0, "float32")
    best = ops.min(ops.where(fired, key, _FAR), axis=-1)
    distance = ops.floor(0.5 * best)
    above = best - 2.0 * distance
    element = wanted + distance * (2.0 * above - 1.0)
    return ops.where(ops.logical_and(best < _FAR, wanted > 0.0), element, 0.0)


def _within(window: int, wanted: Any, found: Any) -> Any:
    return ops.where(ops.abs(wanted - found) <= float(window), found, 0.0)


def mass(plus: Any, minus: Any) -> Any:
    """Return the invariant mass `(n, 1)` [GeV] of muons with momenta `(n, 3)` [GeV], as `mass.pair_mass`.

    Energies less momenta nearly cancel, for which float32 is too coarse. With the muon's mass u,
    m² = 2 u² + 2 (E+ E- - p+ p-) is also the sum of the positive terms
    4 u² + 2 u² (|p+| - |p-|)² / (E+ E- + u² + |p+| |p-|) + 2 |p+ x p-|² / (|p+| |p-| + p+ p-).
    """
    square = (MUON_MASS / GEV) ** 2

    def dot(one: Any, other: Any) -> Any:
        return ops.sum(one * other, axis=-1, keepdims=True)

    def rolled(vector: Any, first: int) -> Any:
        return ops.concatenate([vector[:, first:], vector[:, :first]], axis=-1)

    cross = rolled(plus, 1) * rolled(minus, 2) - rolled(plus, 2) * rolled(minus, 1)
    size_plus, size_minus = ops.sqrt(dot(plus, plus)), ops.sqrt(dot(minus, minus))
    both, along = size_plus * size_minus, dot(plus, minus)
    energies = ops.sqrt(dot(plus, plus) + square) * ops.sqrt(dot(minus, minus) + square)
    unequal = square * ops.square(size_plus - size_minus) / (energies + square + both)
    # of muons that fly apart by more than a right angle nothing cancels
    apart = ops.where(along > 0.0, dot(cross, cross) / ops.maximum(both + along, 1e-30), both - along)
    return ops.sqrt(4.0 * square + 2.0 * unequal + 2.0 * apart)
