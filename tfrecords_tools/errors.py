"""The one exception of this package."""

from __future__ import annotations


class RecordError(ValueError):
    """Records that cannot be written or read. The message names the file, what was found and what to do."""
