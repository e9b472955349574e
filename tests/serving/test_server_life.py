"""Engines, start, stop, ports and processes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from serving.bundle import discover, read_bundle
from serving.client import Client, RestClient, Retry
from serving.errors import Code, ServingError
from serving.repository import Limits, Servable
from serving.runtime import load
from serving.server import Server, serve

ONCE = Retry(attempts=1)


# -- engines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 300])
def test_engines_agree_with_each_other_and_the_closed_form(bundles, transport, rows):
    inputs = transport.tracks(rows)
    for version in (1, 10):
        bundle = read_bundle(bundles / f"transport/{version}")
        outputs = {
            name: Servable(bundle, load(bundle, name)).predict("", inputs, Limits())
            for name in ("onnx", "savedmodel")
        }
        for answer in outputs.values():
            transport.check(answer, inputs, version)
        first, second = (answer["final_state"] for answer in outputs.values())
        np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-3)


def test_the_saved_model_has_all_signatures(bundles, transport):
    state = {"state": transport.tracks(5)["state"]}
    with Server(
        discover([bundles / "transport/2"]), rest_port=0, grpc_port=0, backend="savedmodel"
    ) as server:
        for client in (Client(server.grpc_target), RestClient(server.rest_url)):
            with client:
                assert sorted(client.metadata("transport").signatures) == ["serving_default", "slopes"]
                outputs = client.predict("transport", state, signature="slopes")
                np.testing.assert_array_equal(outputs["slopes"], state["state"][:, 2:4], strict=True)


def write_slopes(path, name="model.slopes.onnx", outputs=("slopes",)):
    """Add an ONNX file for the signature `slopes` of `transport`."""
    nodes = [helper.make_node("Slice", ["state", "from", "to", "axis"], ["slopes"])]
    values = {"from": [2], "to": [4], "axis": [1]}
    constants = [onnx.numpy_helper.from_array(np.array(value), key) for key, value in values.items()]
    sides = [
        [helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, (None, size)) for key, size in side]
        for side in ([("state", 5)], [(output, 2) for output in outputs])
    ]
    graph = helper.make_graph(nodes, "slopes", *sides, initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path / name)


@pytest.mark.parametrize("named", [None, "other.onnx"])
def test_onnx_has_the_signatures_that_have_a_file(bundles, tmp_path, transport, named):
    path = shutil.copytree(bundles / "transport/2", tmp_path / "2")
    if named:
        change_signature(path, "slopes", onnx=named)
    write_slopes(path, named or "model.slopes.onnx")
    inputs = transport.tracks(5)
    with Server(discover([path]), rest_port=0, grpc_port=0) as server:
        for client in (Client(server.grpc_target), RestClient(server.rest_url)):
            with client:
                assert sorted(client.metadata("transport").signatures) == ["serving_default", "slopes"]
                slopes = client.predict("transport", {"state": inputs["state"]}, signature="slopes")
                np.testing.assert_array_equal(slopes["slopes"], inputs["state"][:, 2:4], strict=True)
                transport.check(client.predict("transport", inputs), inputs, 2)


def change_signature(path, signature, **entries):
    file = path / "bundle.json"
    description = json.loads(file.read_text())
    description["signatures"][signature] |= entries
    file.write_text(json.dumps(description))


def test_a_named_onnx_file_must_be_there_and_fit(bundles, tmp_path):
    path = shutil.copytree(bundles / "transport/2", tmp_path / "2")
    change_signature(path, "slopes", onnx="absent.onnx")
    with pytest.raises(ServingError, match=r"absent\.onnx cannot be loaded"):
        load(read_bundle(path))
    change_signature(path, "slopes", onnx="model.onnx")
    with pytest.raises(ServingError, match=r"has inputs .*bundle\.json declares state"):
        load(read_bundle(path))


@pytest.mark.parametrize("name", ["../2/model.onnx", "/etc/passwd", "", ".hidden", 3, None, "a/b"])
def test_a_named_onnx_file_lies_in_the_bundle(bundles, tmp_path, name):
    path = shutil.copytree(bundles / "transport/2", tmp_path / "2")
    change_signature(path, "slopes", onnx=name)
    with pytest.raises(ServingError, match="'onnx' must be the name of a file here"):
        read_bundle(path)


@pytest.mark.parametrize("backend", ["onnx", "savedmodel"])
def test_no_rows_need_no_engine(bundles, backend):
    bundle = read_bundle(bundles / "sums/1")
    servable = Servable(bundle, load(bundle, backend))
    servable.backend.run = None  # some graphs fail without rows
    outputs = servable.predict("", {"hits": np.zeros((0, 3), np.float32)}, Limits())
    assert {name: (array.shape, array.dtype.name) for name, array in outputs.items()} == {
        "total": ((0,), "float32"),
        "double": ((0, 3), "float32"),
    }


def test_an_unknown_engine(bundles):
    with pytest.raises(ServingError, match="backend must be one of onnx, savedmodel, received 'torch'"):
        load(read_bundle(bundles / "sums/1"), "torch")


def test_an_onnx_file_with_other_inputs_or_none_at_all(bundles, tmp_path):
    path = shutil.copytree(bundles / "transport/2", tmp_path / "2")
    shutil.copy(bundles / "sums/1/model.onnx", path)
    with pytest.raises(ServingError, match=r"has inputs hits tensor\(float\), bundle.json declares dz"):
        load(read_bundle(path))
    data = (path / "model.onnx").read_bytes()
    (path / "model.onnx").write_bytes(data[:100])
    with pytest.raises(ServingError, match=r"model\.onnx cannot be loaded"):
        load(read_bundle(path))


def test_an_engine_that_fails_answers_internal_and_the_server_lives(bundles, tmp_path, transport):
    path = shutil.copytree(bundles / "transport/2", tmp_path / "transport/2")
    model = onnx.load(path / "model.onnx")
    broken = next(item for item in model.graph.initializer if item.name == "kick")
    broken.CopyFrom(onnx.numpy_helper.from_array(np.zeros((7, 5), np.float32), "kick"))
    del model.graph.value_info[:]
    onnx.save(model, path / "model.onnx")
    with Server(discover([path]), rest_port=0, grpc_port=0) as server:
        for client in (Client(server.grpc_target), RestClient(server.rest_url)):
            with client:
                with pytest.raises(ServingError, match="INTERNAL: model 'transport' failed") as raised:
                    client.predict("transport", transport.tracks(3))
                assert raised.value.code is Code.INTERNAL
                assert client.status("transport") == {2: "AVAILABLE"}


# -- in this process ---------------------------------------------------------------------------------------


def listening():
    """Local addresses (hexadecimal) of listening TCP sockets by port."""
    found = {}
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(file).read_text().splitlines()[1:] if Path(file).exists() else []:
            local, state = line.split()[1], line.split()[3]
            if state == "0A":
                address, port = local.split(":")
                found.setdefault(int(port, 16), set()).add(address)
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of sockets")
def test_it_listens_on_loopback_alone(server):
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    for port in (server.rest_port, server.grpc_port):
        assert listening()[port]
        assert listening()[port] <= loopback


def test_ports_are_free_again_after_a_stop(bundles, transport):
    models = discover([bundles / "transport/2"])
    ports = {"rest_port": 0, "grpc_port": 0}
    inputs = transport.tracks(2)
    for _ in range(2):
        with Server(models, **ports) as server:
            ports = {"rest_port": server.rest_port, "grpc_port": server.grpc_port}
            with Client(server.grpc_target) as client, RestClient(server.rest_url) as rest:
                transport.check(client.predict("transport", inputs), inputs, 2)
                transport.check(rest.predict("transport", inputs), inputs, 2)
        for port in ports.values():
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.parametrize("taken", ["rest_port", "grpc_port"])
def test_a_port_in_use(bundles, server, taken):
    models = discover([bundles / "sums"])
    second = Server(models, **({"rest_port": 0, "grpc_port": 0} | {taken: getattr(server, taken)}))
    with pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1:{getattr(server, taken)}") as raised:
        second.start()
    assert raised.value.code is Code.UNAVAILABLE
    with Client(server.grpc_target) as client:
        assert client.status("sums") == {1: "AVAILABLE"}


@pytest.mark.parametrize("option", [{"rest_port": -1}, {"grpc_port": 65536}, {"workers": 0}])
def test_options_out_of_range(option):
    with pytest.raises(ServingError, match=next(iter(option))):
        Server([], **option)


def test_a_client_outlives_a_restart(bundles, transport):
    models = discover([bundles / "transport/2"])
    inputs = transport.tracks(2)
    with Server(models, rest_port=0, grpc_port=0) as server:
        clients = [Client(server.grpc_target), RestClient(server.rest_url)]
        for client in clients:
            client.predict("transport", inputs)
    restart = Server(models, rest_port=server.rest_port, grpc_port=server.grpc_port)
    later = threading.Timer(0.1, restart.start)
    later.start()
    for client in clients:
        transport.check(client.predict("transport", inputs), inputs, 2)
        client.close()
    later.join()
    restart.stop()


def test_a_kept_connection_that_the_server_closed_is_replaced(bundles):
    models = discover([bundles / "sums"])
    with Server(models, rest_port=0, grpc_port=0) as server:
        client = RestClient(server.rest_url, ONCE)
        client.status("sums")
    with Server(models, rest_port=server.rest_port, grpc_port=0), client:
        assert client.status("sums") == {1: "AVAILABLE"}


@pytest.mark.parametrize("kind", [Client, RestClient])
def test_a_stop_lets_requests_under_way_finish(bundles, transport, kind):
    inputs = transport.tracks(2)
    entered, release = threading.Event(), threading.Event()
    server = Server(discover([bundles / "transport/2"]), rest_port=0, grpc_port=0, grace=10)
    backend = server.repository.find("transport").backend
    original = backend.run

    def slow(signature, arrays):
        entered.set()
        assert release.wait(10)
        return original(signature, arrays)

    backend.run = slow
    server.start()
    answers = []

    def ask():
        with kind(server.grpc_target if kind is Client else server.rest_url, ONCE) as client:
            answers.append(client.predict("transport", inputs, timeout=20))

    idle = socket.create_connection((server.host, server.rest_port))  # must not delay the stop
    asking, stopping = threading.Thread(target=ask), threading.Thread(target=server.stop)
    asking.start()
    assert entered.wait(10)
    stopping.start()
    assert idle.recv(1) == b""
    idle.close()
    stopping.join(0.2)
    assert stopping.is_alive()
    with pytest.raises(ServingError) as raised, Client(server.grpc_target, ONCE) as late:
        late.status("transport")
    assert raised.value.code is Code.UNAVAILABLE
    release.set()
    stopping.join(9)
    assert not stopping.is_alive()
    asking.join(10)
    transport.check(answers[0], inputs, 2)


# -- as a process ------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from serving.server import serve
serve([Path(sys.argv[1])], rest_port=0, grpc_port=0, ready_file=Path(sys.argv[2]))
assert "tensorflow" not in sys.modules
"""

