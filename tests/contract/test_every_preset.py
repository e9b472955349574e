"""Every preset of every domain walks the whole road, small, on data that its domain generates."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from serving.bundle import onnx_name
from tfrecords_tools.generate import Recipe, generate
from tfrecords_tools.reader import Dataset
from trackkeras.checkpoints import copy_weights, load_model, save_model, trainable_parameters
from trackkeras.config import Run
from trackkeras.data import training_batches
from trackkeras.domain import Task, find_domain, task_of
from trackkeras.evaluation import predict
from trackkeras.export import all_endpoints, check_parity, compare, write_bundle
from trackkeras.presets import load_run, preset_files
from trackkeras.training import build_model

PRESETS = sorted(preset_files())

LARGE_GRAPHS = ("finder_flagship", "finder_roads", "finder_hitset_medium")
"""Networks whose step takes 10 s or more even when they are tiny; that of 16 bits is left out."""


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    made = {}
    for name in sorted({load_run(preset).domain for preset in PRESETS}):
        domain = find_domain(name)
        assert domain.shard_function, f"the presets of {name} need a simulation to be tested on"
        folder = tmp_path_factory.mktemp("contract") / name
        config = domain.GenerateOptions().model_dump(mode="json")
        generate(folder, Recipe(domain.schema(), domain.shard_function, config, 7, 3000, 3, "contract"))
        made[name] = Dataset(folder)
    return made


def shrunk(preset: str, *assignments: str) -> tuple[Task, Run]:
    run = load_run(preset, ["training.jit_compile=false", *assignments])  # XLA is slower than one step
    task = task_of(run)
    return task, run.model_copy(update={"model": task.shrink(run.model)})


def distinct_networks() -> list[str]:
    """One preset for each structure that differs in more than its size."""
    found: dict[str, str] = {}
    for preset in PRESETS:
        run = shrunk(preset)[1]
        found.setdefault(f"{run.domain} {run.model!r}", preset)
    return sorted(found.values())


def one_preset_per_task() -> list[str]:
    found: dict[tuple[str, str], str] = {}
    for preset in PRESETS:
        run = load_run(preset)
        found.setdefault((run.domain, run.model.kind), preset)
    return sorted(found.values())


def fit_one_step(task: Task, run: Run, source: Dataset) -> keras.Model:
    model = build_model(task, run, source.manifest.statistics("train"), steps=1)
    batches = training_batches(source, partial(task.split_batch, run), batch_size=16, seed=1)
    history = model.fit(batches.dataset, steps_per_epoch=1, verbose=0, shuffle=False)
    assert np.isfinite(history.history["loss"]).all()
    return model


def fit_one_step_and_deploy(task: Task, run: Run, source: Dataset) -> keras.Model:
    """Return the network as `best.keras` holds it, which need not have the form that is trained."""
    deployed = task.build_deployed(run, source.manifest.statistics("train"))
    copy_weights(fit_one_step(task, run, source), deployed)
    return deployed


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_documented_and_builds_at_full_size(preset: str, sources: dict[str, Dataset]) -> None:
    head = preset_files()[preset].read_text().splitlines()[0]
    assert head.startswith(f"# trackkeras train {preset} ")
    run = load_run(preset)
    task = task_of(run)
    model = task.build(run, sources[run.domain].manifest.statistics("train"))
    signature = task.signature()
    assert [tensor.name for tensor in signature.inputs] == list(model.input)
    assert {tensor.name for tensor in signature.outputs} <= set(model.output), "training may need more"
    for tensor in signature.inputs:
        assert model.input[tensor.name].shape == (None, *tensor.shape)
    for tensor in signature.outputs:
        assert model.output[tensor.name].shape == (None, *tensor.shape)


@pytest.mark.parametrize(
    ("preset", "precision"),
    # full precision is also that of the export below
    [(preset, "bfloat16") for preset in distinct_networks() if preset not in LARGE_GRAPHS]
    + [(preset, "off") for preset in one_preset_per_task()],
)
def test_step_save_load(preset: str, precision: str, sources: dict[str, Dataset], tmp_path: Path) -> None:
    task, run = shrunk(preset, f"training.mixed_precision={precision}")
    source = sources[run.domain]
    model = fit_one_step(task, run, source)
    for name, output in model.output.items():
        assert output.dtype == "float32", f"{name} must stay float32 under mixed precision"
    rows = task.read_rows(source, "test", 50)
    before = predict(model, rows, task)
    save_model(model, tmp_path / "model.keras")
    after = predict(load_model(tmp_path / "model.keras", task), rows, task)
    for name, value in before.items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(value, after[name])


@pytest.mark.parametrize("preset", [preset for preset in distinct_networks() if preset != "finder_flagship"])
def test_export_and_parity(preset: str, sources: dict[str, Dataset], tmp_path: Path) -> None:
    import onnxruntime

    task, run = shrunk(preset)
    source = sources[run.domain]
    model = fit_one_step_and_deploy(task, run, source)
    rows = task.read_rows(source, "validation")
    folder = tmp_path / "bundle" / "1"
    report = write_bundle(model, task, folder, rows)
    endpoints = all_endpoints(task)
    assert list(report) == list(endpoints)
    for name, endpoint in endpoints.items():
        assert report[name]["onnx"]["excess"] <= 1.0
        assert report[name]["saved_model"]["excess"] <= 1.0
        session = onnxruntime.InferenceSession(str(folder / onnx_name(name)))
        signature = endpoint.signature
        assert {entry.name for entry in session.get_inputs()} == {t.name for t in signature.inputs}
        assert [entry.name for entry in session.get_outputs()] == [t.name for t in signature.outputs]
    # the gate can fail: a model with other weights is not accepted as the same one
    noise = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(weight + noise.normal(0.0, 0.3, weight.shape))
    with pytest.raises(ValueError, match="differs from Keras"):
        check_parity(task, model, folder, rows)


def test_parameter_counts_are_those_on_paper(sources: dict[str, Dataset]) -> None:
    statistics = sources["extrapolation"].manifest.statistics("train")
    for preset, size, expected in (
        ("mlp_seed", "tiny", 6 * 64 + 64 + 64 * 64 + 64 + 64 * 4 + 4),
        ("mlp_tiny", "tiny", 7 * 64 + 64 + 64 * 64 + 64 + 64 * 4 + 4),
        ("mlp_medium", "medium", 7 * 256 + 256 + 256 * 256 + 256 + 256 * 128 + 128 + 128 * 4 + 4),
    ):
        run = load_run(preset, [f"model.size={size}"])
        assert trainable_parameters(task_of(run).build(run, statistics)) == expected


@pytest.mark.parametrize("preset", one_preset_per_task())
def test_task_answers_every_question(preset: str, sources: dict[str, Dataset]) -> None:
    run = load_run(preset)
    domain, task = find_domain(run.domain), task_of(run)
    source = sources[run.domain]
    assert domain.check_rows(source.read("test")) == []
    rows = task.read_rows(source, "test")
    truth = task.truth(rows)
    kept = task.summarise(rows, truth)
    errors = task.errors(rows, kept)
    assert {metric.quantity for metric in task.metrics()} <= set(errors)
    assert all((values == 0).all() for values in errors.values()), "the truth has no error"
    assert set(task.residuals(rows, kept)) == set(task.residual_labels())
    for axis in task.axes():
        assert list(axis.edges) == sorted(axis.edges)
        assert axis.values(rows).shape == (len(rows[next(iter(rows))]),)
    assert compare(task.parity(), rows, truth, truth).excess == 0
    assert task.cost(run) > 0
    fitted = task.fitted_baselines(lambda: task.read_rows(source, "train"))
    for baseline in task.baselines(source.manifest.config, run) + fitted:
        pred = baseline.predict(rows)
        assert all(np.isfinite(values).all() for values in task.errors(rows, pred).values()), baseline.name
