"""`dimuon reconstruct`: bundles whose answers are known in closed form, run as exported networks are."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from serving.messages import SavedModel
from serving.signature import Signature, TensorSpec, to_signature_def
from trackkeras.domains.dimuon import loops
from trackkeras.domains.dimuon.detectors import ELEMENTS, PLANES, numbers, plane_elements
from trackkeras.domains.dimuon.events import Events, Hits, Tracks
from trackkeras.domains.dimuon.hit_matrix import hit_matrices
from trackkeras.domains.dimuon.muons import hit_arrays, muon_rows
from trackkeras.domains.dimuon.networks import open_network
from trackkeras.domains.dimuon.reconstruct_command import reconstruct
from trackkeras.domains.dimuon.reconstructed import BRANCHES, muons_of, with_muons
from trackkeras.domains.dimuon.reconstruction import Muons, Reconstruction, Settings
from trackkeras.domains.dimuon.rus_layout import NAMINGS
from trackkeras.domains.dimuon.rus_reading import read_rus
from trackkeras.domains.dimuon.rus_writing import write_rus
from trackkeras.domains.dimuon.tools_bench import sample_events
from trackkeras.errors import UserError

app = typer.Typer()
app.command()(reconstruct)

TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
MATRIX, SLOTS = (PLANES, ELEMENTS), (PLANES,)
MUON = {"elements": (SLOTS, "int32"), "drift": (SLOTS, "float32"), "charge": ((1,), "float32")}
ASCENDING = np.arange(ELEMENTS, dtype=np.float32)


Tensors = dict[str, tuple[tuple[int, ...], str]]


def write_bundle(
    folder: Path, inputs: Tensors, outputs: Tensors, nodes: list[Any], constants: dict[str, Any]
) -> None:
    """Write version 1 of a bundle from the nodes of its graph; only ONNX Runtime can run it."""
    path = folder / "1"
    (path / "variables").mkdir(parents=True)
    sides = [
        [
            helper.make_tensor_value_info(name, TYPES[kind], ("n", *shape))
            for name, (shape, kind) in side.items()
        ]
        for side in (inputs, outputs)
    ]
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, folder.name, *sides, initializer=values)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path / "model.onnx")
    specs = [
        {name: TensorSpec(np.dtype(kind), (-1, *shape)) for name, (shape, kind) in side.items()}
        for side in (inputs, outputs)
    ]
    model = SavedModel()
    model.meta_graphs.add().signature_def["serving_default"].CopyFrom(to_signature_def(Signature(*specs)))
    (path / "saved_model.pb").write_bytes(model.SerializeToString())
    declared = [
        {name: {"dtype": kind, "shape": [-1, *shape]} for name, (shape, kind) in side.items()}
        for side in (inputs, outputs)
    ]
    signatures = {"serving_default": {"inputs": declared[0], "outputs": declared[1]}}
    (path / "bundle.json").write_text(
        json.dumps({"name": folder.name, "version": 1, "signatures": signatures})
    )


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finder that gives the mu+ the lowest and the mu- the highest element, and sums of what there is."""
    folder = tmp_path_factory.mktemp("bundles")
    node = helper.make_node
    none = np.zeros(ELEMENTS, np.float32)
    none[0] = 0.5
    write_bundle(
        folder / "finder_edges",
        {"hits": (MATRIX, "float32")},
        {"track_mup": (MATRIX, "float32"), "track_mum": (MATRIX, "float32")},
        [
            node("Mul", ["hits", "low"], ["lowest"]),
            node("Add", ["lowest", "none"], ["track_mup"]),
            node("Mul", ["hits", "high"], ["highest"]),
            node("Add", ["highest", "none"], ["track_mum"]),
        ],
        {"low": ELEMENTS - ASCENDING, "high": ASCENDING, "none": none},
    )
    write_bundle(
        folder / "momentum_sums",
        MUON,
        {"momentum": ((3,), "float32")},
        [
            node("Cast", ["elements"], ["numbers"], to=TensorProto.FLOAT),
            node("ReduceSum", ["numbers", "axis"], ["sum"]),
            node("ReduceSum", ["drift", "axis"], ["distance"]),
            node("Concat", ["charge", "distance", "sum"], ["momentum"], axis=1),
        ],
        {"axis": np.array([1])},
    )
    write_bundle(
        folder / "quality_sums",
        {**MUON, "momentum": ((3,), "float32")},
        {"p_right": ((1,), "float32"), "error": ((1,), "float32")},
        [
            node("Sigmoid", ["charge"], ["p_right"]),
            node("ReduceSum", ["momentum", "axis"], ["error"]),
        ],
        {"axis": np.array([1])},
    )
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def read(path: Path) -> Events:
    return Events.concatenate(list(read_rus(path)))