CALLER = """
import json, sys
import numpy as np
from serving.client import Client, RestClient
place = json.loads(sys.argv[1])
inputs = {name: np.ones((2, size), np.float32) for name, size in (("state", 5), ("z0", 1), ("dz", 1))}
with Client(f"{place['host']}:{place['grpc_port']}") as client:
    first = client.predict("transport", inputs)["final_state"]
with RestClient(f"http://{place['host']}:{place['rest_port']}") as client:
    assert (client.predict("transport", inputs)["final_state"] == first).all()
print(first.shape)
print([name for name in ("tensorflow", "onnxruntime", "trackkeras") if name in sys.modules])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_served_process_without_tensorflow(bundles, tmp_path, number):
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-W", "error", "-c", CHILD, str(bundles), str(ready)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            place = json.loads(line)
            assert json.loads(ready.read_text()) == place
            assert place["pid"] == process.pid
            assert place["models"] == {"sums": [1], "transport": [1, 2, 10]}
            assert list(tmp_path.iterdir()) == [ready]
            caller = subprocess.run(
                [sys.executable, "-W", "error", "-c", CALLER, line],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert caller.stdout.splitlines() == ["(2, 5)", "[]"], caller.stderr
        finally:
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert not ready.exists()


def test_serve_refuses_before_it_listens(tmp_path, bundles):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ServingError, match="no such folder"):
        serve([tmp_path / "absent"], rest_port=0, grpc_port=0)
    with pytest.raises(ServingError, match="cannot write"):
        serve([bundles], rest_port=0, grpc_port=0, ready_file=tmp_path / "absent/ready.json")
    assert signal.getsignal(signal.SIGTERM) is before
