"""What is said about trainings, against histories whose answers are known."""

import numpy as np
import pytest

from trackkeras.comparison import comparison_table, write_comparison
from trackkeras.convergence import convergences
from trackkeras.error_maps import below_floor
from trackkeras.questions import answers
from trackkeras.report import write_report
from trackkeras.run_files import read_run

EPOCHS = 20


def history(errors, train=None, val=None, **parts):
    """Return a history with these validation errors; losses follow them unless they are given."""
    train, val = (errors if values is None else values for values in (train, val))
    rows = {"train": [], "val": []}
    for index, error in enumerate(errors):
        more = {name: values[index] for name, values in parts.items()}
        rows["train"].append({"epoch": index + 1, "loss": train[index], "lr": 1e-3, **more})
        rows["val"].append({"epoch": index + 1, "loss": val[index], "pos_mean_mm": error, **more})
    best = int(np.argmin([row["loss"] for row in rows["val"]])) + 1
    return {**rows, "best_epoch": best, "training_time": 40.0, "stopped": "all epochs done"}


def falling(start, end, epochs=EPOCHS):
    return np.geomspace(start, end, epochs).tolist()


@pytest.fixture
def add_run(tmp_path, make_run):
    """Return the function that writes a run of a kind and size with a history and a test error."""

    def add(name, kind, size, errors, *, parameters=1000, value=1.0, spread=0.01, seed=1, **more):
        run = make_run(name, tmp_path).shrink()
        run.config["model"] = {"kind": kind, "size": size, "hidden": None}
        run.config["training"]["seed"] = seed
        run.metrics["parameters"] = parameters
        cells = {"value": value, "low": value - spread, "high": value + spread}
        run.sample["metrics"]["network"]["pos_mean_mm"] = cells
        run.history = history(errors, **more)
        return run.write()

    return add


def asked(folders):
    """Return the five answers about some runs."""
    runs = [read_run(folder) for folder in folders]
    networks = [
        {"run": run.metrics["run"], "metrics": run.metrics["samples"][0]["metrics"]["network"]}
        for run in runs
    ]
    return answers(networks, convergences(runs, "pos_mean_mm"), "pos_mean_mm", "test")


def physics(start=4.0, end=1.0):
    """Return losses of a physics-informed training: the trained one is data + equation."""
    data, pde = falling(8.0, 0.5), falling(start, end)
    total = np.add(data, pde).tolist()
    parts = {"data_loss": data, "pde_loss": pde, "ic_loss": [0.0] * EPOCHS, "physics_loss": pde}
    return {"train": total, "val": total, **parts}


def test_epochs_until_converged_and_overfitting(add_run):
    errors = [100.0, 50.0, 12.0, 11.0, 10.0, 10.5]
    rising = [1.0, 0.5, 0.3, 0.2, 0.25, 0.3]
    folder = add_run("late", "mlp", "tiny", errors, train=[1.0, 0.5, 0.3, 0.2, 0.1, 0.05], val=rising)
    found = convergences([read_run(folder)], "pos_mean_mm")[0]
    assert found.converged == 4  # 11.0 <= 10 / 0.9 < 12.0
    assert found.best_epoch == 4
    assert found.rise == pytest.approx(0.5)
    assert found.gap == pytest.approx(6.0)
    assert found.overfits
    assert not found.improving
    assert not found.physics


def test_a_rise_of_both_losses_is_no_overfitting(add_run):
    both = [1.0, 0.5, 0.9]
    found = convergences([read_run(add_run("a", "mlp", "tiny", [3.0, 2.0, 2.5], train=both, val=both))], "x")
    assert found[0].error == "loss", "the history has no such metric"
    assert not found[0].overfits


def test_physics_is_what_the_trained_loss_holds(add_run):
    parts = physics()
    weighted = [0.5 * value for value in parts["data_loss"]]
    folders = [
        add_run("with", "pinn", "tiny", falling(9, 1), **parts),
        add_run("data_only", "pinn", "tiny", falling(9, 1), **{**parts, "train": weighted}),
    ]
    assert [run.physics for run in convergences([read_run(f) for f in folders], "pos_mean_mm")] == [
        True,
        False,
    ]


def test_the_five_answers(add_run):
    folders = [
        add_run("mlp_tiny", "mlp", "tiny", [100.0, *falling(1.05, 1, EPOCHS - 1)], value=2.0),
        add_run("mlp_small", "mlp", "small", falling(100, 0.01), parameters=5000, value=1.0),
        add_run("pinn_tiny", "pinn", "tiny", falling(100, 1), value=1.0, **physics()),
        add_run("pinn_small", "pinn", "small", falling(100, 1), parameters=5000, value=1.005, **physics()),
        add_run("pinn_wide", "pinn", "wide", falling(100, 1), parameters=9000, value=0.1, **physics()),
    ]
    helped, fast, physical, sized, overfit = asked(folders)
    assert "2 comparable sizes: better in 1, worse in 0, not distinguishable in 1" in helped.text[0]
    assert "another seed" in helped.text[1]
    assert {row[1] for row in helped.rows} == {"mlp_tiny", "mlp_small", "pinn_tiny", "pinn_small"}
    assert "5 of 5 runs had their best epoch last" in fast.text[-1]
    assert "fell in 3 of 3 runs" in physical.text[0]
    assert "In 3 the initial condition holds by construction" in physical.text[1]
    assert physical.rows[0][:5] == ("pinn_tiny", 4.0, pytest.approx(1.0), 0.0, 0.0)
    assert "mlp, 1,000 to 5,000 parameters: more epochs" in sized.text[0]
    assert "pinn, 1,000 to 9,000 parameters: the same number of epochs" in sized.text[1]
    assert overfit.text[0].startswith("0 of 5 runs")


