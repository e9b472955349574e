"""Search spaces: dotted option keys of a run, each with the values that it may take.

    extends: {choice: [mlp_small, mlp_medium]}            which preset a trial starts from
    model.activation: {choice: [silu, tanh]}
    model.hidden: {list: {choice: [64, 128, 256]}, length: [1, 4]}    layers, and the width of each
    training.learning_rate: {log: [3e-4, 1e-2]}
    training.warmup_epochs: {float: [0, 2], step: 0.5}
    data.batch_size: {int: [512, 4096], scale: log, step: 2}
    training.jit_compile: true                            a plain value holds for every trial
    training.optimizer:
      choice: [adamw, soap]
      when: {adamw: {training.weight_decay: {log: [1e-5, 1e-2]}}}     asked only with this value

This module imports neither TensorFlow nor KerasTuner: a search is checked before anything heavy loads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from trackkeras.config import Options, as_number, validate
from trackkeras.errors import UserError

EXTENDS = "extends"
"""The key whose values are presets: which one a trial starts from."""

DIGITS = 6
"""Significant digits of a drawn number: a preset says 0.00231785, not 0.0023178493182012774."""

Kind = Literal["choice", "int", "float", "boolean", "list", "fixed"]


class Entry(Options):
    """What a space may say about one key: one kind, and what belongs to it."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    int_: tuple[int, int] | None = Field(None, alias="int")
    float_: tuple[float, float] | None = Field(None, alias="float")
    log: tuple[float, float] | None = None
    boolean: bool | None = None
    list_: dict[str, Any] | None = Field(None, alias="list")
    fixed: Any = None
    length: tuple[int, int] | None = None
    scale: Literal["linear", "log"] = "linear"
    step: float | None = Field(None, gt=0)
    when: dict[Any, dict[str, Any]] = Field({})


_KINDS = {
    "choice": "choice",
    "int_": "int",
    "float_": "float",
    "log": "log",
    "boolean": "boolean",
    "list_": "list",
    "fixed": "fixed",
}


@dataclass(frozen=True)
class Parameter:
    """One key and the values that it may take.

    Attributes:
        key: Dotted option key of a run, or `extends`.
        kind: What `values` are.
        values: Every value (`choice`, `boolean`, `fixed`), or the lowest and the highest (`int`, `float`; for
            `list` of its length).
        step: Distance of two numbers, a factor on a logarithmic scale; None for no grid.
        log: Whether numbers are drawn on a logarithmic scale.
        element: What each member of a list may be.
        children: Further keys that are asked with one value of this one.
    """

    key: str
    kind: Kind
    values: tuple[Any, ...]
    step: float | None = None
    log: bool = False
    element: Parameter | None = None
    children: tuple[tuple[Any, Space], ...] = ()

    @property
    def labels(self) -> tuple[Any, ...]:
        """What KerasTuner knows the values of a choice as: one type, a text for all that is no scalar."""
        types = {type(value) for value in self.values}
        if types in ({str}, {int}):
            return self.values
        if types <= {int, float}:
            return tuple(float(value) for value in self.values)
        return tuple(json.dumps(value) for value in self.values)

    def decode(self, value: Any) -> Any:
        """Return the option's value for what KerasTuner holds."""
        if self.kind == "choice":
            return self.values[self.labels.index(value)]
        return float(f"{value:.{DIGITS}g}") if self.kind == "float" else value

    def label(self, value: Any) -> Any:
        """Return what KerasTuner holds for a value."""
        return self.labels[self.values.index(value)] if self.kind == "choice" else value

    def allows(self, value: Any) -> bool:
        """Return whether a value is one of this parameter's."""
        if self.kind in ("choice", "boolean", "fixed"):
            return value in self.values
        if self.kind == "list":
            least, most = self.values
            return (
                isinstance(value, Sequence)
                and not isinstance(value, str)
                and least <= len(value) <= most
                and self.element is not None
                and all(map(self.element.allows, value))
            )
        number = isinstance(value, int if self.kind == "int" else int | float) and not isinstance(value, bool)
        return number and self.values[0] <= value <= self.values[1] and self._on_grid(value)

    def _on_grid(self, value: float) -> bool:
        if self.step is None:
            return True
        low = self.values[0]
        steps = math.log(value / low, self.step) if self.log else (value - low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)


