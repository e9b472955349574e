import itertools
import json
import math
import re
from typing import ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trackkeras import pages, report
from trackkeras.config import ModelOptions, Run
from trackkeras.errors import UserError
from trackkeras.pages import format_number
from trackkeras.report import write_report


@pytest.fixture(scope="module")
def complete(make_run):
    """A complete run folder and its report, made once."""
    run = make_run("mlp_medium-a")
    run.write()
    return run, write_report(run.path)


def assert_self_contained(page):
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    for tag, key, content in page.attributes:
        assert not key.startswith("on"), (tag, key)
        assert not re.search(r"https?:|//|javascript:|data:", content), (tag, key, content[:80])
    assert not re.search(r"@import|url\((?!#)", page.source)
    names = [content for _, key, content in page.attributes if key == "id"]
    assert len(names) == len(set(names))
    targets = {content[1:] for _, key, content in page.attributes if key.endswith("href")}
    targets |= set(re.findall(r"url\(#([^)]*)\)", page.source))
    assert targets
    assert targets <= set(names)


def test_report_is_one_well_formed_file(complete, parse_page):
    assert_self_contained(parse_page(complete[1]))


def test_report_names_every_sample_estimator_metric_and_band(complete, parse_page):
    run, path = complete
    text = parse_page(path).text
    for sample in run.metrics["samples"]:
        assert sample["description"] in text
        assert f"{sample['rows']:,} rows" in text
        for name in sample["metrics"]["network"]:
            assert name in text
        for estimator in sample["estimators"].values():
            assert estimator["label"] in text
        for band in sample["bands"]:
            assert band["label"] in text
            for low, high in itertools.pairwise(band["edges"]):
                assert f"{low:g} – {high:g}" in text
    assert "simulated" in text
    assert "external data" in text
    assert run.environment["versions"]["tensorflow"] in text


def test_report_draws_every_figure_inline_and_as_files(complete, parse_page):
    run, path = complete
    drawn = sorted(file.stem for file in (run.path / "plots").glob("*.png"))
    assert parse_page(path).tags.count("svg") == len(drawn)
    assert sorted(file.stem for file in (run.path / "plots").glob("*.svg")) == drawn
    for sample in run.metrics["samples"]:
        assert f"{sample['name']}_residuals" in drawn
        for name in sample["targets"]:
            assert {f"{sample['name']}_{name}_in_{axis}" for axis in ("p", "abs_dz")} <= set(drawn)
    assert "loss_curves" in drawn


def test_verdict_counts_targets_and_lost_bands(complete, parse_page):
    run, path = complete
    targets = [entry for sample in run.metrics["samples"] for entry in sample["targets"].values()]
    met = sum(entry["met"] for entry in targets)
    lost = sum(len(sample["worse_than_baseline"]) for sample in run.metrics["samples"])
    assert 0 < met < len(targets)
    assert lost > 0
    text = parse_page(path).text
    assert f"{met} of {len(targets)} targets met, {len(targets) - met} missed" in text
    assert f"Worse than a baseline in {lost} cases" in text


def test_accuracy_table_marks_the_smallest_and_the_network(small_run, parse_page):
    page = parse_page(write_report(small_run.write()))
    names = list(small_run.sample["metrics"])
    for metric, definition in small_run.metrics["metric_definitions"].items():
        cells = next(row for row in page.cells if row[0]["text"].strip().endswith(metric))[1:]
        values = {name: small_run.sample["metrics"][name][metric]["value"] for name in names}
        best = min(values, key=values.get)
        for name, cell in zip(names, cells, strict=False):
            assert ("best" in cell["class"]) == (name == best)
            assert ("network" in cell["class"]) == (name == "network")
            shown = cell["text"].split()[0]
            if values[name] >= 1e-3:
                assert float(shown.replace(",", "")) == pytest.approx(values[name], rel=6e-3)
        assert ("missed" in cells[-1]["text"]) == (definition["target"] is not None)


