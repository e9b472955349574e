import io
import math
import re

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras import plots

LENGTH = {"unit": "mm", "quantity": "pos", "statistic": "p95", "target": 0.1}


def sample_of(labels, **values):
    estimators = {
        name: {"label": label, "kind": "network" if name == "network" else "baseline", "cost": 10.0}
        for name, label in labels.items()
    }
    return {"name": "test", "rows": 1234, "simulated": True, "estimators": estimators, **values}


def band_of(cells, edges=(0.5, 1.0, 2.0, 5.0), log=True):
    return {"axis": "p", "label": "p [GeV]", "log": log, "edges": list(edges), "metrics": cells}


def figure_texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def quoted_width(figure, quantity=0):
    label = figure.axes[quantity].get_legend_handles_labels()[1][0]
    return float(re.search(r"σ = ([\d.]+)", label)[1])


@pytest.mark.parametrize("width", [0.02, 0.3, 40.0])
def test_quoted_core_width_is_the_normal_width(width):
    values = np.random.default_rng(1).normal(0, width, 40_000)
    values[:400] *= 1000  # tails do not move a core width
    figure = plots.residuals(
        {"x": {"network": values}}, {"x": "x residual [mm]"}, sample_of({"network": "net"})
    )
    assert quoted_width(figure) == pytest.approx(width, rel=0.06)


def test_residual_panels_are_labelled_and_count_what_they_leave_out():
    random = np.random.default_rng(2)
    wide = random.normal(0, 100, 5000)
    wide[:1000] = np.nan
    arrays = {
        name: {"network": random.normal(0, 1, 5000), "line": wide}
        for name in ("x", "tx", "third")
    }  # fmt: skip
    labels = {"x": "x residual [mm]", "tx": "tx residual [mrad]", "third": "z [cm]"}
    figure = plots.residuals(arrays, labels, sample_of({"line": "straight line", "network": "net"}))
    assert [axes.get_xlabel() for axes in figure.axes] == list(labels.values())
    assert any("1,234 rows, simulated" in text for text in figure_texts(figure))
    for axes in figure.axes:
        reach = axes.get_xlim()[1]
        network, line = axes.get_legend_handles_labels()[1][::-1]
        assert network.startswith("net")
        outside = 1 - np.count_nonzero(np.abs(wide) <= reach) / wide.size  # NaN counts as outside
        assert f"{outside:.0%} outside" in line


def test_bands_keep_values_intervals_units_and_target():
    first, last = {"value": 0.3, "low": 0.2, "high": 0.5}, {"value": 3.0, "low": 2.0, "high": 4.0}
    line = [{"value": v, "low": v / 2, "high": v * 2} for v in (10.0, 20.0, 30.0)]
    cells = {"network": {"m": [first, None, last]}, "line": {"m": line}}
    sample = sample_of({"network": "net", "line": "straight line"}, simulated=False)
    figure = plots.error_in_bands(sample, band_of(cells), "m", LENGTH)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "p [GeV]"
    assert axes.get_ylabel() == "pos error, 95th percentile [mm]"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    drawn = axes.get_legend_handles_labels()
    assert drawn[1] == ["net", "straight line"]
    network = drawn[0][0]
    np.testing.assert_allclose(network.lines[0].get_ydata(), [0.3, math.nan, 3.0])
    bars = [segment[:, 1] for segment in network.lines[2][0].get_segments() if len(segment)]
    np.testing.assert_allclose(bars, [[0.2, 0.5], [2.0, 4.0]])
    low, high = axes.get_ylim()
    assert low < 0.1 < 60 < high  # the target and every interval are in sight
    assert any(text == "target 0.1" for text in figure_texts(figure))
    assert any("external data" in text for text in figure_texts(figure))


def test_points_of_a_band_stay_in_it_and_apart():
    cell = {"value": 1.0, "low": 0.9, "high": 1.1}
    labels = {name: name for name in ("network", "a", "b", "c")}
    cells = {name: {"m": [cell] * 3} for name in labels}
    figure = plots.error_in_bands(sample_of(labels), band_of(cells), "m", {})
    handles = figure.axes[0].get_legend_handles_labels()[0]
    places = np.array([handle.lines[0].get_xdata() for handle in handles])
    edges = np.array([0.5, 1, 2, 5])
    assert np.all((places > edges[:-1]) & (places < edges[1:]))
    assert np.all(np.diff(places, axis=0) > 0)


value = st.one_of(
    st.none(), st.just(math.nan), st.just(0.0), st.floats(-1e6, 1e6, allow_nan=False), st.floats(1e-12, 1e-3)
)


