"""The field commands: what they write and print, and one clear line for bad input."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from trackkeras.domains.extrapolation import grid, grid_allen
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.grid import write_grid
from trackkeras.domains.extrapolation.grid_allen import write_allen

LIMITS = ((-2000.0, 2000.0, 400.0), (-2000.0, 2000.0, 400.0), (0.0, 13000.0, 200.0))


@pytest.fixture
def run(run: Any) -> Any:
    """Run a command of `trackkeras field`."""
    return partial(run, "field")


@pytest.fixture
def text_map(tmp_path: Path) -> Path:
    path = tmp_path / "map.txt"
    write_grid(make_field("lhcb"), path, LIMITS)
    return path


@pytest.fixture
def small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `field make` write few nodes."""
    for module, name in ((grid, "write_grid"), (grid_allen, "write_allen")):
        write = {"write_grid": write_grid, "write_allen": write_allen}[name]
        monkeypatch.setattr(module, name, lambda *a, write=write, **k: write(*a, nodes=LIMITS, **k))


def test_info_of_a_map(text_map: Path, run: Any) -> None:
    arguments = ["info", text_map, "--ray", "0.1,-0.05", "--ray", "0,0.02", "--against", "lhcb", "--json"]
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["name"] == "grid"
    assert report["dominant"] == "By"
    assert report["polarity"] == "-y (down)"
    assert [(ray["tx"], ray["ty"]) for ray in report["rays"]] == [(0.1, -0.05), (0.0, 0.02)]
    assert report["against"]["name"] == "lhcb"
    assert 0 < report["against"]["difference_T"]["mean"] < 0.01
    assert report["grid"]["shape"] == [11, 11, 66]
    code, out, _ = run(*arguments[:-1])
    assert code == 0
    for words in ("peak_T ", "kick_GeV ", "centre_mm ", "too_strong:", "divergence_rms_T_per_mm "):
        assert words in out


def test_info_takes_options(text_map: Path, run: Any) -> None:
    options = ["--set", "interpolation=cubic", "--set", "mask.strength=1.2", "--set", "polarity=-1"]
    code, out, _ = run("info", text_map, *options, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["description"].startswith("tricubic")
    assert report["polarity"] == "+y (up)"
    assert report["options"]["mask"] == {"edge": 3500.0, "strength": 1.2}
    assert "away from nodes with |B| > 1.2 T" in report["known"]


@pytest.mark.usefixtures("small_grids")
def test_make_text_allen_and_companions(tmp_path: Path, run: Any) -> None:
    text, binary, folder = tmp_path / "map.txt", tmp_path / "map.bin", tmp_path / "companions"
    assert run("make", "two_dipole", "--out", text, "--companions", folder)[0] == 0
    assert run("make", "two_dipole", "--out", binary, "--format", "allen")[0] == 0
    one, other = make_field("grid", path=text), make_field("grid", path=binary)
    np.testing.assert_allclose(one.values, other.values, rtol=1.2e-7, atol=1e-9)
    assert sorted(path.name for path in folder.iterdir()) == [
        "field_By_vs_z.npy",
        "field_map_downsampled.npz",
        "gaussian_field_params.json",
    ]
    before = text.read_bytes()
    code, _, err = run("make", "lhcb", "--out", text)
    assert code == 2
    assert "exists" in err
    assert text.read_bytes() == before
    assert run("make", "lhcb", "--out", text, "--overwrite")[0] == 0
    assert text.read_bytes() != before


def test_plot_writes_png_and_svg(tmp_path: Path, run: Any) -> None:
    options = ["--out", tmp_path / "plots", "--against", "lhcb", "--limit", "2"]
    code, out, _ = run("plot", "two_dipole", *options)
    assert code == 0
    found = {Path(line).name: Path(line).read_bytes() for line in out.splitlines()}
    assert set(found) == {"profile.png", "profile.svg", "slices.png", "slices.svg"}
    for name, content in found.items():
        assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
        assert len(content) > 20_000


def test_fit_writes_a_field(text_map: Path, tmp_path: Path, run: Any) -> None:
    out = tmp_path / "fit.yaml"
    code, printed, err = run("fit", text_map, "--terms", 2, "--points", 200, "--starts", 1, "--out", out)
    assert code == 0
    assert "2 terms leave" in printed
    assert err.startswith("start 1 of 1: ")
    assert len(yaml.safe_load(out.read_text())["terms"]) == 2
    code, printed, _ = run("info", out, "--json")
    assert code == 0
    assert json.loads(printed)["peak_T"] > 0.8
    code, _, err = run("fit", text_map, "--terms", 2, "--out", out)
    assert code == 2
    assert "exists" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "absent.txt"], "cannot read field file absent.txt: No such file"),
        (["info", "absent.bin"], "cannot read field file absent.bin: No such file"),
        (["info", "absent.yaml"], "no such file: absent.yaml"),
        (["info", "two_dipol"], "did you mean 'two_dipole'?"),
        (["info", "--ray", "0.1"], "--ray needs two slopes such as 0.1,0.05, received '0.1'"),
        (["info", "--ray", "0.1,x"], "--ray needs two slopes"),
        (["info", "--ray", "0.1,inf"], "--ray needs finite slopes"),
        (["info", "--against", "solenoid"], "no field named 'solenoid'"),
        (["info", "two_dipole", "--set", "exclusion=0"], "exclusion"),
        (["make", "lhcb", "--out", "absent/map.txt"], "no such folder: absent"),
        (["plot", "--out", "plots", "--limit", "-1"], "--limit must be a positive field"),
        (["fit", "lhcb", "--out", "fit.txt"], "--out must end in .yaml"),
        (["fit", "lhcb", "--out", "fit.yaml", "--points", "20"], "too few for 6 terms"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("error: ")
    assert message in err
    assert not list(tmp_path.iterdir())
