"""A synthetic run folder: what training and evaluation leave behind, from random residuals."""

import copy
import json
from html.parser import HTMLParser

import numpy as np
import pytest

EDGES = {"p": [0.5, 1, 2, 5, 10, 20, 50, 100], "abs_dz": [1000, 2500, 4000, 5500, 7000, 8500, 10000]}
LABELS = {"p": "p [GeV]", "abs_dz": "|dz| [mm]"}
DEFINITIONS = {
    "pos_mean_mm": {"unit": "mm", "quantity": "pos", "statistic": "mean", "target": 0.1},
    "pos_95_mm": {"unit": "mm", "quantity": "pos", "statistic": "p95", "target": 20.0},
    "slope_mean": {"unit": "1", "quantity": "slope", "statistic": "mean", "target": 1e-5},
    "x_mean_mm": {"unit": "mm", "quantity": "x", "statistic": "mean", "target": None},
}
ESTIMATORS = {
    "network": {"label": "mlp_medium", "kind": "network", "cost": 202000},
    "straight_line": {"label": "straight line", "kind": "baseline", "cost": 4},
    "parabola": {"label": "parabola", "kind": "baseline", "cost": 60},
    "rk4": {"label": "Runge-Kutta 4, 3 steps", "kind": "baseline", "cost": 190000},
}
WIDTHS = {"network": 0.7, "straight_line": 90.0, "parabola": 14.0, "rk4": 0.4}


def cell(values):
    """Return the mean with a 95 % interval of its standard error."""
    mean, spread = float(np.mean(values)), 1.96 * float(np.std(values)) / len(values) ** 0.5
    return {"value": mean, "low": mean - spread, "high": mean + spread}


def statistics(x, y):
    """Return the four metrics of these residuals."""
    pos = np.hypot(x, y)
    upper = float(np.percentile(pos, 95))
    return {
        "pos_mean_mm": cell(pos),
        "pos_95_mm": {"value": upper, "low": 0.97 * upper, "high": 1.04 * upper},
        "slope_mean": cell(pos * 2e-5),
        "x_mean_mm": cell(np.abs(x)),
    }


def make_sample(name, residuals, simulated=True, rows=6000, seed=1):
    """Return one sample of metrics.json and add its residual arrays to `residuals`."""
    random = np.random.default_rng(seed)
    truth = {
        "p": 10 ** random.uniform(-0.3, 2, rows),
        "abs_dz": random.uniform(1000, 10000, rows),
    }
    metrics, of_band = {}, {axis: {} for axis in EDGES}
    for estimator, width in WIDTHS.items():
        scale = width * (3 / truth["p"]) ** 0.7 * (truth["abs_dz"] / 5000) ** 1.5
        x, y = random.standard_t(4, (2, rows)) * scale
        slopes = random.standard_t(4, (2, rows)) * scale * 1e-5
        for quantity, values in {"x": x, "y": y, "tx": slopes[0], "ty": slopes[1]}.items():
            residuals[f"{name}/{estimator}/{quantity}"] = values.astype(np.float32)
        metrics[estimator] = statistics(x, y)
        for axis, edges in EDGES.items():
            band = np.digitize(truth[axis], edges) - 1
            cells = [statistics(x[band == k], y[band == k]) for k in range(len(edges) - 1)]
            of_band[axis][estimator] = {metric: [part[metric] for part in cells] for metric in DEFINITIONS}
    targets = {
        metric: {
            "limit": definition["target"],
            "value": metrics["network"][metric]["value"],
            "met": metrics["network"][metric]["value"] <= definition["target"],
        }
        for metric, definition in DEFINITIONS.items()
        if definition["target"] is not None
    }
    bands = [
        {
            "axis": axis,
            "label": LABELS[axis],
            "log": axis == "p",
            "edges": edges,
            "rows": np.histogram(truth[axis], edges)[0].tolist(),
            "metrics": of_band[axis],
        }
        for axis, edges in EDGES.items()
    ]
    worse = [
        {"axis": axis, "band": edges[k : k + 2], "metric": metric, "baseline": "rk4"}
        for axis, edges in EDGES.items()
        for metric in ("pos_mean_mm", "pos_95_mm")
        for k in range(len(edges) - 1)
        if of_band[axis]["rk4"][metric][k]["high"] < of_band[axis]["network"][metric][k]["low"]
    ]
    return {
        "name": name,
        "description": "lhcb field, 0.5 < p < 100 GeV, 1 m < |dz| < 10 m, both directions",
        "simulated": simulated,
        "rows": rows,
        "estimators": ESTIMATORS,
        "metrics": metrics,
        "targets": targets,
        "bands": bands,
        "worse_than_baseline": worse,
    }


