"""Presets: shipped YAML files and the user's own, resolved to a complete `Run`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trackkeras import domains
from trackkeras.config import ModelOptions, Run, load_yaml, merge, parse_assignments, validate
from trackkeras.domain import find_task
from trackkeras.errors import UserError


def preset_files() -> dict[str, Path]:
    """Return every shipped preset by name, found as `domains/*/presets/*.yaml`."""
    folders = [Path(folder) for folder in domains.__path__]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*/presets/*.yaml"))}


def preset_values(preset: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the merged values of a shipped preset or of a user's YAML file.

    A preset may name another one with `extends` and then states only what differs.

    Raises:
        UserError: No such preset or file, or presets that extend each other in a circle.
    """
    shipped = preset_files()
    name = preset
    chain: list[str] = []
    layers: list[dict[str, Any]] = []
    while True:
        if name in chain:
            raise UserError(f"preset {preset!r} extends itself: {' -> '.join([*chain, name])}")
        chain.append(name)
        path = Path(name) if name.endswith((".yaml", ".yml")) else shipped.get(name)
        if path is None:
            near = difflib.get_close_matches(name, shipped, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`trackkeras presets` lists them"
            raise UserError(f"no preset named {name!r}; {hint} (a file must end in .yaml)")
        values = load_yaml(path)
        parent = values.pop("extends", None)
        layers.append(values)
        if parent is None:
            break
        name = str(parent)
    merged: dict[str, Any] = {}
    for values in reversed(layers):
        merged = merge(merged, values)
    return Path(preset).stem if preset.endswith((".yaml", ".yml")) else preset, merged


def load_run(preset: str, assignments: Iterable[str] = ()) -> Run:
    """Resolve a preset and its `--set` overrides to a complete `Run`.

    Args:
        preset: Name of a shipped preset, or path of a YAML file.
        assignments: Overrides such as `training.epochs=5`.

    Raises:
        UserError: Unknown preset, domain or key, or a value outside its range.
    """
    name, values = preset_values(preset)
    values = merge(values, parse_assignments(assignments))
    return run_from_values({**values, "preset": name})


def run_from_values(values: Mapping[str, Any]) -> Run:
    """Validate plain values, the `model` part by the options of its kind.

    Raises:
        UserError: Unknown domain, kind or key, or a value outside its range.
    """
    values = dict(values)
    where = f"preset {values.get('preset')!r}"
    model_values = _mapping(values, "model")
    task = find_task(str(values.get("domain")), model_values.get("kind"))
    model = validate(task.options, model_values, f"{where}, model")
    checked = validate(Run, {**values, "model": ModelOptions(kind=model.kind)}, where)
    return checked.model_copy(update={"model": model})


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key, {})
    if not isinstance(value, Mapping):
        raise UserError(f"{key!r} must be a mapping, received {value!r}")
    return value
