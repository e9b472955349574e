"""New and removed versions while the server runs."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from serving.bundle import discover
from serving.client import Client, RestClient, Retry
from serving.errors import Code, ServingError
from serving.server import Server
from serving.watch import Watcher

ONCE = Retry(attempts=1)


@pytest.fixture
def folder(bundles: Path, tmp_path: Path) -> Path:
    """A folder of models with version 1 of `transport` alone."""
    shutil.copytree(bundles / "transport/1", tmp_path / "models/transport/1")
    return tmp_path / "models"


@pytest.fixture
def server(folder: Path):
    """A server of that folder that looks only when asked to."""
    with Server(discover([folder]), rest_port=0, grpc_port=0) as running:
        yield running


def publish(bundles: Path, folder: Path, version: int) -> None:
    """Add a version as the exporter does: complete under a hidden name, then renamed."""
    hidden = folder / "transport" / f".{version}"
    shutil.copytree(bundles / f"transport/{version}", hidden)
    hidden.rename(folder / "transport" / str(version))


def versions(server: Server) -> list[int]:
    return server.repository.versions.get("transport", [])


def test_versions_come_and_go(bundles, folder, server, transport):
    watcher = Watcher(server.repository, [folder], 1)
    inputs = transport.tracks(3)
    with Client(server.grpc_target, ONCE) as client, RestClient(server.rest_url, ONCE) as rest:
        for version in (2, 10):
            publish(bundles, folder, version)
            transport.check(client.predict("transport", inputs, version=1), inputs, 1)
            watcher.look()
            transport.check(client.predict("transport", inputs), inputs, version)
            transport.check(rest.predict("transport", inputs), inputs, version)
        assert client.status("transport") == {10: "AVAILABLE", 2: "AVAILABLE", 1: "AVAILABLE"}
        for version in (10, 1):
            shutil.rmtree(folder / f"transport/{version}")
            watcher.look()
        transport.check(client.predict("transport", inputs), inputs, 2)
        with pytest.raises(ServingError, match="no version 1; it has 2"):
            client.predict("transport", inputs, version=1)
        shutil.rmtree(folder / "transport/2")
        watcher.look()
        with pytest.raises(ServingError, match="no model named 'transport'") as raised:
            client.predict("transport", inputs)
        assert raised.value.code is Code.NOT_FOUND


def test_a_new_model_is_found(bundles, folder, server):
    shutil.copytree(bundles / "sums", folder / "sums")
    Watcher(server.repository, [folder], 1).look()
    assert server.repository.versions == {"sums": [1], "transport": [1]}


@pytest.mark.parametrize("broken", ["bundle.json", "saved_model.pb", "model.onnx"])
def test_a_broken_version_changes_nothing_until_it_is_complete(bundles, folder, server, broken, caplog):
    watcher = Watcher(server.repository, [folder], 1)
    publish(bundles, folder, 2)
    whole = (folder / "transport/2" / broken).read_bytes()
    (folder / "transport/2" / broken).write_bytes(whole[: len(whole) // 2])
    publish(bundles, folder, 10)
    for _ in range(3):
        watcher.look()
    assert versions(server) == [1, 10]
    assert len(caplog.records) == 1
    assert "transport/2" in caplog.text
    (folder / "transport/2" / broken).write_bytes(whole)
    watcher.look()
    assert versions(server) == [1, 2, 10]
    assert 'reloads_total{result="failed"} 1' in server.repository.metrics.text({})


def test_a_folder_that_is_away_keeps_its_models(folder, server, caplog):
    watcher = Watcher(server.repository, [folder], 1)
    folder.rename(folder.with_name("away"))
    watcher.look()
    assert versions(server) == [1]
    assert "the served versions stay" in caplog.text
    folder.with_name("away").rename(folder)
    watcher.look()
    assert versions(server) == [1]


@pytest.mark.parametrize("kind", [Client, RestClient])
def test_no_request_fails_while_versions_are_swapped(bundles, folder, transport, kind):
    """Clients ask without pause, and without a second attempt, while the newest version changes."""
    inputs = transport.tracks(4)
    end, failures, answered = threading.Event(), [], {1: 0, 2: 0, 10: 0}

    def ask():
        with kind(address, ONCE) as client:
            while not end.is_set():
                try:
                    final = client.predict("transport", inputs, timeout=30)["final_state"]
                except ServingError as error:
                    failures.append(error)
                    return
                answered[version_of(final)] += 1

    def version_of(final):
        for version in answered:
            try:
                transport.check({"final_state": final}, inputs, version)
            except AssertionError:
                continue
            return version
        raise AssertionError("an answer of no version")

    with Server(discover([folder]), rest_port=0, grpc_port=0, watch=[folder], reload_seconds=0.05) as server:
        address = server.grpc_target if kind is Client else server.rest_url
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for step in range(6):
            version = (2, 10)[step % 2]
            publish(bundles, folder, version)
            wait_until(lambda version=version: version in versions(server))
            before = answered[version]
            wait_until(lambda version=version, before=before: failures or answered[version] > before)
            shutil.rmtree(folder / f"transport/{version}")
            wait_until(lambda version=version: version not in versions(server))
        end.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert all(answered.values())


def wait_until(condition, seconds=30.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_times_out_of_range(folder, seconds):
    with pytest.raises(ServingError, match="reload_seconds"):
        Server(discover([folder]), watch=[folder], reload_seconds=seconds)
