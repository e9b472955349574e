import copy
import itertools

import pytest

from trackkeras.comparison import comparison_table, write_comparison
from trackkeras.errors import UserError


@pytest.fixture
def runs(tmp_path, make_run):
    """Three runs on the same rows whose networks differ by known factors."""
    made = {}
    for name, factor, parameters in (("large", 1.0, 100_000), ("small", 3.0, 5_000), ("middle", 2.0, 20_000)):
        run = make_run(name, tmp_path).shrink()
        run.metrics["parameters"] = parameters
        for cells in run.sample["metrics"]["network"].values():
            for key in cells:
                cells[key] *= factor
        made[name] = run
    return made


def write(runs):
    return [run.write() for run in runs.values()]


def test_table_is_ordered_and_has_each_baseline_once(runs):
    table = comparison_table(write(runs))
    values = [row["pos_mean_mm"] for row in table]
    assert values == sorted(values)
    assert [row["run"] for row in table if row["run"]] == ["large", "middle", "small"]
    labels = [row["label"] for row in table if row["kind"] == "baseline"]
    assert sorted(labels) == ["Runge-Kutta 4, 3 steps", "parabola", "straight line"]
    assert len({tuple(row) for row in table}) == 1  # the same columns in every row


def test_table_does_not_depend_on_the_order_of_the_runs(runs):
    folders = write(runs)
    tables = [comparison_table(order) for order in itertools.permutations(folders)]
    assert all(table == tables[0] for table in tables)


def test_table_can_be_ordered_by_another_metric(runs):
    cells = runs["large"].sample["metrics"]["network"]["slope_mean"]
    cells |= {"value": None, "low": None, "high": None}
    table = comparison_table(write(runs), sort="slope_mean")
    assert table[-1]["run"] == "large"  # no value comes last
    values = [row["slope_mean"] for row in table[:-1]]
    assert values == sorted(values)


