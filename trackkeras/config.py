"""Strict, typed configuration: options, YAML, `--set a.b=c` overrides, and one-line explanations of mistakes.

Every model here is frozen and forbids unknown keys, so a misspelt option is an error and never ignored.
This module imports neither TensorFlow nor a domain's models: a run is validated before anything heavy loads.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from trackkeras.errors import UserError


class Options(BaseModel):
    """Base of every configuration object: immutable, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid")


OptionsType = TypeVar("OptionsType", bound=Options)


class ModelOptions(Options):
    """Base of what a preset says about its network; `kind` names the task in its domain."""

    kind: str


class DataOptions(Options):
    """How records become batches."""

    batch_size: int = Field(2048, ge=1, description="Rows per step, over all replicas.")
    shuffle_blocks: int = Field(128, ge=1, description="Blocks whose rows are mixed together.")
    train_rows: int | None = Field(None, ge=1, description="Use only the first rows of the training split.")
    validation_rows: int | None = Field(
        None, ge=1, description="Validate on so many rows at most; null: as many as the task has in mind."
    )


class TrainingOptions(Options):
    """How the one trainer fits a model."""

    epochs: int = Field(100, ge=1)
    optimizer: Literal["adamw", "soap"] = Field(
        "adamw", description="soap: slower per step, far more precise for small networks; one device only."
    )
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_epochs: float = Field(1.0, ge=0, description="Linear warm-up before the cosine decay.")
    schedule: Literal["epochs", "budget"] = Field(
        "epochs",
        description="The cosine ends with the last epoch; or, as far as can be told after each epoch, with "
        "the time budget: better then, but dependent on the machine.",
    )
    final_learning_rate: float = Field(1e-6, ge=0, description="Value at the end of the cosine decay.")
    clip_norm: float | None = Field(
        1.0, gt=0, description="Global gradient norm limit; null switches it off."
    )
    ema: float | None = Field(None, gt=0, lt=1, description="Momentum of the weights' moving average.")
    patience: int = Field(20, ge=1, description="Epochs without improvement before stopping.")
    min_delta: float = Field(1e-6, ge=0, description="Smallest change of val_loss that counts.")
    checkpoint_every: int = Field(10, ge=1, description="Epochs between numbered checkpoints.")
    time_budget_s: float | None = Field(None, gt=0, description="Stop after the epoch that crosses it.")
    clock: Literal["wall", "processor"] = Field(
        "wall",
        description="What the time budget counts; processor: the time of all this program's threads, "
        "which other work on the machine leaves alone.",
    )
    mixed_precision: Literal["off", "float16", "bfloat16"] = Field(
        "off", description="Number format of the hidden layers; inputs and outputs stay float32."
    )
    jit_compile: bool = Field(False, description="XLA; one device only.")
    strategy: Literal["single", "mirrored"] = Field(
        "single", description="mirrored: all devices of this host."
    )
    seed: int = Field(1, ge=0)

    @model_validator(mode="after")
    def _budget_to_schedule(self) -> TrainingOptions:
        if self.schedule == "budget" and self.time_budget_s is None:
            raise ValueError("schedule budget needs time_budget_s")
        return self

    @model_validator(mode="after")
    def _one_device_for_xla(self) -> TrainingOptions:
        if self.optimizer == "soap" and self.strategy == "mirrored":
            raise ValueError("optimizer soap works on one device only; choose adamw for strategy mirrored")
        if self.jit_compile and self.strategy == "mirrored":
            raise ValueError("jit_compile works on one device only; switch it off for strategy mirrored")
        return self

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML 1.1 reads a bare off as false


class Run(Options):
    """One training, completely described.

    `model` is validated by the domain's own options class, so its keys are as strict as the others.
    """

    domain: str
    preset: str
    model: SerializeAsAny[ModelOptions]
    data: DataOptions = DataOptions()
    training: TrainingOptions = TrainingOptions()


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: The file is missing, is no YAML, or holds something other than a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a YAML mapping, received {type(content).__name__}")
    return content


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn `["a.b=1", "c=[2, 3]"]` into `{"a": {"b": 1}, "c": [2, 3]}`; values are YAML.

    Raises:
        UserError: An item has no `=` or no key, or its value is not YAML.
    """
    tree: dict[str, Any] = {}
    for item in assignments:
        key, separator, text = item.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise UserError(f"--set needs key=value with a dotted key, received {item!r}")
        node = tree
        for part in parts[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(f"--set {item!r}: {part!r} already has a value")
        try:
            node[parts[-1]] = as_number(yaml.safe_load(text))
        except yaml.YAMLError:
            raise UserError(f"--set {item!r}: the value is not valid YAML") from None
    return tree


def as_number(value: Any) -> Any:
    """Return a number for a text that is one: YAML 1.1 reads 1e-3 as text, a physicist means a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings under dotted keys; an empty mapping is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings for dotted keys, the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        node = tree
        *parents, last = key.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return dotted key, old value and new value wherever two nested mappings differ."""
    before, after = flatten(old), flatten(new)
    return [
        (key, before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def validate(options: type[OptionsType], values: Mapping[str, Any], where: str) -> OptionsType:
    """Build `options` from plain values.

    Args:
        options: The class that describes what is allowed.
        values: The received mapping.
        where: What the values belong to, for the error message.

    Raises:
        UserError: One line that names each bad key, what was received and, for an unknown key, the nearest
            known one.
    """
    try:
        return options.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(
            f"{where}: " + "; ".join(_explain(options, item) for item in error.errors())
        ) from None


def _explain(options: type[Options], item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _known_keys(options, item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {path!r} ({hint})"
    if item["type"] == "missing":
        return f"missing key {path!r}"
    message = item["msg"].removeprefix("Value error, ")
    return f"{path or 'options'}: {message[:1].lower()}{message[1:]}, received {item['input']!r}"


def _known_keys(options: type[Options], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        field = options.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, Options)):
            break
        options = inner
    return list(options.model_fields)
