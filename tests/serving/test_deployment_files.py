"""Files for the official image: warm-up records, batching, monitoring, compose and Kubernetes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving import deployment, metrics
from serving.bundle import discover, read_bundle
from serving.errors import ServingError
from serving.layout import MODELS_CONFIG, write_layout
from serving.messages import POOL, BatchingParameters, MonitoringConfig
from serving.repository import Limits, Repository
from serving.rpc import predict
from serving.warmup import WARMUP, warmup_records, write_warmup


@pytest.fixture
def models(bundles: Path):
    return discover([bundles])


# -- warm-up -----------------------------------------------------------------------------------------------


def test_warmup_records_are_read_by_tensorflow_and_the_official_stubs(bundles, tmp_path):
    bundle = read_bundle(bundles / "transport/2")
    path = write_warmup(bundle, tmp_path, rows=(1, 5))
    assert path == tmp_path / "assets.extra/tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))  # checks the checksums
    ]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    asked = [
        (
            log.predict_log.request.model_spec.signature_name,
            {key: tf.make_ndarray(value).shape for key, value in log.predict_log.request.inputs.items()},
        )
        for log in logs
    ]
    assert asked == [
        ("serving_default", {"state": (1, 5), "z0": (1, 1), "dz": (1, 1)}),
        ("serving_default", {"state": (5, 5), "z0": (5, 1), "dz": (5, 1)}),
        ("slopes", {"state": (1, 5)}),
        ("slopes", {"state": (5, 5)}),
    ]


def test_every_warmup_request_is_one_that_the_model_answers(models):
    repository = Repository(models, "savedmodel")
    for model in models:
        for bundle in model.versions:
            for record in warmup_records(bundle):
                log = prediction_log_pb2.PredictionLog.FromString(record)
                assert predict(repository, Limits(), log.predict_log.request).outputs


def test_warmup_repeats_the_examples_of_a_bundle(bundles, tmp_path):
    path = shutil.copytree(bundles / "sums/1", tmp_path / "1")
    description = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(
        json.dumps(description | {"examples": {"hits": [[1, 2, 3], [4, 5, 6]]}})
    )
    (record,) = warmup_records(read_bundle(path), rows=(3,))
    request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
    assert isinstance(request, predict_pb2.PredictRequest)
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["hits"]), [[1, 2, 3], [4, 5, 6], [1, 2, 3]])


@pytest.mark.parametrize("rows", [(), (0,), (-1, 2), range(1, 1002)])
def test_warmup_that_the_server_would_refuse(bundles, rows):
    with pytest.raises(ServingError, match="at most 1000 records"):
        warmup_records(read_bundle(bundles / "sums/1"), rows)


# -- batching and monitoring -------------------------------------------------------------------------------


def curve_of(fixed: float, row: float) -> dict[int, float]:
    return {batch: fixed + row * batch for batch in (1, 32, 256, 1024, 4096)}


@given(st.floats(0, 1e4), st.floats(1e-2, 1e3))
def test_the_curve_of_a_straight_line_is_found_again(fixed, row):
    found = deployment.batching_from(curve_of(fixed, row))
    np.testing.assert_allclose(
        [found.fixed_us, found.row_us], [fixed, row], rtol=1e-4, atol=1e-4 * (fixed + row)
    )
    assert found.max_batch_size in (1, 32, 256, 1024, 4096)
    assert found.timeout_us >= 1


def test_batching_follows_the_curve():
    cheap, dear = (deployment.batching_from(curve_of(fixed, 1.0)) for fixed in (2.0, 2000.0))
    assert cheap.max_batch_size < dear.max_batch_size
    assert cheap.timeout_us < dear.timeout_us
    assert not cheap.pays
    assert dear.pays
    message = text_format.Parse(
        deployment.batching_config(curve_of(2000.0, 1.0), threads=3),
        BatchingParameters(),
        descriptor_pool=POOL,
    )
    assert message.max_batch_size.value == 4096
    assert message.batch_timeout_micros.value == 2000
    assert message.num_batch_threads.value == 3
    assert message.max_enqueued_batches.value == 3 * int(1e5 / 6096)


def test_the_curve_is_that_of_the_benchmark(tmp_path):
    file = tmp_path / "curve.json"
    rows = [
        {"engine": deployment.ENGINE, "batch": 32, "inference_time_cpu": 9.0},
        {"engine": deployment.ENGINE, "batch": 1, "inference_time_cpu": 5.0},
        {"engine": "another", "batch": 1, "inference_time_cpu": 4.0},
    ]
    file.write_text(json.dumps({"rows": rows}))
    assert deployment.read_curve(file) == {1: 5.0, 32: 9.0}


ROW = f'{{"engine": "{deployment.ENGINE}", "batch": %s, "inference_time_cpu": %s}}'


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "3", "[[]]", "null", '{"rows": 3}', '{"rows": [{"batch": 1}]}', f"[{ROW % (1, 2)}]"]
    + [f'{{"rows": [{ROW % (1, 2)}, {ROW % other}]}}' for other in ((0, 1), (2, -1), (2, "NaN"), (1, 3))]
    + [f'{{"rows": [{ROW % (1, 2)}]}}'],
)
def test_a_file_that_is_no_curve(tmp_path, text):
    (tmp_path / "curve.json").write_text(text)
    with pytest.raises(ServingError, match="is no latency curve"):
        deployment.read_curve(tmp_path / "curve.json")


def test_monitoring_is_where_the_local_server_has_it():
    message = text_format.Parse(deployment.monitoring_config(), MonitoringConfig(), descriptor_pool=POOL)
    assert message.prometheus_config.enable
    assert message.prometheus_config.path == metrics.PATH


# -- manifests ---------------------------------------------------------------------------------------------


def flags(arguments):
    return dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)


def test_a_layout_has_every_file_that_its_compose_file_names(models, tmp_path):
    out = tmp_path / "served"
    texts = deployment.files(models, deployment.batching_config(curve_of(50.0, 0.1), 2))
    write_layout(models, out, root=deployment.ROOT, files=texts)
    (service,) = yaml.safe_load((out / deployment.COMPOSE).read_text())["services"].values()
    (mount,) = service["volumes"]
    inside = PurePosixPath(mount["target"])
    named = flags(service["command"])
    for key in ("model_config_file", "monitoring_config_file", "batching_parameters_file"):
        assert (out / PurePosixPath(named[key]).relative_to(inside)).is_file()
    config = text_format.Parse((out / MODELS_CONFIG).read_text(), model_server_config_pb2.ModelServerConfig())
    for model in config.model_config_list.config:
        assert (out / PurePosixPath(model.base_path).relative_to(inside) / "1" / WARMUP).is_file()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert not (Path(models[0].versions[0].path) / "assets.extra").exists()


@pytest.mark.parametrize("batching", [None, "max_batch_size { value: 32 }\n"])
def test_kubernetes_objects_fit_together(models, batching):
    config, deployed, service = yaml.safe_load_all(deployment.kubernetes(models, batching=batching))
    assert [item["kind"] for item in (config, deployed, service)] == ["ConfigMap", "Deployment", "Service"]
    pod = deployed["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployed["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    (container,) = pod["spec"]["containers"]
    named = flags(container["args"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for key, value in named.items():
        if key.endswith("_file"):
            assert PurePosixPath(value).relative_to(mounts["config"]).name in config["data"]
    assert ("enable_batching" in named) == (batching is not None)
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes.keys() == mounts.keys()
    assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]
    names = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == names
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/sums"
    served = text_format.Parse(config["data"][MODELS_CONFIG], model_server_config_pb2.ModelServerConfig())
    assert {model.base_path for model in served.model_config_list.config} == {
        "/models/sums",
        "/models/transport",
    }


def test_names_with_signs_of_yaml_survive(models):
    for text in (
        deployment.compose(models, image="registry:5000/a@sha256:0"),
        deployment.compose(models, "a: b # c"),
    ):
        (service,) = yaml.safe_load(text)["services"].values()
        assert service["image"] in (deployment.IMAGE, "registry:5000/a@sha256:0")
        assert service["volumes"][0]["source"] in (".", "a: b # c")
