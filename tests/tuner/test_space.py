"""The grammar of search spaces: what is drawn is allowed, what a run would refuse is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras_tuner
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.config import load_yaml
from trackkeras.domain import domain_names
from trackkeras.errors import UserError
from trackkeras.presets import load_run, preset_files
from tuner.plan import GENERAL, Plan, SearchOptions, load_search, search_files
from tuner.space import EXTENDS, Parameter, Space, declare, leaves, parse_space
from tuner.space import settings as settings_of
from tuner.tune import make_plan

EVERY_KIND = {
    "extends": {"choice": ["mlp_small", "mlp_tiny"]},
    "model.hidden": {"list": {"choice": [16, 32, 64]}, "length": [1, 3]},
    "model.loss_floor_mm": {"float": [0.5, 2.0]},
    "training.learning_rate": {"log": ["1e-4", "1e-2"]},
    "training.ema": {"choice": [None, 0.9, 0.99]},
    "training.epochs": {"int": [3, 9], "step": 3},
    "data.batch_size": {"int": [256, 4096], "scale": "log", "step": 2},
    "training.jit_compile": {"boolean": True},
    "training.clip_norm": None,
    "training.optimizer": {
        "choice": ["adamw", "soap"],
        "when": {
            "adamw": {
                "training.weight_decay": {"log": [1e-6, 1e-2]},
                "model.activation": {
                    "choice": ["silu", "tanh"],
                    "when": {"tanh": {"training.warmup_epochs": {"float": [0, 2], "step": 0.5}}},
                },
            },
            "soap": {"training.weight_decay": 0.0},
        },
    },
}


def draw(space: Space, seed: int, start: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return settings as KerasTuner's random oracle draws them; its defaults for seed 0."""
    declared = keras_tuner.HyperParameters()
    declare(space, declared, start or {})
    hp = keras_tuner.HyperParameters()
    for index, parameter in enumerate(declared.space):
        hp.merge([parameter])
        if hp.is_active(parameter):
            hp.values[parameter.name] = (
                parameter.random_sample(1000 * seed + index) if seed else parameter.default
            )
    return settings_of(space, hp.values)


@given(st.integers(1, 10_000))
@settings(max_examples=60, deadline=None)
def test_what_is_drawn_is_allowed_and_children_follow_their_parents(seed: int) -> None:
    space = parse_space(EVERY_KIND, "test")
    found = draw(space, seed)
    parameters = leaves(space)
    for key, value in found.items():
        if key in parameters and not (
            key == "training.weight_decay" and found["training.optimizer"] == "soap"
        ):
            assert parameters[key].allows(value), key
    assert found["training.clip_norm"] is None
    adamw = found["training.optimizer"] == "adamw"
    assert ("model.activation" in found) == adamw
    assert adamw or found["training.weight_decay"] == 0.0
    assert ("training.warmup_epochs" in found) == (found.get("model.activation") == "tanh")
    assert 1 <= len(found["model.hidden"]) <= 3
    assert found["data.batch_size"] in (256, 512, 1024, 2048, 4096)
    rate = found["training.learning_rate"]
    assert rate == float(f"{rate:.6g}"), "a preset is written in six digits"


def test_every_value_occurs() -> None:
    space = parse_space(EVERY_KIND, "test")
    drawn = [draw(space, seed) for seed in range(1, 300)]
    for key, parameter in leaves(space).items():
        seen = {str(found[key]) for found in drawn if key in found}
        if parameter.kind in ("choice", "boolean"):
            assert seen >= {str(value) for value in parameter.values}, key
    assert {len(found["model.hidden"]) for found in drawn} == {1, 2, 3}
    assert {found["training.epochs"] for found in drawn} == {3, 6, 9}


def test_defaults_are_the_presets_own_where_the_space_has_them() -> None:
    start = {
        "extends": "mlp_tiny",
        "model.hidden": (64, 16),
        "model.loss_floor_mm": 5.0,  # outside the range
        "training.learning_rate": 1e-3,
        "training.ema": 0.99,
        "training.epochs": 4,  # not on the grid
        "data.batch_size": 2048,
        "training.jit_compile": False,
        "training.optimizer": "adamw",
        "training.weight_decay": 1e-4,
        "model.activation": "tanh",
        "training.warmup_epochs": 1.0,
    }
    found = draw(parse_space(EVERY_KIND, "test"), 0, start)
    changed = {key for key, value in start.items() if found[key] not in (value, [64, 16])}
    assert changed == {"model.loss_floor_mm", "training.epochs"}
    assert found["model.hidden"] == [64, 16]