def make_history(epochs=60):
    """Return a history in the form of the trainer."""
    random = np.random.default_rng(2)
    train, val = [], []
    for epoch in range(1, epochs + 1):
        loss = 0.03 * epoch**-1.4 * random.lognormal(0, 0.06)
        rate = 1e-3 * (0.5 + 0.5 * np.cos(np.pi * epoch / epochs)) + 1e-6
        train.append({"epoch": epoch, "loss": loss, "physics_loss": 0.2 * loss, "lr": rate})
        val.append({"epoch": epoch, "loss": 1.1 * loss * random.lognormal(0, 0.1), "pos_mean_mm": 30 * loss})
    best = min(val, key=lambda row: row["loss"])
    return {
        "train": train,
        "val": val,
        "test_final": {"loss": best["loss"], "pos_mean_mm": best["pos_mean_mm"]},
        "best_epoch": best["epoch"],
        "best_val_loss": best["loss"],
        "training_time": 273.4,
    }


class RunFolder:
    """A run folder whose parts a test can change before they are written."""

    def __init__(self, path, name="mlp_medium-a"):
        self.path = path
        self.residuals = {}
        self.config = {
            "domain": "toy",
            "preset": "toy_medium",
            "model": {"hidden": [256, 256, 128], "activation": "silu"},
            "data": {"batch_size": 4096, "shuffle_blocks": 32, "train_rows": None},
            "training": {"epochs": 60, "learning_rate": 0.001, "seed": 3},
        }
        self.history = make_history()
        self.environment = {
            "python": "3.11.9",
            "versions": {"tensorflow": "2.21.0", "keras": "3.15.1", "numpy": "2.4.6"},
            "cpu": "2 cores",
        }
        self.dataset = {"path": "data/toy", "config_hash": "0123456789abcdef", "seed": 1}
        self.metrics = {
            "run": name,
            "preset": "mlp_medium",
            "domain": "toy",
            "parameters": 101124,
            "dataset": {"description": "toy tracks, seed 1", "config_hash": "0123456789abcdef"},
            "metric_definitions": DEFINITIONS,
            "residual_labels": {
                "x": "x residual [mm]",
                "y": "y residual [mm]",
                "tx": "tx residual",
                "ty": "ty residual",
            },
            "samples": [
                make_sample("test", self.residuals),
                make_sample("real_field", self.residuals, simulated=False, rows=900, seed=5),
            ],
        }

    def shrink(self):
        """Keep one sample with one axis and one target and no residuals, so that few figures are drawn."""
        self.residuals = {}
        definitions = {
            name: {**entry, "target": entry["target"] if name == "pos_mean_mm" else None}
            for name, entry in self.metrics["metric_definitions"].items()
        }
        self.metrics = copy.deepcopy({**self.metrics, "metric_definitions": definitions})
        self.metrics["samples"] = self.metrics["samples"][:1]
        sample = self.sample
        sample["targets"] = {"pos_mean_mm": sample["targets"]["pos_mean_mm"]}
        sample["bands"] = sample["bands"][:1]
        sample["worse_than_baseline"] = [x for x in sample["worse_than_baseline"] if x["axis"] == "p"]
        return self

    @property
    def sample(self):
        """The first sample of metrics.json."""
        return self.metrics["samples"][0]

    def write(self, without=()):
        """Write the parts of the folder, except those named in `without`."""
        self.path.mkdir(parents=True, exist_ok=True)
        for part in ("config", "dataset", "history", "environment", "metrics"):
            if part not in without:
                (self.path / f"{part}.json").write_text(json.dumps(getattr(self, part)))
        if self.residuals:
            np.savez_compressed(self.path / "residuals.npz", **self.residuals)
        return self.path


class Page(HTMLParser):
    """A parsed page: checks the nesting of its elements and collects what the tests ask for."""

    VOID = ("meta", "br", "img", "link", "input", "hr", "base", "source")

    def __init__(self, text):
        super().__init__()
        self.source, self.open = text, []
        self.tags, self.attributes, self.texts, self.cells = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append({"class": dict(attrs).get("class") or "", "text": ""})
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        opened = self.open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.cells[-1][-1]["text"] += data

    @property
    def text(self):
        """The visible text with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def row(self, start):
        """Return the cells of the first table row whose first cell starts with this text."""
        return next(cells for cells in self.cells if cells and cells[0]["text"].strip().startswith(start))


@pytest.fixture
def parse_page():
    """Return the function that parses the page in a file."""
    return lambda path: Page(path.read_text())


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """Return the function that makes a run folder, not yet written, of a given name."""

    def make(name, folder=None):
        return RunFolder((folder or tmp_path_factory.mktemp("runs")) / name, name)

    return make


@pytest.fixture
def small_run(tmp_path, make_run):
    """Return a run folder with one sample, one axis and one target."""
    return make_run("mlp_medium-a", tmp_path).shrink()
