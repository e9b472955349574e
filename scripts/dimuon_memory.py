#!/usr/bin/env python
"""Peak memory of the dimuon commands on samples of two sizes: it should not grow with the file.

Files go to a folder of their own, which is left for a look and may be some gigabytes large.

Example:
    scripts/dimuon_memory.py --out /tmp/memory --events 20000 200000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the commands and print one line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument(
        "--events", type=int, nargs="+", default=[20_000, 200_000], help="sizes of the samples"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="COMMAND",
        help="run only some of them, on the files that the others left earlier",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for events in arguments.events:
        for name, command in commands(arguments.out, events).items():
            if arguments.only and name not in arguments.only:
                continue
            row = {"command": name, "events": events, **measured(command)}
            rows.append(row)
            if not arguments.json:
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=2))


def commands(folder: Path, events: int) -> dict[str, list[str]]:
    """Return commands by name that make single muons and pairs of them and put them through the tools."""
    n = str(events)
    muons, pairs, combined, plus, minus = (
        str(folder / f"{name}.root")
        for name in (f"muons_{n}", f"pairs_{n}", f"combine_{n}", f"pairs_{n}_track1", f"pairs_{n}_track2")
    )
    made = {
        "simulate": (muons, ["simulate", "--preset", "singles", "--n", n]),
        "check": (None, ["check", muons]),
        "skim": ("skim.root", ["skim", muons, "--max-events", n]),
        "combine": (combined, ["combine", muons, muons, "--max-events", n]),
        "merge": ("merge.root", ["merge", muons, combined]),
        "noise": ("noise.root", ["noise", muons]),
        "messy": ("messy.root", ["messy", muons, muons, "--num-tracks", "5"]),
        "background": ("background.root", ["background", muons, "--events", n, "--num-tracks", "5"]),
        "pairs": (pairs, ["simulate", "--n", n]),
        "separate": (".", ["separate", pairs]),
        "gen-training": (".", ["gen-training", plus, minus]),
    }
    return {
        name: [*words, *(["--out", str(folder / out), "--overwrite"] if out else [])]
        for name, (out, words) in made.items()
    }


def measured(command: list[str]) -> dict[str, Any]:
    """Run a `trackkeras dimuon` command; return its time and the most memory that it had at once."""
    start = time.monotonic()
    arguments = ["trackkeras", "dimuon", *command, "--json"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    message = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {' '.join(arguments)} failed: {message.strip()}")
    return {
        "wall_s": round(time.monotonic() - start, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_MB": round(used.ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
