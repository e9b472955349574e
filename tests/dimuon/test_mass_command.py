"""`dimuon mass`: pairs, cuts, the fit of the peak, and what goes wrong."""

from __future__ import annotations

import itertools
import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from trackkeras.domains.dimuon.detectors import PLANES
from trackkeras.domains.dimuon.events import Events, Hits, Tracks
from trackkeras.domains.dimuon.kinematics import draw_pairs
from trackkeras.domains.dimuon.mass import pair_mass
from trackkeras.domains.dimuon.mass_command import mass
from trackkeras.domains.dimuon.mass_fit import Value, fit_peak
from trackkeras.domains.dimuon.pairs import Cuts, Pairs, read_pairs
from trackkeras.domains.dimuon.reconstructed import with_muons
from trackkeras.domains.dimuon.reconstruction import Muons
from trackkeras.domains.dimuon.rus_reading import read_rus
from trackkeras.domains.dimuon.rus_writing import write_rus
from trackkeras.domains.dimuon.simulation_options import GenerateOptions
from trackkeras.errors import UserError
from trackkeras.units import GEV, JPSI_MASS

app = typer.Typer()
app.command()(mass)

N = 400


def truth_of(n: int) -> NDArray[np.float64]:
    """Momenta of the muons of n J/psi, `(n, 2, 3)`."""
    options = GenerateOptions(acceptance="any")
    return draw_pairs("jpsi", options, np.random.default_rng(1), n)[0]


