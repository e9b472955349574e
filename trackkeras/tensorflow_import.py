"""The import of TensorFlow, without what its native libraries write to stderr whatever the log level."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile


def load_tensorflow() -> None:
    """Import TensorFlow; what it wrote is shown if that fails."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            hidden.seek(0)
            os.write(saved, hidden.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
