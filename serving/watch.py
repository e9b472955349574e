"""Follow bundle folders while a server runs: new versions are loaded, removed ones are let go."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from serving.bundle import scan
from serving.errors import ServingError
from serving.repository import Repository

_log = logging.getLogger(__name__)


class Watcher:
    """Compares folders with a repository every few seconds, in a thread of its own.

    A version is loaded beside those that answer, and takes over with one assignment when it is ready;
    requests under way finish on the version they began with. A folder that cannot be read or loaded changes
    nothing, is logged once and tried again: a version that is still being copied is picked up when complete.
    A version that is served is not read again, as in TensorFlow Serving: a change needs a new version.

    Args:
        repository: What to keep up to date.
        paths: Folders as `discover` takes them.
        seconds: Time between two looks [s].
    """

    def __init__(self, repository: Repository, paths: Sequence[Path], seconds: float) -> None:
        if not seconds > 0:
            raise ServingError(f"the time between two looks must be positive, received {seconds:g}")
        self._repository = repository
        self._paths = [Path(path) for path in paths]
        self._seconds = seconds
        self._stop = threading.Event()
        self._known: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; a version that is being loaded is finished first."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Compare once, and load and remove what has changed."""
        gone = [path for path in self._paths if not path.is_dir()]
        if gone:  # as when a network file system is away; its models stay
            self._report([f"no such folder: {path}; the served versions stay" for path in gone])
            return
        models, problems = scan(self._paths)
        problems += self._repository.refresh(models)
        self._report([str(problem) for problem in problems])

    def _report(self, problems: list[str]) -> None:
        for problem in problems:
            if problem not in self._known:
                self._repository.metrics.count_reload("failed")
                _log.warning("%s", problem)
        self._known = set(problems)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.look()
            except Exception:  # whatever a file system does must not end the thread
                _log.exception("a look for new versions failed")
