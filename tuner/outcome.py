"""What came out of a search, as plain data: `search.json`, and the winner as a preset file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tfrecords_tools.files import new_file, write_json
from trackkeras.config import unflatten
from tuner.importance import importance
from tuner.objectives import LATENCY, PARAMETERS, RATE, TIME, pareto
from tuner.oracles import SearchOracle
from tuner.plan import Plan
from tuner.records import COMPLETED, FAILED, PRUNED
from tuner.space import EXTENDS

MEASURED = (LATENCY, TIME, RATE)
TRAINING = ("training", "data")


def summarise(plan: Plan, oracle: SearchOracle) -> dict[str, Any]:
    """Return the content of `search.json`.

    Returns:
        `plan`, `trials` (what came of each, in the order of their start), `counts` by status,
        `ended_because`, `seconds`, `importance` by key, `pareto` (quantities, and the trials that no other
        one beats), and `winner` (trial, the preset that it extends, what it changes, its metrics; None where
        no trial finished).
    """
    records = _same_network_same_time(oracle.records())
    done = [record for record in records if record["status"] == COMPLETED]
    axes = list(dict.fromkeys([*plan.objectives, PARAMETERS, TIME]))
    front = pareto([record["metrics"] for record in done], axes, plan.known)
    best = min(done, key=lambda record: record["score"], default=None)
    return {
        "plan": plan.model_dump(mode="json"),
        "trials": records,
        "counts": {
            status: sum(record["status"] == status for record in records)
            for status in (COMPLETED, PRUNED, FAILED)
        },
        "ended_because": oracle.ended_because,
        "seconds": oracle.spent,
        "importance": importance(plan.parsed_space, done),
        "pareto": {"quantities": axes, "trials": [done[index]["trial"] for index in front]},
        "winner": None if best is None else _winner(plan, best),
    }


def _same_network_same_time(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give trials that differ in their training alone the shortest time that was measured for their network.

    Otherwise the noise of the clock would put them in an order.
    """
    fastest: dict[str, dict[str, float]] = {}
    for record in records:
        if record["status"] == COMPLETED:
            best = fastest.setdefault(_network(record), dict(record["metrics"]))
            for name, choose in ((LATENCY, min), (TIME, min), (RATE, max)):
                best[name] = choose(best[name], record["metrics"][name])
    return [
        record | {"metrics": record["metrics"] | {key: fastest[_network(record)][key] for key in MEASURED}}
        if record["status"] == COMPLETED
        else record
        for record in records
    ]


def _network(record: Mapping[str, Any]) -> str:
    return str({key: value for key, value in record["settings"].items() if key.split(".")[0] not in TRAINING})


def _winner(plan: Plan, record: Mapping[str, Any]) -> dict[str, Any]:
    extends, changes = plan.preset_changes(record["settings"])
    keys = ("trial", "settings", "metrics", "score", "epochs", "seconds")
    return {key: record[key] for key in keys} | {EXTENDS: extends, "changes": changes}


def write_outcome(folder: Path, summary: Mapping[str, Any]) -> Path | None:
    """Write `search.json` and, where a trial finished, `best.yaml`; return the path of the preset."""
    write_json(folder / "search.json", summary)
    if summary["winner"] is None:
        return None
    path = folder / "best.yaml"
    with new_file(path) as stream:
        stream.write(preset_text(path, summary).encode())
    return path


def preset_text(path: Path, summary: Mapping[str, Any]) -> str:
    """Return the winner as a preset: its parent, and only what differs from it.

    The budget of the search is not part of it: epochs are those of the parent unless they were searched.
    """
    plan, winner = summary["plan"], summary["winner"]
    values = ", ".join(f"{name} {winner['metrics'][name]:.4g}" for name in plan["objectives"])
    extends = winner[EXTENDS]
    if extends.endswith((".yaml", ".yml")):
        extends = str(Path(extends).resolve())
    content = {"extends": extends, **unflatten(winner["changes"])}
    lines = [
        f"# trackkeras train {path.name} --data DATA --name NAME",
        f"# Cost:   {winner['metrics'][PARAMETERS]:,} parameters; {winner['epochs']} epochs took "
        f"{winner['seconds']:.0f} s in the search.",
        f"# Expect: {values} on validation rows after {winner['epochs']} epochs (one seed).",
        f"# Found by: trial {winner['trial']} of the {plan['oracle']} search {Path(plan['search']).stem!r} "
        f"from {plan['preset']!r}, seed {plan['seed']}.",
    ]
    return "\n".join(lines) + "\n" + yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
