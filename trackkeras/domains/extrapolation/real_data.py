"""Tracks through the real LHCb field, made elsewhere; read where they are at hand, never part of the project.

`TRACKKERAS_DATA` names the folder; without it a checkout looks for `../shared/data` beside itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from trackkeras.domain import Rows, Sample
from trackkeras.errors import UserError
from trackkeras.units import qop_from_allen

VARIABLE = "TRACKKERAS_DATA"

FIT_ROWS = 1200
"""The field `lhcb` is fitted to the first rows of the crossing sample; no evaluation may touch them."""

CROSSING_Z = (2665.0, 7826.0)
CPP_Z = (3000.0, 12000.0)
CPP_X_MAX, CPP_Y_MAX = 3900.0, 3300.0


def data_folder() -> Path | None:
    """Return the folder of the experiment's data, or None where there is none.

    Raises:
        UserError: `TRACKKERAS_DATA` names a folder that does not exist.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_dir():
            raise UserError(f"{VARIABLE} must name a folder, received {named!r}; unset it to go without")
        return Path(named)
    root = Path(__file__).resolve().parents[3]
    beside = root.parent / "shared" / "data"
    return beside if (root / "setup.cfg").is_file() and beside.is_dir() else None


def real_field_crossing(folder: Path) -> Rows:
    """Return tracks across the magnet, z 2665 to 7826 mm, that the field was not fitted to.

    Field: LHCb map v8r1, polarity down; 2 to 100 GeV, pointing to the vertex.

    Returns:
        Columns `state` `(n, 5)`, `z0` `(n, 1)`, `dz` `(n, 1)`, `final_state` `(n, 5)`, float64.
    """
    with np.load(_existing(folder / "lhcb" / "real_field_crossing_4000.npz")) as arrays:
        start, end = arrays["X_plane"][FIT_ROWS:].copy(), arrays["Y_true"][FIT_ROWS:].copy()
    for states in (start, end):
        states[:, 4] = qop_from_allen(states[:, 4])
    return _rows(start, end, CROSSING_Z)


def cpp_states(folder: Path) -> Rows:
    """Return states of LHCb's own C++ extrapolator, z 3000 to 12,000 mm.

    Charged tracks that end within |x| < 3.9 m and |y| < 3.3 m; the production map, adaptive Cash-Karp, whose
    default tolerance is itself good to about 0.05 mm median and 0.3 mm at the 95th percentile.

    Returns:
        Columns as `real_field_crossing`.
    """
    table = np.genfromtxt(
        _existing(folder / "lhcb" / "cpp_states_3000_12000.csv"), delimiter=",", names=True, encoding="ascii"
    )
    start = np.stack([table[name] for name in ("x_i", "y_i", "tx_i", "ty_i", "qop")], axis=1)
    end = np.stack([table[name] for name in ("x_f", "y_f", "tx_f", "ty_f", "qop")], axis=1)
    kept = (
        (table["success"] == 1)
        & (table["qop"] != 0)
        & (np.abs(end[:, 0]) < CPP_X_MAX)
        & (np.abs(end[:, 1]) < CPP_Y_MAX)
    )
    return _rows(start[kept], end[kept], CPP_Z)


def samples() -> tuple[Sample, ...]:
    """Return both samples for an evaluation; none where the data is absent."""
    folder = data_folder()
    if folder is None or not (folder / "lhcb").is_dir():
        return ()
    crossing, cpp = real_field_crossing(folder), cpp_states(folder)
    return (
        Sample(
            "real_field",
            f"{len(crossing['z0'])} tracks through the LHCb map v8r1 (down), z 2665 to 7826 mm, "
            "2 to 100 GeV, none of them used to fit the field",
            crossing,
            simulated=False,
        ),
        Sample(
            "cpp_states",
            f"{len(cpp['z0'])} charged states of LHCb's C++ extrapolator (production map), z 3000 to "
            "12000 mm, ending within |x| < 3.9 m, |y| < 3.3 m",
            cpp,
            simulated=False,
        ),
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"no such file: {path}; {VARIABLE} names the folder that should hold it")
    return path


def _rows(start: np.ndarray, end: np.ndarray, planes: tuple[float, float]) -> Rows:
    z0 = np.full((len(start), 1), planes[0])
    return {"state": start, "z0": z0, "dz": np.full_like(z0, planes[1] - planes[0]), "final_state": end}