Space = tuple[Parameter, ...]


def parse_space(raw: Mapping[str, Any], where: str) -> Space:
    """Read a space from plain values.

    Args:
        raw: Entries by dotted key.
        where: What they belong to, for the error message.

    Raises:
        UserError: An entry is of no kind or of two, a range is empty, or `when` names no value of its key.
    """
    space = _parse(raw, where, frozenset())
    if all(parameter.kind == "fixed" for parameter in space):
        raise UserError(f"{where}: the space leaves nothing to search; give at least one key several values")
    return space


def _parse(raw: Mapping[str, Any], where: str, above: frozenset[str]) -> Space:
    repeated = sorted(above & set(raw))
    if repeated:
        raise UserError(f"{where}: {repeated[0]!r} occurs again inside its own `when`")
    return tuple(_parse_entry(str(key), value, where, above | set(raw)) for key, value in raw.items())


def _parse_entry(key: str, raw: Any, where: str, above: frozenset[str]) -> Parameter:
    here = f"{where}, {key}"
    if not isinstance(raw, Mapping):
        return Parameter(key, "fixed", (raw,))
    entry = validate(Entry, raw, here)
    given = [name for name in _KINDS if name in entry.model_fields_set]
    if len(given) != 1:
        known = ", ".join(_KINDS.values())
        raise UserError(f"{here}: needs exactly one of {known}; received {', '.join(raw) or 'nothing'}")
    allowed = {"int_": {"scale", "step", "when"}, "float_": {"scale", "step"}, "log": {"step"}}
    allowed |= {"choice": {"when"}, "boolean": {"when"}, "list_": {"length"}}
    extra = entry.model_fields_set - set(given) - allowed.get(given[0], set())
    if extra:
        raise UserError(f"{here}: {sorted(extra)[0]!r} does not go with {_KINDS[given[0]]!r}")
    parameter = _parameter(key, given[0], entry, here)
    children = []
    for value, inner in entry.when.items():
        found = as_number(value)
        if not parameter.allows(found):
            raise UserError(f"{here}: `when` names {value!r}, which is none of its values")
        children.append((found, _parse(inner, where, above)))
    return Parameter(**{**vars(parameter), "children": tuple(children)})


def _parameter(key: str, kind: str, entry: Entry, here: str) -> Parameter:
    if kind == "choice":
        assert entry.choice is not None
        values = tuple(as_number(value) for value in entry.choice)
        if len({json.dumps(value) for value in values}) < len(values):
            raise UserError(f"{here}: a value occurs twice among {list(entry.choice)}")
        return Parameter(key, "choice", values)
    if kind == "boolean":
        return Parameter(key, "boolean", (bool(entry.boolean), not entry.boolean))
    if kind == "fixed":
        return Parameter(key, "fixed", (entry.fixed,))
    if kind == "list_":
        if entry.length is None or not 1 <= entry.length[0] <= entry.length[1]:
            raise UserError(f"{here}: a list needs `length: [LEAST, MOST]`, received {entry.length}")
        element = _parse_entry(key, entry.list_, here, frozenset())
        if element.kind not in ("choice", "int", "float") or element.children:
            raise UserError(f"{here}: the members of a list are numbers or choices without `when`")
        return Parameter(key, "list", entry.length, element=element)
    low, high = getattr(entry, kind)
    log = kind == "log" or entry.scale == "log"
    if not low < high:
        raise UserError(f"{here}: a range is [LOWEST, HIGHEST], received [{low:g}, {high:g}]")
    if log and (low <= 0 or (entry.step is not None and entry.step <= 1)):
        raise UserError(f"{here}: a logarithmic range is positive and its step, a factor, above 1")
    if kind == "int_" and entry.step is not None and entry.step != int(entry.step):
        raise UserError(f"{here}: the step of whole numbers is a whole number, received {entry.step:g}")
    return Parameter(key, "int" if kind == "int_" else "float", (low, high), entry.step, log)


# -- KerasTuner's side ---------------------------------------------------------------------------------------


