"""Learning-rate schedules that Keras does not have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="trackkeras")
class AdjustableCosineDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then cosine decay to a step that may be moved while the training runs.

    A training with a time budget does not know at its start how many steps it has; ended in the middle of a
    decay, it would have learnt little of what the small steps at the end give.

    Args:
        learning_rate: Value after the warm-up.
        final_learning_rate: Value at the end and after it.
        warmup_steps: Steps of the warm-up.
        total_steps: Steps until the end, at first.
    """

    def __init__(
        self, learning_rate: float, final_learning_rate: float, warmup_steps: int, total_steps: float
    ) -> None:
        super().__init__()
        self.learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.warmup_steps = warmup_steps
        self._total = tf.Variable(float(total_steps), trainable=False, dtype=tf.float32, name="total_steps")

    def end_at(self, steps: float) -> None:
        """Move the end."""
        self._total.assign(float(steps))

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step."""
        step = tf.cast(step, tf.float32)
        warmup = float(self.warmup_steps)
        share = tf.clip_by_value((step - warmup) / tf.maximum(self._total - warmup, 1.0), 0.0, 1.0)
        span = self.learning_rate - self.final_learning_rate
        decayed = self.final_learning_rate + 0.5 * span * (1.0 + tf.cos(math.pi * share))
        return tf.where(step < warmup, self.learning_rate * step / max(warmup, 1.0), decayed)

    def get_config(self) -> Mapping[str, Any]:
        """Return the arguments of the constructor, with the end where it stands."""
        return {
            "learning_rate": self.learning_rate,
            "final_learning_rate": self.final_learning_rate,
            "warmup_steps": self.warmup_steps,
            "total_steps": float(self._total.numpy()),
        }
