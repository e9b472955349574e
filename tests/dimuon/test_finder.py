"""The track finder: matrices, loss, metrics, networks, and the road from messy events to a bundle."""

from __future__ import annotations

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tfrecords_tools.generate import Recipe, generate
from trackkeras import evaluation, parity
from trackkeras.checkpoints import load_model
from trackkeras.domain import Rows, find_domain, find_task
from trackkeras.domains.dimuon import finder_rows
from trackkeras.domains.dimuon.attention_maps import attention_maps, attention_summary, cell_size
from trackkeras.domains.dimuon.commands import app
from trackkeras.domains.dimuon.finder_baselines import all_empty, most_frequent
from trackkeras.domains.dimuon.finder_loss import cross_entropy, denoising, overlap
from trackkeras.domains.dimuon.finder_metrics import METRICS, event_errors
from trackkeras.domains.dimuon.finder_models import MUONS, build_finder
from trackkeras.domains.dimuon.finder_options import FinderOptions
from trackkeras.domains.dimuon.hit_matrix import hit_matrices
from trackkeras.domains.dimuon.records import event_rows
from trackkeras.domains.dimuon.refinement import refine
from trackkeras.domains.dimuon.simulate import simulate
from trackkeras.domains.dimuon.simulation_options import GenerateOptions
from trackkeras.errors import UserError
from trackkeras.keras_file import write_keras
from trackkeras.layers.operations import counted_operations
from trackkeras.layers.unet import unet_plus_plus
from trackkeras.presets import load_run
from trackkeras.training import train

TASK = find_task("dimuon", "finder")
BACKGROUND = GenerateOptions(background={"upper": 6, "pool": 300}, max_hits=400)


@pytest.fixture(scope="module")
def events() -> tuple[Rows, list]:
    """Events with background as rows, and as they were made."""
    found = [events for events, _ in simulate(BACKGROUND, np.random.default_rng(3), 60)]
    parts = [event_rows(part, max_hits=400) for part in found]
    return {name: np.concatenate([part[name] for part in parts]) for name in TASK.columns}, found


@pytest.fixture(scope="module")
def rows(events: tuple[Rows, list]) -> Rows:
    return TASK.own_rows(events[0])


def certain(elements: np.ndarray) -> tf.Tensor:
    """Probabilities `(n, 62, 201)` of a muon whose elements are beyond doubt."""
    return tf.one_hot(elements, 201)


def test_matrices_of_records_batches_and_events_are_the_same(events: tuple[Rows, list], rows: Rows) -> None:
    expected = np.concatenate([hit_matrices(part) for part in events[1]]).astype("float32")
    assert expected[:, :, 1:].sum() > 0
    np.testing.assert_array_equal(finder_rows.row_matrices(rows), expected)
    batch = {name: tf.constant(column) for name, column in events[0].items()}
    inputs, truth = TASK.split_batch(load_run("finder_basic"), batch)
    np.testing.assert_array_equal(inputs["hits"], expected)
    np.testing.assert_array_equal(truth["elements"], rows["elements"])


def test_refinement_of_rows_is_that_of_events(events: tuple[Rows, list], rows: Rows) -> None:
    drawn = np.random.default_rng(0).integers(-3, 4, rows["elements"].shape)
    predicted = np.clip(rows["elements"] + drawn * (rows["elements"] > 0), 0, 200)
    parts = np.split(predicted, np.cumsum([len(part) for part in events[1]])[:-1])
    for window in (None, 1):
        expected = [refine(part, own, window) for part, own in zip(events[1], parts, strict=True)]
        np.testing.assert_array_equal(
            finder_rows.refine_rows(rows, predicted, window), np.concatenate(expected)
        )


def test_loss_is_that_on_paper() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 201, (4, 2, 62))
    scores = rng.normal(size=(2, 4, 62, 201))
    plus, minus = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    entropy = shared = 0.0
    for event in range(4):
        for detector in range(62):
            for muon, probability in enumerate((plus, minus)):
                entropy -= np.log(probability[event, detector, truth[event, muon, detector]])
            shared += sum(plus[event, detector, 1:] * minus[event, detector, 1:])
    tensors = [tf.constant(part, tf.float32) for part in (plus, minus)]
    np.testing.assert_allclose(cross_entropy(tf.constant(truth), *tensors), entropy / (4 * 62), rtol=1e-4)
    np.testing.assert_allclose(overlap(*tensors), shared / (4 * 62), rtol=1e-4)


