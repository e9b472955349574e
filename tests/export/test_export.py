"""The exporter refuses what differs, never overwrites, and writes what C++ and TF-Serving can read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords_tools.reader import Dataset
from trackkeras import export as exporter
from trackkeras import parity
from trackkeras.checkpoints import load_model
from trackkeras.domain import Axis, Endpoint, find_task
from trackkeras.errors import UserError
from trackkeras.evaluation import predict
from trackkeras.formats import write_onnx

TASK = find_task("extrapolation", "mlp")


@pytest.fixture(scope="module")
def bundle(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exporter.export(trained_run, tmp_path_factory.mktemp("bundles"))


def test_bundle_is_complete(bundle: Path, trained_run: Path) -> None:
    assert bundle.parent.name == "mlp_tiny-small"
    assert bundle.name == "1"
    for name in (
        "saved_model.pb",
        "variables/variables.index",
        "model.onnx",
        "parity.json",
        "card.md",
        "model.state_and_jacobian.onnx",
    ):
        assert (bundle / name).is_file(), name
    description = json.loads((bundle / "bundle.json").read_text())
    inputs = description["signatures"]["serving_default"]["inputs"]
    assert {name: entry["shape"] for name, entry in inputs.items()} == {
        "state": [-1, 5],
        "z0": [-1, 1],
        "dz": [-1, 1],
    }
    card = (bundle / "card.md").read_text()
    for text in (
        "p_min",
        "Not evaluated",
        "1e-3 mm",
        "`final_state`",
        "`jacobian`",
        "automatic differentiation",
    ):
        assert text in card
    assert not [path for path in bundle.parent.iterdir() if path.name.startswith(".")], "leftovers"


def test_saved_model_and_onnx_equal_keras_row_by_row(bundle: Path, trained_run: Path, dataset: Path) -> None:
    rows = Dataset(dataset).read("test")
    model = load_model(trained_run / "best.keras", TASK)
    reference = predict(model, rows, TASK)
    signature = TASK.signature()
    line = rows["state"][:, :2] + rows["dz"] * rows["state"][:, 2:4]
    allowed = 1e-3 + 1e-5 * np.linalg.norm(reference["final_state"][:, :2] - line, axis=1)
    for outputs in (
        exporter.run_saved_model(bundle, rows, signature),
        exporter.run_onnx(bundle / "model.onnx", rows, signature),
    ):
        difference = np.linalg.norm((outputs["final_state"] - reference["final_state"])[:, :2], axis=1)
        assert (difference <= allowed).all()
        np.testing.assert_array_equal(outputs["final_state"][:, 4], rows["state"][:, 4])


def test_dz_zero_and_neutral_tracks_are_exact(bundle: Path) -> None:
    rng = np.random.default_rng(5)
    state = np.column_stack(
        [rng.uniform(-2000, 2000, (64, 2)), rng.uniform(-0.3, 0.3, (64, 2)), rng.uniform(-2e-3, 2e-3, 64)]
    ).astype("float32")
    z0 = rng.uniform(0, 9000, (64, 1)).astype("float32")
    still = {"state": state, "z0": z0, "dz": np.zeros((64, 1), "float32")}
    signature = TASK.signature()
    np.testing.assert_array_equal(
        exporter.run_onnx(bundle / "model.onnx", still, signature)["final_state"], state
    )
    state[:, 4] = 0
    dz = rng.uniform(-4000, 4000, (64, 1)).astype("float32")
    neutral = exporter.run_onnx(bundle / "model.onnx", {"state": state, "z0": z0, "dz": dz}, signature)
    np.testing.assert_allclose(
        neutral["final_state"][:, :2], state[:, :2] + dz * state[:, 2:4], rtol=3e-7, atol=1e-4
    )
    np.testing.assert_array_equal(neutral["final_state"][:, 2:], state[:, 2:])


@pytest.mark.usefixtures("no_conversion")
def test_versions_count_up_and_are_never_overwritten(
    bundle: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another export takes the next number between its choice and the end of this export."""
    describe, folder = exporter._describe, bundle.parent
    before = (bundle / "model.onnx").read_bytes()
    (folder / "7").mkdir()

    def overtaken(*arguments: Any) -> None:
        if arguments[-1] == 8:  # the version comes last
            (folder / "8").mkdir()
            (folder / "8/model.onnx").write_text("of the other export")
        describe(*arguments)

    monkeypatch.setattr(exporter, "_describe", overtaken)
    made = exporter.export(trained_run, folder.parent)
    assert made.name == "9"
    assert json.loads((made / "bundle.json").read_text())["version"] == 9
    assert (bundle / "model.onnx").read_bytes() == before
    assert (folder / "8/model.onnx").read_text() == "of the other export"
    for version in ("7", "8", "9"):
        shutil.rmtree(folder / version)


