"""The chain: refinement and mass in the graph, and one bundle that agrees with its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle import read_bundle
from tfrecords_tools.generate import Recipe, generate
from tfrecords_tools.reader import Dataset
from trackkeras.checkpoints import save_model
from trackkeras.cli import app
from trackkeras.domain import Rows, find_domain, find_task
from trackkeras.domains.dimuon.chain import Chain, mass, refine_tensors
from trackkeras.domains.dimuon.chain_export import COLUMNS, ChainFunctions, chain_rows, chain_signature
from trackkeras.domains.dimuon.events import Events, Hits, Tracks
from trackkeras.domains.dimuon.mass import pair_mass
from trackkeras.domains.dimuon.refinement import refine
from trackkeras.domains.dimuon.simulation_options import GenerateOptions
from trackkeras.errors import UserError
from trackkeras.export import check_endpoints
from trackkeras.presets import load_run
from trackkeras.runs import RunFolder

PLACES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 12)), max_size=25, unique=True)
PREDICTED = st.lists(st.integers(0, 14), min_size=6, max_size=6)


@settings(max_examples=40, deadline=None)
@given(PLACES, PREDICTED, st.sampled_from([None, 0, 1, 3]))
def test_refinement_in_the_graph_is_that_on_arrays(
    places: list[tuple[int, int]], predicted: list[int], window: int | None
) -> None:
    """Crowded detectors 1, 2, 3: ties, shared hits, hits too far, none at all."""
    hits = np.zeros((1, 62, 201), "float32")
    for detector, element in places:
        hits[0, detector - 1, element] = 1.0
    wanted = np.zeros((1, 2, 62), int)
    wanted[0, :, :3] = np.reshape(predicted, (2, 3))
    detectors, elements = np.reshape(places, (-1, 2)).T.astype(int)
    nothing = np.empty((0, 3))
    table = Hits.of(detectors, elements, np.zeros(len(places)))
    events = Events.of([len(places)], table, [0], Tracks.of([], [], nothing, nothing))
    got = np.stack([np.asarray(x) for x in refine_tensors(hits, wanted[:, 0], wanted[:, 1], window)], axis=1)
    np.testing.assert_array_equal(got, refine(events, wanted, window))


def test_mass_is_that_of_pairs() -> None:
    rng = np.random.default_rng(1)
    plus, minus = rng.normal([0.5, 0, 35], [2, 2, 10], (2, 500, 3)).astype("float32")
    minus[:50], minus[50:60], minus[60:70] = plus[:50], -plus[50:60], 0.0
    found = np.asarray(mass(plus, minus))
    np.testing.assert_allclose(found[:, 0], pair_mass(plus, minus), rtol=2e-6)
    np.testing.assert_array_equal(found, np.asarray(mass(minus, plus)))


def simple_finder() -> keras.Model:
    """A network with the finder's signature that prefers some fired elements to others, for each muon."""
    rng = np.random.default_rng(7)
    hits = keras.Input((62, 201), name="hits")
    outputs = {}
    for muon in ("mup", "mum"):
        kernel = np.diag(np.concatenate([[0.0], rng.uniform(5, 30, 200)]))
        # a fired neighbour may be preferred to the element itself, so that refinement has something to do
        kernel += 0.9 * np.roll(kernel, 1, axis=1)
        layer = keras.layers.Dense(201, activation="softmax", name=f"dense_{muon}")
        outputs[f"track_{muon}"] = layer(hits)
        layer.set_weights([kernel, np.eye(201)[0] * 3.0])
    return keras.Model({"hits": hits}, outputs, name="finder")


