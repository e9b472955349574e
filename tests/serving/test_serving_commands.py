"""`trackkeras serving-config` and `trackkeras loadtest`."""

from __future__ import annotations

import json

import pytest
import yaml

from serving import deployment


@pytest.fixture
def curve(tmp_path):
    file = tmp_path / "curve.json"
    rows = [
        {"engine": deployment.ENGINE, "batch": batch, "inference_time_cpu": 300 + 2 * batch}
        for batch in (1, 32, 256)
    ]
    file.write_text(json.dumps({"rows": rows}))
    return file


def test_each_file_is_printed(run, bundles, curve):
    config = ("serving-config", bundles)
    assert "base_path" in run(*config)[1]
    assert "max_batch_size" in run(*config, "--batching", curve)[1]
    assert "prometheus_config" in run(*config, "--monitoring")[1]
    code, out, _ = run(*config, "--compose", "--image", "mine:1", "--batching", curve)
    (service,) = yaml.safe_load(out)["services"].values()
    assert (code, service["image"]) == (0, "mine:1")
    assert "--enable_batching" in service["command"]
    assert len(list(yaml.safe_load_all(run(*config, "--kubernetes")[1]))) == 3


def test_a_folder_of_all_files(run, bundles, curve, tmp_path):
    out = tmp_path / "served"
    code, printed, err = run("serving-config", bundles, "--batching", curve, "--threads", 2, "--out", out)
    assert (code, printed.strip()) == (0, str(out / "models.config")), err
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "models.config",
        "monitoring.config",
        "batching.config",
        "docker-compose.yaml",
        "kubernetes.yaml",
    }
    assert 'base_path: "/models/sums"' in (out / "models.config").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--compose", "--kubernetes"), "choose one of"),
        (("--batching", "none.json"), "cannot read none.json"),
        (("--compose", "--batching", __file__), "is no latency curve"),
    ],
)
def test_bad_options_of_serving_config(run, bundles, options, words):
    code, out, err = run("serving-config", bundles, *options)
    assert (code, out) == (2, "")
    assert words in err


def test_threads_are_counted(run, bundles, curve):
    assert run("serving-config", bundles, "--batching", curve, "--threads", 0)[0] == 2


def test_loadtest(run, server, tmp_path):
    load = ("loadtest", server.grpc_target, "--model", "sums", "--clients", 2, "--rate", 20, "--seconds", 0.3)
    code, out, err = run(*load, "--out", tmp_path / "new/load")
    assert code == 0, err
    assert "saturated at 20 requests/s" in out or "saturated: " in out
    assert err.startswith("closed, 2 clients: ")
    result = json.loads((tmp_path / "new/load.json").read_text())
    assert [step["loop"] for step in result["steps"]] == ["closed", "open"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["load.json", "load.png", "load.svg"]
    assert json.loads(run(*load, "--json")[1])["model"] == "sums"


def test_loadtest_of_nothing(run, server):
    code, out, err = run("loadtest", server.rest_url, "--model", "nothing")
    assert (code, out) == (2, "")
    assert "no model named 'nothing'" in err
    assert len(err.splitlines()) == 1


def test_serve_refuses_a_negative_time(run, bundles):
    code, _, err = run("serve", bundles, "--reload-seconds", "-1")
    assert code == 2
    assert "reload_seconds must be 0" in err
