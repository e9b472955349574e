"""A track finder that takes an event as the set of its hits, made for a CPU.

`hitset_tokens` makes a set of the matrix, of which all but some hundred elements are 0. Some tens of tracks
(`hitset_tracks`) begin spread over all that muons may do; in a few rounds each looks at the hits about it,
through windows that become narrower, and moves. The tracks then look at each other, and are judged: which is
the mu+, which the mu-. Each muon's hits are those near its tracks. Nothing depends on the order of hits, and
cost grows with their number times that of tracks.
"""

from __future__ import annotations

from typing import Any

from keras import layers

from trackkeras.domains.dimuon.finder_options import FinderOptions, HitSet
from trackkeras.domains.dimuon.hitset_tokens import FiredCells, HitFeatures, HitGeometry
from trackkeras.domains.dimuon.hitset_tracks import FirstTracks, HitAttention, HitShares, TrackEvidence

MUONS = ("track_mup", "track_mum")


def hitset(hits: Any, options: FinderOptions, training: bool) -> dict[str, Any]:
    """Return the outputs from `hits`.

    Places on planes need more digits than 16 bits have, whatever the policy of a training.
    """
    size: HitSet = options.hitset
    exact = "float32"
    cells, there = FiredCells(dtype=exact, name="set")(hits)
    tokens = HitFeatures(dtype=exact, name="features")(hits, cells)
    for number, units in enumerate(size.tokens):
        tokens = layers.Dense(units, activation="gelu", dtype=exact, name=f"token_{number}")(tokens)
    geometry = HitGeometry(dtype=exact, name="geometry")(cells)
    tracks, content = FirstTracks(size.tracks, size.content, dtype=exact, name="first")(hits)
    for number, reach in enumerate(size.reach):
        attend = HitAttention(reach, size.values, size.units, dtype=exact, name=f"round_{number}")
        tracks, content = attend(tracks, content, tokens, there, *geometry)
    near, within, weight = TrackEvidence(dtype=exact, name="evidence")(tracks, there, *geometry)
    missed = layers.Multiply(dtype=exact, name="missed")(
        [within, layers.Rescaling(-1.0, 1.0, dtype=exact, name="far")(near)]
    )
    hidden = layers.Concatenate(dtype=exact, name="judged")([tracks, content, missed, near])
    hidden = layers.Dense(size.units, activation="gelu", dtype=exact, name="alone")(hidden)
    others = layers.MultiHeadAttention(4, size.units // 4, dtype=exact, name="among")(hidden, hidden)
    hidden = layers.Concatenate(dtype=exact, name="with_others")([hidden, others])
    hidden = layers.Dense(size.units, activation="gelu", dtype=exact, name="together")(hidden)
    scores = {}
    for name in MUONS:
        score = layers.Dense(1, dtype=exact, name=f"{name}_score")(hidden)
        share = layers.Softmax(axis=1, dtype=exact, name=f"{name}_share")(score)
        share = layers.Reshape((size.tracks,), dtype=exact, name=f"{name}_shares")(share)
        scores[name] = HitShares(dtype=exact, name=f"{name}_hits")(
            hits, share, near, within, weight, there, geometry[2]
        )
    return {name: layers.Softmax(dtype=exact, name=name)(score) for name, score in scores.items()}
