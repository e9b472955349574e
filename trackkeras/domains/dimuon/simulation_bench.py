"""How fast events are simulated on this machine, in processor time of one process.

Two processes make twice as many; other work on the machine does not change the figures by much.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from trackkeras.domains.dimuon.simulate import make_shard
from trackkeras.domains.dimuon.simulation_options import PRESETS

SAMPLES = ("jpsi_dump", "jpsi_target", "signals", "uncorrelated", "singles", "messy")


def measure(events: int) -> list[dict[str, Any]]:
    """Return the time that rows of some samples take, before they are written.

    Args:
        events: Events per sample.
    """
    rows = []
    for name in SAMPLES:
        config = PRESETS.get(name, {})
        for _ in make_shard(config, np.random.default_rng(0), 16):  # compiles the kernels
            pass
        start, tried = time.process_time(), 0
        for _, counts in make_shard(config, np.random.default_rng(1), events):
            tried += counts["tried"]
        seconds = time.process_time() - start
        rows.append(
            {
                "sample": name,
                "events": events,
                "us_per_event": 1e6 * seconds / events,
                "events_per_s": events / seconds,
                "drawn_per_event": tried / events,
            }
        )
    return rows
