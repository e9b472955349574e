"""What a track finder learns from: the right element in every detector, and no hit for both muons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

TINY = 1e-7
"""Added to a probability before its logarithm is taken."""

SIGNAL = "signal"
"""Output of networks that first tell the hits of muons from others: the probability that it is one."""

SIGNAL_WEIGHT = 20.0
"""A muon's hit counts so often as another element in the loss of this output."""


def cross_entropy(truth: Any, plus: Any, minus: Any) -> Any:
    """Return the cross-entropies of both muons, summed, as a mean over rows and detectors.

    Args:
        truth: True elements `(n, 2, 62)`; 0, none, is a class as any other.
        plus: Probabilities of the mu+ `(n, 62, 201)`.
        minus: Those of the mu-.
    """
    right = [
        tf.gather(probabilities, truth[:, muon], batch_dims=2)
        for muon, probabilities in enumerate((plus, minus))
    ]
    return -tf.reduce_mean(sum(tf.math.log(part + TINY) for part in right))


def overlap(plus: Any, minus: Any) -> Any:
    """Return how much both muons claim the same elements, as a mean over rows and detectors.

    The sum over elements e of p+(e) p-(e): the chance that both muons, drawn from their probabilities, take
    the same hit. A squared difference, sum (p+ - p-)^2, has the wrong sign: it is smallest when both tracks
    coincide, and costs 2 per detector where they are separate and both certain. Element 0 is left out: that
    neither muon has a hit in a detector is no conflict.

    Args:
        plus: Probabilities of the mu+ `(n, 62, 201)`.
        minus: Those of the mu-.
    """
    return tf.reduce_mean(tf.reduce_sum(plus[..., 1:] * minus[..., 1:], axis=-1))


def denoising(truth: Any, signal: Any) -> Any:
    """Return the weighted binary cross-entropy of muons' hits against all other elements, a mean over all.

    Args:
        truth: True elements `(n, 2, 62)`.
        signal: Probability that a muon fired the element, `(n, 62, 201)`.
    """
    hits = tf.reduce_max(tf.one_hot(truth, signal.shape[-1]), axis=1)
    hits *= tf.cast(tf.range(signal.shape[-1]) > 0, hits.dtype)
    there = -SIGNAL_WEIGHT * hits * tf.math.log(signal + TINY)
    return tf.reduce_mean(there - (1.0 - hits) * tf.math.log(1.0 - signal + TINY))


@keras.saving.register_keras_serializable(package="trackkeras")
class FinderModel(keras.Model):
    """A track finder in training.

    `compile` takes the weights of the loss's parts beside the cross-entropy, and Keras' own arguments, and
    saves them. The reported losses are `loss` and its unweighted parts.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = ["cross_entropy", "overlap", *(["denoising"] if SIGNAL in self.output else [])]
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}

    def compile(self, *, weights: Mapping[str, float], **arguments: Any) -> None:
        """Configure the training.

        Args:
            weights: `overlap`, and `denoising` for networks with the output `signal`.
            **arguments: Those of `keras.Model.compile`.
        """
        super().compile(**arguments)
        self.loss_weights = dict(weights)

    def get_compile_config(self) -> dict[str, Any]:
        """Return what `compile` was given."""
        return {**super().get_compile_config(), "weights": self.loss_weights}

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compile as the saved model was."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the weighted sum of the parts, and report each.

        Args:
            x: Not used.
            y: `elements`, `(n, 2, 62)`.
            y_pred: `track_mup`, `track_mum`, and `signal` if the network has it, `(n, 62, 201)`.
            sample_weight: Not used.
            training: Not used.
        """
        plus, minus = y_pred["track_mup"], y_pred["track_mum"]
        parts = {"cross_entropy": cross_entropy(y["elements"], plus, minus), "overlap": overlap(plus, minus)}
        if SIGNAL in y_pred:
            parts["denoising"] = denoising(y["elements"], y_pred[SIGNAL])
        rows = tf.shape(plus)[0]
        for name, value in parts.items():
            self.trackers[name].update_state(value, sample_weight=rows)
        weights = {"cross_entropy": 1.0, **self.loss_weights}
        total = sum(weights[name] * value for name, value in parts.items())
        # The gradients of replicas are summed.
        return total / tf.distribute.get_strategy().num_replicas_in_sync
