"""Events as muons: each of the two muons of an event is a row of the momentum network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trackkeras.domain import Rows
from trackkeras.domains.dimuon.events import CHARGES


def muon_columns(rows: Rows, momentum: str = "momentum") -> Rows:
    """Return the muons of some events, absent ones left out; the mu+ of an event comes before its mu-.

    Args:
        rows: `elements` and `drift` `(n, 2, 62)`, `momentum` `(n, 2, 3)`, `muon` `(n, 2)`, as in records.
        momentum: Column whose momentum it is; muons for which it is not known, 0, are absent.

    Returns:
        For m muons `elements` `(m, 62)` int32, `drift` `(m, 62)` [cm], not negative, `charge` `(m, 1)`,
        `momentum` `(m, 3)` [GeV], its `sigma`, 0 as it is the truth, and `event` `(m,)`, the event's row.
    """
    there = (rows["muon"] > 0) & rows[momentum].any(axis=-1)
    event, muon = np.nonzero(there)
    truth = rows[momentum][there]
    return {
        "elements": rows["elements"][there].astype(np.int32),
        "drift": np.abs(rows["drift"][there]),
        "charge": np.take(np.array(CHARGES, dtype=np.float32), muon)[:, None],
        "momentum": truth,
        "sigma": np.zeros_like(truth),
        "event": event,
    }


def muon_batch(
    batch: Mapping[str, Any], momentum: str = "momentum"
) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Return inputs, truth and weights of all muons of a batch of events; absent ones have weight 0.

    Args:
        batch: Columns of some events.
        momentum: See `muon_columns`.
    """
    import tensorflow as tf

    def unfolded(name: str) -> Any:
        column = batch[name]
        return tf.reshape(column, (-1, *column.shape[2:]))

    charges = tf.tile(tf.constant(CHARGES, tf.float32)[:, None], (tf.shape(batch["muon"])[0], 1))
    inputs = {
        "elements": tf.cast(unfolded("elements"), tf.int32),
        "drift": tf.abs(unfolded("drift")),
        "charge": charges,
    }
    truth = unfolded(momentum)
    there = (unfolded("muon") > 0) & tf.reduce_any(truth != 0, axis=-1)
    return inputs, {"momentum": truth}, tf.cast(there, tf.float32)


def found_hits(events: Mapping[str, Any], found: Any) -> dict[str, Any]:
    """Return events, as arrays or tensors, with the found hits in place of the true ones.

    Args:
        events: Columns of reconstructed records.
        found: int64 `(n, 2)`, 1 for muons of which there is a hit; others count as absent.
    """
    hits = {"elements": events["found_elements"], "drift": events["found_drift"]}
    return {**events, **hits, "muon": events["muon"] * found}