def test_markdown_holds_the_table_in_its_order(runs, tmp_path):
    runs["middle"].sample["metrics"]["network"]["pos_mean_mm"] |= {"value": None, "low": None, "high": None}
    runs["large"].sample["floor"] = {
        "baseline": "straight_line",
        "maps": [{"axes": ["p", "dz"], "metric": "pos_mean_mm", "cells": 7, "worse": [{}, {}]}],
    }
    folders = write(runs)
    text = write_comparison(folders, tmp_path / "comparison.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    known = comparison_table(folders)
    assert [row[0] for row in rows[2:]] == [
        f"`{row['run']}`" if row["run"] else row["label"] for row in known
    ]
    for row, expected in zip(rows[2:], known, strict=True):
        value = expected["pos_mean_mm"]
        assert row[4] == "-" if value is None else row[4].startswith(f"{value:.3g} [")
        assert row[-1] == ("2 of 7" if expected["run"] == "large" else "")
    assert rows[-1][0] == "`middle`"
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_page_holds_every_run_and_figure(runs, tmp_path, parse_page):
    page = parse_page(write_comparison(write(runs), tmp_path / "out" / "comparison.html"))
    for name, run in runs.items():
        cells = page.row(name)
        assert f"{run.metrics['parameters']:,}" in cells[1]["text"]
    assert page.tags.count("svg") == 4  # against parameters and operations, convergence, overfitting
    assert not {"script", "link", "img"} & set(page.tags)
    assert sum("best" in cell["class"] for row in page.cells for cell in row) == 4  # one per metric


def change_rows(run):
    run.sample["rows"] += 1


def change_dataset(run):
    run.metrics["dataset"]["config_hash"] = "fedcba9876543210"


def change_cuts(run):
    run.sample["description"] = "other cuts"


@pytest.mark.parametrize("change", [change_rows, change_dataset, change_cuts])
def test_other_rows_are_never_put_beside_each_other(change, runs, tmp_path, parse_page):
    change(runs["middle"])
    folders = write(runs)
    assert {row["run"] for row in comparison_table(folders)} == {"large", "small", None}
    text = parse_page(write_comparison(folders, tmp_path / "comparison.html")).text
    assert "Not compared: test of middle : other rows than in large, small" in text
    change(runs["middle"])
    runs["small"].metrics["domain"] = "toy"
    with pytest.raises(UserError, match=r"share no sample with the same rows \(test of large: other rows"):
        comparison_table([folders[0], folders[2]])


def test_a_digest_of_the_rows_decides_where_it_is_given(runs):
    for run in runs.values():
        run.sample["rows_digest"] = "same"
    change_dataset(runs["middle"])
    assert len(comparison_table(write(runs))) == 6
    runs["small"].sample["rows_digest"] = "other"
    assert {row["run"] for row in comparison_table(write(runs))} == {"large", "middle", None}


def test_rows_are_the_same_under_another_name(runs, tmp_path, parse_page):
    """One run is tested on the rows of another, which calls them its own."""
    for name, run in runs.items():
        run.sample["rows_digest"] = name
    borrowed = copy.deepcopy(runs["small"].sample) | {"name": "low_p"}
    runs["large"].metrics["samples"].append(borrowed)
    table = comparison_table(write(runs))
    assert {row["sample"] for row in table} == {"low_p = test"}
    assert sorted(row["run"] for row in table if row["run"]) == ["large", "small"]
    text = parse_page(write_comparison(write(runs), tmp_path / "comparison.html")).text
    assert "test of middle : other rows than in large, small" in text


def test_two_samples_of_one_name_are_told_apart(runs, make_run, tmp_path):
    other = make_run("other", tmp_path).shrink()
    runs["other"] = other
    for name, run in runs.items():
        run.sample["rows_digest"] = "a" if name in ("large", "small") else "b"
    table = comparison_table(write(runs))
    assert [row["sample"] for row in table] == ["test (1)"] * 5 + ["test (2)"] * 5


def test_samples_of_some_runs_are_compared_among_them(runs, tmp_path, parse_page):
    extra = copy.deepcopy(runs["small"].sample) | {"name": "real_field", "description": "other rows"}
    for name in ("small", "middle"):
        runs[name].metrics["samples"].append(extra)
    runs["large"].metrics["samples"].append(extra | {"name": "alone", "description": "nobody else's"})
    folders = write(runs)
    table = comparison_table(folders)
    assert {row["run"] for row in table if row["sample"] == "real_field"} == {"small", "middle", None}
    assert table[0]["sample"] == "test", "most runs come first"
    text = parse_page(write_comparison(folders, tmp_path / "comparison.html")).text
    assert "Not compared: alone of large : evaluated by no other run" in text


def test_a_folder_of_runs_is_compared_whole(runs, tmp_path, parse_page, make_run):
    folders = write(runs)
    make_run("unfinished", tmp_path).shrink().write(without=("metrics",))
    assert comparison_table([tmp_path]) == comparison_table(folders)
    assert comparison_table([tmp_path / "large", tmp_path / "small"]) != comparison_table(folders)
    text = parse_page(write_comparison([tmp_path], tmp_path / "all.html")).text
    assert "unfinished : not evaluated; run `trackkeras evaluate" in text
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is not a run folder"):
        comparison_table([tmp_path / "empty"])


def test_wrong_requests_are_refused(runs, tmp_path):
    folders = write(runs)
    with pytest.raises(UserError, match="did you mean 'slope_mean'"):
        comparison_table(folders, sort="slope_men")
    with pytest.raises(UserError, match="at least two runs, received 1"):
        comparison_table(folders[:1])
    with pytest.raises(UserError, match="once"):
        comparison_table([folders[0], folders[0]])
    with pytest.raises(UserError, match="is a folder"):
        write_comparison(folders, tmp_path)
    runs["small"].metrics["domain"] = "another"
    with pytest.raises(UserError, match="one domain"):
        comparison_table(write(runs))


def test_a_run_without_cost_or_baselines_can_be_compared(runs, tmp_path, parse_page):
    for run in runs.values():
        run.sample["estimators"] = {"network": {"label": "net", "kind": "network"}}
    page = parse_page(write_comparison(write(runs), tmp_path / "comparison.html"))
    assert page.tags.count("svg") == 3  # no operations to draw against
