"""Progress of long work: a live line on a terminal, one plain line per 30 s in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

PLAIN_INTERVAL_S = 30.0
LIVE_INTERVAL_S = 0.2


class Progress:
    """Print how far work has come and at which rate.

    Args:
        label: What is being done.
        total: Units of work in all.
        unit: Name of a unit, in the plural.
        clock: Source of seconds, replaceable in tests.
    """

    def __init__(
        self, label: str, total: int, unit: str = "rows", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.label, self.total, self.unit, self._clock = label, total, unit, clock
        self._live = sys.stderr.isatty()
        self._start = self._last = clock()
        self._first: int | None = None

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` units are finished; prints at most every 0.2 s (terminal) or 30 s (log)."""
        now = self._clock()
        if self._first is None:  # what an earlier run finished does not count for the rate
            self._first, self._start = done, now
        interval = LIVE_INTERVAL_S if self._live else PLAIN_INTERVAL_S
        if now - self._last >= interval:
            self._last = now
            self._print(done, note)

    def finish(self, done: int, note: str = "") -> None:
        """Print the last line."""
        self._print(done, note)
        if self._live:
            sys.stderr.write("\n")

    def _print(self, done: int, note: str) -> None:
        share = 100.0 * done / self.total if self.total else 100.0
        line = f"{self.label}: {done:,}/{self.total:,} {self.unit} ({share:.0f} %)"
        elapsed = self._clock() - self._start
        if self._first is not None and done > self._first and elapsed > 0:
            line += f", {(done - self._first) / elapsed:,.0f}/s"
        line += f", {note}" if note else ""
        sys.stderr.write(f"\r\x1b[2K{line}" if self._live else f"{line}\n")
        sys.stderr.flush()