def declare(space: Space, hp: Any, start: Mapping[str, Any]) -> None:
    """Register a space with KerasTuner.

    Args:
        space: The parameters.
        hp: `keras_tuner.HyperParameters`.
        start: Option values by dotted key; where a parameter allows its value, that is its default.
    """
    for parameter in space:
        if parameter.kind == "fixed":
            continue
        default = start.get(parameter.key)
        if isinstance(default, list | tuple):
            default = list(default) if parameter.kind == "choice" else tuple(default)
        known = default is not None and parameter.allows(default)
        if parameter.kind == "list":
            _declare_list(parameter, hp, default if known else None)
        else:
            _declare_one(parameter, parameter.key, hp, default if known else None)
        for value, children in parameter.children:
            with hp.conditional_scope(parameter.key, [parameter.label(value)]):
                declare(children, hp, start)


def _declare_one(parameter: Parameter, name: str, hp: Any, default: Any) -> None:
    if parameter.kind == "choice":
        hp.Choice(
            name,
            list(parameter.labels),
            default=None if default is None else parameter.label(default),
        )
    elif parameter.kind == "boolean":
        hp.Boolean(name, default=parameter.values[0] if default is None else default)
    else:
        low, high = parameter.values
        options = {"step": parameter.step, "sampling": "log" if parameter.log else "linear"}
        if parameter.kind == "int":
            step = None if parameter.step is None else int(parameter.step)
            hp.Int(name, low, high, **options | {"step": step}, default=default)
        else:
            hp.Float(name, low, high, **options, default=default)


def _declare_list(parameter: Parameter, hp: Any, default: Sequence[Any] | None) -> None:
    least, most = parameter.values
    assert parameter.element is not None
    length = f"{parameter.key}.length"
    hp.Int(length, least, most, default=len(default) if default else None)
    for index in range(most):
        member = default[index] if default and index < len(default) else None
        if index < least:
            _declare_one(parameter.element, f"{parameter.key}.{index}", hp, member)
        else:
            with hp.conditional_scope(length, list(range(index + 1, most + 1))):
                _declare_one(parameter.element, f"{parameter.key}.{index}", hp, member)


def settings(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return option values by dotted key for what KerasTuner proposes; keys that are not asked are absent."""
    chosen: dict[str, Any] = {}
    for parameter in space:
        key = parameter.key
        if parameter.kind == "fixed":
            chosen[key] = parameter.values[0]
        elif parameter.kind == "list":
            assert parameter.element is not None
            count = values[f"{key}.length"]
            chosen[key] = [parameter.element.decode(values[f"{key}.{index}"]) for index in range(count)]
        else:
            chosen[key] = parameter.decode(values[key])
        for value, children in parameter.children:
            if chosen[key] == value:
                chosen |= settings(children, values)
    return chosen


# -- checks --------------------------------------------------------------------------------------------------


def corners(space: Space, context: Mapping[str, Any] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each key with settings that try one of its values, or one end of its range.

    The settings hold the value, and the values of the keys that it is asked under. A key that is asked for
    every preset is tried with every preset.
    """
    context = dict(context or {})
    presets = [parameter for parameter in space if parameter.key == EXTENDS]
    contexts = [{**context, EXTENDS: value} for parameter in presets for value in parameter.values]
    for parameter in space:
        for outer in contexts or [context]:
            for value in _ends(parameter):
                if parameter.key != EXTENDS or value == outer[EXTENDS]:
                    yield parameter.key, {**outer, parameter.key: value}
            if parameter.key == EXTENDS:
                for value, children in parameter.children:
                    if value == outer[EXTENDS]:
                        yield from corners(children, outer)
            else:
                for value, children in parameter.children:
                    yield from corners(children, {**outer, parameter.key: value})


def _ends(parameter: Parameter) -> Sequence[Any]:
    if parameter.kind != "list":
        return parameter.values
    assert parameter.element is not None
    return [[value] * length for length in parameter.values for value in _ends(parameter.element)]


def leaves(space: Space) -> dict[str, Parameter]:
    """Return every searched key once, children after their parents."""
    found: dict[str, Parameter] = {}
    for parameter in space:
        if parameter.kind != "fixed":
            found.setdefault(parameter.key, parameter)
        for _, children in parameter.children:
            for key, child in leaves(children).items():
                found.setdefault(key, child)
    return found


def chosen_differences(chosen: Mapping[str, Any], parent: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, `extends` aside, that differ from the option values of a preset."""
    return {
        key: value
        for key, value in chosen.items()
        if key != EXTENDS and _plain(value) != _plain(parent.get(key))
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
