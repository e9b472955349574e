"""A real array job of a real SLURM, started as one node on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfrecords_tools.examples import uniform_schema
from tfrecords_tools.generate import Recipe, generate, status
from tfrecords_tools.verify import verify
from trackkeras.cluster import progress_report

NEEDED = ("sbatch", "slurmctld", "slurmd", "munged")
missing = [
    name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing) or os.geteuid() != 0, reason=f"needs root and {', '.join(NEEDED)}"),
]
CONFIGURATION = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.3)
    return False


def tool(*arguments: str) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def slurm(submit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A running SLURM; its daemons end with the test."""
    folder = submit_folder / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            cpus=min(2, os.cpu_count() or 1),
            controller_port=free_port(),
            node_port=free_port(),
        )
    )
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    pids = [folder / "slurmd.pid", folder / "slurmctld.pid"]
    if not Path("/run/munge/munge.socket.2").exists():
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        munge_pid = Path("/run/munge/munged.pid")
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True, capture_output=True)
        pids.append(munge_pid)
    try:
        subprocess.run(["slurmctld", "-f", configuration], check=True, capture_output=True)
        subprocess.run(["slurmd", "-f", configuration], check=True, capture_output=True)
        assert wait_for(lambda: "idle" in tool("sinfo", "-h", "-o", "%T")), tool("sinfo")
        yield submit_folder
    finally:
        for path in pids:
            if path.exists():
                os.kill(int(path.read_text()), 15)
        wait_for(lambda: not any(path.exists() for path in pids), 10)


def test_an_array_job_makes_the_shards_and_the_printed_line_repairs_them(slurm: Path) -> None:
    folder = slurm / "data"
    recipe = Recipe(
        uniform_schema(2, 64), "tfrecords_tools.examples:uniform", {"width": 2}, 3, 600, 4, "test"
    )
    generate(folder, recipe, only=[1])
    memory = "--mem=500M"  # the test's node is small
    for damage in (False, True):
        if damage:
            path = folder / recipe.plan()[2].file
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
        report = progress_report(folder)
        assert (report["missing"], report["bad"]) == (([], [2]) if damage else ([0, 2, 3], []))
        command, *arguments = shlex.split(report["resume"]["slurm"])
        tool(command, memory, *arguments)
        assert wait_for(lambda: not tool("squeue", "-h")), tool("squeue")
        logs = "".join(path.read_text() for path in sorted((slurm / "logs").glob("trackkeras-*.err")))
        assert status(folder, full=True).done == (0, 1, 2, 3), logs
    assert len(list((slurm / "logs").glob("trackkeras-*_2.out"))) == 2
    assert (folder / "manifest.json").exists()
    assert verify(folder).ok


def test_dask_workers_as_slurm_jobs_make_the_same_bytes(slurm: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="needs the extra `dask`")
    from tfrecords_tools.launch_dask import dask_launcher

    recipe = Recipe(
        uniform_schema(2, 64), "tfrecords_tools.examples:uniform", {"width": 2}, 3, 600, 4, "test"
    )
    generate(slurm / "here", recipe)
    options = {"queue": "main", "memory": "500MB", "interface": "lo", "log_directory": str(slurm / "logs")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Dask, about ports and the event loop
        generate(slurm / "dask", recipe, launcher=dask_launcher("slurm", 2, options))
    for path in (slurm / "here").glob("*.tfrecord-*"):
        assert path.read_bytes() == (slurm / "dask" / path.name).read_bytes()