BAD_SPACES = {
    "no kind": ({"a": {}}, "exactly one of"),
    "two kinds": ({"a": {"int": [1, 2], "choice": [1]}}, "exactly one of"),
    "unknown word": ({"a": {"choise": [1]}}, "did you mean 'choice'?"),
    "empty range": ({"a": {"int": [3, 3]}}, "a range is [LOWEST, HIGHEST], received [3, 3]"),
    "no logarithm": ({"a": {"log": [0, 1]}}, "logarithmic range is positive"),
    "step below one": ({"a": {"log": [1, 9], "step": 1}}, "above 1"),
    "step of an integer": ({"a": {"int": [1, 9], "step": 0.5}}, "whole number"),
    "step of a choice": ({"a": {"choice": [1, 2], "step": 1}}, "'step' does not go with 'choice'"),
    "twice": ({"a": {"choice": [1, 1]}}, "twice"),
    "list without length": ({"a": {"list": {"choice": [1, 2]}}}, "length: [LEAST, MOST]"),
    "list of nothing": ({"a": {"list": {"boolean": True}, "length": [1, 2]}}, "members"),
    "when nothing": ({"a": {"choice": [1, 2], "when": {3: {"b": {"int": [1, 2]}}}}}, "none of its values"),
    "inside itself": ({"a": {"choice": [1, 2], "when": {1: {"a": {"int": [1, 2]}}}}}, "inside its own"),
    "nothing varies": ({"a": 1}, "nothing to search"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SPACES)
def test_a_bad_space_is_refused_in_words(name: str) -> None:
    raw, message = BAD_SPACES[name]
    with pytest.raises(UserError) as error:
        parse_space(raw, "search 'mine'")
    assert message in str(error.value)
    assert "search 'mine'" in str(error.value)
    assert "\n" not in str(error.value)


REFUSED = {
    "training.learning_rat: {log: [1e-4, 1e-2]}": "did you mean 'learning_rate'?",
    "training.learning_rate: {float: [0, 1]}": "training.learning_rate = 0.0 is refused",
    "model.activation: {choice: [silu, swish]}": "model.activation = 'swish' is refused",
    "data.batch_size: {int: [0, 8]}": "data.batch_size = 0 is refused",
    "model.form: {choice: [residual, none]}": "model.form = 'none' is refused",
    "model.hidden: {list: {choice: [8, wide]}, length: [1, 2]}": "model.hidden = ['wide'] is refused",
    "extends: {choice: [mlp_tiny, mlp_huge]}": "no preset named 'mlp_huge'",
    "training.optimizer: {choice: [adamw], when: {adamw: {training.ema: {float: [0.5, 1.5]}}}}": "ema = 1.5",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_a_run_would_refuse_is_an_error_before_anything_starts(
    line: str, dataset: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"objectives: {{pos_95_mm: 1}}\nspace:\n  {line}\n")
    with pytest.raises(UserError) as error:
        make_plan("mlp_tiny", dataset, search=str(path))
    assert REFUSED[line] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": {"pos_95_cm": 1.0}}, "did you mean 'pos_95_mm'?"),
        ({"objectives": {"pos_95_mm": 0.0}}, "must be positive"),
        ({"limits": {"pos_95_mm": 1.0}}, "known only after a training"),
        ({"limits": {"parameter": 1.0}}, "did you mean 'parameters'?"),
        ({"assignments": ["training.epochs=3"]}, "use --epochs"),
        ({"search": "size"}, "did you mean 'sizes'?"),
    ],
)
def test_other_mistakes(dataset: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        make_plan("mlp_tiny", dataset, **{"search": "sizes", **options})
    assert message in str(error.value)


def shipped() -> list[tuple[str, str]]:
    return [(domain, name) for domain in domain_names() for name in search_files(domain)]


@pytest.mark.parametrize(("domain", "name"), shipped())
def test_every_shipped_search_fits_its_domain(domain: str, name: str) -> None:
    """Its own preset is that of its first `extends`, or any one of the kind that it is named after."""
    path = search_files(domain)[name]
    space = parse_space(validate_search(path).space, name)
    presets = [value for parameter in space if parameter.key == EXTENDS for value in parameter.values]
    runs = [load_run(preset) for preset in presets or preset_files()]
    kinds = (name,) if name != GENERAL else {run.model.kind for run in runs}
    parent = next(run for run in runs if run.domain == domain and (presets or run.model.kind in kinds))
    assert load_search(name, parent)[1].space
    content = validate_search(path)
    plan = Plan(preset=parent.preset, search=name, data="", data_hash="", **content.model_dump())
    plan.check_values()
    assert path.read_text().startswith("# trackkeras tune")


def validate_search(path: Path) -> SearchOptions:
    return SearchOptions.model_validate(load_yaml(path))


@pytest.mark.parametrize("preset", sorted(preset_files()))
def test_every_preset_can_be_searched_at_once(preset: str) -> None:
    parent = load_run(preset)
    name, content = load_search(None, parent)
    assert name == (parent.model.kind if parent.model.kind in search_files(parent.domain) else GENERAL)
    options = content.model_dump()
    Plan(preset=preset, search=name, data="", data_hash="", **options).check_values()
    general = SearchOptions.model_validate(load_yaml(search_files(parent.domain)[GENERAL]))
    plan = Plan(preset=preset, search=GENERAL, data="", data_hash="", **general.model_dump())
    plan.check_values()


def test_the_budget_of_a_trial_is_epochs_or_seconds_and_not_the_presets_own() -> None:
    options = {
        "preset": "mlp_tiny",
        "search": "x",
        "objectives": {"val_loss": 1},
        "data": "",
        "data_hash": "",
    }
    space = {"training.learning_rate": {"log": [1e-4, 1e-2]}}
    plan = Plan(space=space, epochs=7, trial_budget_s=40.0, **options)
    chosen = {"training.learning_rate": 0.002}
    assert plan.run(chosen).training.epochs == 7
    assert plan.run(chosen, epochs=3).training.epochs == 3
    assert plan.run(chosen).training.time_budget_s == 40.0
    assert plan.preset_changes(chosen) == ("mlp_tiny", chosen)
    searched = Plan(space={**space, "training.epochs": {"int": [2, 9]}}, epochs=7, **options)
    both = {**chosen, "training.epochs": 5}
    assert searched.run(both).training.epochs == 5
    assert searched.preset_changes(both) == ("mlp_tiny", both), "searched epochs belong to the winner"


def test_decode_is_the_inverse_of_label() -> None:
    values = ([1, 2], None, "text", 3, 0.5)
    mixed = Parameter("k", "choice", values)
    assert [mixed.decode(mixed.label(value)) for value in values] == list(values)
    assert len(set(mixed.labels)) == len(values)
