"""The load test, against a server and against requests of known behaviour."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter

import numpy as np
import pytest

from serving.errors import Code, ServingError
from serving.loadtest import Bounds, closed_loop, load_test, open_loop
from trackkeras.load_figure import load_figure
from trackkeras.plots import render

QUICK = Bounds(seconds=0.3, requests=150)


class Asked:
    """A request that takes a time, and fails at some calls; counts."""

    def __init__(self, seconds: float = 0.0, fails=lambda number: False) -> None:
        self.lock, self.seconds, self.fails = threading.Lock(), seconds, fails
        self.calls = self.now = self.most = 0

    def __call__(self) -> None:
        with self.lock:
            self.calls += 1
            number = self.calls
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1
        if self.fails(number):
            raise ServingError("no", Code.UNAVAILABLE)


@pytest.mark.parametrize("address", ["grpc_target", "rest_url"])
def test_a_server(server, transport, address):
    seen = []
    result = load_test(
        getattr(server, address),
        "transport",
        transport.tracks(2),
        4,
        (1, 3),
        (20, 50),
        QUICK,
        progress=seen.append,
    )
    steps = result["steps"]
    assert [(step["loop"], step["clients"]) for step in steps[:2]] == [("closed", 1), ("closed", 3)]
    assert [step["loop"] for step in steps[2:]] in (["open"], ["open", "open"])
    assert len(seen) == len(steps)
    assert (result["errors"], result["version"], result["rows"]) == (0, 10, 4)
    for step in steps:
        assert 0 < step["requests"] <= QUICK.requests
        assert step["rows_per_s"] == pytest.approx(4 * step["requests_per_s"])
        assert 0 < step["p50_ms"] <= step["p90_ms"] <= step["p99_ms"] <= step["max_ms"]
    json.dumps(result, allow_nan=False)
    for kind in ("svg", "png"):
        assert render(load_figure(result), kind)


def test_a_closed_loop_is_bounded_by_its_clients_requests_and_time():
    asked = Asked(0.002)
    step = closed_loop(asked, 1, 3, Bounds(60.0, 50))
    assert (step.requests, asked.calls, asked.most) == (50, 50, 3)
    assert closed_loop(Asked(0.05), 1, 2, Bounds(0.2, 10**6)).requests <= 2 * (0.2 / 0.05 + 1)


def test_the_latency_of_an_open_loop_counts_from_the_moment_that_was_due():
    """One slow client at eight times its rate: the queue grows, and latencies with it far beyond one call."""
    step = open_loop(Asked(0.02), 1, 400, Bounds(0.5, 10**6), clients=1)
    assert step.p50_ms is not None
    assert step.p50_ms > 5 * 20
    assert not step.keeps_up
    assert step.requests < 200  # the rest is not sent once the step is over twice its time


def test_an_open_loop_that_keeps_up():
    step = open_loop(Asked(), 1, 100, Bounds(0.5), clients=8)
    assert step.requests == 50
    assert step.errors == {}
    assert step.offered_per_s == 100
    assert step.seconds > 0.49


def test_errors_are_counted_and_have_no_latency():
    step = closed_loop(Asked(fails=lambda number: number % 4 == 0), 1, 1, Bounds(60.0, 40))
    assert Counter(step.errors) == {"UNAVAILABLE": 10}
    assert not step.keeps_up
    step = closed_loop(Asked(fails=lambda number: True), 1, 2, Bounds(60.0, 10))
    assert (step.requests_per_s, step.p50_ms, step.max_ms) == (0, None, None)


def test_a_figure_without_any_answer():
    empty = {"loop": "open", "requests_per_s": 0.0, "p50_ms": None, "p99_ms": None}
    result = {
        "steps": [empty],
        "saturation_per_s": None,
        "saturated": True,
        "model": "m",
        "rows": 1,
        "errors": 3,
    }
    assert render(load_figure(result), "svg")


def test_what_cannot_be_tested(server, transport):
    with pytest.raises(ServingError, match="no model named"):
        load_test(server.grpc_target, "nothing")
    with pytest.raises(ServingError, match="missing input 'dz'"):
        load_test(server.grpc_target, "transport", {"state": np.ones((1, 5)), "z0": np.ones((1, 1))})
    with pytest.raises(ServingError, match="no signature 'x'"):
        load_test(server.grpc_target, "transport", signature="x")
    with pytest.raises(ServingError, match="UNAVAILABLE"):
        load_test("127.0.0.1:1", "transport")
    for bad in (
        {"rows": 0},
        {"clients": ()},
        {"clients": (0,)},
        {"rates": (-1.0,), "bounds": QUICK, "clients": (1,)},
    ):
        with pytest.raises(ServingError, match="received"):
            load_test(server.grpc_target, "transport", **bad)
    for seconds, requests in ((0, 1), (float("inf"), 1), (1, 0)):
        with pytest.raises(ServingError, match="positive time"):
            Bounds(seconds, requests)
