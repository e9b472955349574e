"""Metrics, health, deadlines, limits on concurrency, and hostile requests."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import grpc
import pytest

from serving import metrics, rpc
from serving.bundle import discover
from serving.client import Client, RestClient, Retry
from serving.errors import Code, ServingError
from serving.messages import HEALTH, HealthCheckRequest, HealthCheckResponse
from serving.repository import Limits
from serving.server import Server

ONCE = Retry(attempts=1)
LIMIT = 3


@pytest.fixture
def small(bundles: Path):
    """A server of `transport` version 2 that takes few requests at a time."""
    models = discover([bundles / "transport/2"])
    with Server(models, rest_port=0, grpc_port=0, workers=1, limits=Limits(max_concurrent=LIMIT)) as running:
        yield running


class Held:
    """The model of a server, which answers when `release` is set; counts its runs."""

    def __init__(self, server: Server) -> None:
        self.backend = server.repository.find("transport").backend
        self.entered, self.release, self.runs = threading.Semaphore(0), threading.Event(), 0
        self.original = self.backend.run
        self.backend.run = self.run  # type: ignore[method-assign]

    def run(self, signature, inputs):
        self.runs += 1
        self.entered.release()
        assert self.release.wait(30)
        return self.original(signature, inputs)


def scraped(server) -> str:
    connection = http.client.HTTPConnection(server.host, server.rest_port, timeout=10)
    connection.request("GET", metrics.PATH)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200
    assert response.headers["Content-Type"] == metrics.CONTENT_TYPE
    return text


def samples(text: str) -> dict[str, float]:
    """Read Prometheus' text format; every line must be a comment or a sample."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("# "):
            match = re.fullmatch(
                r'([a-zA-Z_:][\w:]*(?:\{\w+="[^"\\\n]*"(?:,\w+="[^"\\\n]*")*\})?) (\S+)', line
            )
            assert match, line
            assert match[1] not in found, line
            found[match[1]] = float(match[2])
    return found


# -- metrics -----------------------------------------------------------------------------------------------


def test_metrics_count_what_was_answered(small, transport):
    inputs = transport.tracks(5)
    with Client(small.grpc_target, ONCE) as client, RestClient(small.rest_url, ONCE) as rest:
        for _ in range(3):
            client.predict("transport", inputs)
        rest.predict("transport", inputs)  # asks for the metadata first
        for asked in (client, rest):
            with pytest.raises(ServingError):
                asked.predict("nothing", inputs)
        with pytest.raises(ServingError):
            client.predict("transport", inputs, version=7)
    found = samples(scraped(small))
    count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
    assert found[f'{count}{{model_name="transport",status="OK"}}'] == 5
    assert found[f'{count}{{model_name="transport",status="NOT_FOUND"}}'] == 1
    assert found[f'{count}{{model_name="",status="NOT_FOUND"}}'] == 2
    assert found['trackkeras_serving_rows_total{model_name="transport"}'] == 20
    assert found['trackkeras_serving_version{model_name="transport",version="2"}'] == 1
    assert found["trackkeras_serving_in_flight"] == 0
    for entrypoint, wanted in (("GRPC", 4), ("REST", 1)):
        labels = f'model_name="transport",API="predict",entrypoint="{entrypoint}"'
        assert found[f"{latency}_count{{{labels}}}"] == wanted
        buckets = [value for key, value in found.items() if key.startswith(f"{latency}_bucket{{{labels},")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == wanted
        assert found[f"{latency}_sum{{{labels}}}"] > 0


def test_metrics_do_not_grow_with_what_clients_say(small, transport):
    def ask(number):
        with Client(small.grpc_target, ONCE) as client, pytest.raises(ServingError):
            client.status(f"model-{number}")
        with RestClient(small.rest_url, ONCE) as rest, pytest.raises(ServingError):
            rest.status(f"model-{number}")

    ask(0)
    before = len(samples(scraped(small)))
    for number in range(1, 20):
        ask(number)
    assert len(samples(scraped(small))) == before


def test_labels_are_escaped():
    made = metrics.Metrics()
    made.begin()
    made.end('a"b\\c\nd', "REST", "predict", "OK", 0.1)
    assert 'model_name="a\\"b\\\\c\\nd"' in made.text({})


# -- health ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "service", ["", "tensorflow.serving.PredictionService", "grpc.health.v1.Health", "transport"]
)
def test_health(small, service):
    with grpc.insecure_channel(small.grpc_target) as channel:
        answer = channel.unary_unary(rpc.CHECK)(
            HealthCheckRequest(service=service).SerializeToString(), timeout=10
        )
    assert HealthCheckResponse.FromString(answer).status == HEALTH["SERVING"]
    assert answer == b"\x08\x01"


