"""`dimuon simulate` as a command of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.rus_reading import read_rus
from trackkeras.domains.dimuon.simulate import simulate as make
from trackkeras.domains.dimuon.simulation_command import simulate
from trackkeras.domains.dimuon.simulation_options import GenerateOptions
from trackkeras.errors import UserError

app = typer.Typer()
app.command()(simulate)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_file_holds_the_simulated_events(tmp_path):
    out = tmp_path / "new" / "messy.root"
    result = run("--n", 40, "--set", "background.upper=4", "--seed", 5, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["events"] == 40
    assert summary["files"] == [str(out)]
    assert summary["drawn_events"] > 40

    options = GenerateOptions(background={"upper": 4})
    rng = np.random.Generator(np.random.PCG64DXSM(5))
    expected = Events.concatenate([events for events, _ in make(options, rng, 40)])
    found = Events.concatenate(list(read_rus(out)))
    assert summary["hits"] == len(expected.hits)
    for table, wanted in ((found.hits, expected.hits), (found.tracks, expected.tracks)):
        for name, column in wanted.columns().items():
            np.testing.assert_array_equal(table.columns()[name], column, err_msg=name)


@pytest.mark.parametrize("naming", ["old", "transitional", "new"])
def test_every_naming_reads_back(tmp_path, naming):
    out = tmp_path / "file.root"
    result = run("--n", 3, "--preset", "singles", "--naming", naming, "--out", out)
    assert result.exit_code == 0, result.output
    assert "3 events" in result.stdout
    assert sum(len(events) for events in read_rus(out)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "upsilon"), "no generation preset 'upsilon'"),
        (("--set", "xf_min=0.9"), "xf_min"),
        (("--set", "halo"), "halo"),
    ],
)
def test_wrong_calls_write_nothing(tmp_path, arguments, message):
    result = run("--n", 3, "--out", tmp_path / "file.root", *arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_existing_file_stays_unless_told_otherwise(tmp_path):
    out = tmp_path / "file.root"
    out.write_text("mine")
    result = run("--n", 3, "--out", out)
    assert isinstance(result.exception, UserError)
    assert "--overwrite" in str(result.exception)
    assert out.read_text() == "mine"
    assert run("--n", 3, "--out", out, "--overwrite").exit_code == 0
    assert sum(len(events) for events in read_rus(out)) == 3


def test_help_and_options_need_neither_numba_nor_tensorflow():
    code = (
        "import sys; from trackkeras.domains.dimuon import simulation_command, simulation_options; "
        "sys.exit(any(name in sys.modules for name in ('numba', 'tensorflow', 'uproot')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "Example:" in run("--help").stdout
