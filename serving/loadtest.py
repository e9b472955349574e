"""Load on a server: how latency and errors grow with the rate of requests, and where it saturates.

Closed loop: a number of clients ask one after the other, each waiting for its answer; the rate follows from
the server. Open loop: requests are due at random moments of a given rate, whatever the server does, and their
latency counts from the moment they were due, so that waiting for a free client is not lost from the sample.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from serving.client import Metadata, Retry
from serving.errors import ServingError
from serving.query import connect
from serving.signature import DEFAULT_SIGNATURE
from serving.tensors import Array

KEEPS_UP = 0.95
"""Share of the offered rate below which a server counts as saturated."""

SHARES = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)
"""Default rates of the open loops, as shares of the best rate of a closed one."""

Ask = Callable[[], object]
"""One request; raises `ServingError` if it fails."""


@dataclass(frozen=True)
class Step:
    """What was measured at one load.

    Attributes:
        loop: `closed` or `open`.
        clients: Threads that ask.
        offered_per_s: Rate of the schedule [1/s]; of a closed loop the achieved rate.
        requests: Requests that were sent.
        errors: Failed ones, by the name of their status.
        seconds: Time from the first to the last answer [s].
        requests_per_s: Answered without error [1/s].
        rows_per_s: The same in rows [1/s].
        p50_ms: Median latency of answers without error [ms]; None if there were none.
        p90_ms: 90 % of them are below [ms].
        p99_ms: 99 % of them are below [ms].
        max_ms: The slowest of them [ms].
    """

    loop: str
    clients: int
    offered_per_s: float
    requests: int
    errors: dict[str, int]
    seconds: float
    requests_per_s: float
    rows_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None

    @property
    def keeps_up(self) -> bool:
        """Whether the server answered at the offered rate, without an error."""
        return not self.errors and self.requests_per_s >= KEEPS_UP * self.offered_per_s


@dataclass(frozen=True)
class Bounds:
    """Where a step ends, whichever comes first.

    Attributes:
        seconds: Time in which requests are sent [s].
        requests: Most requests.
    """

    seconds: float = 5.0
    requests: int = 20_000

    def __post_init__(self) -> None:
        """Check that both are positive."""
        if not 0 < self.seconds < float("inf") or self.requests < 1:
            raise ServingError(
                f"a step needs a positive time and at least 1 request, received {self.seconds:g} s "
                f"and {self.requests}"
            )


def closed_loop(ask: Ask, rows: int, clients: int, bounds: Bounds) -> Step:
    """Let clients ask without pause.

    Args:
        ask: One request; called by several threads.
        rows: Rows of a request.
        clients: Threads that ask.
        bounds: When to end.
    """
    if clients < 1:
        raise ServingError(f"a load test needs at least 1 client, received {clients}")
    end = time.perf_counter() + bounds.seconds
    tickets = _Tickets(bounds.requests)

    def client(_: int) -> list[_Sample]:
        samples = []
        while time.perf_counter() < end and tickets.take() is not None:
            samples.append(_timed(ask, time.perf_counter()))
        return samples

    samples, seconds = _together(client, clients)
    return _step("closed", clients, len(samples) / seconds, samples, seconds, rows)


def open_loop(ask: Ask, rows: int, rate: float, bounds: Bounds, clients: int = 64, seed: int = 1) -> Step:
    """Send requests at random moments of a fixed rate (a Poisson process).

    Args:
        ask: One request; called by several threads.
        rows: Rows of a request.
        rate: Requests per second.
        bounds: When to end.
        clients: Threads, which bound the requests under way; with all busy a request is sent late.
        seed: Seed of the moments.
    """
    if not 0 < rate < float("inf"):
        raise ServingError(f"a rate must be a positive number of requests per second, received {rate:g}")
    count = max(1, min(bounds.requests, round(rate * bounds.seconds)))
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))
    due *= count / rate / due[-1]  # the rate of a short sample would scatter
    tickets = _Tickets(count)
    begin = time.perf_counter()
    # A saturated server must not stretch the step: what is still unsent after twice the time is not sent.
    end = begin + 2 * float(due[-1]) + 1

    def client(_: int) -> list[_Sample]:
        samples = []
        while (ticket := tickets.take()) is not None and time.perf_counter() < end:
            moment = begin + float(due[ticket])
            time.sleep(max(0.0, moment - time.perf_counter()))
            samples.append(_timed(ask, moment))
        return samples

    samples, seconds = _together(client, min(clients, count))
    return _step("open", min(clients, count), rate, samples, seconds, rows)


def load_test(
    address: str,
    model: str,
    inputs: Mapping[str, Any] | None = None,
    rows: int = 1,
    clients: Sequence[int] = (1, 2, 4, 8),
    rates: Sequence[float] | None = None,
    bounds: Bounds | None = None,
    signature: str = DEFAULT_SIGNATURE,
    progress: Callable[[Step], None] = lambda step: None,
) -> dict[str, Any]:
    """Measure a server over closed and open loops.

    Args:
        address: `HOST:PORT` for gRPC, `http://HOST:PORT` for REST.
        model: Name of the served model.
        inputs: Arrays by name, repeated to `rows` rows; ones by default.
        rows: Rows of a request.
        clients: Numbers of clients of the closed loops.
        rates: Rates of the open loops [1/s]; by default 20 to 300 % of the best closed rate. None are run
            above the first that the server does not keep up with.
        bounds: When a step ends.
        signature: Which function of the model.
        progress: Called after every step.

    Returns:
        Plain values: what was asked, `steps`, `saturation_per_s` (the largest offered rate that the server
        kept up with; None if there was none) and `saturated` (whether a larger one was tried and missed).

    Raises:
        ServingError: Nothing answers there, or not to the first request.
    """
    bounds = bounds or Bounds()
    if rows < 1 or not clients:
        raise ServingError(f"a load test needs rows and clients, received {rows} and {list(clients)}")
    with connect(address, Retry(attempts=1)) as client:
        found = client.metadata(model)
        arrays = _repeated(found, signature, inputs, rows)

        def ask() -> object:
            return client.predict(model, arrays, signature=signature, timeout=30)

        for _ in range(10):  # not measured: connections, kernels
            ask()
        steps = []
        for number in clients:
            steps.append(closed_loop(ask, rows, number, bounds))
            progress(steps[-1])
        best = max(step.requests_per_s for step in steps)
        if rates is None:
            rates = [best * share for share in SHARES] if best else []
        for rate in sorted(rates):
            steps.append(open_loop(ask, rows, rate, bounds))
            progress(steps[-1])
            if not steps[-1].keeps_up:
                break
    opened = [step for step in steps if step.loop == "open"]
    return {
        "address": address,
        "model": model,
        "version": found.version,
        "signature": signature,
        "rows": rows,
        "steps": [asdict(step) for step in steps],
        "saturation_per_s": max((step.offered_per_s for step in opened if step.keeps_up), default=None),
        "saturated": any(not step.keeps_up for step in opened),
        "best_closed_per_s": best,
        "errors": sum(sum(step.errors.values()) for step in steps),
    }


@dataclass(frozen=True)
class _Sample:
    latency: float
    status: str


class _Tickets:
    """Numbers from 0 that several threads take, each once."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._count = count

    def take(self) -> int | None:
        """Return the next number, or None when all are taken."""
        with self._lock:
            if self._next == self._count:
                return None
            self._next += 1
            return self._next - 1


