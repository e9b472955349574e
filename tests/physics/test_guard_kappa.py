"""The strength of the magnet. A wrong unit of q/p makes it 1000 times too weak, and nothing else notices."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import trackkeras
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.propagation import propagate

INTEGRAL = 3.746  # T m
WIDTH = 1000.0  # mm; the magnet ends well inside the volume


@pytest.fixture(scope="module")
def magnet():
    peak = -INTEGRAL / (math.sqrt(2.0 * math.pi) * WIDTH / 1000.0)
    return make_field("gaussian", peak=peak, centre=6750.0, width=WIDTH)


@pytest.mark.parametrize("charge", [1, -1])
def test_10_gev_bends_112_mrad(magnet, charge):
    qop = charge / 10_000.0  # 1/MeV
    done = propagate(magnet, [[0.0, 0.0, 0.0, 0.0, qop]], -500.0, 14_500.0, step=10.0)
    angle = math.atan(done.state[0, 2])
    assert done.status[0] == 0
    # In By < 0 a positive charge goes to +x. The kick is 0.299792458 GeV / (T m) * 3.746 T m.
    assert angle * charge == pytest.approx(math.asin(0.299792458 * INTEGRAL / 10.0), abs=1e-9)
    assert abs(math.sin(angle)) == pytest.approx(0.1123, abs=1e-4)


def test_the_constant_is_written_once():
    package = Path(trackkeras.__file__).parent
    holders = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"0\.2998|0\.299_?79|2\.998e|2\.9979|299_?792", path.read_text())
    ]
    assert holders == ["units.py"]


def test_state_units_are_those_of_the_constant(magnet):
    """The same track with q/p in 1/GeV would bend 1000 times too much and be refused, not believed."""
    done = propagate(magnet, [[0.0, 0.0, 0.0, 0.0, 1 / 10.0]], -500.0, 14_500.0, step=10.0)
    assert done.status[0] != 0
    assert np.isnan(done.state).all()
