"""The endpoint `state_and_jacobian`: final state and transport Jacobian, for fits with covariances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from trackkeras.domain import Endpoint, Parity, Rows, Signature, Tensor

if TYPE_CHECKING:
    import keras

NAME = "state_and_jacobian"

SHIFTS = (1.0, 1.0, 1e-3, 1e-3)
"""Shifts of x, y [mm], tx, ty of the initial state by whose effect a Jacobian is judged."""
QOP_SHIFT = 0.01
"""Shift of q/p, as a share of it."""
FLOORS = (1e-3, 1e-3, 1e-6, 1e-6)
"""Difference of x, y [mm], tx, ty of the final state that is always allowed."""


def endpoint(network: Signature, parity: Parity) -> Endpoint:
    """Return the endpoint for networks with this signature, whose state is judged by this rule."""
    unit = "unit of the final component / unit of the initial one"
    doc = "d final_state / d state: row = final component, column = initial component"

    def excess(rows: Rows, reference: Rows, other: Rows) -> Any:
        return np.maximum(parity.excess(rows, reference, other), jacobian_excess(rows, reference, other))

    return Endpoint(
        signature=Signature(
            network.inputs, (*network.outputs, Tensor("jacobian", (5, 5), unit, doc)), network.examples
        ),
        compute=_compute,
        reference=automatic,
        parity=Parity(
            f"state: {parity.description}; jacobian: from automatic differentiation of the Keras model, the "
            "effect of a shift of 1 mm, 1 mm, 1e-3, 1e-3 and 1 % of q/p differs by at most 1e-3 mm (slopes "
            "1e-6, q/p 1e-6 of itself) + 1e-5 of the effect",
            excess,
        ),
        in_header=True,
    )


def _compute(model: keras.Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
    import tensorflow as tf

    from trackkeras.tangents import jacobian

    final_state, matrix = jacobian(model, inputs, of="final_state", by="state")
    return {"final_state": final_state, "jacobian": tf.cast(matrix, tf.float32)}


def automatic(model: keras.Model, rows: Rows, batch_size: int = 4096) -> Rows:
    """Return state and Jacobian by automatic differentiation, backwards from each final component.

    Args:
        model: A network of this domain.
        rows: Its inputs.
        batch_size: Rows that are differentiated together.

    Returns:
        `final_state` `(n, 5)` and `jacobian` `(n, 5, 5)`.
    """
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)
    def differentiate(state: Any, z0: Any, dz: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(state)
            final = model({"state": state, "z0": z0, "dz": dz}, training=False)["final_state"]
            components = tf.unstack(final, axis=1)
        gradients = [
            tape.gradient(component, state, unconnected_gradients="zero") for component in components
        ]
        return final, tf.stack(gradients, axis=1)

    names = ("state", "z0", "dz")
    parts = [
        differentiate(*(tf.constant(rows[name][first : first + batch_size]) for name in names))
        for first in range(0, len(rows["state"]), batch_size)
    ]
    final_state, matrix = (
        np.concatenate([value.numpy() for value in side]) for side in zip(*parts, strict=True)
    )
    return {"final_state": final_state, "jacobian": matrix}


def jacobian_excess(rows: Rows, reference: Rows, other: Rows) -> Any:
    """Return the difference of two Jacobians as a share of what is allowed, `(n,)`.

    Args:
        rows: Inputs, for the size of the shifts.
        reference: With `jacobian` `(n, 5, 5)`.
        other: The same.
    """
    qop = np.abs(rows["state"][:, 4:5].astype(float))
    shifts = np.hstack([np.tile(SHIFTS, (len(qop), 1)), QOP_SHIFT * qop])
    floor = np.hstack([np.tile(FLOORS, (len(qop), 1)), 1e-6 * qop])
    expected, got = (side["jacobian"].astype(float) * shifts[:, None] for side in (reference, other))
    allowed = floor[..., None] + 1e-5 * np.abs(expected)
    difference = np.abs(got - expected)
    # Without a charge neither a share of q/p nor its effect is anything: equal zeros are no difference.
    shares = np.divide(difference, allowed, out=np.zeros_like(difference), where=difference != 0)
    return shares.max(axis=(1, 2))