def _timed(ask: Ask, since: float) -> _Sample:
    try:
        ask()
    except ServingError as error:
        return _Sample(time.perf_counter() - since, error.code.name)
    return _Sample(time.perf_counter() - since, "OK")


def _together(client: Callable[[int], list[_Sample]], clients: int) -> tuple[list[_Sample], float]:
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        samples = [sample for part in pool.map(client, range(clients)) for sample in part]
    return samples, time.perf_counter() - start


def _step(loop: str, clients: int, offered: float, samples: list[_Sample], seconds: float, rows: int) -> Step:
    good = np.array([1e3 * sample.latency for sample in samples if sample.status == "OK"])
    quantiles = (
        [float(value) for value in np.quantile(good, [0.5, 0.9, 0.99, 1])] if len(good) else [None] * 4
    )
    return Step(
        loop,
        clients,
        offered,
        len(samples),
        dict(Counter(sample.status for sample in samples if sample.status != "OK")),
        seconds,
        len(good) / seconds,
        rows * len(good) / seconds,
        *quantiles,
    )


def _repeated(
    found: Metadata, signature: str, inputs: Mapping[str, Any] | None, rows: int
) -> dict[str, Array]:
    if signature not in found.signatures:
        raise ServingError(
            f"model {found.name!r} has no signature {signature!r}; it has {', '.join(found.signatures)}"
        )
    arrays = {}
    for name, spec in found.signatures[signature].inputs.items():
        if inputs is not None and name not in inputs:
            raise ServingError(f"missing input {name!r}")
        shape = tuple(1 if size < 0 else size for size in spec.shape)
        try:
            array = np.asarray(np.ones(shape) if inputs is None else inputs[name], spec.dtype)
        except (ValueError, TypeError):
            raise ServingError(f"input {name!r} must be an array of {spec.dtype.name} numbers") from None
        if spec.shape[:1] == (-1,) and array.ndim and len(array):
            array = np.resize(array, (rows, *array.shape[1:]))
        arrays[name] = array
    return arrays