def test_lost_bands_are_marked_where_they_are(small_run, parse_page):
    small_run.sample["worse_than_baseline"] = [
        {"axis": "p", "band": band, "metric": "pos_mean_mm", "baseline": "rk4"}
        for band in ([1, 2], [2, 5], [20, 50])
    ]
    page = parse_page(write_report(small_run.write()))
    assert "Runge-Kutta 4, 3 steps in pos_mean_mm ; p [GeV]: 1 – 5, 20 – 50" in page.text
    marked = [row[0]["text"].strip() for row in page.cells if any("worse" in cell["class"] for cell in row)]
    assert marked == ["1 – 2", "2 – 5", "20 – 50"]


def test_a_run_without_fault_is_said_to_be_good(small_run, parse_page):
    small_run.sample["worse_than_baseline"] = []
    small_run.sample["targets"]["pos_mean_mm"] |= {"limit": 100.0, "met": True}
    page = parse_page(write_report(small_run.write()))
    assert "1 of 1 targets met." in page.text
    assert "Not worse than any baseline in any band" in page.text
    assert not {"missed", "warning"} & {content for _, key, content in page.attributes if key == "class"}
    assert ("section", "class", "verdict good") in page.attributes


def test_what_was_not_evaluated_is_not_called_good(small_run, parse_page):
    del small_run.sample["worse_than_baseline"]
    small_run.sample["targets"]["pos_mean_mm"] = {"limit": 0.1, "value": None, "met": None}
    page = parse_page(write_report(small_run.write()))
    assert "0 of 1 targets met, 1 missed" in page.text
    assert "was not evaluated on every sample" in page.text
    assert ("section", "class", "verdict") in page.attributes


@pytest.mark.parametrize("part", ["config", "dataset", "history", "environment"])
def test_a_missing_part_is_named(small_run, parse_page, part):
    page = parse_page(write_report(small_run.write(without=[part])))
    assert f"{part}.json is missing" in page.text
    assert_self_contained(page)


def test_missing_residuals_and_bands_are_named(small_run, parse_page):
    del small_run.sample["bands"]
    page = parse_page(write_report(small_run.write()))
    assert "No residuals of this sample" in page.text
    assert "No bands were evaluated" in page.text


def test_empty_bands_and_unknown_metrics_are_shown(small_run, parse_page):
    small_run.sample["worse_than_baseline"] = []
    band = small_run.sample["bands"][0]["metrics"]
    for name, cells in band.items():
        cells["pos_mean_mm"][0] = None
        cells["pos_mean_mm"][1] = {"value": math.nan, "low": math.nan, "high": math.nan}
        small_run.sample["metrics"][name]["purity_of_nothing"] = {"value": 0.5, "low": None, "high": None}
    page = parse_page(write_report(small_run.write()))
    assert "purity_of_nothing" in page.text
    for start in ("0.5 – 1", "1 – 2"):
        assert [cell["text"].strip() for cell in page.row(start)[2:]] == ["–"] * len(band)
        assert not any("best" in cell["class"] for cell in page.row(start))


def test_hostile_names_stay_text_and_inside_the_folder(tmp_path, small_run, parse_page):
    evil = "<script>alert('$x_')</script>\"><img src=x onerror=y> {{ 7 * 7 }}"
    small_run.metrics |= {"run": evil, "preset": evil, "dataset": {evil: evil}}
    small_run.config |= {"preset": evil, "model": {evil: evil}}
    small_run.environment = {evil: evil}
    sample = small_run.sample
    sample |= {"name": f"../../outside{evil}", "description": evil}
    sample["estimators"]["network"]["label"] = evil
    sample["bands"][0]["label"] = evil
    for values in sample["metrics"].values():
        values[evil] = {"value": 1.0, "low": 0.9, "high": 1.1}
    page = parse_page(write_report(small_run.write()))
    assert_self_contained(page)
    assert " ".join(evil.split()) in page.text
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and small_run.path not in path.parents]
    assert not outside
    assert {path.parent.name for path in small_run.path.rglob("*.png")} == {"plots"}


class ToyModel(ModelOptions):
    """Options of a model with and without defaults."""

    kind: str = "toy"
    hidden: list[int]
    activation: str = "relu"
    depth: int = 2


class ToyTask:
    """What the report asks of a task."""

    options: ClassVar[type[ModelOptions]] = ToyModel


