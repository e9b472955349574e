"""Simulated events of a SpinQuest-like spectrometer: draw, transport, keep what is reconstructible, redraw.

Events are made in chunks. Every number comes from one random stream in a fixed order, so that events are a
function of the options, the stream and how many are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackkeras.config import validate
from trackkeras.domain import Rows
from trackkeras.domains.dimuon.events import Events, Hits, Tracks
from trackkeras.domains.dimuon.kinematics import CHARGES, draw_muons
from trackkeras.domains.dimuon.mixing import add_background
from trackkeras.domains.dimuon.noise import add_noise
from trackkeras.domains.dimuon.records import event_rows
from trackkeras.domains.dimuon.simulation_options import GenerateOptions, Process
from trackkeras.domains.dimuon.spectrometer import KEPT, STATION_3_BOTTOM, STATION_3_TOP
from trackkeras.domains.dimuon.transport import Transported, transport
from trackkeras.errors import UserError
from trackkeras.kernel_cache import compiling

CHUNK = 1024
"""Most events at a time: with 50 background tracks they have some 2 million hits."""

BATCH = 65536
"""Most draws at a time."""

HOPELESS_DRAWS = 500_000
HOPELESS_ACCEPTANCE = 1e-4

CODES: dict[Process, tuple[int, ...]] = {
    "jpsi": (11, 21),
    "psi_prime": (12, 22),
    "drell_yan": (13, 23),
    "combinatorial": (78, 88),
    "mu_plus": (78,),
    "mu_minus": (88,),
}
"""Process that made each muon's hits; known files have 11 and 21 for pairs, 78 and 88 for single muons."""

_TOP, _BOTTOM = KEPT.index(STATION_3_TOP), KEPT.index(STATION_3_BOTTOM)


def make_shard(
    config: Mapping[str, Any], rng: np.random.Generator, rows: int
) -> Iterator[tuple[Rows, dict[str, int]]]:
    """Generate `rows` events in chunks.

    Args:
        config: Values for `GenerateOptions`.
        rng: Source of randomness; the rows are a function of it, of `config` and of `rows` alone.
        rows: Number of events.

    Yields:
        The columns of `records.dimuon_schema(options.row_hits())` and the counts of this chunk: events
        `tried`, and of them `not_accepted`.

    Raises:
        UserError: A bad option, next to no event is accepted, or a row has too little room for hits.
    """
    options = validate(GenerateOptions, config, "generate dimuon")
    for events, counts in simulate(options, rng, rows):
        yield event_rows(events, max_hits=options.row_hits(), signed=options.signed), counts


def simulate(
    options: GenerateOptions, rng: np.random.Generator, n: int
) -> Iterator[tuple[Events, dict[str, int]]]:
    """Yield n events in chunks, with the counts that `make_shard` describes.

    Raises:
        UserError: Options under which next to no event is accepted.
    """
    _compile_once()
    background, noise = options.background.occupancy(), options.noise.noise()
    muons = MuonPool(options, rng, n) if background.upper else None
    for first in range(0, n, CHUNK):
        events, counts = _signal(options, rng, min(CHUNK, n - first))
        number = np.arange(first, first + len(events), dtype=np.int32)
        nothing = np.zeros_like(number)
        events = events.with_columns(runID=nothing, eventID=number, spillID=nothing)
        if muons:
            events = add_background(events, muons, background, rng)
        if options.noise.electronic or options.noise.cluster:
            events = add_noise(events, noise, rng)
        yield events, dict(counts)