def simple_estimator(kind: str) -> keras.Model:
    """One dense layer with the signature of a momentum or a quality network."""
    widths = {"momentum": {"momentum": 3, "sigma": 3}, "quality": {"p_right": 1, "error": 1}}[kind]
    signature = find_task("dimuon", kind).signature()
    inputs = {t.name: keras.Input(t.shape, name=t.name, dtype=t.dtype) for t in signature.inputs}
    # small numbers of elements and drift distances, large ones of the charge
    factors = {"elements": 0.01, "drift": 1.0, "charge": 1.0, "momentum": 0.03}
    seen = keras.layers.Concatenate()(
        [keras.layers.Rescaling(factors[name])(value) for name, value in inputs.items()]
    )
    bounded = {"momentum": None, "sigma": "softplus", "p_right": "sigmoid", "error": "softplus"}
    outputs = {
        name: keras.layers.Dense(units, activation=bounded[name], name=name)(seen)
        for name, units in widths.items()
    }
    return keras.Model(inputs, outputs, name=kind)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with simple networks, as training leaves them, and their data.

    That the real ones can be exported is tested with their presets.
    """
    folder = tmp_path_factory.mktemp("chain")
    domain = find_domain("dimuon")
    options = GenerateOptions(max_hits=256, background={"upper": 3})
    config = options.model_dump(mode="json")
    recipe = Recipe(domain.generation_schema(options), domain.shard_function, config, 5, 90, 3, "chain")
    generate(folder / "data", recipe)
    keras.utils.set_random_seed(2)
    for kind, preset in (
        ("finder", "finder_basic_small"),
        ("momentum", "momentum_small"),
        ("quality", "quality_small"),
    ):
        run = load_run(preset)
        made = RunFolder(folder / kind)
        made.path.mkdir()
        made.write("config.json", run.model_dump(mode="json"))
        made.write("dataset.json", {"path": str(folder / "data")})
        save_model(simple_finder() if kind == "finder" else simple_estimator(kind), made.best)
    return folder


def export_chain(runs: Path, out: Path, *more: str) -> Any:
    arguments = ["--finder", runs / "finder", "--momentum", runs / "momentum", "--out", out, *more]
    return app(["dimuon", "export-chain", *map(str, arguments)], standalone_mode=False)


def test_one_bundle_agrees_with_its_parts(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quality = ("--quality", str(runs / "quality"))
    export_chain(runs, tmp_path / "b", *quality, "--name", "tiny", "--limit", "20", "--json")
    report = json.loads(capsys.readouterr().out)
    path = Path(report["bundle"])
    assert path == tmp_path / "b" / "chain_tiny" / "1"
    assert report["parity"]["rows"] == Dataset(runs / "data").rows("validation")
    for kind in ("saved_model", "onnx"):
        assert report["parity"][kind]["excess"] <= 1.0
    bundle = read_bundle(path)
    kinds = ("elements", "momentum", "sigma", "p_right", "error")
    expected = {f"{kind}_{muon}" for kind in kinds for muon in ("mup", "mum")} | {"mass"}
    assert set(bundle.signatures["serving_default"].outputs) == expected
    assert set(bundle.signatures["serving_default"].inputs) == {"hits", "drift"}
    card = (path / "card.md").read_text()
    for words in ("# chain_tiny, version 1", "finder + momentum + quality", "20 elements", "own cards"):
        assert words in card
    assert [entry.name for entry in path.parent.iterdir()] == ["1"], "nothing half-written stays"
    check_outputs(path, runs)


def check_outputs(path: Path, runs: Path) -> None:
    """The ONNX file on hits that nothing in the chain's own code has touched."""
    import onnxruntime

    rows = Dataset(runs / "data").read("test", COLUMNS)
    inputs = ChainFunctions({}).inputs(rows)
    session = onnxruntime.InferenceSession(str(path / "model.onnx"))
    names = [entry.name for entry in session.get_outputs()]
    assert (names[0], names[-1]) == ("elements_mup", "mass"), "in the order of the signature"
    outputs = dict(zip(names, session.run(names, inputs), strict=True))
    plus, minus = outputs["elements_mup"], outputs["elements_mum"]
    assert plus.dtype == np.int32
    assert ((plus == 0) | (plus != minus)).all(), "no hit goes to both"
    assert (plus > 0).any()
    for elements in (plus, minus):
        event, plane = np.nonzero(elements)
        assert inputs["hits"][event, plane, elements[event, plane]].all(), "only hits"
    expected = pair_mass(outputs["momentum_mup"], outputs["momentum_mum"])
    np.testing.assert_allclose(outputs["mass"][:, 0], expected, rtol=1e-4)
    assert ((outputs["p_right_mup"] > 0) & (outputs["p_right_mup"] < 1)).all()
    assert (outputs["momentum_mup"][:, 0] != outputs["momentum_mum"][:, 0]).all()


