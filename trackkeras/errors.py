"""The one exception that the command line shows as a single line, without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Input that cannot be used. The message says what was wrong, what was received and what to do."""
