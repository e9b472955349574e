"""One run, many workers, many jobs, a killed run continued: always the same bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords_tools.errors import RecordError
from tfrecords_tools.examples import uniform_schema
from tfrecords_tools.generate import Recipe, Status, generate, load_recipe, make_shard, status
from tfrecords_tools.manifest import allot, load_manifest
from tfrecords_tools.reader import Dataset

RECIPE = Recipe(
    schema=uniform_schema(3, block_rows=256),
    function="tfrecords_tools.examples:uniform",
    config={"width": 3},
    seed=11,
    rows=20_000,
    shards=6,
    generator="test",
)

SLOW = """
import time
from tfrecords_tools import examples

def uniform(config, rng, rows):
    for chunk in examples.uniform({"width": config["width"]}, rng, rows):
        time.sleep(config["pause"])
        yield chunk

def short(config, rng, rows):
    yield next(examples.uniform(config, rng, rows - 1))

def endless(config, rng, rows):
    while True:
        yield next(examples.uniform(config, rng, rows))

def failing(config, rng, rows):
    yield next(examples.uniform(config, rng, rows))
    raise ValueError("the detector is on fire")
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Shard functions in a module that this process and its workers can import."""
    name = f"functions_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{name}.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    return name


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    assert generate(folder, RECIPE) is not None
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_says_what_was_made(one_run: Path) -> None:
    manifest = load_manifest(one_run)
    assert {name: split.rows for name, split in manifest.splits.items()} == {
        "train": 16_000,
        "validation": 2_000,
        "test": 2_000,
    }
    assert [shard.file for shard in manifest.shards] == [
        *(f"uniform-train.tfrecord-0000{k}-of-00004" for k in range(4)),
        "uniform-validation.tfrecord-00000-of-00001",
        "uniform-test.tfrecord-00000-of-00001",
    ]
    assert manifest.counts == {"rejected": 20_000, "tried": 40_000}
    assert manifest.acceptance == 0.5
    assert manifest.config == {"width": 3}
    assert Dataset(one_run).read("train", ["index"], limit=4000)["index"].tolist() == list(range(4000))


def test_shards_are_different_and_uniform(one_run: Path) -> None:
    values = Dataset(one_run).read("train", ["values"])["values"]
    assert len(np.unique(values[:, 0])) > 0.99 * len(values)
    # standard error of the mean of 48,000 uniform numbers: 0.0013
    assert abs(values.mean() - 0.5) < 0.007


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_does_not_matter(tmp_path: Path, one_run: Path, workers: int) -> None:
    seen: list[tuple[int, int, int, int]] = []
    generate(tmp_path / "d", RECIPE, workers=workers, progress=lambda *now: seen.append(now))
    assert files(tmp_path / "d") == files(one_run)
    assert seen[0] == (0, 20_000, 0, 6)
    assert seen[-1] == (20_000, 20_000, 6, 6)
    assert seen == sorted(seen)


def test_independent_jobs_in_any_order_make_the_same(tmp_path: Path, one_run: Path) -> None:
    folder = tmp_path / "d"
    for number in (5, 0, 3, 3, 1, 4):
        assert generate(folder, RECIPE, only=[number]) is None
    assert status(folder) == Status(done=(0, 1, 3, 4, 5), missing=(2,), bad=())
    with pytest.raises(RecordError, match="is not complete: run the same generation again"):
        Dataset(folder)
    assert generate(folder, RECIPE, only=[2]) is not None
    assert files(folder) == files(one_run)


def test_two_jobs_on_one_shard_do_not_disturb_each_other(tmp_path: Path, one_run: Path) -> None:
    folder = tmp_path / "d"
    generate(folder, RECIPE, only=[1])
    task = RECIPE.plan()[0]

    def second_job(rows: int) -> None:
        make_shard(folder, RECIPE, task)

    make_shard(folder, RECIPE, task, second_job)
    generate(folder, RECIPE)
    assert files(folder) == files(one_run)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_continues_to_the_same_bytes(tmp_path: Path, functions: str, workers: int) -> None:
    config = {"width": 3, "pause": 0.2}
    recipe = replace(RECIPE, function=f"{functions}:uniform", config=config, rows=60_000)
    program = (
        "from tfrecords_tools.generate import *; from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    import sys; folder = Path(sys.argv[1]); recipe = load_recipe(folder)\n"
        "    generate(folder, recipe, workers=int(sys.argv[2]))\n"
    )
    script = tmp_path / "job.py"
    script.write_text(program)
    folder = tmp_path / "killed"
    generate(folder, recipe, only=[5])  # pins the folder and makes one shard
    untouched = (folder / RECIPE.plan()[5].file).stat().st_mtime_ns
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "modules")}
    for wanted in (2, 3):  # is killed twice, each time in the middle of a shard
        job = subprocess.Popen([sys.executable, str(script), str(folder), str(workers)], env=environment)
        deadline = time.monotonic() + 60
        while len(status(folder).done) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
    assert 3 <= len(status(folder).done) < 6
    assert not (folder / "manifest.json").exists()
    # The workers of a killed process end by themselves; their locks go with them.
    deadline = time.monotonic() + 20
    while list(folder.rglob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.1)
        generate(folder, recipe, only=[5])
    assert not list(folder.rglob(".*.partial"))
    assert generate(folder, recipe, workers=workers) is not None
    assert (folder / RECIPE.plan()[5].file).stat().st_mtime_ns == untouched
    generate(tmp_path / "undisturbed", recipe, workers=2)
    assert files(folder) == files(tmp_path / "undisturbed")


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "note", "no_note"])
def test_only_the_damaged_shard_is_remade(tmp_path: Path, one_run: Path, damage: str) -> None:
    folder = tmp_path / "d"
    generate(folder, RECIPE)
    path, note = folder / RECIPE.plan()[2].file, folder / RECIPE.plan()[2].note
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        assert status(folder).bad == ()
        assert status(folder, full=True).bad == (2,)
    elif damage == "cut":
        path.write_bytes(data[:-5])
        assert status(folder) == Status((0, 1, 3, 4, 5), (), (2,))
    elif damage == "remove":
        path.unlink()
    elif damage == "note":
        note.write_text('{"shard": 3')
    else:
        note.unlink()
    others = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.tfrecord*") if file != path}
    generate(folder, RECIPE)
    assert files(folder) == files(one_run)
    assert {name: (folder / name).stat().st_mtime_ns for name in others} == others


def test_ctrl_c_ends_the_workers_and_keeps_what_is_done(tmp_path: Path, functions: str) -> None:
    recipe = replace(RECIPE, function=f"{functions}:uniform", config={"width": 3, "pause": 0.3}, rows=80_000)

    def interrupt(rows: int, rows_total: int, shards: int, shards_total: int) -> None:
        if rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "d", recipe, workers=2, progress=interrupt)
    assert not list((tmp_path / "d").rglob(".*.partial"))
    assert not (tmp_path / "d" / "manifest.json").exists()
    assert generate(tmp_path / "d", recipe, workers=2) is not None


# -- bad input -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 12}, "seed is 11 there and 12 here"),
        ({"config": {"width": 3, "depth": 1}}, "config.depth is None there and 1 here"),
        ({"rows": 20_001, "shards": 7}, "rows is 20000 there and 20001 here; shards is 6 there and 7 here"),
        ({"splits": {"train": 0.5, "validation": 0.25, "test": 0.25}}, "splits.test is 0.1 there"),
    ],
)
def test_another_recipe_in_the_folder_is_refused_and_touches_nothing(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    generate(tmp_path / "d", RECIPE, only=[0])
    before = files(tmp_path / "d")
    with pytest.raises(RecordError, match=words):
        generate(tmp_path / "d", replace(RECIPE, **change))
    assert files(tmp_path / "d") == before


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        ("short", RecordError, "were asked for"),
        ("endless", RecordError, "were asked for"),
        ("failing", ValueError, "the detector is on fire"),
    ],
)
def test_a_wrong_function_is_named_and_leaves_no_shard(
    tmp_path: Path, functions: str, function: str, error: type[Exception], words: str, workers: int
) -> None:
    recipe = replace(RECIPE, function=f"{functions}:{function}", rows=600)
    with pytest.raises(error, match=words):
        generate(tmp_path / "d", recipe, workers=workers)
    assert list(files(tmp_path / "d")) == ["recipe.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shards": 2}, "2 cannot be divided among 3 splits"),
        ({"rows": 2}, "2 cannot be divided among 3 splits"),
        ({"rows": 4, "shards": 10}, "split 'train': 2 rows cannot fill 8 shards; use fewer"),
        ({"seed": -1}, "seed must not be negative"),
        ({"splits": {"train": 0.8, "test": 0.1}}, "add up to 1"),
        ({"config": {"width": np.float32(1)}}, "configuration cannot be written as JSON"),
        ({"config": {"width": float("nan")}}, "configuration cannot be written as JSON"),
    ],
)
def test_bad_recipes_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        replace(RECIPE, **{"rows": 30, **change})


def test_bad_calls_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    for options, words in (
        ({"only": [6]}, "there is no shard 6; the recipe has shards 0 to 5"),
        ({"workers": 0}, "workers must be at least 1"),
    ):
        with pytest.raises(RecordError, match=words):
            generate(tmp_path / "d", RECIPE, **options)
    for function in ("tfrecords_tools.examples:nothing", "no_such_module:f", "nonsense"):
        with pytest.raises(RecordError, match="cannot load the shard function"):
            generate(tmp_path / "d", replace(RECIPE, function=function))
    assert not (tmp_path / "d").exists()
    with pytest.raises(RecordError, match="no such file"):
        status(tmp_path)


def test_a_recipe_survives_its_file(one_run: Path) -> None:
    assert load_recipe(one_run) == RECIPE


# -- the plan --------------------------------------------------------------------------------------------
@settings(max_examples=200, deadline=None)
@given(st.integers(3, 10**7), st.integers(3, 200))
def test_rows_and_shards_are_all_planned_and_evenly(rows: int, shards: int) -> None:
    try:
        tasks = replace(RECIPE, rows=rows, shards=shards).plan()
    except RecordError:
        assert rows < 20 * shards
        return
    assert [task.number for task in tasks] == list(range(shards))
    assert sum(task.rows for task in tasks) == rows
    for split in ("train", "validation", "test"):
        sizes = [task.rows for task in tasks if task.split == split]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**9), st.lists(st.integers(1, 100), min_size=1, max_size=6))
def test_allotment_adds_up_and_is_fair(amount: int, weights: list[int]) -> None:
    shares = {str(index): weight / sum(weights) for index, weight in enumerate(weights)}
    if amount < len(weights):
        with pytest.raises(RecordError):
            allot(amount, shares)
        return
    parts = allot(amount, shares)
    assert sum(parts.values()) == amount
    assert min(parts.values()) >= 1
    for name, part in parts.items():
        if shares[name] * amount >= len(weights):
            assert abs(part - shares[name] * amount) <= len(weights)


def test_random_streams_differ_by_shard_seed_and_configuration() -> None:
    first = [
        RECIPE.stream(0),
        RECIPE.stream(1),
        replace(RECIPE, seed=12).stream(0),
        replace(RECIPE, config={"width": 4}).stream(0),
        replace(RECIPE, rows=20_001).stream(0),
    ]
    assert len({rng.integers(2**63) for rng in first}) == len(first)
    assert RECIPE.stream(3).integers(2**63) == RECIPE.stream(3).integers(2**63)
