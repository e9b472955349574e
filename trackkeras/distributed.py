"""Training on one device or on all devices of a host."""

from __future__ import annotations

import tensorflow as tf

from trackkeras.errors import UserError


def make_strategy(name: str, batch_size: int) -> tf.distribute.Strategy:
    """Return the distribution strategy called `single` or `mirrored`.

    `mirrored` uses every GPU, or every logical CPU device where there is no GPU.

    Raises:
        UserError: The global batch cannot be divided evenly among the replicas.
    """
    if name == "single":
        return tf.distribute.get_strategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if batch_size % len(devices):
        raise UserError(
            f"data.batch_size is the global batch and must be a multiple of the {len(devices)} devices, "
            f"received {batch_size}"
        )
    return tf.distribute.MirroredStrategy([device.name for device in devices])
