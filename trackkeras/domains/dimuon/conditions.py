"""Conditions of a study: the same dimuons under other backgrounds, noise, and losses of hits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from trackkeras.domains.dimuon.detectors import DETECTORS, numbers
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.mixing import add_background
from trackkeras.domains.dimuon.noise import Noise, add_noise
from trackkeras.domains.dimuon.occupancy import Occupancy
from trackkeras.errors import UserError

CHUNK = 250
"""Events at a time."""

STATIONS = {
    "station 1": range(1, 7),
    "station 2": range(13, 19),
    "station 3": range(19, 31),
    "tubes": range(47, 55),
    "hodoscopes": range(31, 47),
}
"""Numbers of the detectors that a loss of hits is studied in together."""


WHOLE = Occupancy(model="flat", efficiency=1.0, spread=0.0)
"""Background tracks that keep all of their hits."""


@dataclass(frozen=True)
class Condition:
    """What is done to dimuons.

    Attributes:
        name: In tables.
        occupancy: Background.
        noise: Noise, or None.
        lost: Chance that a detector loses the hit of a muon.
        lost_in: Numbers of the detectors that lose hits.
    """

    name: str
    occupancy: Occupancy = field(default_factory=Occupancy)
    noise: Noise | None = None
    lost: float = 0.0
    lost_in: tuple[int, ...] = ()


def conditions() -> tuple[Condition, ...]:
    """Return the default background, each number of tracks, and changes of one thing at a time."""
    every = tuple(map(int, numbers()))
    return (
        Condition("0 to 50 tracks"),
        Condition("0 to 50 whole tracks", WHOLE),
        *(Condition(f"{n} tracks", Occupancy(lower=n, upper=n)) for n in range(0, 51, 5)),
        *(
            Condition(f"0 to 50 tracks, {model}", Occupancy(model=model))
            for model in ("linear", "exponential", "flat")
        ),
        Condition("0 to 50 tracks, noise 0.2 %", noise=Noise()),
        Condition("0 to 50 tracks, noise 1 %", noise=Noise(electronic=0.01, cluster=0.05)),
        *(
            Condition(f"0 to 50 tracks, {share:.0%} of hits lost", lost=share, lost_in=every)
            for share in (0.02, 0.05, 0.1)
        ),
        *(
            Condition(f"0 to 50 tracks, 10% lost in {name}", lost=0.1, lost_in=tuple(detectors))
            for name, detectors in STATIONS.items()
        ),
    )


def choose(every: Sequence[Condition], names: Sequence[str] | None) -> list[Condition]:
    """Return the conditions of some names, else those that have them in theirs; all for None.

    Raises:
        UserError: There is none for a name.
    """
    if names is None:
        return list(every)
    found: list[Condition] = []
    for name in names:
        fitting = [c for c in every if c.name == name] or [c for c in every if name in c.name]
        if not fitting:
            known = ", ".join(condition.name for condition in every)
            raise UserError(f"no condition has {name!r} in its name; there are: {known}")
        found += [condition for condition in fitting if condition not in found]
    return found


def dead_detectors(tracks: int = 10) -> tuple[Condition, ...]:
    """Return one condition for each detector that is present, in which none of its signal hits is left.

    Args:
        tracks: Background tracks of each event.
    """
    occupancy = Occupancy(lower=tracks, upper=tracks)
    return tuple(
        Condition(f"{tracks} tracks, {plane.name} dead", occupancy, lost=1.0, lost_in=(plane.number,))
        for plane in DETECTORS
        if plane.present
    )


def messy_events(signal: Events, muons: Events, condition: Condition, seed: int) -> Iterator[Events]:
    """Yield dimuons under a condition; the same seed takes the same muons for background.

    Args:
        signal: Dimuons.
        muons: Single muons, which background is drawn from with replacement.
        condition: What is done to them.
        seed: Of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    pool = _Pool(muons, rng)
    for start in range(0, len(signal), CHUNK):
        events = signal[start : start + CHUNK]
        loses = np.isin(events.hits.detector, condition.lost_in)
        events = events.with_hits(~(loses & (rng.random(len(loses)) < condition.lost)))
        events = add_background(events, pool, condition.occupancy, rng)
        yield add_noise(events, condition.noise, rng) if condition.noise else events


@dataclass
class _Pool:
    muons: Events
    rng: np.random.Generator

    def take(self, n: int) -> Events:
        return self.muons[self.rng.integers(0, len(self.muons), n)]
