"""Files that run TensorFlow Serving's official image on a layout: batching, monitoring, compose, Kubernetes.

None of them has been run against the real `tensorflow_model_server`: their syntax is checked, and the parts
that it shares with this package (bundles, `models.config`, warm-up records) are tested with its messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from google.protobuf import text_format

from serving import metrics
from serving.bundle import Model
from serving.errors import ServingError
from serving.layout import MODELS_CONFIG, models_config
from serving.messages import POOL, BatchingParameters, MonitoringConfig

IMAGE = "tensorflow/serving:latest"
"""The official image; pin a tag or a digest for production."""

ENGINE = "TensorFlow C API, C++"
"""The engine of `trackkeras bench inference` whose times are those of TensorFlow Serving without batching."""

BATCHING_CONFIG = "batching.config"
MONITORING_CONFIG = "monitoring.config"
COMPOSE = "docker-compose.yaml"
KUBERNETES = "kubernetes.yaml"

ROOT = PurePosixPath("/models")
"""Where the layout is mounted in the image."""

_CONFIG = PurePosixPath("/config")
_GRPC, _REST = 8500, 8501


# -- batching ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batching:
    """Batching parameters and what they follow from.

    Attributes:
        max_batch_size: Rows at which a row is within a tenth of its lowest measured cost.
        timeout_us: Longest wait for a batch to fill [us]: one fixed cost, the most that sharing it can save.
        max_enqueued_batches: Batches that wait at most: 0.1 s of work, beyond which a refusal is better.
        fixed_us: Cost of a call with no rows, from a straight line through the curve [us].
        row_us: Cost of one further row [us].
        pays: Whether the fixed cost is at least as large as the cost of 8 rows and above 100 us. Otherwise
            the wait costs more than it saves, and batching is better left off.
    """

    max_batch_size: int
    timeout_us: int
    max_enqueued_batches: int
    fixed_us: float
    row_us: float
    pays: bool


def read_curve(path: Path) -> dict[int, float]:
    """Read a latency curve.

    Args:
        path: JSON object with `rows`, a list of objects with `engine`, `batch` [rows] and
            `inference_time_cpu` [us per call], which `trackkeras bench inference --output` writes. Rows of
            the TensorFlow C API count, which TensorFlow Serving runs without its protocol.

    Returns:
        Time per call [us] by batch size, ascending.

    Raises:
        ServingError: No such file, or no such rows for at least two batch sizes.
    """
    try:
        curve: dict[int, float] = {}
        for row in json.loads(path.read_text())["rows"]:
            if row["engine"] != ENGINE:
                continue
            batch, time = int(row["batch"]), float(row["inference_time_cpu"])
            if batch < 1 or not 0 < time < float("inf"):
                raise ValueError
            curve[batch] = time
    except OSError as error:
        raise ServingError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        curve = {}
    if len(curve) < 2:
        raise ServingError(
            f"{path} is no latency curve: expected rows of the engine {ENGINE!r} with 'inference_time_cpu' "
            "for two batch sizes or more, as `trackkeras bench inference BUNDLE --output FILE` writes where "
            "there is a C++ compiler"
        )
    return dict(sorted(curve.items()))


def batching_from(curve: Mapping[int, float]) -> Batching:
    """Derive batching parameters from a latency curve.

    Args:
        curve: Time per call [us] by batch size, of one thread.
    """
    batches = np.array(list(curve), float)
    times = np.array(list(curve.values()))
    # Relative residuals: a large batch must not outvote the small ones.
    design = np.stack([1 / times, batches / times], axis=1)
    (fixed, row), *_ = np.linalg.lstsq(design, np.ones(len(times)))
    fixed, row = max(float(fixed), 0.0), max(float(row), 0.0)
    per_row = times / batches
    largest = int(batches[np.argmax(per_row <= 1.1 * per_row.min())])
    return Batching(
        max_batch_size=largest,
        timeout_us=max(1, round(fixed)),
        max_enqueued_batches=max(1, int(1e5 / curve[largest])),
        fixed_us=fixed,
        row_us=row,
        pays=fixed >= max(100.0, 8 * row),
    )


def batching_config(curve: Mapping[int, float], threads: int) -> str:
    """Return the text for `--enable_batching --batching_parameters_file=`.

    Args:
        curve: Time per call [us] by batch size, of one thread.
        threads: Threads that run batches; the cores of the server.

    Raises:
        ServingError: Fewer than one thread.
    """
    if threads < 1:
        raise ServingError(f"batching needs at least 1 thread, received {threads}")
    found = batching_from(curve)
    message = BatchingParameters()
    message.max_batch_size.value = found.max_batch_size
    message.batch_timeout_micros.value = found.timeout_us
    message.max_enqueued_batches.value = found.max_enqueued_batches * threads
    message.num_batch_threads.value = threads
    advice = "batching pays" if found.pays else "batching does not pay: leave --enable_batching off"
    return (
        f"# measured: {found.fixed_us:.3g} us per call and {found.row_us:.3g} us per row; {advice}\n"
        + text_format.MessageToString(message, descriptor_pool=POOL)
    )


def monitoring_config() -> str:
    """Return the text for `--monitoring_config_file=`; the path is that of the local server."""
    message = MonitoringConfig()
    message.prometheus_config.enable = True
    message.prometheus_config.path = metrics.PATH
    return text_format.MessageToString(message, descriptor_pool=POOL)


def files(models: Sequence[Model], batching: str | None = None, image: str = IMAGE) -> dict[str, str]:
    """Return the text of every file that goes beside `models.config` in a layout, by name.

    Args:
        models: What the layout holds.
        batching: Text of `batching.config`, if it is to be used.
        image: Image of TensorFlow Serving.
    """
    texts = {
        MONITORING_CONFIG: monitoring_config(),
        COMPOSE: compose(models, batching=batching is not None, image=image),
        KUBERNETES: kubernetes(models, batching=batching, image=image),
    }
    return texts if batching is None else texts | {BATCHING_CONFIG: batching}


# -- manifests ---------------------------------------------------------------------------------------------


def _arguments(config: PurePosixPath, batching: bool) -> list[str]:
    arguments = [
        f"--port={_GRPC}",
        f"--rest_api_port={_REST}",
        f"--model_config_file={config / MODELS_CONFIG}",
        "--model_config_file_poll_wait_seconds=30",
        f"--monitoring_config_file={config / MONITORING_CONFIG}",
    ]
    if batching:
        arguments += ["--enable_batching", f"--batching_parameters_file={config / BATCHING_CONFIG}"]
    return arguments


def compose(models: Iterable[Model], folder: str = ".", batching: bool = False, image: str = IMAGE) -> str:
    """Return a `docker-compose.yaml` that serves a layout on this machine's loopback.

    Args:
        models: What the layout holds; the first is asked for the health of the server.
        folder: The layout, relative to the file.
        batching: Whether the layout has a `batching.config` to be used.
        image: Image of TensorFlow Serving.
    """
    first = next(iter(models)).name
    # The image has no curl; bash opens a socket itself.
    ask = f"exec 3<>/dev/tcp/127.0.0.1/{_REST} && printf 'GET /v1/models/{first} HTTP/1.0\\r\\n\\r\\n' >&3"
    service = {
        "image": image,
        # The entry point of the image is a script for one model by name.
        "entrypoint": ["tensorflow_model_server"],
        "command": _arguments(ROOT, batching),
        "ports": [f"127.0.0.1:{port}:{port}" for port in (_GRPC, _REST)],
        "volumes": [{"type": "bind", "source": folder, "target": str(ROOT), "read_only": True}],
        "read_only": True,
        "tmpfs": ["/tmp"],
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "bash", "-c", f"{ask} && grep -q AVAILABLE <&3"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "30s",
        },
    }
    return _yaml({"services": {"tensorflow-serving": service}})


def kubernetes(
    models: Iterable[Model],
    claim: str = "models",
    batching: str | None = None,
    image: str = IMAGE,
    name: str = "tensorflow-serving",
) -> str:
    """Return a ConfigMap, a Deployment and a Service for a layout on a persistent volume.

    Args:
        models: What the layout holds; the first is asked whether the server is ready.
        claim: Name of the PersistentVolumeClaim that holds the layout.
        batching: Text of `batching.config`, if it is to be used.
        image: Image of TensorFlow Serving.
        name: Name of all three objects.
    """
    models = list(models)
    labels = {"app.kubernetes.io/name": name}
    files = {MODELS_CONFIG: models_config(models, root=ROOT), MONITORING_CONFIG: monitoring_config()}
    if batching is not None:
        files[BATCHING_CONFIG] = batching
    ports = {"grpc": _GRPC, "rest": _REST}
    container = {
        "name": name,
        "image": image,
        "command": ["tensorflow_model_server"],
        "args": _arguments(_CONFIG, batching is not None),
        "ports": [{"name": key, "containerPort": port} for key, port in ports.items()],
        "readinessProbe": {
            "httpGet": {"path": f"/v1/models/{models[0].name}", "port": "rest"},
            "periodSeconds": 5,
        },
        "livenessProbe": {"tcpSocket": {"port": "grpc"}, "initialDelaySeconds": 30, "periodSeconds": 10},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True},
        "volumeMounts": [
            {"name": "models", "mountPath": str(ROOT), "readOnly": True},
            {"name": "config", "mountPath": str(_CONFIG), "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    volumes = [
        {"name": "models", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
        {"name": "config", "configMap": {"name": name}},
        {"name": "tmp", "emptyDir": {}},
    ]
    annotations = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(_REST),
        "prometheus.io/path": metrics.PATH,
    }
    metadata = {"name": name, "labels": labels}
    return _yaml(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": annotations},
                    "spec": {"containers": [container], "volumes": volumes},
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "selector": labels,
                "ports": [{"name": key, "port": port, "targetPort": key} for key, port in ports.items()],
            },
        },
    )


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice in full, and text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _yaml(*documents: Mapping[str, Any]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=110)