def test_perfect_prediction_costs_nothing_and_coinciding_tracks_cost_more_than_separate(rows: Rows) -> None:
    truth = tf.constant(rows["elements"])
    plus, minus = certain(rows["elements"][:, 0]), certain(rows["elements"][:, 1])
    assert float(cross_entropy(truth, plus, minus)) == pytest.approx(0.0, abs=1e-5)
    assert float(overlap(plus, minus)) < 0.02 < 0.3 < float(overlap(plus, plus))
    # what the squared difference would have preferred
    assert float(tf.reduce_sum((plus - minus) ** 2)) > float(tf.reduce_sum((plus - plus) ** 2))
    nothing = certain(np.zeros_like(rows["elements"][:, 0]))
    assert float(overlap(nothing, nothing)) == 0.0
    signal = tf.maximum(plus, minus) * tf.cast(tf.range(201) > 0, tf.float32)
    assert float(denoising(truth, signal)) == pytest.approx(0.0, abs=1e-5)
    assert float(denoising(truth, 1.0 - signal)) > 10.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 20.0))
def test_overlap_is_symmetric_and_at_most_one(seed: int, sharpness: float) -> None:
    scores = tf.constant(np.random.default_rng(seed).normal(0.0, sharpness, (2, 3, 62, 201)), tf.float32)
    plus, minus = tf.nn.softmax(scores)
    assert float(overlap(plus, minus)) == pytest.approx(float(overlap(minus, plus)), rel=1e-5)
    assert 0.0 <= float(overlap(plus, minus)) <= 1.0 + 1e-5


def test_metrics_are_those_of_a_loop_over_hits(rows: Rows) -> None:
    rng = np.random.default_rng(2)
    truth = rows["elements"].copy()
    truth[3, 1] = 0
    predicted = np.where(rng.random(truth.shape) < 0.3, rng.integers(0, 201, truth.shape), truth)
    predicted[0] = truth[0, ::-1]  # the muons in each other's place
    predicted[1, 1] = 0
    predicted[2] = truth[2]
    found = event_errors(truth, {"elements": predicted, "refined": truth})
    for event in range(len(truth)):
        wrong_slots = wrong_hits = far = hits = 0
        lost, whole, tracks, fakes, muons = [], [], 0, 0, 0
        for muon in range(2):
            right = own = 0
            for expected, got in zip(truth[event, muon], predicted[event, muon], strict=True):
                wrong_slots += expected != got
                if expected > 0:
                    own += 1
                    right += expected == got
                    far += got == 0 or abs(int(expected) - int(got)) > 2
            hits, wrong_hits = hits + own, wrong_hits + own - right
            if own:
                muons += 1
                lost.append(3 * right < 2 * own)
                whole.append(right == own)
            if (predicted[event, muon] > 0).sum() >= 12:
                tracks += 1
                fakes += not own or 3 * right < 2 * own
        expected_shares = {
            "slots_wrong": wrong_slots / 124,
            "hits_wrong": wrong_hits / hits,
            "hits_far": far / hits,
            "tracks_wrong": 1 - np.mean(whole),
            "inefficiency": np.mean(lost),
            "fake_rate": fakes / tracks if tracks else 0.0,
        }
        for name, value in expected_shares.items():
            assert found[name][event] == pytest.approx(value), (event, name)
    assert found["fake_rate"][0] == found["inefficiency"][0] == 1.0
    assert found["inefficiency_mum"][1] == 1.0
    assert found["inefficiency_mup"][1] == 2 * found["inefficiency"][1] - 1.0
    assert all((found[metric.name] == 0).all() for metric in METRICS if metric.name.startswith("refined_"))


def test_event_without_muons_has_no_error_of_hits() -> None:
    truth = np.zeros((1, 2, 62), int)
    found = event_errors(truth, {"elements": truth, "refined": truth})
    assert not any(values.any() for values in found.values())
    found = event_errors(truth, {"elements": truth + 1, "refined": truth})
    assert (found["slots_wrong"], found["fake_rate"], found["hits_wrong"]) == (1.0, 1.0, 0.0)


def test_baselines_look_at_no_hit(rows: Rows) -> None:
    empty = all_empty().predict(rows)
    share = (rows["elements"] > 0).mean()
    assert TASK.errors(rows, empty)["slots_wrong"].mean() == pytest.approx(share)
    frequent = most_frequent(rows).predict(rows)["elements"]
    assert (frequent == frequent[0]).all()
    right = (frequent == rows["elements"]).sum(axis=0)
    for element in range(0, 201, 7):
        assert ((rows["elements"] == element).sum(axis=0) <= right).all()


