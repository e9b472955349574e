"""The oracles without training: a made-up score for each proposal, and a kill after every step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tfrecords_tools.files import write_json
from tuner.oracles import FAILURES, SCORE, STARTS, SearchOracle, make_oracle
from tuner.plan import Plan
from tuner.records import COMPLETED, FAILED, read_record, remove_losers, trial_folder, write_record
from tuner.space import settings

SPACE = {
    "model.activation": {"choice": ["silu", "tanh"]},
    "training.learning_rate": {"log": [1e-4, 1e-2]},
    "model.form": {
        "choice": ["residual", "absolute"],
        "when": {"residual": {"model.magnet_width": {"float": [1500, 1900], "step": 200}}},
    },
}
TRIALS = {"random": 8, "bayesian": 4, "grid": 8, "hyperband": 12}


def make_plan(oracle: str, **options: Any) -> Plan:
    defaults = {"space": SPACE, "trials": TRIALS[oracle], "epochs": 9, "seed": 5}
    fixed = {
        "preset": "mlp_tiny",
        "search": "test",
        "objectives": {"pos_95_mm": 1},
        "data": "",
        "data_hash": "",
    }
    return Plan(oracle=oracle, **fixed, **{**defaults, **options})


def made_up_score(chosen: dict[str, Any], epochs: int | None) -> float:
    distance = abs(math.log10(chosen["training.learning_rate"]) + 2.7)
    return distance + (chosen["model.activation"] == "silu") + 1.0 / (epochs or 9)


def chosen_by(plan: Plan, trial: Any) -> dict[str, Any]:
    values = trial.hyperparameters.values
    return settings(plan.parsed_space, values) | {"epochs": values.get("tuner/epochs")}


def finish(oracle: SearchOracle, plan: Plan, trial: Any) -> None:
    chosen = chosen_by(plan, trial)
    record = {"trial": trial.trial_id, "reason": None, "settings": chosen}
    if trial.trial_id.endswith("3"):  # one of them fails
        write_record(oracle.folder, record | {"status": FAILED, "reason": "loss is not finite"})
        trial.status = "FAILED"
    else:
        score = made_up_score(chosen, chosen["epochs"])
        write_record(oracle.folder, record | {"status": COMPLETED, "score": score})
        oracle.update_trial(trial.trial_id, {SCORE: score})
        trial.status = "COMPLETED"
    oracle.end_trial(trial)


def search(plan: Plan, folder: Path, *, killed: bool) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
    """Run a whole search; when `killed`, every step happens in a new process and each trial dies once."""
    folder.mkdir()
    oracle = make_oracle(plan, folder)
    found = []
    while True:
        trial = oracle.create_trial("w")
        if trial.status == "STOPPED":
            return found, oracle.ended_because
        found.append((trial.trial_id, chosen_by(plan, trial)))
        if killed:
            oracle = make_oracle(plan, folder)
            again = oracle.create_trial("another")
            assert (again.trial_id, chosen_by(plan, again)) == found[-1], "the lost trial is given out again"
            trial = again
        finish(oracle, plan, trial)
        if killed:
            oracle = make_oracle(plan, folder)


@pytest.mark.parametrize("oracle", TRIALS)
def test_a_search_killed_at_every_step_makes_the_same_trials(oracle: str, tmp_path: Path) -> None:
    plan = make_plan(oracle)
    whole, why = search(plan, tmp_path / "whole", killed=False)
    broken, why_broken = search(plan, tmp_path / "broken", killed=True)
    assert broken == whole
    assert why_broken == why == "all trials done"
    assert len({name for name, _ in whole}) == len(whole) == TRIALS[oracle]
    distinct = {json.dumps(chosen, sort_keys=True) for _, chosen in whole}
    assert len(distinct) == len(whole), "no combination twice"
    first = whole[0][1]
    assert (first["model.activation"], first["training.learning_rate"]) == ("silu", 1e-3), "the preset itself"
    state = json.loads((tmp_path / "broken" / "oracle.json").read_text())
    assert set(state["starts"].values()) == {2}
    if oracle in ("random", "hyperband"):
        other, _ = search(plan.model_copy(update={"seed": 6}), tmp_path / "other", killed=False)
        assert other != whole, "another seed"


def test_hyperband_promotes_the_best_with_more_epochs(tmp_path: Path) -> None:
    plan = make_plan("hyperband", trials=None)
    found, why = search(plan, tmp_path / "h", killed=False)
    assert why == "nothing left to try"
    epochs = [chosen["epochs"] for _, chosen in found]
    assert set(epochs) == {1, 3, 9}
    trials = make_oracle(plan, tmp_path / "h").trials
    promoted = [trial.hyperparameters.values for trial in trials.values()
                if "tuner/trial_id" in trial.hyperparameters.values]  # fmt: skip
    assert promoted
    for values in promoted:
        before = trials[values["tuner/trial_id"]].hyperparameters.values
        assert values["tuner/epochs"] > before["tuner/epochs"]
        assert values["training.learning_rate"] == before["training.learning_rate"]


def test_the_bayesian_oracle_leaves_the_random_draws(tmp_path: Path) -> None:
    """And not for the neighbourhood of a failed trial, which counts as the worst one."""
    plan = make_plan("bayesian", trials=5)
    bayesian, _ = search(plan, tmp_path / "b", killed=False)
    random, _ = search(plan.model_copy(update={"oracle": "random"}), tmp_path / "r", killed=False)
    assert bayesian[:3] == random[:3], "three to begin with"
    assert bayesian[3] != random[3]
    failed, after = bayesian[3][1], bayesian[4][1]
    assert {**failed, "training.learning_rate": 0} != {
        **after,
        "training.learning_rate": 0,
    } or not math.isclose(failed["training.learning_rate"], after["training.learning_rate"], rel_tol=0.05)


def test_the_grid_is_complete(tmp_path: Path) -> None:
    space = {key: SPACE[key] for key in ("model.activation", "model.form")}
    plan = make_plan("grid", trials=None, space={**space, "training.learning_rate": 1e-3})
    found, why = search(plan, tmp_path / "g", killed=True)
    assert why == "nothing left to try"
    forms = [(c["model.activation"], c["model.form"], c.get("model.magnet_width")) for _, c in found]
    wanted = {(a, "residual", w) for a in ("silu", "tanh") for w in (1500.0, 1700.0, 1900.0)}
    assert set(forms) == wanted | {("silu", "absolute", None), ("tanh", "absolute", None)}
    assert len(forms) == 8
    assert forms[0] == ("silu", "residual", 1700.0)


def test_a_trial_whose_process_always_dies_is_given_up(tmp_path: Path) -> None:
    plan = make_plan("random", trials=2)
    for _ in range(STARTS):
        assert make_oracle(plan, tmp_path).create_trial("w").trial_id == "0"
    oracle = make_oracle(plan, tmp_path)
    assert oracle.create_trial("w").trial_id == "1"
    record = read_record(tmp_path, "0")
    assert record is not None
    assert f"died {STARTS} times" in record["reason"]
    assert record["settings"]["training.learning_rate"] == 1e-3
    assert oracle.trials["0"].status == "FAILED"


def test_a_long_trial_may_be_interrupted_often_if_it_gets_on(tmp_path: Path) -> None:
    plan = make_plan("random", trials=2)
    for epoch in range(1, 3 * STARTS):
        assert make_oracle(plan, tmp_path).create_trial("w").trial_id == "0"
        trial_folder(tmp_path, "0").mkdir(parents=True, exist_ok=True)
        write_json(trial_folder(tmp_path, "0") / "state.json", {"epoch": epoch})


def test_what_a_dead_worker_left_goes_to_another_and_nobody_leaves_before(tmp_path: Path) -> None:
    plan = make_plan("random", trials=2)
    oracle = make_oracle(plan, tmp_path)
    first, second = oracle.create_trial("a"), oracle.create_trial("b")
    finish(oracle, plan, first)
    assert oracle.create_trial("a").status == "IDLE", "b may still die"
    assert oracle.release("b") == second.trial_id
    again = oracle.create_trial("a")
    assert again.trial_id == second.trial_id
    finish(oracle, plan, again)
    finish(oracle, plan, second)  # told twice
    assert oracle.create_trial("a").status == "STOPPED"
    assert oracle.end_order == ["0", "1"]
    assert not oracle.tuner_ids


def test_budget_and_failures_in_a_row_end_a_search(tmp_path: Path) -> None:
    spent = make_oracle(make_plan("random", budget_s=1e-9), tmp_path / "a")
    assert spent.create_trial("w").status == "STOPPED"
    assert spent.ended_because == "budget of 1e-09 s used"
    plan = make_plan("random", trials=50)
    oracle = make_oracle(plan, tmp_path / "b")
    for number in range(FAILURES):
        trial = oracle.create_trial("w")
        write_record(oracle.folder, {"trial": trial.trial_id, "status": FAILED, "reason": "no disk"})
        trial.status = "FAILED"
        oracle.end_trial(trial)
        assert len(oracle.trials) == number + 1
    assert oracle.create_trial("w").status == "STOPPED"
    assert oracle.ended_because == f"{FAILURES} trials in a row failed"
    assert oracle.trials["00"].message == "no disk"


def test_a_state_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan("random")
    oracle = make_oracle(plan, tmp_path)
    oracle.create_trial("w")
    before = (tmp_path / "oracle.json").read_bytes()
    monkeypatch.setattr(
        "tuner.oracles.write_json", lambda path, value: write_json(path, {**value, "x": object()})
    )
    with pytest.raises(TypeError):
        oracle.create_trial("v")
    assert (tmp_path / "oracle.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["oracle.json"]


def test_only_the_best_models_stay(tmp_path: Path) -> None:
    records = [
        {"trial": str(number), "status": COMPLETED, "score": score} for number, score in enumerate((3, 1, 2))
    ]
    records.append({"trial": "3", "status": FAILED, "reason": "NaN"})
    for record in records:
        folder = trial_folder(tmp_path, record["trial"])
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "tensorboard").mkdir()
        for name in ("best.keras", "checkpoints/epoch_0001.keras", "history.json"):
            (folder / name).write_text("x")
    unfinished = trial_folder(tmp_path, "4") / "checkpoints"
    unfinished.mkdir(parents=True)
    for _ in range(2):
        remove_losers(tmp_path, records, keep=2)
        assert sorted(path.parent.name for path in tmp_path.glob("trials/*/best.keras")) == ["1", "2"]
        assert [path.parent.name for path in tmp_path.glob("trials/*/checkpoints")] == ["4"]
        assert not list(tmp_path.glob("trials/*/tensorboard"))
        assert len(list(tmp_path.glob("trials/*/history.json"))) == 4
