"""What the commands of the domain do alike: new files, progress, and a summary at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trackkeras.console import print_json
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.dimuon.events import Events

Item = TypeVar("Item")


def number_of_events(file: Path, most: int | None = None) -> int:
    """Return the number of events in a file, or `most` if there are more."""
    from trackkeras.domains.dimuon.rus_reading import count_events

    size = count_events(file)
    return size if most is None else min(size, most)


def new_files(paths: list[Path], overwrite: bool) -> list[Path]:
    """Return the paths of files to write, in folders that exist now.

    Raises:
        UserError: A file exists and is not to be replaced.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists already: choose another name, or replace it with --overwrite")
        path.parent.mkdir(parents=True, exist_ok=True)
    return paths


def shown(chunks: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """Yield the chunks and show how many events they have."""
    from trackkeras.progress import Progress

    progress, done = Progress(f"dimuon {label}", total, "events"), 0
    progress.update(0)
    for chunk in chunks:
        yield chunk
        done += len(chunk[0] if isinstance(chunk, tuple) else chunk)  # type: ignore[arg-type]
        progress.update(done)
    progress.finish(done)


def write_events(
    chunks: Iterable[Events],
    like: Path,
    out: Path,
    total: int,
    label: str,
    overwrite: bool,
    as_json: bool,
    *,
    clean: bool = False,
    **extra: Any,
) -> None:
    """Write events to one file with the branch names of another, and say so.

    Args:
        chunks: The events.
        like: File whose naming is kept.
        out: File to write.
        total: Expected number of events.
        label: What is being done.
        overwrite: Whether `out` may exist.
        as_json: Whether to print JSON.
        clean: As `rus_writer`.
        **extra: Functions that give further numbers of the summary, called at the end.
    """
    from trackkeras.domains.dimuon.rus_reading import naming_of
    from trackkeras.domains.dimuon.rus_writing import write_rus

    naming = naming_of(like)
    (path,) = new_files([out], overwrite)
    made = write_rus(path, shown(chunks, label, total), naming, clean=clean)
    summarize(as_json, [path], made, **{key: value() for key, value in extra.items()})


def summarize(as_json: bool, paths: list[Path], events: int, **numbers: float) -> None:
    """Print which files were written, with how many events, and further numbers."""
    if as_json:
        print_json({"files": [str(path) for path in paths], "events": events, **numbers})
        return
    extra = "".join(f", {_text(value)} {key.replace('_', ' ')}" for key, value in numbers.items())
    for path in paths:
        print(f"{path}: {events:,} events{extra}")


def _text(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
