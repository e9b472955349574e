"""The exceptions of this package: one base, and one case that a reader can step over."""

from __future__ import annotations


class RecordError(ValueError):
    """Records that cannot be written or read. The message names the file, what was found and what to do."""


class ContentError(RecordError):
    """A record whose frame is sound and whose content is not: the next record can still be read."""
