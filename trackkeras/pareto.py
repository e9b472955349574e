"""Speed against error: which points no other point beats, and where a network stands among its rivals.

A point is a method at one setting, with the time that it takes per row and the error that it makes. Both are
better when smaller. Nothing here knows how they were measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trackkeras.errors import UserError

SAME_ERROR = 1.01
"""Ratio up to which two errors count as one: engines of one network differ by their rounding."""


@dataclass(frozen=True)
class Point:
    """One method at one setting.

    Attributes:
        name: What it is; unique among the points of a comparison.
        us: Time per row [us].
        error: Its error, in the unit of the comparison; infinite where too many rows have no answer.
    """

    name: str
    us: float
    error: float


@dataclass(frozen=True)
class Standing:
    """Where one point stands among rivals.

    Attributes:
        point: The point.
        beaten_by: Of the rivals that are faster and more accurate, the most accurate; None if there is none.
        equal_error: The fastest rival that is at least as accurate; None if no rival is.
        equal_time: The most accurate rival that is at least as fast; None if no rival is.
    """

    point: Point
    beaten_by: Point | None
    equal_error: Point | None
    equal_time: Point | None

    @property
    def time_ratio(self) -> float | None:
        """Time of a rival of equal error over that of the point: above 1 the point is the faster one."""
        return None if self.equal_error is None else self.equal_error.us / self.point.us

    @property
    def error_ratio(self) -> float | None:
        """Error of a rival of equal time over that of the point: above 1 the point is more accurate."""
        return None if self.equal_time is None else self.equal_time.error / self.point.error


@dataclass(frozen=True)
class Verdict:
    """Whether a point is the fastest way to keep an error within a limit.

    Attributes:
        limit: The limit.
        ahead: Whether `best` keeps it and is faster than every rival that does.
        best: The fastest point within the limit; where none is within, the fastest of the most accurate ones.
        rival: The fastest rival within the limit; None if no rival keeps it.
        standing: Where `best` stands among the rivals.
    """

    limit: float
    ahead: bool
    best: Point
    rival: Point | None
    standing: Standing

    @property
    def within(self) -> bool:
        """Whether `best` keeps the limit."""
        return self.best.error <= self.limit


def dominates(one: Point, other: Point) -> bool:
    """Return whether a point is at least as good in time and error, and better in one of them."""
    return (
        one.us <= other.us
        and one.error <= other.error
        and (one.us < other.us or one.error < other.error)
        and math.isfinite(one.error)
    )


def frontier(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other one dominates, from the fastest to the most accurate.

    Points without an error that counts are never among them.
    """
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.us, point.error)):
        if not math.isfinite(point.error):
            continue
        last = found[-1] if found else None
        if last is None or point.error < last.error or (point.us, point.error) == (last.us, last.error):
            found.append(point)
    return found


def standing(point: Point, rivals: Sequence[Point]) -> Standing:
    """Return where a point stands among rivals."""
    better = [rival for rival in rivals if dominates(rival, point)]
    as_exact = [rival for rival in rivals if rival.error <= point.error and math.isfinite(rival.error)]
    as_fast = [rival for rival in rivals if rival.us <= point.us and math.isfinite(rival.error)]
    return Standing(
        point,
        beaten_by=min(better, key=_error_first, default=None),
        equal_error=min(as_exact, key=_time_first, default=None),
        equal_time=min(as_fast, key=_error_first, default=None),
    )


def judge(points: Sequence[Point], rivals: Sequence[Point], limit: float) -> Verdict:
    """Judge whether one of the points is the fastest way to keep an error within a limit.

    Raises:
        UserError: There is no point to judge.
    """
    if not points:
        raise UserError("there is no network to judge")
    inside = [point for point in points if point.error <= limit]
    lowest = min(point.error for point in points)
    alike = [point for point in points if point.error <= SAME_ERROR * lowest]
    best = min(inside or alike, key=_time_first)
    rival = min((rival for rival in rivals if rival.error <= limit), key=_time_first, default=None)
    ahead = best.error <= limit and (rival is None or best.us < rival.us)
    return Verdict(limit, ahead, best, rival, standing(best, rivals))


def _time_first(point: Point) -> tuple[float, float]:
    return point.us, point.error


def _error_first(point: Point) -> tuple[float, float]:
    return point.error, point.us
