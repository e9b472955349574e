"""The command line: help at once, one clear line and a non-zero exit for every bad input."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from trackkeras import cli
from trackkeras.domains.extrapolation.mlp import MlpTask


def commands() -> list[tuple[str, ...]]:
    group: Any = typer.main.get_command(cli.app)
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found += [(name, key) for key in inner] if inner else [(name,)]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_helps_with_an_example(command: tuple[str, ...], run: Any) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert f"Example: trackkeras {' '.join(command)}" in " ".join(out.split())


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['trackkeras', '--help']\n"
        "from trackkeras.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'numba', 'numpy', 'matplotlib', 'onnx', 'grpc', 'uproot'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_experiments_are_listed_with_the_numbers_of_their_tasks(run: Any) -> None:
    code, out, _ = run("study", "extrapolation", "--only", "loss_weights", "--list", "--json")
    assert code == 0
    entries = json.loads(out)
    assert [entry["index"] for entry in entries] == list(range(5))
    assert entries[4]["set"]["model.lambda_data"] == 0.1
    code, out, _ = run("study", "extrapolation", "--only", "loss_weights", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["0", "1", "2", "3", "4"]
    assert "pinn_medium model.lambda_data=0.1 model.lambda_pde=1" in out.splitlines()[4]


BAD_INPUT = {
    "generate calorimeter --out x": "no domain named 'calorimeter'; there are: dimuon, extrapolation",
    "generate extrapolation --out x --p-min 0": "p_min: ",
    "generate extrapolation --out x --set p_mim=2": "unknown key 'p_mim' (did you mean 'p_min'?)",
    "generate extrapolation --out x --set p_min": "--set needs key=value",
    "generate extrapolation --out x --z-end 20000": "is known for z from -500 to 14000",
    "generate extrapolation --out x --set field=solenoid": "solenoid",
    "generate extrapolation --out x --n 5 --shards 2": "cannot be divided",
    "study nothing --data x": "no study named 'nothing'; there are: extrapolation",
    "study extrapolation --only bse --data x": "did you mean 'base'?",
    "study extrapolation --only base --index 12 --data x": "--index must be from 0 to 11, received 12",
    "study extrapolation --only base": "name the dataset folder with --data",
    "study extrapolation --data x": "no such folder: x",
    "train mlp_medum --data x --name y": "did you mean 'mlp_medium'?",
    "train none.yaml --data x --name y": "no such file: none.yaml",
    "train mlp_tiny --data x --name y": "no such folder: x",
    "train mlp_tiny --data x --name y --set training.epoch=3": "did you mean 'epochs'?",
    "train mlp_tiny --data x --name y --set training.epochs=many": "training.epochs",
    "train mlp_tiny --data x --name y --strategy mirrored --set training.jit_compile=true": (
        "jit_compile works on one device only"
    ),
    "train mlp_tiny --data x --name y --mlflow": "no such folder: x",
    "tune mlp_medum --data x": "no such folder: x",
    "tune mlp_tiny --data x --workers 2 --member 1": "choose one",
    "tune mlp_tiny --data x --member 1 --overwrite": "remove the search folder before jobs start",
    "evaluate nowhere": "nowhere is not a run folder",
    "report nowhere": "nowhere",
    "compare nowhere": "nowhere",
    "export nowhere": "nowhere is not a run folder",
    "export": "name one run folder, or --best FOLDER with --by METRIC",
    "export runs --best runs --by pos_95_mm": "name one run folder",
    "export --best runs": "name one run folder",
    "export --best nowhere --by pos_95_mm": "no such folder of runs: nowhere",
    "inspect nowhere": "no such folder: nowhere",
    "verify nowhere": "nowhere",
    "dump nowhere --out x.npz": "no such folder: nowhere",
    "ingest extrapolation nowhere.npz --out x": "nowhere.npz",
    "ingest extrapolation nowhere.npz --out x --set signed=true": "unknown key 'signed'",
    "ingest dimuon nowhere.root --out x": "no such file: nowhere.root",
    "serve nowhere": "no such folder: nowhere",
    "serving-config nowhere": "no such folder: nowhere",
    "query m --inputs '{' --address 127.0.0.1:1": "--inputs is not valid JSON",
    "query m --inputs '[1]' --address 127.0.0.1:1": "must be a JSON object of inputs",
    "query m --inputs @none.npz --address 127.0.0.1:1": "no such file: none.npz",
    "field info solenoid": "solenoid",
    "field info grid --set path=none.txt": "cannot read field file none.txt",
    "field info grid --set path=none.txt --set length=mm --set field=T": "cannot read field file none.txt",
    "field info grid --set path=none.txt --set length=mile --set field=T": "mile",
    "field make lhcb --set polarity=2 --out x.txt": "polarity",
}


@pytest.mark.parametrize("command", BAD_INPUT)
def test_bad_input_is_one_line(
    command: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*shlex.split(command))
    assert code == 2
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert BAD_INPUT[command] in lines[0]
    assert not list(tmp_path.iterdir()), "bad input must leave nothing behind"


def test_generate_inspect_verify_dump_ingest(tmp_path: Path, run: Any) -> None:
    data = tmp_path / "tracks"
    small = ("generate", "extrapolation", "--n", 2000, "--shards", 4, "--out", data)
    code, out, err = run(*small)
    assert code == 0, err
    assert "2,000 rows in 4 shards" in out
    assert "rows (100 %)" in err
    code, out, _ = run("inspect", data)
    assert code == 0
    assert "1/MeV" in out
    described = json.loads(run("inspect", data, "--json")[1])
    assert described["rows"] == 2000
    assert run("verify", data)[0] == 0

    npz = tmp_path / "tracks.npz"
    assert run("dump", data, "--split", "train", "--out", npz)[0] == 0
    with np.load(npz) as arrays:
        assert arrays["X"].shape == (1600, 6)
        assert arrays["Y"].shape == (1600, 4)
    again = tmp_path / "again"
    code, _, err = run("ingest", "extrapolation", npz, "--out", again, "--shards", 3)
    assert code == 0, err
    assert run("verify", again)[0] == 0

    other = run(*small, "--seed", 2)
    assert other[0] == 2
    assert "another recipe" in other[2]
    shard = sorted(data.glob("*train*"))[0]
    broken = bytearray(shard.read_bytes())
    broken[1000] ^= 4
    shard.write_bytes(broken)
    code, out, _ = run("verify", data)
    assert code == 1
    assert shard.name in out
    assert run(*small)[0] == 0
    assert run("verify", data)[0] == 0, "a rerun mends what is broken"


def test_one_shard_at_a_time_as_a_batch_system_does(tmp_path: Path, run: Any) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = ("generate", "extrapolation", "--n", 600, "--shards", 3)
    run(*common, "--out", whole)
    for shard in (2, 0):
        code, out, _ = run(*common, "--out", parts, "--shard", shard)
        assert code == 0
        assert "others are still missing" in out
    code, _, err = run("inspect", parts)
    assert code == 2
    assert "is not complete" in err
    run(*common, "--out", parts, "--shard", 1)
    for path in sorted(whole.iterdir()):
        if path.is_file():
            assert path.read_bytes() == (parts / path.name).read_bytes()


def test_field_commands(tmp_path: Path, run: Any) -> None:
    code, out, _ = run("field", "info", "gaussian", "--json")
    assert code == 0
    assert "-1.0182" in out
    assert run("field", "info", "lhcb")[0] == 0


@pytest.mark.usefixtures("no_experiment_data")
def test_evaluate_export_query(
    trained_run: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "mine"
    shutil.copytree(trained_run, folder)
    code, out, err = run("evaluate", folder, "--limit", 500)
    assert code == 0, err
    assert "target pos_mean_mm < 0.1: missed" in out
    assert re.search(r"straight_line: (worse in none|WORSE in \d+) of \d+ cells of p and abs_dz", out)
    assert (folder / "report.html").is_file()
    assert run("report", folder)[0] == 0
    twin = tmp_path / "runs" / "twin"
    shutil.copytree(folder, twin)
    metrics = json.loads((twin / "metrics.json").read_text())
    (twin / "metrics.json").write_text(json.dumps(metrics | {"run": "twin"}))
    code, out, err = run("compare", folder, twin, "--out", tmp_path / "comparison.html")
    assert code == 0, err
    assert "test: 500 rows" in out
    assert (tmp_path / "comparison.html").is_file()
    bundles = tmp_path / "bundles"
    monkeypatch.setattr(MlpTask, "parity_rows", 2000)
    best = ("--best", folder.parent, "--by", "pos_95_mm", "--json")
    for version, what in ((1, (folder,)), (2, best)):
        code, out, err = run("export", *what, "--out", bundles)
        assert code == 0, err
        assert (bundles / "mlp_tiny-mine" / str(version) / "saved_model.pb").is_file()
    assert "the smallest of 2 evaluated runs (next: twin" in err
    assert json.loads(out)["choice"]["metric"] == "pos_95_mm"
    assert json.loads(out)["parity"]["state_and_jacobian"]["onnx"]["excess"] <= 1
    assert "base_path" in run("serving-config", bundles)[1]

    from serving.bundle import discover
    from serving.query import connect
    from serving.server import Server
    from trackkeras.domain import find_task
    from trackkeras.export import all_endpoints

    track = '{"state": [[100, -50, 0.05, -0.02, 1e-4]], "z0": [[2665]], "dz": [[0]]}'
    with Server(discover([bundles]), rest_port=0, grpc_port=0) as server:
        for address in (server.grpc_target, server.rest_url):
            with connect(address) as client:
                offered = client.metadata("mlp_tiny-mine").signatures
            for name, endpoint in all_endpoints(find_task("extrapolation", "mlp")).items():
                assert set(offered[name].inputs) == {t.name for t in endpoint.signature.inputs}
                assert set(offered[name].outputs) == {t.name for t in endpoint.signature.outputs}
            ask = ("query", "mlp_tiny-mine", "--address", address)
            code, out, err = run(*ask, "--inputs", track, "--json")
            assert code == 0, err
            np.testing.assert_allclose(
                json.loads(out)["final_state"], [[100, -50, 0.05, -0.02, 1e-4]], rtol=1e-6
            )
            code, out, err = run(*ask, "--signature", "state_and_jacobian", "--inputs", track, "--json")
            assert code == 0, err
            np.testing.assert_array_equal(json.loads(out)["jacobian"], [np.eye(5)])
            code, _, err = run(*ask, "--inputs", '{"state": [[1, 2]]}')
            assert code == 2
            assert "missing input" in err
        assert run("query", "nobody", "--address", server.grpc_target, "--inputs", track)[0] == 2
