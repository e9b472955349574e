#!/usr/bin/env python
"""What background, noise and lost hits do to found muons: efficiency, fakes, momentum, and hits by detector.

Dimuons of a file get background made of the muons of other files, as `trackkeras dimuon messy` makes it, and
are reconstructed as `trackkeras dimuon reconstruct` does it: the momentum network sees what the finder found.
Beside it the same network sees the true hits, which is the best that a finder could give it. Every condition
starts from the same dimuons and random numbers. None of the files may have been trained on. Printed are
tables with 95 % intervals, or all numbers as JSON with --json; nothing is written.

Example:
    scripts/dimuon_occupancy_study.py --finder bundles/finder_roads-a --momentum bundles/momentum_medium-a
        --signal ../shared/data/spinquest/JPsi_Dump.root
        --background ../shared/data/spinquest/MUP_Dump_10K.root
        --background ../shared/data/spinquest/MUM_Dump_10K.root
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trackkeras.domains.dimuon.conditions import (
    Condition,
    choose,
    conditions,
    dead_detectors,
    messy_events,
)
from trackkeras.domains.dimuon.events import Events
from trackkeras.domains.dimuon.networks import open_network
from trackkeras.domains.dimuon.reconstructed import with_muons
from trackkeras.domains.dimuon.reconstruction import Reconstruction
from trackkeras.domains.dimuon.reconstruction_metrics import Comparison, compare, summarise
from trackkeras.domains.dimuon.rus_reading import read_rus
from trackkeras.errors import UserError
from trackkeras.progress import Progress

Result = Mapping[str, Any]

MOMENTA = (
    ("right muons", "found", "right"),
    ("all found", "found", "found"),
    ("true hits", "true_hits", "found"),
)
"""Whose pz is in the table: name, of which hits, of which muons."""

STATISTICS = {"mean": "pz bias", "w68": "half-width of 68 %"}
"""What of it, both in GeV."""


def main() -> None:
    """Parse the arguments, study, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--finder", type=Path, required=True, help="bundle of a track finder")
    parser.add_argument("--momentum", type=Path, required=True, help="bundle of a momentum network")
    parser.add_argument("--signal", type=Path, required=True, help="RUS file of dimuons")
    parser.add_argument(
        "--background", type=Path, action="append", required=True, help="RUS file of single muons"
    )
    parser.add_argument("--events", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument(
        "--only",
        action="append",
        help="the condition of this name, or those whose name has it; repeat for more",
    )
    parser.add_argument("--dead", action="store_true", help="one dead detector after the other instead")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    try:
        results = study(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(results, indent=1) if arguments.json else text(results))


def study(arguments: argparse.Namespace) -> list[Result]:
    """Return the numbers of all conditions.

    Raises:
        UserError: A bad file or bundle, or no condition of this name.
    """
    if arguments.events < 1:
        raise UserError(f"--events must be at least 1, received {arguments.events}")
    chosen = choose(dead_detectors() if arguments.dead else conditions(), arguments.only)
    signal = _events([arguments.signal])
    if len(signal) < arguments.events:
        raise UserError(f"{arguments.signal} has {len(signal):,} events, fewer than {arguments.events:,}")
    signal, muons = signal[: arguments.events], _events(arguments.background)
    momentum = open_network(arguments.momentum, "momentum")
    chains = {
        "found": Reconstruction(momentum, open_network(arguments.finder, "finder")),
        "true_hits": Reconstruction(momentum),
    }
    progress, results = Progress("conditions", len(chosen), "conditions"), []
    for condition in chosen:
        results.append(
            {"condition": condition.name, **judge(chains, signal, muons, condition, arguments.seed)}
        )
        progress.update(len(results))
    progress.finish(len(results))
    return results


def judge(
    chains: Mapping[str, Reconstruction], signal: Events, muons: Events, condition: Condition, seed: int
) -> Result:
    """Return what `reconstruction_metrics.summarise` says of each chain, by its name."""
    parts: dict[str, list[Comparison]] = {name: [] for name in chains}
    for events in messy_events(signal, muons, condition, seed):
        for name, chain in chains.items():
            parts[name].append(compare(with_muons(events, chain(events))))
    return {name: summarise(Comparison.joined(each)) for name, each in parts.items()}


def text(results: Sequence[Result]) -> str:
    """Return three tables: by condition, by condition and station, and by detector in the first condition."""
    return "\n\n".join(
        [
            _table(_by_condition(results)),
            "Hits found by station:",
            _table(_by_station(results)),
            f"By detector, {results[0]['condition']}:",
            _table(_by_detector(results[0])),
        ]
    )


def _by_condition(results: Sequence[Result]) -> list[list[str]]:
    columns = [f"{what}, {whose}" for whose, *_ in MOMENTA for what in STATISTICS.values()]
    rows = [["condition", "efficiency", "fakes", "hits found", *columns]]
    for result in results:
        momenta = [(result[hits]["momentum"][which] or {}).get("pz", {}) for _, hits, which in MOMENTA]
        cells = [_cell(result["found"][share]) for share in ("efficiency", "fake_rate", "completeness")]
        cells += [_cell(pz.get(key), sign=key == "mean") for pz in momenta for key in STATISTICS]
        rows.append([result["condition"], *cells])
    return rows


def _by_station(results: Sequence[Result]) -> list[list[str]]:
    stations = [f"{row['station']}, {row['kind']}s" for row in results[0]["found"]["stations"]]
    rows = [
        [result["condition"], *(_cell(row["completeness"]) for row in result["found"]["stations"])]
        for result in results
    ]
    return [["condition", *stations], *rows]


def _by_detector(result: Result) -> list[list[str]]:
    rows = [
        [
            f"{row['number']} {row['name']}",
            f"{row['true_hits']:,}",
            _cell(row["completeness"]),
            *("-" if row[key] is None else f"{row[key]:.3f}" for key in ("near", "residual_rms")),
        ]
        for row in result["found"]["detectors"]
    ]
    return [["detector", "true hits", "hits found", "within 2 elements", "residual, rms"], *rows]


def _cell(cell: Mapping[str, float] | None, *, sign: bool = False) -> str:
    if cell is None:
        return "-"
    return "{value:{how}} [{low:{how}}, {high:{how}}]".format(how="+.2f" if sign else ".3f", **cell)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _events(paths: Sequence[Path]) -> Events:
    """Return the events of some files without the columns that another file might not have."""
    events = [events for path in paths for events in read_rus(path)]
    return Events.concatenate(
        [Events(part.hits, part.tracks, part.hit_offsets, part.track_offsets) for part in events]
    )


if __name__ == "__main__":
    main()
