"""A server of one bundle on this machine, as a process of its own, for measurements."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trackkeras.errors import UserError


@contextmanager
def served(bundle: Path) -> Iterator[dict[str, Any]]:
    """Run `trackkeras serve` on free ports.

    Args:
        bundle: Bundle folder, or one of its versions.

    Yields:
        What the server says of itself, with the addresses that clients take as `gRPC` and `REST`.

    Raises:
        UserError: It does not start.
    """
    ports = ["--rest-port", "0", "--grpc-port", "0"]
    command = [sys.executable, "-m", "trackkeras.cli", "serve", str(bundle), *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise UserError(f"the server of {bundle} did not start; see its message above")
            place = json.loads(line)
            yield place | {
                "gRPC": f"{place['host']}:{place['grpc_port']}",
                "REST": f"http://{place['host']}:{place['rest_port']}",
            }
        finally:
            process.terminate()