@pytest.mark.usefixtures("no_conversion")
@pytest.mark.parametrize("runner", ["run_onnx", "run_saved_model"])
@pytest.mark.parametrize("fault", [0.01, np.nan])
def test_a_model_that_differs_is_refused_and_leaves_nothing(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str, fault: float
) -> None:
    honest = getattr(exporter, runner)

    def wrong(*arguments: Any) -> Any:
        outputs = honest(*arguments)
        outputs["final_state"] = outputs["final_state"].copy()
        outputs["final_state"][3, 0] += fault * 1000 if np.isfinite(fault) else fault
        return outputs

    monkeypatch.setattr(exporter, runner, wrong)
    kind = runner.removeprefix("run_")
    message = (
        r"differs from Keras .* worst row \{'state': \[.*\] \[mm, mm, 1, 1, 1/MeV\], 'z0': .*: Keras gives "
        rf"\{{'final_state': \[.*\}}, {kind} gives \{{'final_state': \[.*\}}; nothing exported"
    )
    with pytest.raises(UserError, match=message):
        exporter.export(trained_run, tmp_path)
    assert not list(tmp_path.rglob("saved_model.pb"))
    assert not list(tmp_path.rglob(".*"))


def test_a_saved_model_that_only_python_can_read_is_refused(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tf.saved_model.save` of a Keras 3 model: it loads in Python, and nowhere else."""

    def wrong(model: keras.Model, endpoints: dict[str, Endpoint], directory: Path) -> None:
        specs = {
            t.name: tf.TensorSpec((None, *t.shape), t.dtype, name=t.name) for t in TASK.signature().inputs
        }

        def function(endpoint: Endpoint) -> Any:
            return tf.function(lambda inputs: endpoint.compute(model, inputs), input_signature=[specs])

        functions = {name: function(endpoint) for name, endpoint in endpoints.items()}
        model.functions = functions
        tf.saved_model.save(model, directory, signatures=functions)
        assert tf.saved_model.load(directory).signatures["serving_default"]

    monkeypatch.setattr(exporter, "write_saved_model", wrong)
    with pytest.raises(
        UserError, match=r"serving_default in saved_model cannot be run: .*; nothing exported"
    ):
        exporter.export(trained_run, tmp_path)
    assert not list(tmp_path.rglob("saved_model.pb"))


def test_a_conversion_that_fails_is_one_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An optimizer of the converter that fails is not passed over."""
    from tf2onnx.optimizer import TransposeOptimizer

    def broken(*arguments: object) -> None:
        raise KeyError("no such node\nnor any other")

    monkeypatch.setattr(TransposeOptimizer, "optimize", broken)
    with pytest.raises(UserError) as error:
        write_onnx(bundle, "serving_default", TASK.signature(), tmp_path / "model.onnx")
    message = "ONNX conversion of 'serving_default' failed, KeyError: 'no such node"
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("; nothing exported")
    assert not list(tmp_path.iterdir())


def test_parity_is_reported_band_by_band(bundle: Path, dataset: Path) -> None:
    entry = json.loads((bundle / "parity.json").read_text())["serving_default"]
    assert entry["bands"].keys() == {"p", "abs_dz"}
    for axis, bands in entry["bands"].items():
        assert sum(bands["rows"]) == entry["rows"] == Dataset(dataset).rows("validation")
        for kind in ("saved_model", "onnx"):
            excess = entry[kind]["bands"][axis]
            assert [value is None for value in excess] == [count == 0 for count in bands["rows"]]
            assert max(value for value in excess if value is not None) == entry[kind]["excess"]
    assert "Rows compared per band of p [GeV]" in (bundle / "card.md").read_text()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 3, exclude_max=True), min_size=1, max_size=40), min_size=1, max_size=6),
    st.integers(0, 60),
    st.integers(1, 8),
)
def test_rows_for_parity_fill_every_band_as_far_as_there_are_rows(
    chunks: list[list[float]], limit: int, wanted: int
) -> None:
    axes = [
        Axis(name, name, lambda rows: rows["a"], edges)
        for name, edges in (("x", (0, 1, 2, 3)), ("y", (0, 3)))
    ]
    everything = np.concatenate([np.array(chunk) for chunk in chunks])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "BAND_ROWS", wanted)
        got = parity.choose_rows(({"a": np.array(chunk)} for chunk in chunks), axes, limit)["a"]
    np.testing.assert_array_equal(got[:limit], everything[:limit])
    assert len(got) <= max(limit, 0) + 4 * wanted
    for low in range(3):
        count = int(((got >= low) & (got < low + 1)).sum())
        assert count >= min(wanted, int(((everything >= low) & (everything < low + 1)).sum()))


def test_a_run_without_a_model_is_named(trained_run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(trained_run, broken)
    (broken / "best.keras").write_bytes(b"not a zip file")
    with pytest.raises(UserError, match=r"best\.keras cannot be read as a Keras model"):
        exporter.export(broken, tmp_path / "out")
    (broken / "best.keras").unlink()
    with pytest.raises(UserError, match=r"no such model: .*best\.keras"):
        exporter.export(broken, tmp_path / "out")


def test_the_bundle_is_what_the_server_accepts(bundle: Path) -> None:
    from serving.bundle import read_bundle

    found = read_bundle(bundle)
    assert (found.name, found.version) == ("mlp_tiny-small", 1)