def test_configuration_shows_what_differs_from_the_defaults(small_run, parse_page, monkeypatch):
    monkeypatch.setattr(report, "find_task", lambda domain, kind: ToyTask)
    small_run.config["model"] = {"kind": "toy", "hidden": [8], "activation": "silu", "depth": 2}
    page = parse_page(write_report(small_run.write()))
    assert [cell["text"] for cell in page.row("model.activation")] == ["model.activation", "silu", "relu"]
    assert [cell["text"] for cell in page.row("data.batch_size")] == ["data.batch_size", "4096", "2048"]
    assert [cell["text"] for cell in page.row("model.hidden")] == ["model.hidden", "[8]", "none"]
    assert len(page.row("model.depth")) == 2  # at its default: no third column
    assert len(page.row("training.learning_rate")) == 2


def test_command_repeats_the_difference_to_the_preset(small_run, parse_page, monkeypatch):
    preset = Run(domain="toy", preset="toy_medium", model=ToyModel(hidden=[8]))
    monkeypatch.setattr(report, "load_run", lambda name: preset)
    small_run.config = preset.model_dump(mode="json")
    small_run.config["model"]["hidden"] = [16, 16]
    small_run.config["training"]["seed"] = 7
    text = parse_page(write_report(small_run.write())).text
    assert (
        "trackkeras train toy_medium --data data/toy --name mlp_medium-a "
        "--set 'model.hidden=[16, 16]' --set training.seed=7 trackkeras evaluate runs/mlp_medium-a" in text
    )


def test_same_folder_gives_the_same_page(small_run):
    path = write_report(small_run.write())
    before = path.read_bytes()
    assert write_report(small_run.path).read_bytes() == before


def test_no_run_folder_or_no_metrics_is_refused(tmp_path, small_run):
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path / "empty")
    with pytest.raises(UserError, match="trackkeras evaluate"):
        write_report(small_run.write(without=["metrics"]))


@pytest.mark.parametrize("name", ["metrics.json", "config.json", "history.json", "residuals.npz"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"PK\x03\x04broken"])
def test_a_damaged_file_is_named_and_the_old_report_kept(small_run, name, damage):
    path = small_run.write() / "report.html"
    path.write_text("old")
    (small_run.path / name).write_bytes(damage)
    with pytest.raises(UserError, match=re.escape(name)) as caught:
        write_report(small_run.path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"


@pytest.mark.parametrize("key", ["run", "parameters", "samples", "metric_definitions"])
def test_incomplete_metrics_are_named(small_run, key):
    del small_run.metrics[key]
    with pytest.raises(UserError, match=key):
        write_report(small_run.write())
    small_run.metrics[key] = []
    if key == "samples":
        with pytest.raises(UserError, match="no sample"):
            write_report(small_run.write())


@example(value=5e-324)
@example(value=9.9999e-4)
@given(value=st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_written_numbers_read_back_to_three_digits(value):
    text = re.sub(r" × 10<sup>(.*)</sup>", r"e\1", str(format_number(value)))
    read = float(text.replace(",", "").replace("−", "-"))
    assert math.isclose(read, value, rel_tol=5.1e-3)


@example(low=-5e-324, high=5e-324)
@given(low=st.floats(-1e-4, 1e-4), high=st.floats(-1e-4, 1e-4))
def test_written_intervals_read_back_to_a_percent_of_the_larger_end(low, high):
    text = str(pages._format_interval({"low": low, "high": high})).replace("−", "-")
    found = re.fullmatch(r"\((.*) … (.*)\) × 10<sup>(.*)</sup>", text)
    read = [float(f"{end}e{found[3]}") for end in found.groups()[:2]] if found else [0.0, 0.0]
    assert read == pytest.approx([low, high], abs=0.006 * max(abs(low), abs(high)))


@given(count=st.integers(0, 10**15))
def test_counts_are_written_in_full(count):
    assert int(str(format_number(count)).replace(",", "")) == count


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_no_value_is_a_dash(value):
    assert format_number(value) == "–"


def test_metrics_of_the_fixture_are_plain_json(small_run):
    assert json.loads(json.dumps(small_run.metrics)) == small_run.metrics