def test_health_of_what_is_not_there(small):
    with grpc.insecure_channel(small.grpc_target) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary(rpc.CHECK)(HealthCheckRequest(service="x").SerializeToString(), timeout=10)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        small.repository._servables = {}
        answer = channel.unary_unary(rpc.CHECK)(b"", timeout=10)
    assert HealthCheckResponse.FromString(answer).status == HEALTH["NOT_SERVING"]


# -- deadlines and concurrency -----------------------------------------------------------------------------


def test_a_request_whose_deadline_has_passed_is_not_run(small, transport):
    held, inputs = Held(small), transport.tracks(1)
    with Client(small.grpc_target, ONCE) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.predict, "transport", inputs)
        assert held.entered.acquire(timeout=10)  # the one worker is busy
        with pytest.raises(ServingError, match="DEADLINE_EXCEEDED") as raised:
            client.predict("transport", inputs, timeout=0.2)
        assert raised.value.code is Code.DEADLINE_EXCEEDED
        held.release.set()
        first.result(timeout=10)
        client.predict("transport", inputs)
    assert held.runs == 2  # the first and the last


def test_more_requests_than_allowed_are_refused_at_once(small, transport):
    inputs = transport.tracks(1)
    for kind, address, code in (
        (Client, small.grpc_target, Code.RESOURCE_EXHAUSTED),
        (RestClient, small.rest_url, Code.UNAVAILABLE),
    ):
        with kind(address, ONCE) as client, ThreadPoolExecutor(2 * LIMIT) as pool:
            client.predict("transport", inputs)
            held = Held(small)
            asked = [pool.submit(client.predict, "transport", inputs, timeout=30) for _ in range(2 * LIMIT)]
            refused = list(islice(as_completed(asked, timeout=10), LIMIT))  # while the others are held
            for future in refused:
                with pytest.raises(ServingError, match=r"limit exceeded|3 requests are under way") as raised:
                    future.result()
                assert raised.value.code is code
            held.release.set()
            for future in set(asked) - set(refused):
                transport.check(future.result(timeout=10), inputs, 2)
            held.backend.run = held.original
            transport.check(client.predict("transport", inputs), inputs, 2)


def test_more_connections_than_allowed_are_refused(small):
    idle = [http.client.HTTPConnection(small.host, small.rest_port, timeout=10) for _ in range(2 * LIMIT)]
    for connection in idle:
        connection.request("GET", "/v1/models/transport")
        assert connection.getresponse().read()
    with RestClient(small.rest_url, ONCE) as late, pytest.raises(ServingError) as raised:
        late.status("transport")
    assert raised.value.code is Code.UNAVAILABLE
    for connection in idle:
        connection.close()
    with RestClient(small.rest_url, Retry(attempts=8, wait=0.05)) as client:
        assert client.status("transport") == {2: "AVAILABLE"}


# -- hostile requests --------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's table of processes")
def test_hostile_requests(bundles):
    program = Path(__file__).with_name("hostile_requests.py")
    done = subprocess.run(
        [sys.executable, str(program), str(bundles / "transport"), "--count", "2000"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    result = json.loads(done.stdout or "{}")
    assert done.returncode == 0, (result, done.stderr[-2000:])
    assert result["requests"] == 2000
    assert result["problems"] == 0
    assert result["alive"]
    assert result["still_answers_the_same"]
    assert result["outside"] == []
    assert result["end"]["files"] <= result["begin"]["files"] + 20
    assert "Traceback" not in done.stderr