def expected_elements(events: Events) -> NDArray[np.int64]:
    """What the finder above says, one hit at a time."""
    wanted = np.zeros((len(events), 2, PLANES), dtype=np.int64)
    for event, detector, element in zip(
        events.hit_event, events.hits.detector, events.hits.element, strict=True
    ):
        plus, minus = wanted[event, :, detector - 1]
        wanted[event, 0, detector - 1] = min(plus or ELEMENTS, element)
        wanted[event, 1, detector - 1] = max(minus, element)
    return wanted


@pytest.fixture
def file(tmp_path: Path, sample: Events) -> Path:
    path = tmp_path / "events.root"
    write_rus(path, [sample], NAMINGS["old"])
    return path


@pytest.mark.parametrize("naming", ["old", "transitional", "new"])
def test_the_chain_adds_the_muons_and_keeps_the_rest(
    tmp_path: Path, sample: Events, bundles: Path, same: Any, naming: str
) -> None:
    path, out = tmp_path / "events.root", tmp_path / "new" / "reco.root"
    write_rus(path, [sample], NAMINGS[naming])
    names = {part: bundles / name for part, name in PARTS.items()}
    words = [word for part, folder in names.items() for word in (f"--{part}", folder)]
    result = run(path, *words, "--min-hits", 5, "--limit", 0, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    # event 4 has no hits
    n = len(sample)
    assert summary == {"files": [str(out)], "events": n, "mup": n - 1, "mum": n - 1, "pairs": n - 1}

    found, before = read(out), read(path)
    same(found, before, columns=False)
    assert set(found.columns) == set(before.columns) | set(BRANCHES)
    for name, column in before.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
    muons = muons_of(found)
    wanted = expected_elements(before)
    # a lone hit goes to one of the two only
    shared = (wanted[:, 0] == wanted[:, 1]) & (wanted[:, 0] > 0)
    either = muons.elements.max(axis=1)
    np.testing.assert_array_equal(either[shared], wanted.max(axis=1)[shared])
    apart = ~shared[:, None].repeat(2, axis=1)
    np.testing.assert_array_equal(muons.elements[apart], wanted[apart])
    charge = np.where(muons.found, [1.0, -1.0], 0.0)
    assert muons.p_right is not None
    np.testing.assert_allclose(muons.momentum[:, :, 0], charge)
    np.testing.assert_allclose(muons.momentum[:, :, 1], np.abs(muons.drift).sum(axis=2), rtol=1e-5)
    np.testing.assert_allclose(muons.momentum[:, :, 2], muons.elements.sum(axis=2))
    error = np.where(muons.found, muons.momentum.sum(axis=2), -1.0)
    np.testing.assert_allclose(muons.error, error, rtol=1e-5)
    np.testing.assert_allclose(muons.p_right, np.where(muons.found, 1 / (1 + np.exp(-charge)), 0), rtol=1e-6)
    with uproot.open(out) as root:
        types = {name: root["tree"][name].typename for name in BRANCHES}
    assert types["qHitArray_mup"] == "int32_t[62]"
    assert types["driftDistance_mum"] == "float[62]"
    assert types["qpx"] == types["qchi2"] == types["qpright"] == "float[2]"


def test_true_hits_need_no_finder(file: Path, bundles: Path, tmp_path: Path) -> None:
    out = tmp_path / "reco.root"
    words = ("--momentum", bundles / "momentum_sums", "--truth-hits", "--min-hits", 1, "--out", out)
    result = run(file, *words)
    assert result.exit_code == 0, result.output
    found = read(out)
    muons = muons_of(found)
    elements, drift = hit_arrays(found, muon_rows(found))
    np.testing.assert_array_equal(muons.elements, elements)
    np.testing.assert_array_equal(muons.drift, drift.astype(np.float32))
    assert "qpright" not in found.columns
    assert (muons.error == -1).all()

    signed = tmp_path / "signed.root"
    assert run(file, *words[:-1], signed, "--signed").exit_code == 0
    momentum = muons_of(read(signed)).momentum
    np.testing.assert_allclose(momentum[:, :, 1], drift.sum(axis=2), rtol=1e-4, atol=1e-4)


def test_the_chain_is_that_of_loops_where_no_hit_is_shared() -> None:
    events = sample_events(20, 120, 2, np.random.default_rng(3))
    wanted = np.random.default_rng(4).integers(0, ELEMENTS, (20, 2, PLANES))
    softmax = np.full((20, 2, PLANES, ELEMENTS), 1e-3, dtype=np.float32)
    np.put_along_axis(softmax, wanted[..., None], 0.5, axis=-1)
    muons = in_steps(
        lambda _: {"track_mup": softmax[:, 0], "track_mum": softmax[:, 1]}, events, Settings(min_hits=1), 20
    )
    theirs = loops.reconstruct(loops.as_arrays(events), softmax)
    nearest = loops.refine(loops.as_arrays(events), wanted)
    apart = np.broadcast_to((nearest[:, 0] != nearest[:, 1])[:, None], wanted.shape)
    distance, other = np.abs(muons.elements - wanted), np.abs(nearest - wanted)
    np.testing.assert_array_equal(distance[apart], other[apart])
    same = apart & (muons.elements == nearest)  # of two hits equally near, loops take the first of the file
    assert same.sum() > 0.9 * apart.sum()
    assert muons.drift[same].any()
    np.testing.assert_array_equal(muons.drift[same], theirs[same])


def test_a_muon_of_few_hits_is_not_found(file: Path, sample: Events, bundles: Path, tmp_path: Path) -> None:
    elements, _ = hit_arrays(sample, muon_rows(sample))
    hits = np.count_nonzero(elements, axis=2)
    least = int(np.median(hits))
    words = ("--momentum", bundles / "momentum_sums", "--truth-hits", "--out", tmp_path / "reco.root")
    assert run(file, *words, "--min-hits", least).exit_code == 0
    muons = muons_of(read(tmp_path / "reco.root"))
    assert 0 < muons.found.sum() < muons.found.size
    np.testing.assert_array_equal(muons.found, hits >= least)
    for lost in (muons.elements, muons.drift, muons.momentum):
        assert not lost[~muons.found].any()


def test_matrices_are_written_beside(file: Path, sample: Events, bundles: Path, tmp_path: Path) -> None:
    out = tmp_path / "reco.root"
    words = ("--finder", bundles / "finder_edges", "--momentum", bundles / "momentum_sums")
    assert run(file, *words, "--matrices", "--softmax", "--out", out).exit_code == 0
    with uproot.open(out) as root:
        hits = root["hitMatrixTree"]["hitMatrix"].array(library="np")
        plus, minus = (root["softmaxTree"][f"softmax_{name}"].array(library="np") for name in ("mup", "mum"))
    np.testing.assert_array_equal(hits, hit_matrices(sample))
    np.testing.assert_array_equal(plus[hits > 0], np.broadcast_to(ELEMENTS - ASCENDING, hits.shape)[hits > 0])
    np.testing.assert_array_equal(np.stack([plus, minus], axis=1).argmax(axis=3), expected_elements(sample))


def test_a_second_reconstruction_replaces_the_first(file: Path, bundles: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.root", tmp_path / "two.root"
    words = ("--momentum", bundles / "momentum_sums", "--truth-hits")
    assert run(file, *words, "--quality", bundles / "quality_sums", "--out", one).exit_code == 0
    assert run(one, *words, "--out", two).exit_code == 0
    assert set(read(one).columns) - set(read(two).columns) == {"qpright"}


def in_steps(finder: Any, events: Events, options: Settings, size: int) -> Muons:
    chain = Reconstruction(
        lambda given: {"momentum": np.zeros((len(given["charge"]), 3))}, finder, None, options
    )
    parts = [chain(events[first : first + size]) for first in range(0, len(events), size)]
    return Muons(*(np.concatenate([getattr(part, field) for part in parts]) for field in FIELDS))


FIELDS = ("elements", "drift", "momentum", "error")
PARTS = {"finder": "finder_edges", "momentum": "momentum_sums", "quality": "quality_sums"}


def edges(given: Any) -> dict[str, Any]:
    hits = given["hits"]
    none = 0.5 * (ASCENDING == 0)
    return {"track_mup": hits * (ELEMENTS - ASCENDING) + none, "track_mum": hits * ASCENDING + none}


@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    size=st.integers(1, 5),
)
@settings(max_examples=20, deadline=None)
def test_neither_chunks_nor_threads_nor_the_order_of_hits_matter(
    seed: int, counts: list[int], size: int
) -> None:
    rng = np.random.default_rng(seed)
    total = sum(counts)
    detector = rng.choice(numbers(), total)
    element = rng.integers(1, plane_elements()[detector] + 1)
    # one drift per element: of two hits in one the first counts, and the order is to change
    drift = (detector * 7 + element) % 10 / 10
    nothing = np.empty((0, 3))
    events = Events.of(
        counts, Hits.of(detector, element, drift), np.zeros(len(counts)), Tracks.of([], [], nothing, nothing)
    )
    whole = in_steps(edges, events, Settings(min_hits=1), len(events))
    again = in_steps(edges, events, Settings(min_hits=1, threads=2), size)
    order = np.lexsort((rng.random(total), events.hit_event))
    shuffled = dataclasses.replace(events, hits=events.hits.take(order))
    third = in_steps(edges, shuffled, Settings(min_hits=1), len(events))
    for other in (again, third):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(whole, field), getattr(other, field))


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans())
@settings(max_examples=25, deadline=None)
def test_muons_survive_their_branches(seed: int, n: int, quality: bool) -> None:
    rng = np.random.default_rng(seed)
    elements = (rng.integers(-100, ELEMENTS, (n, 2, PLANES)).clip(0) * (rng.random((n, 2, 1)) < 0.7)).astype(
        np.int32
    )
    there = elements.any(axis=2, keepdims=True)
    found = Muons(
        elements,
        (rng.normal(size=elements.shape) * (elements > 0)).astype(np.float32).astype(float),
        (rng.normal(size=(n, 2, 3)) * there).astype(np.float32).astype(float),
        rng.normal(size=(n, 2)).astype(np.float32).astype(float),
        rng.random((n, 2)).astype(np.float32).astype(float) if quality else None,
    )
    nothing = np.empty((0, 3))
    events = Events.of(np.zeros(n), Hits.of([], []), np.zeros(n), Tracks.of([], [], nothing, nothing))
    again = muons_of(with_muons(events, found))
    for field in dataclasses.fields(Muons):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(found, field.name))


