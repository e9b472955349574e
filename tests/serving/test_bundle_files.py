"""Finding and checking bundles, and writing them for TensorFlow Serving."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.bundle import discover, read_bundle
from serving.errors import Code, ServingError
from serving.layout import models_config, write_layout


@pytest.fixture
def bundle(bundles: Path, tmp_path: Path) -> Path:
    """A copy of one version folder, to be broken."""
    return shutil.copytree(bundles / "transport/2", tmp_path / "transport/2")


def versions(models):
    return {model.name: [bundle.version for bundle in model.versions] for model in models}


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["."], {"sums": [1], "transport": [1, 2, 10]}),
        (["transport"], {"transport": [1, 2, 10]}),
        (["transport/2"], {"transport": [2]}),
        (["transport/10", "sums", "transport/1"], {"sums": [1], "transport": [1, 10]}),
        (["transport", "transport/2"], {"transport": [1, 2, 10]}),
    ],
)
def test_discover(bundles, paths, found):
    assert versions(discover(bundles / path for path in paths)) == found


def test_a_bundle_knows_its_signatures(bundles):
    bundle = read_bundle(bundles / "transport/2")
    assert sorted(bundle.signatures) == ["serving_default", "slopes"]
    state = bundle.signatures["serving_default"].inputs["state"]
    assert (state.dtype, state.shape, state.unit) == ("float32", (-1, 5), "mm, mm, 1, 1, 1/MeV")
    assert state.graph_name.startswith("serving_default_state")


def test_a_bundle_that_is_being_written_is_left_alone(bundles, tmp_path):
    shutil.copytree(bundles / "sums/1", tmp_path / "sums/1")
    (tmp_path / "sums/.2-unfinished").mkdir()
    (tmp_path / "sums/007").mkdir()
    (tmp_path / "notes").mkdir()
    assert versions(discover([tmp_path])) == {"sums": [1]}


def remove(name):
    def change(bundle: Path):
        path = bundle / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def edit(**changes):
    def change(bundle: Path):
        file = bundle / "bundle.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def edit_tensor(**changes):
    def change(bundle: Path):
        file = bundle / "bundle.json"
        description = json.loads(file.read_text())
        description["signatures"]["serving_default"]["inputs"]["dz"] |= changes
        file.write_text(json.dumps(description))

    return change


def truncate(name):
    def change(bundle: Path):
        data = (bundle / name).read_bytes()
        (bundle / name).write_bytes(data[: len(data) // 2])

    return change


TENSOR = {"dtype": "float32", "shape": [-1, 5]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove("bundle.json"), "bundle.json is missing"),
        (remove("saved_model.pb"), "saved_model.pb is missing"),
        (remove("model.onnx"), "model.onnx is missing"),
        (remove("variables"), "variables/ is missing"),
        (truncate("bundle.json"), "not valid JSON"),
        (truncate("saved_model.pb"), "truncated"),
        (edit(name="../x"), "'name' must be"),
        (edit(name=3), "'name' must be"),
        (edit(version=0), "'version' must be"),
        (edit(version=True), "'version' must be"),
        (edit(version="2"), "'version' must be"),
        (edit(version=3), "says version 3, but the folder is named '2'"),
        (edit(signatures={}), "'signatures' must hold 'serving_default'"),
        (edit(signatures={"serving_default": 1}), "'inputs' must be an object"),
        (edit(signatures={"serving_default": {"inputs": {"a": 1}}}), "tensor 'a' needs"),
        (
            edit(
                signatures={
                    "serving_default": {"inputs": {"state": TENSOR}, "outputs": {"final_state": TENSOR}}
                }
            ),
            "disagree on the inputs of 'serving_default': state float32",
        ),
        (edit_tensor(dtype="float64"), "disagree on the inputs"),
        (edit_tensor(dtype="float33"), "tensor 'dz' needs"),
        (edit_tensor(dtype=None), "tensor 'dz' needs"),
        (edit_tensor(dtype="complex64"), "complex64 cannot be sent"),
        (edit_tensor(shape=[-1, 2]), "disagree on the inputs"),
        (edit_tensor(shape=[-1, "a"]), "tensor 'dz' needs"),
        (edit_tensor(shape=5), "tensor 'dz' needs"),
    ],
)
def test_a_broken_bundle_is_refused_in_one_line(bundle, change, words):
    change(bundle)
    with pytest.raises(ServingError) as raised:
        read_bundle(bundle)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(bundle) in str(raised.value)


def test_a_signature_that_was_not_exported(bundle):
    file = bundle / "bundle.json"
    description = json.loads(file.read_text())
    description["signatures"]["jacobian"] = description["signatures"]["slopes"]
    file.write_text(json.dumps(description))
    with pytest.raises(ServingError, match=r"declares signature 'jacobian', which saved_model\.pb does not"):
        read_bundle(bundle)


def test_paths_without_bundles(tmp_path):
    with pytest.raises(ServingError, match="no such folder") as raised:
        discover([tmp_path / "absent"])
    assert raised.value.code is Code.NOT_FOUND
    with pytest.raises(ServingError, match="holds no bundle"):
        discover([tmp_path])
    with pytest.raises(ServingError, match="name at least one"):
        discover([])


def test_the_same_version_twice(bundles, bundle):
    with pytest.raises(ServingError, match="'transport' version 2 is both in"):
        discover([bundles, bundle])


# -- for TensorFlow Serving --------------------------------------------------------------------------------


def parse(text):
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    return {item.name: item for item in config.model_config_list.config}


@pytest.mark.parametrize(
    ("policy", "kind", "wanted"),
    [("latest", "latest", 1), ("all", "all", None), ([1, 10], "specific", [1, 10])],
)
def test_models_config_is_what_tensorflow_serving_reads(bundles, policy, kind, wanted):
    item = parse(models_config(discover([bundles / "transport"]), policy))["transport"]
    assert (item.base_path, item.model_platform) == (str(bundles / "transport"), "tensorflow")
    chosen = item.model_version_policy
    assert chosen.WhichOneof("policy_choice") == kind
    if kind == "latest":
        assert chosen.latest.num_versions == wanted
    if kind == "specific":
        assert list(chosen.specific.versions) == wanted


def test_models_config_of_several_models(bundles):
    items = parse(models_config(discover([bundles]), root=PurePosixPath("/models")))
    assert {name: item.base_path for name, item in items.items()} == {
        "sums": "/models/sums",
        "transport": "/models/transport",
    }


def test_a_folder_name_with_quotes_survives(bundles, tmp_path):
    odd = shutil.copytree(bundles / "sums", tmp_path / 'a "quoted\\ µ' / "sums")
    assert parse(models_config(discover([odd])))["sums"].base_path == str(odd)


def test_versions_that_do_not_exist(bundles):
    with pytest.raises(ServingError, match=r"'sums' has versions \[1\], received \[1, 2\]"):
        models_config(discover([bundles / "sums"]), [1, 2])


@pytest.mark.parametrize("link", [False, True])
def test_write_layout(bundles, bundle, tmp_path, link):
    models = discover([bundles / "transport/1", bundles / "sums", bundle])
    with pytest.raises(ServingError, match="several folders"):
        models_config(models)
    out = tmp_path / "tree/models"
    config = write_layout(models, out, policy="all", link=link)
    assert versions(discover([out])) == {"sums": [1], "transport": [1, 2]}
    assert parse(config.read_text())["transport"].base_path == str(out / "transport")
    copy, original = out / "transport/2/saved_model.pb", bundle / "saved_model.pb"
    assert copy.read_bytes() == original.read_bytes()
    assert copy.samefile(original) is link
    assert list(out.parent.iterdir()) == [out]


def test_write_layout_leaves_nothing_unfinished(bundles, bundle, tmp_path):
    models = discover([bundle, bundles / "sums"])
    out = tmp_path / "out"
    shutil.rmtree(bundle)
    with pytest.raises(ServingError, match="cannot write"):
        write_layout(models, out)
    assert [path.name for path in tmp_path.iterdir()] == ["transport"]
    out.mkdir()
    (out / "precious").touch()
    with pytest.raises(ServingError, match="exists already"):
        write_layout(discover([bundles]), out)
    assert [path.name for path in out.iterdir()] == ["precious"]
