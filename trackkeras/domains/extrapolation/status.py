"""How the propagation of a track ends."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How the propagation of one track ended."""

    OK = 0
    LEFT_VOLUME = 1
    SLOPE_LIMIT = 2
    NOT_FINITE = 3

    @property
    def text(self) -> str:
        """What happened, in words."""
        return _STATUS_TEXT[self]


_STATUS_TEXT = {
    Status.OK: "reached z0 + dz",
    Status.LEFT_VOLUME: "left the volume in which the field is known",
    Status.SLOPE_LIMIT: "|tx| or |ty| went over the limit",
    Status.NOT_FINITE: "the state became infinite or not a number",
}

LEFT_VOLUME = int(Status.LEFT_VOLUME)
SLOPE_LIMIT = int(Status.SLOPE_LIMIT)
NOT_FINITE = int(Status.NOT_FINITE)