class MuonPool:
    """Single muons of both charges, simulated once and drawn again and again.

    Args:
        options: What the events are made with.
        rng: Source of randomness.
        n: Events that will be made; no more muons are simulated than they need on average.
    """

    def __init__(self, options: GenerateOptions, rng: np.random.Generator, n: int) -> None:
        background = options.background
        needed = n * (background.lower + background.upper) // 2 + 1
        self._rng = rng
        half = -(-min(background.pool, needed) // 2)
        both: tuple[Process, ...] = ("mu_plus", "mu_minus")
        self.muons = Events.concatenate([_accepted(process, options, rng, half)[0] for process in both])

    def take(self, n: int) -> Events:
        """Return n muons, drawn with replacement."""
        return self.muons[self._rng.integers(0, len(self.muons), n)]


@lru_cache
def _compile_once() -> None:
    with compiling():
        options = GenerateOptions(processes={"mu_plus": 1.0}, acceptance="any")
        _accepted("mu_plus", options, np.random.default_rng(0), 1)


def _signal(options: GenerateOptions, rng: np.random.Generator, n: int) -> tuple[Events, Counter[str]]:
    """Return n events of all processes, in random order."""
    names = list(options.processes)
    shares = np.array([options.processes[name] for name in names])
    per_process = rng.multinomial(n, shares / shares.sum())
    parts, counts = [], Counter[str]()
    for name, wanted in zip(names, per_process, strict=True):
        if wanted:
            part, tried = _accepted(name, options, rng, int(wanted))
            parts.append(part)
            counts += Counter(tried=tried, not_accepted=tried - int(wanted))
    events = Events.concatenate(parts)
    return (events[rng.permutation(n)] if len(parts) > 1 else events), counts


def _accepted(
    process: Process, options: GenerateOptions, rng: np.random.Generator, n: int
) -> tuple[Events, int]:
    """Return the first n accepted events of a process, and how many were drawn up to the last of them."""
    response, charges = options.response(), np.array(CHARGES[process], dtype=np.int32)
    parts: list[Events] = []
    tried = found = 0
    while found < n:
        likely = (found + 1) / (tried + 20)
        batch = min(BATCH, int(1.1 * (n - found) / likely) + 16)
        vertex, momentum, drawn = draw_muons(process, options, rng, batch)
        # The slower muon is sent first, and others only where it got through, which it seldom does.
        order = momentum[:, :, 2].argsort(axis=1)
        alive = np.arange(len(vertex))
        sent: list[Transported] = []
        for turn in order.T:
            which = turn[alive]
            muon = transport(rng, charges[which], vertex[alive, which], momentum[alive, which], response)
            passed = np.flatnonzero(muon.kept)
            alive = alive[passed]
            sent = [other.take(passed) for other in (*sent, muon)]
        used = alive[: n - found]
        muons = Transported.stack([muon.take(slice(0, len(used))) for muon in sent], order[used])
        parts.append(assemble(process, vertex[used], momentum[used], muons))
        seen = int(drawn[used[-1]]) + 1 if len(alive) >= n - found else batch  # later draws were never needed
        tried, found = tried + seen, found + len(used)
        if tried > HOPELESS_DRAWS and found < HOPELESS_ACCEPTANCE * tried:
            raise UserError(
                f"only {found} of {tried} events of {process!r} reach all stations: widen the range of xf or "
                "of single_pz, or set acceptance=any"
            )
    return Events.concatenate(parts), tried


def assemble(
    process: Process, vertex: NDArray[np.float64], momentum: NDArray[np.float64], sent: Transported
) -> Events:
    """Return events from muons and what became of them.

    Args:
        process: What made them.
        vertex: `(n, k, 3)` [cm].
        momentum: `(n, k, 3)` [GeV].
        sent: What became of them, `(n, k, ...)`.
    """
    n, k = vertex.shape[:2]
    # (event, muon, detector, first or second element), which is the order of the hits.
    element = np.stack([sent.element, sent.neighbour], axis=-1)
    event, track, slot, second = np.nonzero(element)
    hits = Hits.of(
        slot + 1,
        element[event, track, slot, second],
        sent.drift[event, track, slot],
        track=track + 1,
        process=np.take(CODES[process], track),
    )
    top, bottom = sent.states[:, :, _TOP], sent.states[:, :, _BOTTOM]
    in_top = sent.element[:, :, STATION_3_TOP - 1] > 0
    station_3 = np.where(in_top[..., None], top, bottom).reshape(-1, 6)
    station_1 = sent.states[:, :, 0].reshape(-1, 6)
    tracks = Tracks.of(
        np.tile(np.arange(1, k + 1), n),
        np.tile(CHARGES[process], n),
        vertex.reshape(-1, 3),
        momentum.reshape(-1, 3),
        position_st1=station_1[:, :3],
        momentum_st1=station_1[:, 3:],
        position_st3=station_3[:, :3],
        momentum_st3=station_3[:, 3:],
    )
    return Events.of(np.bincount(event, minlength=n), hits, np.full(n, k), tracks)
