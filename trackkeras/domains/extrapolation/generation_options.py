"""What can be asked of the track generator; the defaults are the contract behind every published table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field as Described
from pydantic import ValidationInfo, field_validator, model_validator

from trackkeras.config import Options
from trackkeras.domains.extrapolation.legs import LEGS
from trackkeras.domains.extrapolation.tableaus import (
    DEFAULT_STEP,
    DEFAULT_TOLERANCE,
    TABLEAUS,
    TIGHTEST_TOLERANCE,
    find_tableau,
)
from trackkeras.errors import UserError

if TYPE_CHECKING:
    from trackkeras.domains.extrapolation.fields import Field

_X, _Y, _Z = (0, 1), (2, 3), (4, 5)

METHODS = {"closed form": "dormand_prince45", "grid": "rk4_aligned"}
"""Integration of generated tracks where the options do not say: error control on closed forms, steps from
plane to plane on a grid, whose kinks error control would chase.

Position error against a tolerance of 1e-9 mm and processor time of the propagation, 40,000 tracks of the
default contract in the field `lhcb`:

    method              setting     mean [um]   95 % [um]   largest [um]   us per track
    rk4                 150 mm      0.32        0.48        488            6.1
    nystrom4            100 mm      0.55        0.50        395            5.2
    dormand_prince45    1e-3 mm     0.10        0.30        5.8            2.9
    tsitouras5          1e-3 mm     0.11        0.32        2.8            2.9
    cash_karp           1e-3 mm     0.28        0.72        8.5            2.8