def test_only_like_is_compared_with_like(add_run):
    """A PINN of another size, or trained otherwise, says nothing about the physics loss."""
    folders = [
        add_run("mlp", "mlp", "tiny", falling(9, 1)),
        add_run("p", "pinn", "wide", falling(9, 1), **physics()),
    ]
    helped, _, _, sized, _ = asked(folders)
    assert "do not allow an answer" in helped.text[0]
    assert "do not allow an answer" in sized.text[0]
    assert not helped.rows
    assert not sized.rows
    assert "none reports a physics loss" in asked(folders[:1])[2].text[0]


def test_page_of_physics_runs_is_whole_without_histories(add_run, parse_page, tmp_path):
    folders = [
        add_run("pinn", "pinn", "tiny", falling(9, 1), **physics()),
        add_run("mlp", "mlp", "tiny", falling(9, 1)),
    ]
    page = parse_page(write_comparison(folders, tmp_path / "comparison.html"))
    assert page.tags.count("svg") == 5  # accuracy twice, convergence, overfitting, parts of the loss
    assert {row["training_time"] for row in comparison_table(folders) if row["run"]} == {40.0}
    for folder in folders:
        (folder / "history.json").unlink()
    page = parse_page(write_comparison(folders, tmp_path / "comparison.html"))
    assert page.tags.count("svg") == 2
    assert page.text.count("do not allow an answer") == 5


def with_maps_and_curves(run):
    """Add what a network with a trajectory has to show."""
    axis = {"name": "p", "label": "p [GeV]", "log": True, "edges": [1, 10, 100]}
    values = {name: [[1.0, None], [3.0, 2.0]] for name in run.sample["estimators"]}
    chart = {
        "axes": [axis, {**axis, "name": "dz", "log": False}],
        "metric": "pos_mean_mm",
        "rows": [[30] * 2] * 2,
    }
    run.sample["maps"] = [{**chart, "values": values}]
    line = {"label": "network, median", "kind": "network", "x": [0, 0.5, 1], "y": [None, 1.0, 2.0]}
    like = {"title": "errors", "x_label": "fraction", "y_label": "error [mm]", "log": True}
    truth = {**line, "label": "truth", "kind": "reference"}
    run.metrics["curves"] = [
        {**like, "name": "along", "lines": [line, {**line, "label": "line", "kind": "baseline"}]},
        {**like, "name": "tracks", "log": False, "lines": [line, truth]},
    ]
    return run


def test_maps_and_curves_are_on_both_pages(make_run, parse_page, tmp_path):
    runs = [with_maps_and_curves(make_run(name, tmp_path).shrink()) for name in ("one", "two")]
    folders = [run.write() for run in runs]
    page = parse_page(write_comparison(folders, tmp_path / "comparison.html"))
    # four as ever; one map and one set of tracks of the best run, one figure of errors for both
    assert page.tags.count("svg") == 7
    report = parse_page(write_report(folders[0]))
    plain = make_run("plain", tmp_path).shrink()
    assert report.tags.count("svg") == parse_page(write_report(plain.write())).tags.count("svg") + 3
    for each in (page, report):
        assert "image" not in each.tags
        assert all(value.startswith("#") for _, key, value in each.attributes if key == "href")
    assert (folders[0] / "plots" / "test_map_p_dz.png").is_file()


@pytest.mark.parametrize("worse", [False, True])
def test_cells_worse_than_the_floor_are_named(small_run, parse_page, worse):
    run = with_maps_and_curves(small_run)
    run.metrics["curves"] = []
    (chart,) = run.sample["maps"]
    chart["values"]["straight_line"] = [[4.0, None], [2.0 if worse else 6.0, 8.0]]
    run.sample["floor"] = below_floor([chart], "straight_line")
    page = parse_page(write_report(run.write()))
    label = run.sample["estimators"]["straight_line"]["label"]
    if worse:
        assert f"Worse than {label} in 1 cell of the maps" in page.text
        assert f"Worse than {label} in 1 of 3 cells of p [GeV] and p [GeV]" in page.text
        assert "p [GeV]: 1 – 10, p [GeV]: 10 – 100: 3.00 against 2.00" in page.text
    else:
        assert f"In no cell of the maps worse than {label}" in page.text
        assert f"In none of 3 cells of p [GeV] and p [GeV] worse than {label}" in page.text
    # value and share of the floor; an empty cell; the line where the floor may win
    first, second = (
        [cells[1:] for cells in page.cells if cells[0]["text"] == band and len(cells) == 3]
        for band in ("1 – 10", "10 – 100")
    )
    assert [[cell["text"] for cell in cells] for cells in first] == [["1.000.250", ""]]
    assert [cell["text"] for cell in second[0]] == ["3.001.50" if worse else "3.000.500", "2.000.250"]
    assert ["worse" in cell["class"] for cell in second[0]] == [worse, False]
