"""Every preset of every domain walks the whole road, small, on data that its domain generates."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from tfrecords_tools.generate import Recipe, generate
from tfrecords_tools.reader import Dataset
from trackkeras.checkpoints import load_model, save_model, trainable_parameters
from trackkeras.config import Run
from trackkeras.data import training_batches
from trackkeras.domain import Domain, domain_names, find_domain
from trackkeras.evaluation import predict
from trackkeras.export import check_parity, compare, write_bundle
from trackkeras.presets import load_run, preset_files
from trackkeras.training import build_model

PRESETS = sorted(preset_files())


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    made = {}
    for name in domain_names():
        domain = find_domain(name)
        folder = tmp_path_factory.mktemp("contract") / name
        config = domain.GenerateOptions().model_dump(mode="json")
        generate(folder, Recipe(domain.schema(), domain.shard_function, config, 7, 3000, 3, "contract"))
        made[name] = Dataset(folder)
    return made


def shrunk(preset: str, *assignments: str) -> tuple[Domain, Run]:
    run = load_run(preset, assignments)
    domain = find_domain(run.domain)
    return domain, run.model_copy(update={"model": domain.shrink(run.model)})


def distinct_networks() -> list[str]:
    """One preset for each structure that differs in more than its size."""
    found: dict[str, str] = {}
    for preset in PRESETS:
        run = shrunk(preset)[1]
        found.setdefault(f"{run.domain} {run.model!r}", preset)
    return sorted(found.values())


def fit_one_step(domain: Domain, run: Run, source: Dataset) -> keras.Model:
    model = build_model(domain, run, source.manifest.statistics("train"), steps=1)
    batches = training_batches(source, domain.split_batch, batch_size=256, seed=1)
    history = model.fit(batches.dataset, steps_per_epoch=1, verbose=0, shuffle=False)
    assert np.isfinite(history.history["loss"]).all()
    return model


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_documented_and_builds_at_full_size(preset: str, sources: dict[str, Dataset]) -> None:
    head = preset_files()[preset].read_text().splitlines()[0]
    assert head.startswith(f"# trackkeras train {preset} ")
    run = load_run(preset)
    domain = find_domain(run.domain)
    model = domain.build(run, sources[run.domain].manifest.statistics("train"))
    signature = domain.signature()
    assert [tensor.name for tensor in signature.inputs] == list(model.input)
    assert {tensor.name for tensor in signature.outputs} == set(model.output)
    for tensor in signature.inputs:
        assert model.input[tensor.name].shape == (None, *tensor.shape)
    for tensor in signature.outputs:
        assert model.output[tensor.name].shape == (None, *tensor.shape)


@pytest.mark.parametrize("preset", distinct_networks())
@pytest.mark.parametrize("precision", ["off", "bfloat16"])
def test_step_save_load(preset: str, precision: str, sources: dict[str, Dataset], tmp_path: Path) -> None:
    domain, run = shrunk(preset, f"training.mixed_precision={precision}")
    source = sources[run.domain]
    model = fit_one_step(domain, run, source)
    for name, output in model.output.items():
        assert output.dtype == "float32", f"{name} must stay float32 under mixed precision"
    rows = source.read("test", limit=200)
    before = predict(model, rows, domain)
    save_model(model, tmp_path / "model.keras")
    after = predict(load_model(tmp_path / "model.keras", domain), rows, domain)
    for name, value in before.items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(value, after[name])


@pytest.mark.parametrize("preset", distinct_networks())
def test_export_and_parity(preset: str, sources: dict[str, Dataset], tmp_path: Path) -> None:
    import onnxruntime

    domain, run = shrunk(preset)
    source = sources[run.domain]
    model = fit_one_step(domain, run, source)
    rows = source.read("validation")
    folder = tmp_path / "bundle" / "1"
    report = write_bundle(model, domain, folder, rows)
    assert report["onnx"]["excess"] <= 1.0
    assert report["saved_model"]["excess"] <= 1.0
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    assert {entry.name for entry in session.get_inputs()} == {t.name for t in domain.signature().inputs}
    assert [entry.name for entry in session.get_outputs()] == [t.name for t in domain.signature().outputs]
    # the gate can fail: a model with other weights is not accepted as the same one
    other = fit_one_step(domain, run.model_copy(update={"preset": "other"}), source)
    for weight in other.trainable_variables:
        weight.assign(weight + 0.1)
    with pytest.raises(ValueError, match="differs from Keras"):
        check_parity(domain, other, folder, rows)


def test_parameter_counts_are_those_on_paper(sources: dict[str, Dataset]) -> None:
    statistics = sources["extrapolation"].manifest.statistics("train")
    domain = find_domain("extrapolation")
    for preset, size, expected in (
        ("mlp_seed", "tiny", 6 * 64 + 64 + 64 * 64 + 64 + 64 * 4 + 4),
        ("mlp_tiny", "tiny", 7 * 64 + 64 + 64 * 64 + 64 + 64 * 4 + 4),
        ("mlp_medium", "medium", 7 * 256 + 256 + 256 * 256 + 256 + 256 * 128 + 128 + 128 * 4 + 4),
    ):
        run = load_run(preset, [f"model.size={size}"])
        assert trainable_parameters(domain.build(run, statistics)) == expected


@pytest.mark.parametrize("name", domain_names())
def test_domain_answers_every_question(name: str, sources: dict[str, Dataset]) -> None:
    domain = find_domain(name)
    run = load_run(next(preset for preset in PRESETS if load_run(preset).domain == name))
    rows = sources[name].read("test")
    assert domain.check_rows(rows) == []
    truth = {tensor.name: rows[tensor.name] for tensor in domain.signature().outputs}
    errors = domain.errors(rows, truth)
    assert {metric.quantity for metric in domain.metrics()} <= set(errors)
    assert all((values == 0).all() for values in errors.values()), "the truth has no error"
    assert set(domain.residuals(rows, truth)) == set(domain.residual_labels())
    for axis in domain.axes():
        assert list(axis.edges) == sorted(axis.edges)
        assert axis.values(rows).shape == (len(rows[next(iter(rows))]),)
    assert compare(domain, rows, truth, truth).excess == 0
    assert domain.cost(run) > 0
    for baseline in domain.baselines(sources[name].manifest.config, run):
        pred = baseline.predict(rows)
        assert all(np.isfinite(values).all() for values in domain.errors(rows, pred).values()), baseline.name
