"""How fast events are simulated on this machine, for one process."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from trackkeras.domains.dimuon.simulate import simulate
from trackkeras.domains.dimuon.simulation_options import PRESETS, GenerateOptions

SAMPLES = ("jpsi_dump", "jpsi_target", "signals", "uncorrelated", "singles", "messy")


def measure(events: int) -> list[dict[str, Any]]:
    """Return events per second of some samples.

    Args:
        events: Events per sample.
    """
    rows = []
    for name in SAMPLES:
        options = GenerateOptions(**PRESETS.get(name, {}))
        for _ in simulate(options, np.random.default_rng(0), 16):  # compiles the kernels
            pass
        start, tried = time.perf_counter(), 0
        for _, counts in simulate(options, np.random.default_rng(1), events):
            tried += counts["tried"]
        seconds = time.perf_counter() - start
        rows.append(
            {"sample": name, "events_per_s": events / seconds, "accepted": events / tried, "seconds": seconds}
        )
    return rows