def test_momenta_behind_the_iron_are_refused(bundles: Path, tmp_path: Path) -> None:
    copy = tmp_path / "momentum_station"
    shutil.copytree(bundles / "momentum_sums", copy)
    description = json.loads((copy / "1" / "bundle.json").read_text())
    outputs = description["signatures"]["serving_default"]["outputs"]
    outputs["momentum"]["doc"] = "px, py, pz at station 1"
    (copy / "1" / "bundle.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="gives momenta at station 1, behind the iron"):
        open_network(copy, "momentum")


def test_nan_of_a_network_is_refused(sample: Events) -> None:
    def broken(given: Any) -> dict[str, Any]:
        answer = edges(given)
        answer["track_mum"][0, 3, 7] = np.nan
        return answer

    with pytest.raises(UserError, match="the finder gives track_mum that is not finite"):
        in_steps(broken, sample, Settings(), 100)
    chain = Reconstruction(lambda given: {"momentum": np.full((len(given["charge"]), 3), np.nan)})
    with pytest.raises(UserError, match="a network gives momentum that is not finite"):
        chain(sample)


BAD_INPUT = {
    "none.root F M": "no such file: none.root",
    "text.root F M": "text.root cannot be read as a ROOT file",
    "cut.root F M": "cut.root",
    "other.root F M": "other.root is no RUS file: it has no TTree named 'tree', but other",
    "bare.root F M": "bare.root lacks the branches elementID",
    "events.root M": "name the track finder with --finder",
    "events.root F M --truth-hits": "--truth-hits takes the place of a finder",
    "data.root M --truth-hits": "data.root has no truth tracks, whose hits --truth-hits would take",
    "events.root M --truth-hits --softmax": "--softmax writes what a finder says",
    "events.root M --finder none": "--finder: no such folder: none",
    "events.root M --finder BUNDLES": "holds several bundles, finder_edges, momentum_sums, quality_sums",
    "events.root M --finder BUNDLES/momentum_sums": "is no finder network: it takes elements, drift, charge",
    "events.root F --momentum BUNDLES/finder_edges": "is no momentum network: it takes hits and gives",
    "events.root F M --quality BUNDLES/momentum_sums": "is no quality network",
    "events.root F M --limit -1": "the limit of the refinement must not be negative, received -1",
    "events.root F M --min-hits 0": "a found muon has 1 to 62 hits at least, received 0",
    "events.root F M --out events.root": "events.root exists already",
}


@pytest.mark.parametrize("command", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(
    command: str,
    file: Path,
    sample: Events,
    bundles: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from trackkeras.cli import main

    monkeypatch.chdir(file.parent)
    Path("text.root").write_text("no ROOT file")
    Path("cut.root").write_bytes(file.read_bytes()[:-2000])
    write_rus(Path("data.root"), [sample.with_tracks(np.zeros(len(sample.tracks), dtype=bool))])
    with uproot.recreate("other.root") as root:
        root["other"] = {"x": np.zeros(3)}
    with uproot.recreate("bare.root") as root:
        root.mktree("tree", {"eventID": "int32", "detectorID": "int32"})
    before = sorted(file.parent.rglob("*"))
    text = command.replace(" F ", f" --finder {bundles / 'finder_edges'} ")
    text = text.replace(" M", f" --momentum {bundles / 'momentum_sums'}").replace("BUNDLES", str(bundles))
    monkeypatch.setattr(sys, "argv", ["trackkeras", "dimuon", "reconstruct", *shlex.split(text)])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert not out
    lines = [line for line in err.splitlines() if not line.startswith("dimuon ")]  # progress
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert BAD_INPUT[command] in lines[0]
    assert sorted(file.parent.rglob("*")) == before


def test_neither_tensorflow_nor_keras_is_imported(file: Path, bundles: Path, tmp_path: Path) -> None:
    words = [file, "--finder", bundles / "finder_edges", "--momentum", bundles / "momentum_sums"]
    words += ["--out", tmp_path / "reco.root"]
    program = (
        "import sys; from trackkeras.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert not stopped.code, stopped\n"
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "dimuon", "reconstruct", *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert muons_of(read(tmp_path / "reco.root")).found.any()
