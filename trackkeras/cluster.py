"""How far a generation on a cluster has come, and the lines that submit again what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfrecords_tools.generate import load_recipe, status

JOB_SCRIPT = "scripts/cluster_job.sh"
HTCONDOR_FILE = "scripts/htcondor.sub"


def progress_report(folder: Path) -> dict[str, Any]:
    """Compare every shard of a started generation with its note, checksums included.

    Args:
        folder: The dataset's folder; all that is read is there.

    Returns:
        `folder`, `rows`, `shards`, numbers of the `missing` and the `bad` shards, `complete`, and `resume`:
        one command line for each way to make just these.

    Raises:
        RecordError: No generation was started there.
    """
    recipe, found = load_recipe(folder), status(folder, full=True)
    todo = sorted((*found.missing, *found.bad))
    complete = not todo and (folder / "manifest.json").exists()
    return {
        "folder": str(folder),
        "rows": recipe.rows,
        "shards": recipe.shards,
        "done": len(found.done),
        "missing": list(found.missing),
        "bad": list(found.bad),
        "complete": complete,
        "resume": {} if complete else resubmission(folder, todo),
    }


def resubmission(folder: Path, shards: Sequence[int]) -> dict[str, str]:
    """Return a command line for this machine, for SLURM and for HTCondor; a folder knows its own recipe."""
    command = f"generate --out {shlex.quote(str(folder))}"
    lines = {"here": f"trackkeras {command}"}
    if shards:
        listed = ",".join(map(str, shards))
        lines["slurm"] = f"sbatch --array={ranges(shards)} {JOB_SCRIPT} {command}"
        lines["htcondor"] = (
            f"condor_submit {shlex.quote(f'trackkeras={command}')} {HTCONDOR_FILE} -queue index in {listed}"
        )
    return lines


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as SLURM writes them, such as `0-3,7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