def test_the_gate_can_fail(runs: Path, tmp_path: Path) -> None:
    """A reference that refines otherwise, or momenta that differ, are not accepted as the same chain."""
    from trackkeras.checkpoints import load_model
    from trackkeras.formats import write_onnx, write_saved_model

    tasks = {kind: find_task("dimuon", kind) for kind in ("finder", "momentum")}
    models = [load_model(runs / kind / "best.keras", task) for kind, task in tasks.items()]
    functions = ChainFunctions(tasks)
    events = Dataset(runs / "data").read("train", COLUMNS, limit=30)
    rows = chain_rows(events)
    chain = Chain(*models)
    expected = functions.reference(chain, rows)
    assert "error_mup" not in expected
    rule = functions.parity().excess
    assert (rule(rows, expected, expected) == 0).all()

    def moved(name: str, places: Any, by: float) -> Rows:
        other = {key: value.copy() for key, value in expected.items()}
        other[name][places] += by
        return other

    assert rule(rows, expected, moved("momentum_mup", (4, 2), 0.5))[4] > 1
    assert rule(rows, expected, moved("mass", (5, 0), 0.01))[5] > 1
    assert np.isinf(rule(rows, expected, moved("elements_mum", (6, slice(0, 2)), 1))[6])
    assert np.isinf(rule(rows, expected, moved("elements_mum", (6, 0), 1))[6]), "1 of 30 is too many"
    many = {name: np.repeat(value, 10, axis=0) for name, value in expected.items()}
    tie = {name: value.copy() for name, value in many.items()}
    tie["elements_mup"][7, 3] += 1
    tie["mass"][7] += 1.0
    assert (rule(rows, many, tie) == 0).all(), "1 of 300 may be a tie"
    endpoints = functions.endpoints()
    chain(functions.inputs(rows))
    write_saved_model(chain, endpoints, tmp_path / "m")
    write_onnx(tmp_path / "m", "serving_default", chain_signature(tasks), tmp_path / "m" / "model.onnx")
    chain.window = 0
    with pytest.raises(UserError, match="differs from Keras by inf times"):
        check_endpoints(endpoints, functions, chain, tmp_path / "m", rows)


def test_repeated_hits_count_once() -> None:
    events = {
        "hit_detector": np.array([[3, 3, 4, 0], [3, 3, 3, 3]]),
        "hit_element": np.array([[7, 7, 7, 0], [9, 7, 9, 7]]),
        "hit_drift": np.array([[0.1, 0.2, 0.3, 0.0], [0.1, -0.2, 0.3, 0.4]], "float32"),
    }
    rows = chain_rows(events)
    np.testing.assert_array_equal(rows["hit_detector"], [[3, 0, 4, 0], [3, 3, 0, 0]])
    drift = ChainFunctions({}).inputs(rows)["drift"]
    np.testing.assert_allclose(drift[[0, 0, 1, 1], [2, 3, 2, 2], [7, 7, 9, 7]], [0.1, 0.3, 0.1, 0.2])


def test_runs_of_another_kind_are_refused(runs: Path, tmp_path: Path) -> None:
    for more, words in (
        (("--finder", str(runs / "momentum")), "--finder: .*kind 'momentum'.*finder_\\* preset"),
        (("--quality", str(runs / "finder")), "--quality: .*kind 'finder'"),
        (("--momentum", str(tmp_path)), "is not a run folder"),
        (("--name", "a/b"), "--name may have letters.*received 'a/b'"),
    ):
        with pytest.raises(UserError, match=words):
            export_chain(runs, tmp_path / "b", *more)
    assert not (tmp_path / "b").exists()
