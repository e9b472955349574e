"""What can be asked of the simulation of a SpinQuest-like spectrometer."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

from pydantic import Field, field_validator, model_validator

from trackkeras.config import Options
from trackkeras.domains.dimuon.detectors import numbers, plane_elements
from trackkeras.domains.dimuon.noise import Noise
from trackkeras.domains.dimuon.occupancy import Occupancy
from trackkeras.domains.dimuon.record_options import MAX_HITS
from trackkeras.domains.dimuon.spectrometer import SCATTERING, Response

Process = Literal["jpsi", "psi_prime", "drell_yan", "combinatorial", "mu_plus", "mu_minus"]
"""What an event is: a resonance or the continuum that decays to two muons, two muons that have nothing to do
with each other, or one muon alone."""

PROCESSES: tuple[Process, ...] = get_args(Process)


AnyOptions = TypeVar("AnyOptions", bound=Options)


def _check_order(options: AnyOptions, lower: str, upper: str) -> AnyOptions:
    low, high = getattr(options, lower), getattr(options, upper)
    if high < low:
        raise ValueError(f"{upper} must not be below {lower}, {low:g}, received {high:g}")
    return options


class BackgroundOptions(Options):
    """Muons from the dump under each event; the defaults are none."""

    lower: int = Field(0, ge=0, description="Fewest background tracks per event.")
    upper: int = Field(0, ge=0, le=1000, description="Most background tracks per event.")
    counts: Literal["uniform", "skewed"] = "uniform"
    model: Literal["gaussian", "linear", "exponential", "flat"] = Field(
        "gaussian", description="How the share of kept hits falls with the detector's number."
    )
    sigma: float = Field(60.0, gt=0, description="Width of `gaussian`, in detectors.")
    decay: float = Field(15.0, gt=0, description="Length of `exponential`, in detectors.")
    efficiency: float = Field(0.9, ge=0, le=1, description="Mean share of hits that a track keeps.")
    spread: float = Field(0.1, ge=0, description="Its standard deviation from track to track.")
    pool: int = Field(
        10_000, ge=1, description="Most muons that are simulated for a shard; background draws from them."
    )

    @model_validator(mode="after")
    def _ordered(self) -> BackgroundOptions:
        return _check_order(self, "lower", "upper")

    def occupancy(self) -> Occupancy:
        """Return the same as the tools that mix files take it."""
        return Occupancy(**self.model_dump(exclude={"pool"}))


class NoiseOptions(Options):
    """Hits that no particle made; the defaults are none."""

    electronic: float = Field(0.0, ge=0, le=1, description="Chance that an element without a hit fires.")
    cluster: float = Field(0.0, ge=0, le=1, description="Chance that a detector has a cluster of hits.")
    shortest: int = Field(2, ge=1, description="Fewest elements of a cluster.")
    longest: int = Field(4, ge=1, le=15, description="Most elements of a cluster.")

    @model_validator(mode="after")
    def _ordered(self) -> NoiseOptions:
        return _check_order(self, "shortest", "longest")

    def noise(self) -> Noise:
        """Return the same as the tools that change files take it."""
        return Noise(**self.model_dump())


class GenerateOptions(Options):
    """Physics, detector and background of a simulated sample; lengths in cm, momenta and masses in GeV."""

    processes: dict[Process, float] = Field(
        default={"jpsi": 1.0}, description="Share of each process among the events that are kept."
    )
    target_fraction: float = Field(0.0, ge=0, le=1, description="Share from the target, not the dump.")
    xf_min: float = Field(0.1, ge=-1, le=1, description="Lowest Feynman x of a pair.")
    xf_max: float = Field(0.5, ge=-1, le=1, description="Highest Feynman x of a pair.")
    xf_width: float | None = Field(
        None, gt=0, description="Width of a Gaussian in Feynman x; null draws it uniformly."
    )
    pt_scale: float = Field(2.0, gt=0, description="p0 of (1 + pT² / p0²)^-6, the law of pT² [GeV].")
    mass_min: float = Field(2.0, ge=0.5, le=14, description="Lowest mass of `drell_yan` [GeV].")
    mass_max: float = Field(9.0, ge=0.5, le=14, description="Highest mass of `drell_yan` [GeV].")
    single_px: float = Field(6.0, gt=0, description="Largest |px| of a muon that is no pair's [GeV].")
    single_py: float = Field(4.0, gt=0, description="Largest |py| of such a muon [GeV].")
    single_pz_min: float = Field(10.0, gt=0, description="Lowest pz of such a muon [GeV].")
    single_pz_max: float = Field(80.0, gt=0, le=120, description="Highest pz of such a muon [GeV].")
    beam_width: float = Field(0.29, ge=0, description="Gaussian width of the beam in x and in y [cm].")
    halo: float = Field(0.38, ge=0, le=1, description="Share of protons in the halo, 0 to 5 cm off the axis.")
    acceptance: Literal["all_stations", "any"] = Field(
        "all_stations", description="all_stations: every muon of an event reaches the last station."
    )
    energy_loss: bool = Field(True, description="Whether material takes energy.")
    scattering: float = Field(
        SCATTERING, ge=0, le=2, description="Scattering angle over Highland's; 0: none."
    )
    resolution: float = Field(0.01, ge=0, le=1, description="Error of drift distances [cm].")
    chamber_efficiency: float = Field(1.0, ge=0, le=1, description="Chance that a crossed cell fires.")
    hodoscope_efficiency: float = Field(1.0, ge=0, le=1, description="Chance that a crossed bar fires.")
    tube_efficiency: float = Field(1.0, ge=0, le=1, description="Chance that a crossed tube fires.")
    background: BackgroundOptions = BackgroundOptions()
    noise: NoiseOptions = NoiseOptions()
    max_hits: int | None = Field(
        None, ge=1, description="Hits that a row has room for; null: enough for background and noise."
    )
    signed: bool = Field(
        False,
        description="Keep the sign of drift distances in rows; it is truth that no measurement has.",
    )

    @field_validator("processes", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {value: 1.0} if isinstance(value, str) else value

    @field_validator("processes")
    @classmethod
    def _shares(cls, value: dict[Process, float]) -> dict[Process, float]:
        if (
            not value
            or any(not 0 <= share < float("inf") for share in value.values())
            or not sum(value.values())
        ):
            raise ValueError(f"needs shares that are not negative nor all 0, such as {{jpsi: 1}}: {value}")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> GenerateOptions:
        for name in ("xf", "mass", "single_pz"):
            _check_order(self, f"{name}_min", f"{name}_max")
        return self

    def row_hits(self) -> int:
        """Return the hits that a row has room for: `max_hits`, or a power of two that is enough by far."""
        if self.max_hits is not None:
            return self.max_hits
        noise = self.noise.electronic * plane_elements().sum()
        noise += self.noise.cluster * self.noise.longest * len(numbers())
        # Two muons have 88 hits at most, tracks of the background 28 on average.
        most = 88 + 34 * self.background.upper + noise + 8 * noise**0.5
        return max(MAX_HITS, 1 << int(most).bit_length())

    def response(self) -> Response:
        """Return what the transport needs to know."""
        return Response(
            scatter=self.scattering,
            lose=self.energy_loss,
            resolution=self.resolution,
            chamber_efficiency=self.chamber_efficiency,
            hodoscope_efficiency=self.hodoscope_efficiency,
            tube_efficiency=self.tube_efficiency,
            all_stations=self.acceptance == "all_stations",
        )


PRESETS: dict[str, dict[str, Any]] = {
    "jpsi_target": {"target_fraction": 1.0},
    "signals": {"processes": {"jpsi": 0.5, "psi_prime": 0.1, "drell_yan": 0.4}},
    "uncorrelated": {"processes": {"combinatorial": 1.0}},
    "singles": {"processes": {"mu_plus": 0.5, "mu_minus": 0.5}},
    "messy_low": {"background": {"lower": 0, "upper": 16, "counts": "skewed"}},
    "messy_medium": {"background": {"lower": 17, "upper": 33, "counts": "skewed"}},
    "messy_high": {"background": {"lower": 34, "upper": 50, "counts": "skewed"}},
    "messy": {"background": {"upper": 50}},
}
"""Named samples: what each changes in the defaults, which are J/psi from the dump without background."""
