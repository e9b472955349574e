"""The templates wrap any command; what `generate --status` prints submits exactly what is missing."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrecords_tools.examples import uniform_schema
from tfrecords_tools.generate import Recipe, generate, status
from tfrecords_tools.verify import verify
from trackkeras.cluster import progress_report, ranges, resubmission

ROOT = Path(__file__).parents[2]
JOB = ROOT / "scripts" / "cluster_job.sh"
RECIPE = Recipe(uniform_schema(2, 64), "tfrecords_tools.examples:uniform", {"width": 2}, 3, 1200, 8, "test")
ECHO = """#!/usr/bin/env bash
printf '%s\\n' "$@" > seen
echo "$NUMBA_CACHE_DIR" > cache; [ -d "$NUMBA_CACHE_DIR" ] && touch "$NUMBA_CACHE_DIR/kernel"
exit ${CODE:-0}
"""


@pytest.fixture
def echo(submit_folder: Path) -> Path:
    """The command only tells its arguments."""
    (submit_folder / "bin" / "trackkeras").write_text(ECHO)
    return submit_folder


def job(*arguments: str, **environment: str) -> int:
    return subprocess.run(
        [JOB, *arguments], env={**os.environ, **environment}, check=False, capture_output=True
    ).returncode


@pytest.mark.parametrize("variable", ["SLURM_ARRAY_TASK_ID", "TRACKKERAS_INDEX"])
def test_the_index_becomes_a_shard_or_takes_its_place(echo: Path, variable: str) -> None:
    assert job("generate", "extrapolation", "--out", "a folder", **{variable: "7"}) == 0
    assert Path("seen").read_text().splitlines() == [
        *("generate", "extrapolation", "--out", "a folder", "--shard", "7")
    ]
    assert (
        job("train", "mlp_tiny", "--name", "run{index}", "--set", "training.seed={index}", **{variable: "7"})
        == 0
    )
    assert Path("seen").read_text().splitlines() == [
        *("train", "mlp_tiny", "--name", "run7", "--set", "training.seed=7")
    ]  # fmt: skip


def test_a_command_without_an_index_is_left_alone_and_its_failure_is_the_jobs(echo: Path) -> None:
    assert job("verify", "data", TRACKKERAS_INDEX="") == 0
    assert Path("seen").read_text().splitlines() == ["verify", "data"]
    assert job("verify", "data", CODE="3") == 3


def test_every_job_has_its_own_numba_cache_and_removes_it(echo: Path) -> None:
    caches = []
    for _ in range(2):
        job("verify", "data", TMPDIR=str(echo))
        caches.append(Path(Path("cache").read_text().strip()))
    assert caches[0] != caches[1]
    assert all(cache.parent == echo and not cache.exists() for cache in caches)


def test_the_slurm_header_names_all_resources() -> None:
    lines = JOB.read_text().splitlines()
    header = dict(
        re.fullmatch(r"#SBATCH --([a-z-]+)=(\S+)", line).groups() for line in lines if "#SBATCH" in line
    )
    assert set(header) == {"job-name", "output", "error", "cpus-per-task", "mem", "time"}
    assert "%a" in header["output"]
    assert header["output"] != header["error"]
    # sbatch reads no directive after the first command
    first = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


def submit_description(text: str) -> dict[str, str]:
    """Parse a submit file of plain `key = value` lines."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        key, separator, value = line.partition("=")
        assert separator, f"not a key = value line: {line!r}"
        assert re.fullmatch(r"[a-z_]+", key.strip()), key
        assert key.strip() not in found, f"{key} twice"
        found[key.strip()] = value.strip()
    return found


def expand(value: str, variables: dict[str, str]) -> str:
    """Replace `$(name)` and `$(name:default)`."""
    return re.sub(
        r"\$\((\w+)(:([^)]*))?\)",
        lambda match: variables.get(match[1], match[3]) if match[2] else variables[match[1]],
        value,
    )


def test_the_htcondor_file_wraps_the_same_script() -> None:
    found = submit_description((ROOT / "scripts" / "htcondor.sub").read_text())
    assert (ROOT / found["executable"]).samefile(JOB)
    assert os.access(JOB, os.X_OK)
    assert {"request_cpus", "request_memory", "request_disk", "output", "error", "log", "universe"} <= set(
        found
    )
    assert "$(Process)" in found["output"]
    assert "$(Process)" in found["error"]
    job_of = {"trackkeras": "verify data", "index": "5", "Cluster": "1", "Process": "0"}
    assert expand(found["arguments"], job_of) == "verify data"
    assert shlex.split(expand(found["environment"], job_of)) == ["TRACKKERAS_INDEX=5"]
    assert shlex.split(expand(found["environment"], {})) == ["TRACKKERAS_INDEX="]  # -queue 1
    assert "queue" not in found  # the command line says how many jobs


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_name_every_number_once(numbers: set[int]) -> None:
    listed = []
    for part in ranges(sorted(numbers)).split(","):
        first, _, last = part.partition("-")
        listed += range(int(first), int(last or first) + 1)
    assert listed == sorted(numbers)


@pytest.mark.parametrize("system", ["slurm", "htcondor", "here"])
def test_the_printed_line_makes_just_what_is_missing(submit_folder: Path, system: str) -> None:
    """A stand-in for the scheduler runs the printed line job by job."""
    folder = submit_folder / "data"
    generate(folder, RECIPE, only=[1, 3, 4, 5])
    damaged = folder / RECIPE.plan()[4].file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    report = progress_report(folder)
    assert (report["missing"], report["bad"], report["complete"]) == ([0, 2, 6, 7], [4], False)
    untouched = {number: (folder / RECIPE.plan()[number].file).stat().st_mtime_ns for number in (1, 3, 5)}
    words = shlex.split(report["resume"][system])
    if system == "slurm":
        assert words[0] == "sbatch"
        array = re.fullmatch(r"--array=([\d,-]+)", words[1])[1]
        indices = [
            index
            for part in array.split(",")
            for index in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
        ]
        jobs = [(words[2:], {"SLURM_ARRAY_TASK_ID": str(index)}) for index in indices]
    elif system == "htcondor":
        variable, value = words[1].split("=", 1)
        found = submit_description(Path(words[2]).read_text())
        assert words[3:6] == ["-queue", "index", "in"]
        jobs = []
        for index in words[6].split(","):
            given_ = {variable: value, "index": index}
            environment = dict(
                item.split("=", 1) for item in shlex.split(expand(found["environment"], given_))
            )
            jobs.append(([found["executable"], *expand(found["arguments"], given_).split()], environment))
    else:
        jobs = [(words, {})]
    if system != "here":
        assert len(jobs) == 5
        jobs = [jobs[0], jobs[-1]]  # two of them are enough: an interpreter starts in each
    for command, environment in jobs:
        done = subprocess.run(command, env={**os.environ, **environment}, check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
    for number, before in untouched.items():
        assert (folder / RECIPE.plan()[number].file).stat().st_mtime_ns == before
    if system == "here":
        assert progress_report(folder)["complete"]
        assert verify(folder).ok
    else:
        assert status(folder, full=True).missing == (2, 6)


def test_a_folder_with_all_shards_and_no_manifest_is_finished_here(tmp_path: Path) -> None:
    generate(tmp_path / "d", RECIPE)
    (tmp_path / "d" / "manifest.json").unlink()
    report = progress_report(tmp_path / "d")
    assert not report["complete"]
    assert list(report["resume"]) == ["here"]
    assert list(resubmission(tmp_path / "d", [])) == ["here"]
    json.dumps(report, allow_nan=False)