@pytest.mark.parametrize("network", ["prod", "acc"])
def test_probabilities_of_each_detector_sum_to_one(network: str, rows: Rows) -> None:
    model = build_finder(FinderOptions(network=network, size="tiny"), training=False)
    outputs = model({"hits": finder_rows.row_matrices(rows)[:3]})
    assert set(outputs) == set(MUONS)
    for probabilities in outputs.values():
        assert probabilities.shape == (3, 62, 201)
        np.testing.assert_allclose(np.sum(probabilities, axis=-1), 1.0, rtol=1e-5)


def test_sizes_are_those_on_paper() -> None:
    convolutions = 9 * (32 + 32 * 64 + 64 * 128) + 4 * (32 + 64 + 128)
    dense = (7 * 25 * 128 + 1) * 256 + 257 * 2 * 62 * 201
    model = build_finder(FinderOptions(network="basic", size="full"), training=False)
    assert model.count_params() == convolutions + dense
    for training, extra in ((True, {"signal"}), (False, set())):
        flagship = build_finder(FinderOptions(network="flagship", size="tiny"), training=training)
        assert set(flagship.output) == set(MUONS) | extra
    for network in ("basic", "attention"):
        assert build_finder(FinderOptions(network=network), training=False).count_params() < 5_000_000
    with pytest.raises(UserError, match=r"width and levels are the flagship's; basic has sizes alone"):
        load_run("finder_basic", ["model.width=4"])
    with pytest.raises(UserError, match=r"training\.ema does not go with the batch normalisation of basic"):
        TASK.check_data(load_run("finder_basic", ["training.ema=0.9"]), {})


def test_operations_are_counted() -> None:
    image = keras.Input((8, 4, 3))
    found = keras.layers.Conv2D(5, 3, padding="same")(image)
    found = keras.layers.MultiHeadAttention(2, 7, attention_axes=(2,))(found, found)
    found = keras.layers.Dense(6)(keras.layers.Flatten()(found))
    places = 8 * 4
    attention = places * (4 * 2 * 5 * 14 + 2 * 2 * 4 * 14)
    expected = places * 2 * 9 * 3 * 5 + attention + 2 * places * 5 * 6
    assert counted_operations(keras.Model(image, found)) == expected


def test_u_net_needs_sides_that_can_be_halved() -> None:
    assert unet_plus_plus(keras.Input((8, 12, 1)), (2, 3, 4), "net").shape == (None, 8, 12, 2)
    with pytest.raises(ValueError, match="divisible by 4"):
        unet_plus_plus(keras.Input((8, 10, 1)), (2, 3, 4), "net")


def test_parity_allows_another_element_only_where_both_are_equally_probable(rows: Rows) -> None:
    own = {name: column[:1] for name, column in rows.items()}
    reference = {name: np.full((1, 62, 201), 1e-3, np.float32) for name in MUONS}
    reference["track_mup"][0, 5, [10, 20]] = 0.4, 0.4 - 1e-5
    other = {name: values.copy() for name, values in reference.items()}
    other["track_mup"][0, 5, 20] += 2e-5
    rule = TASK.parity().excess
    assert rule(own, reference, other)[0] < 1.0
    other["track_mup"][0, 5, 20] += 2e-4
    assert rule(own, reference, other)[0] > 1.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the smallest network with attention."""
    folder = tmp_path_factory.mktemp("finder")
    domain = find_domain("dimuon")
    config = BACKGROUND.model_dump(mode="json")
    schema = domain.generation_schema(BACKGROUND)
    generate(folder / "data", Recipe(schema, domain.shard_function, config, 5, 300, 3, "finder"))
    assignments = ["model.size=tiny", "training.epochs=2", "data.batch_size=30"]
    run = load_run("finder_attention", assignments)
    return train(run, folder / "data", folder / "run").path


def test_road_from_records_of_another_width_to_metrics(trained: Path) -> None:
    result = evaluation.evaluate(trained)
    sample = result["samples"][0]
    assert set(sample["estimators"]) == {"network", "all_empty", "most_frequent"}
    assert sample["metrics"]["all_empty"]["hits_wrong"]["value"] == 1.0
    assert sum(sample["bands"][0]["rows"]) == sample["rows"]


@pytest.mark.parametrize("name", ["track_finder.h5", "track_finder.keras"])
def test_keras_file_is_the_network(trained: Path, tmp_path: Path, rows: Rows, name: str) -> None:
    model, file = load_model(trained / "best.keras", TASK), tmp_path / "models" / name
    own = {key: column[:2] for key, column in rows.items()}
    write_keras(model, TASK, file, own)
    written = keras.models.load_model(file, compile=False)
    for before, after in zip(model.get_weights(), written.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert [path.name for path in file.parent.iterdir()] == [name]
    with pytest.raises(UserError, match=r"must end in \.keras or \.h5, received track_finder\.pt"):
        write_keras(model, TASK, file.with_suffix(".pt"), own)


def test_differences_of_maps_are_one_number_and_parts_join(rows: Rows) -> None:
    own = {name: column[:4] for name, column in rows.items()}
    reference = {name: np.full((4, 62, 201), 1e-3, np.float32) for name in MUONS}
    other = {name: values.copy() for name, values in reference.items()}
    other["track_mum"][3, 0, 9] += 5e-5
    whole = parity.compare(TASK.parity(), own, reference, other)
    parts = []
    for half in (slice(2), slice(2, None)):
        cut = [{name: column[half] for name, column in part.items()} for part in (own, reference, other)]
        parts.append(parity.compare(TASK.parity(), *cut))
    assert parity.joined(parts) == whole
    assert whole.worst == 3
    assert whole.largest["track_mup"] == [0.0]
    assert whole.largest["track_mum"] == pytest.approx([5e-5], rel=1e-2)


def test_best_model_has_what_normalisation_collected(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics of its epoch, which the trained network gave, come out again, in chunks of any size."""
    from tfrecords_tools.reader import Dataset

    history = json.loads((trained / "history.json").read_text())
    then = history["val"][history["best_epoch"] - 1]
    source = Dataset(trained.parent / "data")
    rows = TASK.read_rows(source, "validation")
    model = load_model(trained / "best.keras", TASK)
    for size in (256, 7):
        monkeypatch.setattr(type(TASK), "chunk_rows", size)
        found = evaluation.metric_values(TASK, rows, evaluation.predict(model, rows, TASK))
        for name, value in found.items():
            assert then[name] == pytest.approx(value, abs=2e-3), name


