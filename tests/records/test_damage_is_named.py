"""A damaged dataset is never read as a sound one: reading and verifying name the file and the record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfrecords_tools.card import card, describe
from tfrecords_tools.errors import RecordError
from tfrecords_tools.examples import uniform_schema
from tfrecords_tools.generate import Recipe, generate
from tfrecords_tools.manifest import load_manifest
from tfrecords_tools.reader import Dataset
from tfrecords_tools.schema import Schema
from tfrecords_tools.verify import verify
from tfrecords_tools.wire import frame, record_offsets
from tfrecords_tools.writer import write_shard

RECIPE = Recipe(
    schema=uniform_schema(3, block_rows=64),
    function="tfrecords_tools.examples:uniform",
    config={"width": 3},
    seed=1,
    rows=2000,
    shards=5,
    generator="test",
)
FIRST = "uniform-train.tfrecord-00000-of-00003"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "data"
    generate(folder, RECIPE)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "data")
    return tmp_path / "data"


def change_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def messages(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in verify(folder).problems:
        found.setdefault(problem.file, []).append(problem.message)
    return found


def test_a_sound_dataset_has_no_problem(sound: Path) -> None:
    report = verify(sound)
    assert report.problems == ()
    assert (report.files, report.rows) == (5, 2000)
    assert report.bytes == sum(path.stat().st_size for path in sound.glob("*.tfrecord-*"))
    assert report.to_json()["ok"] is True


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found(folder: Path, data: st.DataObject) -> None:
    path = folder / FIRST
    original = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(original) - 1))
    changed = bytearray(original)
    changed[bit // 8] ^= 1 << bit % 8
    record = int(np.searchsorted(record_offsets(path), bit // 8, side="right")) - 1
    try:
        path.write_bytes(changed)
        with pytest.raises(RecordError, match=f"{FIRST}: record {record} is"):
            Dataset(folder).read("train")
        found = messages(folder)
        assert list(found) == [FIRST]
        assert found[FIRST][0].startswith(f"record {record} is corrupt")
    finally:
        path.write_bytes(original)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_truncation_is_found(folder: Path, data: st.DataObject) -> None:
    path = folder / FIRST
    original = path.read_bytes()
    length = data.draw(
        st.integers(0, len(original) - 1) | st.sampled_from(record_offsets(path)[:-1].tolist())
    )
    offsets = record_offsets(path)
    record = int(np.searchsorted(offsets, length, side="right")) - 1
    try:
        path.write_bytes(original[:length])
        state = "is missing" if length in offsets else "is cut off"
        with pytest.raises(RecordError, match=f"{FIRST}: record {record} {state}"):
            Dataset(folder).read("train")
        found = messages(folder)
        assert list(found) == [FIRST]
        assert f"holds {length} bytes, the manifest says {len(original)}" in found[FIRST]
    finally:
        path.write_bytes(original)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / FIRST).unlink()
    with pytest.raises(RecordError, match=f"{FIRST}: the file is missing"):
        Dataset(folder).read("train", limit=1)
    assert messages(folder) == {FIRST: ["the file is missing"]}
    assert Dataset(folder).read("test")["index"].size == 200  # the other splits are not touched


def test_several_problems_are_all_reported(folder: Path) -> None:
    path = folder / FIRST
    data, offsets = bytearray(path.read_bytes()), record_offsets(path)
    for record in (1, 3):
        data[offsets[record] + 40] ^= 1
    path.write_bytes(data)
    (folder / "uniform-test.tfrecord-00000-of-00001").write_bytes(b"")
    (folder / "uniform-train.tfrecord-00007-of-00009").write_bytes(b"")
    found = messages(folder)
    assert [message.split(":")[0] for message in found[FIRST][:2]] == [
        "record 1 is corrupt",
        "record 3 is corrupt",
    ]
    assert "holds 406 rows, the manifest says 534" in found[FIRST]
    assert found["uniform-train.tfrecord-00007-of-00009"] == ["the manifest does not name this file"]
    assert "holds 0 rows, the manifest says 200" in found["uniform-test.tfrecord-00000-of-00001"]


def test_a_sound_frame_around_nonsense_is_named(folder: Path) -> None:
    path = folder / FIRST
    data, offsets = path.read_bytes(), record_offsets(path)
    nonsense = b"".join(frame([b"\x0a\xff"]))
    path.write_bytes(data[: offsets[2]] + nonsense + data[offsets[3] :])
    with pytest.raises(RecordError, match=f"{FIRST}: record 2: the Example is malformed"):
        Dataset(folder).read("train")
    found = messages(folder)[FIRST]
    assert found[0].startswith("record 2: the Example is malformed")
    assert "holds 470 rows, the manifest says 534" in found


def test_values_outside_the_limits_are_named(folder: Path) -> None:
    # Another program wrote this shard, with a wider idea of the limits.
    loose = RECIPE.schema.to_json()
    loose["features"][0]["maximum"] = None
    rows = Dataset(folder).read("test")
    rows["values"][7, 1] = 3.5
    write_shard(folder / "uniform-test.tfrecord-00000-of-00001", Schema.from_json(loose), [rows])
    found = messages(folder)["uniform-test.tfrecord-00000-of-00001"]
    assert found[0] == "feature 'values'[1] holds 3.5 1, above its maximum 1"
    assert any("CRC of the file" in message for message in found)


def test_further_rules_see_every_row_and_name_the_file(sound: Path) -> None:
    rows = 0

    def rule(columns: dict[str, np.ndarray]) -> list[str]:
        nonlocal rows
        rows += len(columns["index"])
        return ["an index of 533 is bad luck"] if (columns["index"] == 533).any() else []

    report = verify(sound, [rule])
    assert rows == 2000
    assert [(problem.file, problem.message) for problem in report.problems] == [
        (FIRST, "an index of 533 is bad luck")
    ]


# -- the manifest ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("seed"), r"missing \['seed'\]"),
        (lambda content: content.update(sed=1), r"unknown \['sed'\]"),
        (
            lambda content: content.update(format_version=2),
            "format version is 2, this program reads version 1",
        ),
        (
            lambda content: content["splits"]["test"].update(rows=3),
            "split 'test' states 3 rows, its shards hold 200",
        ),
        (lambda content: content["splits"]["test"]["shards"][0].pop("crc32c"), r"missing \['crc32c'\]"),
        (lambda content: content["schema"]["features"][0].update(unit="ell"), "unknown unit 'ell'"),
        (lambda content: content.update(splits=[]), "manifest.json: "),
        (lambda content: content.update(schema=4), "schema must be a JSON object, received int"),
    ],
)
def test_a_wrong_manifest_is_one_clear_line(
    folder: Path, change: Callable[[dict], object], words: str
) -> None:
    change_json(folder / "manifest.json", change)
    with pytest.raises(RecordError, match=words) as caught:
        Dataset(folder)
    assert "\n" not in str(caught.value)
    assert verify(folder).problems[0].file == "manifest.json"


def test_a_manifest_that_is_no_json_or_not_there(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(RecordError, match=r"manifest.json is not readable as JSON"):
        Dataset(folder)
    with pytest.raises(RecordError, match="no such folder"):
        Dataset(folder / "elsewhere")
    (folder / "empty").mkdir()
    with pytest.raises(RecordError, match=r"holds no dataset: manifest.json is missing"):
        Dataset(folder / "empty")
    assert verify(folder / "empty").problems[0].file == "manifest.json"


def test_metadata_beside_the_manifest_is_compared_with_it(folder: Path) -> None:
    change_json(folder / "features.json", lambda content: content.update(pythonClassName="other"))
    (folder / "dataset_info.json").unlink()
    found = messages(folder)
    assert found["features.json"] == ["the content contradicts the manifest"]
    assert "no such file" in found["dataset_info.json"][0]


def test_wrong_questions_are_answered_with_the_right_names(sound: Path) -> None:
    data = Dataset(sound)
    for call, words in (
        (lambda: data.read("dev"), "no split 'dev'; there are: train, validation, test"),
        (lambda: data.read("train", ["momentum"]), "no feature 'momentum'; there are: values, index"),
        (lambda: data.read("train", start=-1), "split 'train' has 1600 rows, received start -1"),
        (lambda: data.files("dev"), "no split 'dev'"),
    ):
        with pytest.raises(RecordError, match=words):
            call()


def test_the_manifest_survives_its_file_and_the_card_shows_it(sound: Path) -> None:
    manifest = load_manifest(sound)
    assert manifest.to_json() == json.loads((sound / "manifest.json").read_text())
    text = card(manifest)
    for words in (
        "2,000 rows",
        "| train ",
        "1,600",
        "values[2]",
        "acceptance: 0.5000",
        "- seed: 1",
        "width: 3",
    ):
        assert words in text
    lines = [line for line in text.splitlines() if line.startswith("| values")]
    stated = manifest.statistics("train")["values"]
    for line, mean in zip(lines, stated["mean"], strict=True):
        assert float(line.split("|")[3]) == pytest.approx(mean, rel=1e-5)
    content = json.loads(json.dumps(describe(manifest)))
    assert content["splits"]["train"] == {
        "rows": 1600,
        "shards": 3,
        "bytes": manifest.split("train").bytes,
        "counts": {"rejected": 1600, "tried": 3200},
    }
