"""The one exception of this package, with the status that it has on the wire."""

from __future__ import annotations

import enum

_LONGEST = 500  # gRPC carries the message in a header, and a header of more than 8 kB breaks the call


class Code(enum.Enum):
    """What went wrong, as a gRPC status; the value is the HTTP status TensorFlow Serving gives for it."""

    INVALID_ARGUMENT = 400
    NOT_FOUND = 404
    RESOURCE_EXHAUSTED = 413
    INTERNAL = 500
    UNIMPLEMENTED = 501
    UNAVAILABLE = 503
    DEADLINE_EXCEEDED = 504


class ServingError(ValueError):
    """A bundle, a request or a server that cannot be used.

    The message is one line of at most 500 characters: what was wrong, what was received and what to do.

    Attributes:
        code: The status a server answers with, or the one that a client received.
    """

    def __init__(self, message: str, code: Code = Code.INVALID_ARGUMENT) -> None:
        line = " ".join(message.split())
        super().__init__(line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "...")
        self.code = code
