"""Counts and times of a server in Prometheus' text format.

Names and labels that TensorFlow Serving has are used for the same things here, so that one dashboard serves
both: `:tensorflow:serving:request_count` and `:tensorflow:serving:request_latency`. The rest begins with
`trackkeras_serving_`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping

PATH = "/monitoring/prometheus/metrics"
"""Where TensorFlow Serving offers its metrics too."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS = tuple(10.0 * 1.8**power for power in range(33))  # TensorFlow Serving's buckets [us], to 20 minutes

_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What a server has done since it started; used by all its threads.

    Labels come from the served models alone, never from what a request says, so memory stays bounded.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[_Labels, int] = {}
        self._latency: dict[_Labels, tuple[list[int], list[float]]] = {}
        self._rows: dict[_Labels, int] = {}
        self._reloads: dict[_Labels, int] = {}
        self._in_flight = 0

    def begin(self) -> None:
        """Note that a request has arrived."""
        with self._lock:
            self._in_flight += 1

    def end(self, model: str, entrypoint: str, api: str, status: str, seconds: float) -> None:
        """Note that a request has been answered.

        Args:
            model: Name of a served model, or an empty string.
            entrypoint: `GRPC` or `REST`.
            api: What was asked for, such as `predict`.
            status: `OK` or the name of a gRPC status.
            seconds: Time from the arrival to the answer [s].
        """
        count = (("model_name", model), ("status", status))
        latency = (("model_name", model), ("API", api), ("entrypoint", entrypoint))
        micros = 1e6 * seconds
        with self._lock:
            self._in_flight -= 1
            self._requests[count] = self._requests.get(count, 0) + 1
            buckets, total = self._latency.setdefault(latency, ([0] * (len(_BOUNDS) + 1), [0.0]))
            buckets[bisect_left(_BOUNDS, micros)] += 1
            total[0] += micros

    def count_rows(self, model: str, rows: int) -> None:
        """Add rows that a model has been run on."""
        self._add(self._rows, (("model_name", model),), rows)

    def count_reload(self, result: str) -> None:
        """Add a change of the served versions: `loaded`, `removed` or `failed`."""
        self._add(self._reloads, (("result", result),), 1)

    def _add(self, family: dict[_Labels, int], labels: _Labels, amount: int) -> None:
        with self._lock:
            family[labels] = family.get(labels, 0) + amount

    def text(self, versions: Mapping[str, list[int]]) -> str:
        """Return everything as Prometheus reads it.

        Args:
            versions: Served versions of every model.
        """
        with self._lock:
            requests, rows, reloads = dict(self._requests), dict(self._rows), dict(self._reloads)
            latency = {key: (list(buckets), total[0]) for key, (buckets, total) in self._latency.items()}
            in_flight = self._in_flight
        served: dict[_Labels, int] = {
            (("model_name", name), ("version", str(version))): 1
            for name, numbers in versions.items()
            for version in numbers
        }
        lines = [
            *_family(":tensorflow:serving:request_count", "counter", "Requests by outcome.", requests),
            *_histogram(":tensorflow:serving:request_latency", "Wall time of requests [us].", latency),
            *_family("trackkeras_serving_rows_total", "counter", "Rows that models were run on.", rows),
            *_family("trackkeras_serving_reloads_total", "counter", "Changes of served versions.", reloads),
            *_family("trackkeras_serving_in_flight", "gauge", "Requests under way.", {(): in_flight}),
            *_family("trackkeras_serving_version", "gauge", "1 for every version served.", served),
        ]
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, about: str, values: Mapping[_Labels, int]) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
    for labels, value in sorted(values.items()):
        yield f"{name}{_braces(labels)} {value}"


def _histogram(name: str, about: str, values: Mapping[_Labels, tuple[list[int], float]]) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} histogram"
    for labels, (buckets, total) in sorted(values.items()):
        below = 0
        for bound, count in zip((*map("{:g}".format, _BOUNDS), "+Inf"), buckets, strict=True):
            below += count
            yield f"{name}_bucket{_braces((*labels, ('le', bound)))} {below}"
        yield f"{name}_sum{_braces(labels)} {total:.6g}"
        yield f"{name}_count{_braces(labels)} {below}"


def _braces(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