"""

LONGEST_STEP = 500.0
"""Longest step [mm] of a method with error control: the limit on slopes is checked at every step. Others take
`DEFAULT_STEP`."""

PRESETS: dict[str, dict[str, Any]] = {
    "low_p": {"p_min": 0.5, "p_max": 5.0},
    "mid_p": {"p_min": 5.0, "p_max": 20.0},
    "high_p": {"p_min": 20.0, "p_max": 100.0},
    "full_range": {"p_min": 0.5, "p_max": 100.0},
    "velo_ut": {"legs": ["velo_ut"], "direction": "forward"},
    "ut_t": {"legs": ["ut_t"], "direction": "forward"},
    "crossing": {
        "z_start": 2665.0,
        "z_end": 7826.0,
        "dz_min": 5161.0,
        "dz_max": 5161.0,
        "direction": "forward",
        "p_min": 2.0,
    },
    "short_steps": {"legs": ["ut_steps", "t_steps"]},
    "backward": {"legs": ["ut_t", "velo_t"], "direction": "backward"},
}
"""Named samples: what each changes in the default contract; momenta in GeV."""


class GenerateOptions(Options):
    """Field, acceptance and integration of a generated sample; lengths in mm, momenta in GeV."""

    field: dict[str, Any] = Described(
        default={"name": "lhcb", "polarity": 1},
        description="Name and options for make_field, or a file of them.",
    )
    p_min: float = Described(0.5, gt=0, allow_inf_nan=False, description="Lowest momentum [GeV].")
    p_max: float = Described(100.0, gt=0, allow_inf_nan=False, description="Highest momentum [GeV].")
    charge: Literal["both", "positive", "negative"] = "both"
    z_start: float = Described(0.0, allow_inf_nan=False, description="First plane a track may touch [mm].")
    z_end: float = Described(13000.0, allow_inf_nan=False, description="Last plane a track may touch [mm].")
    dz_min: float = Described(1000.0, gt=0, allow_inf_nan=False, description="Shortest |dz| [mm].")
    dz_max: float = Described(10000.0, gt=0, allow_inf_nan=False, description="Longest |dz| [mm].")
    direction: Literal["both", "forward", "backward"] = "both"
    x_max: float = Described(3000.0, gt=0, allow_inf_nan=False, description="Limit of |x| at z0 [mm].")
    y_max: float = Described(2500.0, gt=0, allow_inf_nan=False, description="Limit of |y| at z0 [mm].")
    tx_max: float = Described(0.3, gt=0, allow_inf_nan=False, description="Limit of |tx| at z0.")
    ty_max: float = Described(0.25, gt=0, allow_inf_nan=False, description="Limit of |ty| at z0.")
    pv_fraction: float = Described(0.7, ge=0, le=1, description="Share of draws that point to the vertex.")
    pv_spread: float = Described(
        100.0, ge=0, allow_inf_nan=False, description="Gaussian width of their x and y at z = 0 [mm]."
    )
    slope_limit: float = Described(1.0, gt=0, description="Limit of |tx| and |ty| at every step of the path.")
    step: float = Described(LONGEST_STEP, gt=0, allow_inf_nan=False, description="Longest step [mm].")
    method: str = Described("dormand_prince45", description="Name of the Runge-Kutta tableau.")
    tolerance: float = Described(
        DEFAULT_TOLERANCE, ge=TIGHTEST_TOLERANCE, allow_inf_nan=False, description="Error per step [mm]."
    )
    legs: tuple[str, ...] = Described(
        (), description="Legs of the detector, see `legs.LEGS`; they take the place of dz_min and dz_max."
    )
    planes: int = Described(
        0, ge=0, le=1000, description="Intermediate planes per track; adds `planes` and `states_at`."
    )
    plane_spacing: Literal["equal", "random"] = Described(
        "equal", description="Planes at equal distances, or uniform at random, in the order of the track."
    )
    sampling: Literal["random", "sobol"] = Described(
        "random", description="sobol: scrambled low-discrepancy points, another scramble in each shard."
    )
    importance: float = Described(
        0.0,
        ge=0,
        le=2,
        description="a: momenta are drawn as p^-(1 + a) rather than p^-1; adds `weight` where a > 0.",
    )

    def make_field(self) -> Field:
        """Return the field; equal options share one object."""
        return _make_field(json.dumps(self.field, sort_keys=True))

    @model_validator(mode="before")
    @classmethod
    def _integration_of_the_field(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        field = values.get("field", {})
        if isinstance(field, str):
            from trackkeras.domains.extrapolation.fields import field_options

            field = field_options(field)
            values = {**values, "field": field}
        name = field.get("name") if isinstance(field, Mapping) else None
        method = values.get("method", METHODS["grid" if name == "grid" else "closed form"])
        adaptive = method in TABLEAUS and TABLEAUS[method].adaptive
        return {"method": method, "step": LONGEST_STEP if adaptive else DEFAULT_STEP, **values}

    @field_validator("field")
    @classmethod
    def _field_exists(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "name" not in value:
            raise ValueError("a field needs a name, such as {name: lhcb}")
        _make_field(json.dumps(value, sort_keys=True))
        return value

    @field_validator("method")
    @classmethod
    def _method_exists(cls, value: str) -> str:
        find_tableau(value)
        return value

    @field_validator("p_max")
    @classmethod
    def _momenta_ordered(cls, value: float, info: ValidationInfo) -> float:
        low = info.data.get("p_min", value)
        if value < low:
            raise ValueError(f"must not be below p_min, {low:g} GeV")
        return value

    @field_validator("z_start", "z_end")
    @classmethod
    def _plane_known(cls, value: float, info: ValidationInfo) -> float:
        _check_in_volume(value, _Z, "z", info)
        if info.field_name == "z_end" and value <= info.data.get("z_start", -float("inf")):
            raise ValueError(f"must be larger than z_start, {info.data['z_start']:g} mm")
        return value

    @field_validator("x_max", "y_max")
    @classmethod
    def _box_known(cls, value: float, info: ValidationInfo) -> float:
        axis, name = (_X, "x") if info.field_name == "x_max" else (_Y, "y")
        _check_in_volume(value, axis, name, info)
        _check_in_volume(-value, axis, name, info)
        return value

    @field_validator("dz_max")
    @classmethod
    def _distances_fit(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("dz_min", value):
            raise ValueError(f"must not be below dz_min, {info.data['dz_min']:g} mm")
        if "z_start" in info.data and "z_end" in info.data:
            room = info.data["z_end"] - info.data["z_start"]
            if value > room:
                raise ValueError(f"must fit between z_start and z_end, which leave {room:g} mm")
        return value

    @field_validator("legs")
    @classmethod
    def _legs_fit(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in value:
            if name not in LEGS:
                raise ValueError(f"no leg named {name!r}; there are: {', '.join(LEGS)}")
            leg, low, high = LEGS[name], info.data.get("z_start"), info.data.get("z_end")
            if low is not None and high is not None and not low <= leg.z_min < leg.z_max <= high:
                raise ValueError(
                    f"the leg {name!r} runs from {leg.z_min:g} to {leg.z_max:g} mm, "
                    f"outside z_start {low:g} and z_end {high:g}"
                )
        return value

    @field_validator("tx_max", "ty_max")
    @classmethod
    def _slope_sane(cls, value: float, info: ValidationInfo) -> float:
        if value > 1:
            raise ValueError("must not be above 1")
        return value


def _check_in_volume(value: float, axis: tuple[int, int], name: str, info: ValidationInfo) -> None:
    if "field" not in info.data:  # the field itself was refused
        return
    field = _make_field(json.dumps(info.data["field"], sort_keys=True))
    low, high = (float(field.volume[index]) for index in axis)
    if not low <= value <= high:
        raise ValueError(f"the field {field.name!r} is known for {name} from {low:g} to {high:g} mm only")


@lru_cache(maxsize=8)
def _make_field(options: str) -> Field:
    from trackkeras.domains.extrapolation.fields import make_field

    try:
        return make_field(**json.loads(options))
    except TypeError as error:
        raise UserError(f"field options {options}: {error}") from None
