"""Track extrapolation in the LHCb dipole: the state at z0 becomes the state at z0 + dz.

`make_field` and `propagate` are the simulation; `DOMAIN` plugs the detector into the shared road. Names are
looked up when they are used, so importing the package loads neither Numba nor TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

from trackkeras.domains.extrapolation.road import DOMAIN
from trackkeras.kernel_cache import use_own_cache

use_own_cache()

_LAZY = {
    "Field": "fields",
    "make_field": "fields",
    "propagate": "propagation",
    "Propagated": "propagation",
    "Status": "propagation",
}

__all__ = ["DOMAIN", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
