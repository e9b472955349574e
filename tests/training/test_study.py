"""Lists of experiments: what they say, which are chosen, and what a repeated call does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trackkeras.comparison import comparison_table
from trackkeras.config import flatten
from trackkeras.errors import UserError
from trackkeras.presets import preset_files
from trackkeras.study import check_study, choose, load_study, run_study, study_files

SMALL = ("model.hidden=[4]", "training.epochs=1", "data.train_rows=512", "data.batch_size=256")


@pytest.mark.parametrize("study", study_files())
def test_shipped_experiments_stand(study: str) -> None:
    experiments = load_study(study)
    assert {e.options.preset or e.name for e in experiments} <= set(preset_files())
    names = {name for e in experiments for name in (e.options.sample, *e.options.also) if name}
    check_study(experiments, dict.fromkeys(names, Path()))
    for experiment in experiments:
        values = flatten(experiment.run().model_dump(mode="json"))
        assert {key: values[key] for key in experiment.options.set} == experiment.options.set


def test_loss_weights_are_those_of_the_ablation() -> None:
    chosen = choose(load_study("extrapolation"), ["loss_weights"])
    models = [experiment.run().model.model_dump() for experiment in chosen]
    weights = [tuple(model[f"lambda_{name}"] for name in ("data", "pde", "ic")) for model in models]
    assert weights == [(1, 0, 0), (1, 0.01, 0.01), (1, 1, 1), (1, 10, 10), (0.1, 1, 1)]
    assert all(model["size"] == "medium" for model in models)


def test_experiments_are_chosen_by_name_and_group() -> None:
    experiments = load_study("extrapolation")
    assert choose(experiments, []) == experiments
    base = choose(experiments, ["base"])
    assert len(base) == 12
    assert {e.name for e in choose(experiments, ["*_tiny", "seeds"])} >= {"pinn_tiny", "mlp_small_seed_2"}
    assert choose(experiments, ["base", "base"]) == base
    with pytest.raises(UserError, match="'bse'; did you mean 'base'"):
        choose(experiments, ["bse"])


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: [mlp_tiny]", "group 'base' must map names to experiments"),
        ("base: {mlp_tiny: {sets: {a: 1}}}", "base.mlp_tiny.*sets"),
        ("a: {mlp_tiny: }\nb: {mlp_tiny: }", "two experiments are named 'mlp_tiny'"),
    ],
)
def test_lists_that_do_not_stand_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_study(write(tmp_path / "list.yaml", text))


def test_all_is_checked_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study named 'nothing'; there are: .*extrapolation"):
        load_study("nothing")
    wrong = load_study(write(tmp_path / "a.yaml", "base: {mlp_tiny: , odd: {preset: mlp_tinny}}"))
    with pytest.raises(
        UserError, match="experiment 'odd': no preset named 'mlp_tinny'; did you mean 'mlp_tiny'"
    ):
        check_study(wrong, {})
    lacking = load_study(write(tmp_path / "b.yaml", "base: {mlp_tiny: {also: [low_p]}}"))
    with pytest.raises(
        UserError, match="needs the dataset 'low_p': give it with --sample low_p=DIR, made by"
    ):
        check_study(lacking, {})


LIST = """
base:
  mlp_tiny:
  diverges: {preset: mlp_tiny, set: {training.learning_rate: 1.0e+30, training.clip_norm: null}}
  pinn_elsewhere: {preset: pinn_tiny, set: {model.n_collocation: 1}, sample: other, also: [same]}
"""


def test_a_study_goes_on_after_a_failure_and_skips_what_is_done(
    dataset: Path, tmp_path: Path, no_experiment_data: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pages and their figures have tests of their own, and cost more than all else here
    monkeypatch.setattr("trackkeras.report.write_report", lambda path: (path / "report.html").touch())
    experiments = load_study(write(tmp_path / "list.yaml", LIST))
    runs, samples = tmp_path / "runs", {"other": dataset, "same": dataset}

    def go(**options: bool) -> list[tuple[str, str]]:
        results = run_study(
            experiments, dataset, runs, samples=samples, assignments=SMALL, limit=300, **options
        )
        return [(result.experiment.name, result.outcome) for result in results]

    assert go() == [("mlp_tiny", "done"), ("diverges", "failed"), ("pinn_elsewhere", "done")]
    assert [name for name, outcome in go() if outcome == "failed"] == [name for name, _ in go()], "they exist"
    metrics = json.loads((runs / "pinn_elsewhere" / "metrics.json").read_text())
    assert [sample["name"] for sample in metrics["samples"]] == ["test", "same"]
    assert (runs / "pinn_elsewhere" / "report.html").exists()
    (runs / "mlp_tiny" / "metrics.json").unlink()
    resumed = go(resume=True)
    assert resumed == [("mlp_tiny", "done"), ("diverges", "failed"), ("pinn_elsewhere", "finished before")]
    table = comparison_table([runs])
    assert {row["run"] for row in table if row["run"]} == {"mlp_tiny", "pinn_elsewhere"}
    # the maps hold every row once, and the trajectory starts where it must
    for chart in metrics["samples"][0]["maps"]:
        assert sum(map(sum, chart["rows"])) == 300
    errors, bends = metrics["curves"]
    assert errors["lines"][0]["y"][0] is None, "no error at z0, by construction"
    assert all(value > 0 for value in errors["lines"][0]["y"][1:])
    assert {line["kind"] for line in bends["lines"]} == {"network", "reference"}
    assert all(line["y"][-1] == pytest.approx(1.0) for line in bends["lines"] if line["kind"] == "reference")
