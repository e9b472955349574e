"""Shards on a Dask cluster: on this machine, or through the batch systems that dask-jobqueue knows.

The workers call the same pure function as every other road, so the bytes are the same. They see the dataset's
folder under the same path: a shared file system.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrecords_tools.errors import RecordError
from tfrecords_tools.generate import Launcher, Recipe, Report, Task, make_shard

CLUSTERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "local": ("distributed", "LocalCluster", {"threads_per_worker": 1, "dashboard_address": None}),
    "slurm": ("dask_jobqueue", "SLURMCluster", {"cores": 1, "memory": "1GB"}),
    "htcondor": ("dask_jobqueue", "HTCondorCluster", {"cores": 1, "memory": "1GB", "disk": "4GB"}),
}
"""Module, class and default options of every kind of cluster."""


def dask_launcher(cluster: str, workers: int, options: Mapping[str, Any] | None = None) -> Launcher:
    """Return a launcher for `generate` that runs every shard as a task of a new Dask cluster.

    Args:
        cluster: `local`, `slurm` or `htcondor`.
        workers: Processes of a local cluster, or jobs of a batch system.
        options: Further arguments of the cluster's class, such as `queue` or `memory`.

    Raises:
        RecordError: An unknown kind of cluster, or Dask is not installed.
    """
    if cluster not in CLUSTERS:
        raise RecordError(f"no Dask cluster named {cluster!r}; there are: {', '.join(CLUSTERS)}")
    module, name, defaults = CLUSTERS[cluster]
    try:
        distributed = importlib.import_module("distributed")
        factory = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise RecordError(
            f"the launcher needs the extra `dask` ({error}): install 'trackkeras[dask]'"
        ) from None
    arguments = {**defaults, **(options or {})}

    def launch(directory: Path, recipe: Recipe, todo: Sequence[Task], report: Report) -> None:
        local = {"n_workers": min(workers, len(todo))} if cluster == "local" else {}
        try:
            started = factory(**local, **arguments)
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            raise RecordError(f"cannot start {name} with {arguments}: {error}") from None
        with started, distributed.Client(started) as client:
            if cluster != "local":
                started.scale(jobs=min(workers, len(todo)))
            tasks = {client.submit(make_shard, directory, recipe, task, pure=False): task for task in todo}
            for future in distributed.as_completed(tasks):
                future.result()
                report.add_rows(tasks[future].rows)
                report.add_shard()

    return launch
