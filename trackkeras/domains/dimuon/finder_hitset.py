"""A track finder that takes an event as the set of its hits, made for a CPU.

`hitset_tokens` makes a set of the matrix, of which all but some hundred elements are 0. Some tens of tracks
(`hitset_settling`) begin spread over all that muons may do, and settle by least squares where hits agree.
From there on all is learnt (`hitset_tracks`): in a few rounds each track looks at the hits about it and
moves; then the tracks look at each other, and are judged: which is the mu+, which the mu-. Each muon's hits
are those near its tracks. Nothing depends on the order of hits, none is ever left out, and cost grows with
their number times that of tracks.
"""

from __future__ import annotations

from typing import Any

from keras import layers

from trackkeras.domains.dimuon.finder_options import FinderOptions, HitSet
from trackkeras.domains.dimuon.hitset_settling import SettledTracks
from trackkeras.domains.dimuon.hitset_tokens import FiredCells, HitFeatures, HitGeometry
from trackkeras.domains.dimuon.hitset_tracks import (
    HitAttention,
    HitShares,
    MuonScore,
    TrackEvidence,
)

SIGNS = {"track_mup": 1.0, "track_mum": -1.0}
"""Of the bend behind KMAG, by output."""


def hitset(hits: Any, options: FinderOptions, training: bool) -> dict[str, Any]:
    """Return the outputs from `hits`.

    Places on planes need more digits than 16 bits have, whatever the policy of a training. Where tracks may
    settle here or there, engines that round differently stay together in float64.
    """
    size: HitSet = options.hitset
    exact = "float32" if training else options.precision

    def dense(value: Any, units: int, name: str) -> Any:
        return layers.Dense(units, activation="gelu", dtype=exact, name=name)(value)

    cells, there = FiredCells(dtype="float32", name="set")(hits)
    tokens = HitFeatures(dtype=exact, name="features")(hits, cells)
    for number, units in enumerate(size.tokens):
        tokens = dense(tokens, units, f"token_{number}")
    geometry = HitGeometry(dtype=exact, name="geometry")(cells)
    tracks = SettledTracks(size.tracks, size.settling, dtype=exact, name="settled")(there, *geometry)
    content = dense(tracks, size.content, "content")
    for number, reach in enumerate(size.reach):
        attend = HitAttention(reach, size.values, size.units, dtype=exact, name=f"round_{number}")
        tracks, content = attend(tracks, content, tokens, there, *geometry)
    near, within, weight = TrackEvidence(dtype=exact, name="evidence")(tracks, there, *geometry)
    far = layers.Rescaling(-1.0, 1.0, dtype=exact, name="far")(near)
    missed = layers.Multiply(dtype=exact, name="missed")([within, far])
    hidden = layers.Concatenate(dtype=exact, name="judged")([tracks, content, missed, near])
    hidden = dense(hidden, size.units, "alone")
    others = layers.MultiHeadAttention(4, size.units // 4, dtype=exact, name="among")(hidden, hidden)
    hidden = layers.Concatenate(dtype=exact, name="with_others")([hidden, others])
    hidden = dense(hidden, size.units, "together")
    outputs = {}
    for name, sign in SIGNS.items():
        score = MuonScore(sign, dtype=exact, name=f"{name}_score")(tracks, missed, hidden)
        share = layers.Softmax(dtype=exact, name=f"{name}_share")(score)
        scores = HitShares(dtype=exact, name=f"{name}_hits")(
            hits, share, near, within, weight, there, geometry[2]
        )
        outputs[name] = layers.Softmax(dtype="float32", name=name)(scores)
    return outputs