def test_attention_is_drawn(trained: Path, tmp_path: Path, rows: Rows) -> None:
    out = tmp_path / "pictures" / "attention.png"
    result = CliRunner().invoke(app, ["attention", str(trained), "--event", "3", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    maps = json.loads(result.stdout)["maps"]
    assert list(maps) == ["stage_1_0"]
    assert (maps["stage_1_0"]["rows"], maps["stage_1_0"]["columns"]) == (31, 100)
    assert out.read_bytes().startswith(b"\x89PNG")
    page = out.with_suffix(".html")
    result = CliRunner().invoke(app, ["attention", str(trained), "--event", "3", "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert page.read_text().count("<svg") == 1
    assert "<td>stage_1_0</td><td>31 x 100</td>" in page.read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page.read_text())
    hits = finder_rows.row_matrices(rows)[:2]
    found = attention_maps(load_model(trained / "best.keras", TASK), hits)["stage_1_0"]
    assert found.shape == (2, 31, 100)
    assert (found > 0).all()
    assert (found < 1).all()
    with pytest.raises(UserError, match="has no spatial attention"):
        attention_maps(build_finder(FinderOptions(size="tiny"), training=False), hits)
    for arguments, message in (
        (["--event", "999"], "none is --event 999"),
        (["--out", "picture.jpg"], "must end in .png, .svg or .html"),
        (["--out", str(out)], "attention.png exists already"),
    ):
        failed = CliRunner().invoke(app, ["attention", str(trained), *arguments])
        assert isinstance(failed.exception, UserError)
        assert message in str(failed.exception)


def test_attention_is_told_by_what_its_cells_cover(rows: Rows) -> None:
    """A map that is 1 where a muon has a hit, 0.5 where there are others and 0.1 elsewhere."""
    most = int(rows["background_tracks"].argmax())
    own = {name: column[most : most + 1] for name, column in rows.items()}
    fired = finder_rows.row_matrices(own)[0] > 0
    values = np.where(fired[:62, :200].reshape(31, 2, 100, 2).any(axis=(1, 3)), 0.5, 0.1).astype(np.float32)
    for muon, detector in zip(*np.nonzero(own["elements"][0]), strict=True):
        element = own["elements"][0, muon, detector]
        if element < 200:
            values[detector // 2, element // 2] = 1.0
    found = attention_summary({"block": values[None]}, own)["block"]
    assert (found["rows"], found["columns"]) == (31, 100)
    assert [found[key] for key in ("on_muons", "on_others", "on_nothing")] == pytest.approx([1.0, 0.5, 0.1])
    nothing = {**own, "hit_detector": np.zeros_like(own["hit_detector"])}
    nothing["elements"] = np.zeros_like(own["elements"])
    assert attention_summary({"block": values[None]}, nothing)["block"]["on_muons"] is None


@pytest.mark.parametrize("halvings", range(1, 6))
def test_cells_of_maps_cover_what_pooling_makes_of_them(halvings: int) -> None:
    shape = (62 >> halvings, 201 >> halvings)
    assert cell_size(shape) == (2**halvings, 2**halvings)
