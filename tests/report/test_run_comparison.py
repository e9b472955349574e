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


def test_page_holds_every_run_and_figure(runs, tmp_path, parse_page):
    page = parse_page(write_comparison(write(runs), tmp_path / "out" / "comparison.html"))
    for name, run in runs.items():
        cells = page.row(name)
        assert f"{run.metrics['parameters']:,}" in cells[1]["text"]
    assert page.tags.count("svg") == 2  # against parameters and against operations
    assert not {"script", "link", "img"} & set(page.tags)
    assert sum("best" in cell["class"] for row in page.cells for cell in row) == 4  # one per metric


def change_rows(run):
    run.sample["rows"] += 1


def change_dataset(run):
    run.metrics["dataset"]["config_hash"] = "fedcba9876543210"


def change_cuts(run):
    run.sample["description"] = "other cuts"


@pytest.mark.parametrize("change", [change_rows, change_dataset, change_cuts])
def test_other_rows_are_refused(runs, tmp_path, change):
    change(runs["middle"])
    folders = write(runs)
    with pytest.raises(UserError, match="other rows in middle than in large"):
        comparison_table(folders)
    with pytest.raises(UserError, match="no sample with the same rows"):
        write_comparison(folders, tmp_path / "comparison.html")
    assert not (tmp_path / "comparison.html").exists()


def test_a_digest_of_the_rows_decides_where_it_is_given(runs):
    for run in runs.values():
        run.sample["rows_digest"] = "same"
    change_dataset(runs["middle"])
    assert len(comparison_table(write(runs))) == 6
    runs["small"].sample["rows_digest"] = "other"
    with pytest.raises(UserError, match="other rows in small"):
        comparison_table(write(runs))


def test_samples_of_some_runs_only_are_left_out_and_named(runs, tmp_path, parse_page):
    extra = copy.deepcopy(runs["small"].sample) | {"name": "real_field"}
    runs["small"].metrics["samples"].append(extra)
    folders = write(runs)
    assert {row["sample"] for row in comparison_table(folders)} == {"test"}
    text = parse_page(write_comparison(folders, tmp_path / "comparison.html")).text
    assert "Not compared: real_field : not evaluated by large, middle" in text


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
    assert page.tags.count("svg") == 1  # no operations to draw against