@settings(max_examples=12, deadline=None)
@given(
    values=st.lists(value, min_size=3, max_size=3), log=st.booleans(), name=st.text("a$_{}^\\<&", min_size=1)
)
def test_any_band_content_and_any_name_can_be_drawn(values, log, name):
    cells = [None if x is None else {"value": x, "low": x, "high": x} for x in values]
    sample = sample_of({"network": name, "line": "line"}, name=name)
    figure = plots.error_in_bands(sample, band_of({"network": {"m": cells}}, log=log), "m", LENGTH)
    assert plots.render(figure, "svg").startswith(b"<?xml")


def test_loss_curves_show_every_loss_and_the_learning_rate(make_run):
    history = make_run("a").history
    figure = plots.loss_curves(history, "a run")
    upper, lower = figure.axes
    labels = upper.get_legend_handles_labels()[1]
    assert labels == [
        "training",
        "validation",
        "training, physics_loss",
        f"best epoch, {history['best_epoch']}",
    ]
    assert (upper.get_yscale(), upper.get_ylabel()) == ("log", "loss")
    assert (lower.get_xlabel(), lower.get_ylabel()) == ("epoch", "learning rate")
    np.testing.assert_array_equal(lower.lines[-1].get_ydata(), [row["lr"] for row in history["train"]])
    np.testing.assert_array_equal(upper.lines[1].get_ydata(), [row["loss"] for row in history["val"]])


@pytest.mark.parametrize(
    "history",
    [
        {"train": [{"epoch": 1, "loss": 0.5}], "val": []},
        {"train": [{"epoch": 1, "loss": -0.5, "lr": 1e-3}], "val": [{"epoch": 1, "loss": math.nan}]},
        {"train": [], "val": [{"epoch": 1, "loss": 1.0}], "best_epoch": 1},
    ],
)
def test_short_histories_can_be_drawn(history):
    assert plots.render(plots.loss_curves(history), "png").startswith(b"\x89PNG")


def row_of(run, value, parameters, cost, kind="network"):
    metrics = {"m": {"value": value, "low": value, "high": value}}
    common = {"sample": "test", "rows": 10, "simulated": True, "kind": kind, "label": run or "line"}
    return {**common, "run": run, "parameters": parameters, "cost": cost, "metrics": metrics}


@pytest.mark.parametrize("amount", plots.AMOUNTS)
def test_comparison_names_the_runs_and_draws_the_baselines(amount):
    table = [
        row_of("one", 1.0, 100, 200),
        row_of("two", 0.5, 1000, 2000),
        row_of(None, 9.0, None, 4, "baseline"),
    ]
    figure = plots.comparison(table, "m", LENGTH, amount)
    (axes,) = figure.axes
    assert axes.get_xlabel() == plots.AMOUNTS[amount]
    assert axes.get_ylabel() == "pos error, 95th percentile [mm]"
    assert axes.get_legend_handles_labels()[1] == ["line"]
    assert {"one", "two"} <= set(figure_texts(figure))
    low, high = axes.get_ylim()
    assert low < 0.1 < 9 < high


def test_saved_files_are_complete_and_reproducible(tmp_path, make_run):
    history = make_run("a").history
    first = plots.save(plots.loss_curves(history), tmp_path / "one" / "loss.v1")
    second = plots.save(plots.loss_curves(history), tmp_path / "two" / "loss.v1")
    assert [path.name for path in first] == ["loss.v1.png", "loss.v1.svg"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert matplotlib.image.imread(io.BytesIO(first[0].read_bytes())).shape[1] > 1000
    assert sorted(path.name for path in first[0].parent.iterdir()) == ["loss.v1.png", "loss.v1.svg"]


def test_a_figure_that_cannot_be_drawn_leaves_the_old_file(tmp_path, make_run, monkeypatch):
    figure = plots.loss_curves(make_run("a").history)
    png, svg = plots.save(figure, tmp_path / "loss")
    before = png.read_bytes(), svg.read_bytes()

    def fail(*args, **options):
        raise RuntimeError("no renderer")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="no renderer"):
        plots.save(figure, tmp_path / "loss")
    assert (png.read_bytes(), svg.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_estimators_keep_their_look_and_do_not_need_colour():
    labels = {name: name for name in ("network", "a", "b", "c", "d")}
    looks = plots.appearance(sample_of(labels)["estimators"])
    fewer = plots.appearance(sample_of({name: name for name in ("a", "network", "b")})["estimators"])
    assert all(fewer[name] == looks[name] for name in fewer)
    assert len({look["marker"] for look in looks.values()}) == len(looks)
    assert len({look["color"] for look in looks.values()}) == len(looks)
