"""Kills, full disks, protected folders, rival writers, flipped bits: found or survived, nothing lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfrecords_tools.errors import RecordError
from tfrecords_tools.examples import uniform_schema
from tfrecords_tools.generate import Recipe, generate, status
from tfrecords_tools.reader import Dataset
from tfrecords_tools.verify import verify

RECIPE = Recipe(
    uniform_schema(8, 64), "tfrecords_tools.examples:uniform", {"width": 8}, 5, 12_000, 12, "test"
)
JOB = """
import sys
from tfrecords_tools.generate import generate, load_recipe
if __name__ == "__main__":
    print("ready", flush=True)
    generate(sys.argv[1], load_recipe(__import__("pathlib").Path(sys.argv[2])), workers=int(sys.argv[3]))
"""
FLIPS = int(os.environ.get("TRACKKERAS_FAULT_FLIPS", "150"))
KILLS = int(os.environ.get("TRACKKERAS_FAULT_KILLS", "5"))


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "data"
    generate(folder, RECIPE)
    return folder


@pytest.fixture
def job(tmp_path: Path, sound: Path):
    """Start a generation of the same recipe in another process."""
    (tmp_path / "job.py").write_text(JOB)

    def start(folder: Path, workers: int = 1, recipe: Path = sound) -> subprocess.Popen[str]:
        words = [sys.executable, str(tmp_path / "job.py"), str(folder), str(recipe), str(workers)]
        pipe = subprocess.PIPE
        process = jobs.enter_context(subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True))
        assert process.stdout is not None
        process.stdout.readline()
        return process

    with contextlib.ExitStack() as jobs:
        yield start


# -- kills -------------------------------------------------------------------------------------------------


def test_killed_at_random_moments_it_always_reaches_the_same_bytes(tmp_path: Path, sound: Path, job) -> None:
    """Every kill leaves whole shards only, and none of them is lost by the next start."""
    moments = random.Random(8)
    folder = tmp_path / "d"
    kept: dict[str, int] = {}
    for _ in range(KILLS):
        process = job(folder)
        time.sleep(moments.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not (folder / "recipe.json").exists():
            continue
        found = status(folder, full=True)
        assert found.bad == ()
        for name, written in kept.items():
            assert (folder / name).stat().st_mtime_ns == written, "a finished shard was made again"
        kept = {RECIPE.plan()[number].file: (folder / RECIPE.plan()[number].file).stat().st_mtime_ns
                for number in found.done}  # fmt: skip
    generate(folder, RECIPE)
    assert digest(folder) == digest(sound)


# -- disks -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_finished_shards_stay(
    small_disk: Path, sound: Path, workers: int
) -> None:
    folder = small_disk / "d"
    with pytest.raises(RecordError, match=r"cannot write .*: the disk is full; free space and run the same"):
        generate(folder, RECIPE, workers=workers)
    found = status(folder, full=True)
    assert found.done
    assert found.bad == ()
    assert not list(folder.rglob(".*.partial"))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord-*")}
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert generate(folder, RECIPE) is not None
    done = {folder / RECIPE.plan()[number].file for number in found.done}
    assert all(path.stat().st_mtime_ns == before[path] for path in done)
    assert digest(folder) == digest(sound)


def test_a_read_only_disk_is_one_line(small_disk: Path) -> None:
    generate(small_disk / "d", replace(RECIPE, rows=600), only=[0])
    before = digest(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for folder in (small_disk / "new", small_disk / "d"):
        with pytest.raises(
            RecordError, match=r"cannot write .*: the file system is read-only; choose"
        ) as caught:
            generate(folder, replace(RECIPE, rows=600))
        assert "\n" not in str(caught.value)
    assert digest(small_disk) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_protected_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(RecordError, match="permission denied; choose a folder"):
        generate(tmp_path / "closed" / "d", RECIPE)


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "d"):
        with pytest.raises(RecordError, match="choose"):
            generate(folder, RECIPE)
    assert (tmp_path / "file").read_text() == "mine"


# -- two writers -------------------------------------------------------------------------------------------


def test_two_writers_of_one_recipe_make_one_dataset(tmp_path: Path, sound: Path, job) -> None:
    folder = tmp_path / "d"
    writers = [job(folder, workers) for workers in (1, 2)]
    assert [writer.wait(120) for writer in writers] == [0, 0], [writer.stderr.read() for writer in writers]
    assert digest(folder) == digest(sound)


def test_of_two_writers_of_different_recipes_one_is_refused(tmp_path: Path, job) -> None:
    for seed in (1, 2):
        (tmp_path / f"seed{seed}").mkdir()
        generate(tmp_path / f"seed{seed}", replace(RECIPE, seed=seed), only=[0])
    folder = tmp_path / "d"
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        writers = [job(folder, recipe=tmp_path / f"seed{seed}") for seed in (1, 2)]
        codes = [writer.wait(120) for writer in writers]
        assert sorted(codes) == [0, 1]
        assert "holds a dataset of another recipe: seed is" in writers[codes.index(1)].stderr.read()
        seed = 1 + codes.index(0)
        assert Dataset(folder).manifest.seed == seed
        assert verify(folder).ok
        first = RECIPE.plan()[0].file
        assert (folder / first).read_bytes() == (tmp_path / f"seed{seed}" / first).read_bytes()


def test_the_first_recipe_stays_when_two_are_written_at_once(tmp_path: Path) -> None:
    from tfrecords_tools.files import read_json, write_json

    path = tmp_path / "recipe.json"
    write_json(path, {"writer": 1}, replace=False)
    write_json(path, {"writer": 2}, replace=False)
    assert read_json(path) == {"writer": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.json"]


# -- flipped bits ------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found_and_repaired(sound: Path, tmp_path: Path) -> None:
    """`verify` and `status` find each flip; one more call of `generate` mends all at once."""
    folder = tmp_path / "d"
    shutil.copytree(sound, folder)
    rng = np.random.default_rng(4)
    files = [task.file for task in RECIPE.plan()]
    damaged = set()
    for _ in range(FLIPS):
        number = int(rng.integers(len(files)))
        path = folder / files[number]
        original = path.read_bytes()
        changed = bytearray(original)
        changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        damaged = {number}
        assert status(folder, full=True).bad == (number,)
        problems = verify_one(folder, files[number])
        assert problems, "a flipped bit was not found"
        path.write_bytes(original)
    for number in rng.choice(len(files), 4, replace=False):
        path = folder / files[number]
        changed = bytearray(path.read_bytes())
        changed[rng.integers(len(changed))] ^= 1
        path.write_bytes(changed)
        damaged.add(int(number))
    generate(folder, RECIPE)
    assert digest(folder) == digest(sound)


def verify_one(folder: Path, file: str) -> list[str]:
    return [problem.message for problem in verify(folder).problems if problem.file == file]
