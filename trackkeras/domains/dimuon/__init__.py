"""SpinQuest dimuon spectrometer: hits of many tracks become the hit arrays and momenta of a mu+ and a mu-.

`DOMAIN` plugs the detector into the shared road; `Events`, `read_rus` and `write_rus` lead to its data. Names
are looked up when they are used, so importing the package loads neither uproot nor TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

from trackkeras.domains.dimuon.road import DOMAIN
from trackkeras.kernel_cache import use_own_cache

use_own_cache()

_LAZY = {
    "Events": "events",
    "Hits": "events",
    "Tracks": "events",
    "read_rus": "rus_reading",
    "write_rus": "rus_writing",
}

__all__ = ["DOMAIN", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