def reconstructed(momentum: NDArray[Any], found: NDArray[Any], hits: Any = 40, p_right: Any = None) -> Events:
    """Events of true muons that were found with some momenta, hits and chances."""
    n = len(momentum)
    tracks = Tracks.of(np.tile([1, 2], n), np.tile([1, -1], n), np.zeros((2 * n, 3)), momentum.reshape(-1, 3))
    events = Events.of(
        np.zeros(n), Hits.of([], []), np.full(n, 2), tracks, {"eventID": np.arange(n, dtype=np.int32)}
    )
    elements = (np.arange(PLANES) < np.broadcast_to(hits, (n, 2))[..., None]).astype(np.int32)
    chance = None if p_right is None else np.asarray(p_right, dtype=float)
    momenta = np.where(elements.any(axis=2)[..., None], found, 0.0)
    return with_muons(
        events, Muons(elements, np.zeros((n, 2, PLANES)), momenta, np.full((n, 2), -1.0), chance)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of muons found with 3 % error; in the first, three muons are missing."""
    path = tmp_path_factory.mktemp("mass")
    rng = np.random.default_rng(2)
    momentum = truth_of(N)
    found = momentum * rng.normal(1.0, 0.03, (N, 2, 1))
    hits = np.full((N, 2), 40)
    hits[0, 0] = hits[3] = 0
    hits[7, 1] = 20
    half = N // 2
    chances = np.full((half, 2), 0.9)
    chances[9, 1] = 0.1
    write_rus(path / "one.root", [reconstructed(momentum[:half], found[:half], hits[:half], chances)])
    write_rus(path / "two.root", [reconstructed(momentum[half:], found[half:])])
    write_rus(path / "few.root", [reconstructed(momentum[:20], found[:20])])
    bare = reconstructed(momentum[:5], found[:5])
    write_rus(
        path / "bare.root",
        [Events.of(np.zeros(5), bare.hits, np.full(5, 2), bare.tracks, {"eventID": np.arange(5)})],
    )
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def pairs_of(path: Path, cuts: Cuts) -> Pairs:
    return read_pairs(((events, path) for events in read_rus(path)), cuts)


def test_the_peak_is_where_the_resonance_is(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "mass.png"
    result = run(folder / "one.root", folder / "two.root", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["events"] == N
    assert found["pairs"] == N - 2
    for name, wanted in (("mass", JPSI_MASS / GEV), ("width", 0.03 / math.sqrt(2) * JPSI_MASS / GEV)):
        assert abs(found["fit"][name]["value"] - wanted) < 4 * found["fit"][name]["error"]
        assert 0 < found["fit"][name]["error"] < 0.01
    assert found["fit"]["signal"]["value"] == pytest.approx(N - 2, rel=0.02)
    assert found["truth"]["mean"] == pytest.approx(JPSI_MASS / GEV, abs=1e-6)
    assert found["truth"]["sd"] < 1e-6
    assert found["mixed"]["slope"] == pytest.approx(1.0, abs=0.02)
    assert out.read_bytes().startswith(b"\x89PNG")
    again = run(folder / "one.root", folder / "two.root", "--out", out, "--overwrite")
    assert again.exit_code == 0
    fit = found["fit"]
    line = f"mass {Value(**fit['mass'])} GeV, width {Value(**fit['width'])} GeV"
    assert line in again.stdout.splitlines()


def test_cuts_ask_both_muons(folder: Path, tmp_path: Path) -> None:
    one = folder / "one.root"
    everything = pairs_of(one, Cuts())
    assert len(everything) == N // 2 - 2
    assert len(pairs_of(one, Cuts(min_hits=21))) == N // 2 - 3
    assert len(pairs_of(one, Cuts(min_p_right=0.5))) == N // 2 - 3
    both = pairs_of(one, Cuts(0.5, 21))
    assert (len(both), both.events) == (N // 2 - 4, N // 2)
    assert everything.known.all()
    result = run(one, "--min-hits", 21, "--min-p-right", 0.5, "--out", tmp_path / "mass.svg", "--json")
    assert json.loads(result.stdout)["pairs"] == N // 2 - 4
    assert (tmp_path / "mass.svg").read_text().startswith("<?xml")


def test_pairs_of_different_events_are_those_of_loops(folder: Path) -> None:
    pairs = pairs_of(folder / "few.root", Cuts())
    n, shifts = len(pairs), 3
    plus, minus = pairs.momentum[:, 0], pairs.momentum[:, 1]

    def each(first: NDArray[Any], second: NDArray[Any]) -> list[float]:
        return [
            float(pair_mass(first[i : i + 1], second[(i + s) % n][None])[0])
            for s, i in itertools.product(range(1, shifts + 1), range(n))
        ]

    np.testing.assert_allclose(pairs.mixed_mass(shifts), each(plus, minus))
    np.testing.assert_allclose(pairs.like_sign_mass(shifts), each(plus, plus) + each(minus, minus))


@given(
    scale=st.floats(0.5, 2.0),
    mean=st.floats(2.8, 3.6),
    width=st.floats(0.08, 0.25),
    background=st.integers(0, 300),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=15, deadline=None)
def test_the_fit_follows_a_change_of_unit(
    scale: float, mean: float, width: float, background: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(mean, width, 600), rng.uniform(2, 5, background)])
    # powers of two change no rounding, so that every value stays in its bin
    scale = 2.0 ** round(math.log2(scale))
    one, other = fit_peak(values), fit_peak(scale * values, (2 * scale, 5 * scale))
    for name in ("mass", "width"):
        first, second = getattr(one, name), getattr(other, name)
        assert second.value == pytest.approx(scale * first.value, rel=1e-4)
        assert second.error == pytest.approx(scale * first.error, rel=1e-2)
    assert one.signal.value + one.background.value == pytest.approx(one.counts.sum(), rel=0.03)
    assert one.expected(one.edges).sum() >= one.expected(one.edges, signal=False).sum()


def test_errors_of_the_fit_are_as_large_as_they_say() -> None:
    """Pulls of 60 invented spectra: their mean and spread have errors of 0.13 and 0.09."""
    rng = np.random.default_rng(3)
    pulls = []
    for _ in range(60):
        signal = rng.normal(3.1, 0.16, rng.poisson(500))
        peak = fit_peak(np.concatenate([signal, 2.0 + rng.exponential(1.0, rng.poisson(300))]))
        pulls.append(
            [(peak.mass.value - 3.1) / peak.mass.error, (peak.width.value - 0.16) / peak.width.error]
        )
    assert (np.abs(np.mean(pulls, axis=0)) < 0.5).all()
    assert (np.abs(np.std(pulls, axis=0) - 1.0) < 0.35).all()


def test_a_value_has_two_digits_of_its_error() -> None:
    assert str(Value(3.10412, 0.01234)) == "3.104 +- 0.012"
    assert str(Value(1523.2, 41.3)) == "1523 +- 41"
    assert str(Value(0.1, math.inf)) == "0.1 +- inf"


def test_no_peak_has_no_width() -> None:
    with pytest.raises(UserError, match="20 pairs have a mass"):
        fit_peak(np.full(20, 3.1))
    with pytest.raises(UserError, match="a window goes from"):
        fit_peak(np.full(40, 3.1), (2.0, math.inf))


BAD_INPUT = {
    "none.root": "no such file or folder: none.root",
    "bare.root": "bare.root lacks the branches qHitArray_mup, qHitArray_mum, driftDistance_mup",
    "few.root": "20 pairs have a mass from 2 to 5 GeV, a fit needs 30 at least",
    "two.root --min-p-right 0.5": "two.root has no qpright, which --min-p-right needs",
    "two.root --min-p-right 2": "--min-p-right must be a chance from 0 to 1, received 2",
    "two.root --min-hits 63": "--min-hits must be from 1 to 62, received 63",
    "two.root --window 5 2": "a window goes from a lower to a higher mass in GeV, received 5 to 2",
    "two.root --bins 5": "needs 10 bins at least, received 5",
    "two.root --out mass.pdf": "a picture's name must end in .png or .svg, received mass.pdf",
    "two.root --out there.png": "there.png exists already",
}


@pytest.mark.parametrize("command", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trackkeras.cli import main

    monkeypatch.chdir(folder)
    Path("there.png").touch()
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["trackkeras", "dimuon", "mass", *shlex.split(command)])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert not out
    lines = [line for line in err.splitlines() if not line.startswith("dimuon ")]  # progress
    assert len(lines) == 1, err
    assert BAD_INPUT[command] in lines[0]
    assert sorted(folder.rglob("*")) == before
