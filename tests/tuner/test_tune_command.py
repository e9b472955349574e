"""The command: bad input is one line and leaves nothing; a search is told as text or JSON."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

from trackkeras import cli
from tuner.plan import Plan

from .conftest import SEED


@pytest.fixture
def run(run: Any) -> Any:
    """Run a command of `trackkeras tune`."""
    return partial(run, "tune")


BAD_INPUT = {
    ("mlp_medum",): "did you mean 'mlp_medium'?",
    ("mlp_tiny", "--search", "size"): "did you mean 'sizes'?",
    ("mlp_tiny", "--search", "none.yaml"): "no such file: none.yaml",
    ("mlp_tiny", "--budget", "soon"): "a duration is a number",
    ("mlp_tiny", "--trial-budget", "0"): "a duration is a number",
    ("mlp_tiny", "--objective", "pos_95_cm"): "did you mean 'pos_95_mm'?",
    ("mlp_tiny", "--objective", "pos_95_mm=much"): "--objective needs NAME=NUMBER",
    ("mlp_tiny", "--limit", "parameters"): "--limit needs NAME=NUMBER",
    ("mlp_tiny", "--limit", "pos_95_mm=3"): "known only after a training",
    ("mlp_tiny", "--set", "training.epochs=3"): "use --epochs",
    ("mlp_tiny", "--set", "training.epoch=3"): "did you mean 'epochs'?",
}


@pytest.mark.parametrize("arguments", BAD_INPUT, ids=" ".join)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...],
    dataset: Path,
    tmp_path: Path,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments, "--data", dataset)
    assert code == 2
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert BAD_INPUT[arguments] in line
    assert not list(tmp_path.iterdir())


def test_a_finished_search_is_told_again_and_nothing_is_trained(
    searched: tuple[Path, dict[str, Any]],
    search_file: Path,
    dataset: Path,
    run: Any,
    computed: Any,
) -> None:
    folder, summary = searched
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*")}
    options = ("mlp_tiny", "--data", dataset, "--search", search_file, "--trials", 4, "--seed", SEED)
    code, out, _ = run(*options, "--out", folder, "--resume", "--json")
    assert code == 0
    again = json.loads(out)
    assert again["winner"] == summary["winner"]
    assert computed(again["trials"]) == computed(summary["trials"])
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*")} == before


def test_the_text_tells_counts_winner_and_files(
    searched: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, summary = searched
    cli._print_search(folder, summary)
    out = capsys.readouterr().out
    assert "2 completed, 1 pruned, 1 failed" in out
    assert f"winner: trial {summary['winner']['trial']}, mlp_tiny with model.hidden=[8, 8]" in out
    assert f"preset: {folder / 'best.yaml'}" in out


def test_a_search_without_a_winner_is_no_success(
    plan: Plan,
    dataset: Path,
    search_file: Path,
    tmp_path: Path,
    run: Any,
) -> None:
    options = ("--search", search_file, "--limit", "parameters=1", "--trials", 2, "--out", tmp_path / "s")
    code, out, err = run("mlp_tiny", "--data", dataset, *options)
    assert code == 1
    assert "2 pruned" in out
    assert "no trial finished" in err
    assert not (tmp_path / "s" / "best.yaml").exists()
    assert "No trial finished." in (tmp_path / "s" / "report.html").read_text()


def test_help_names_the_trap_of_a_time_budget() -> None:
    command: Any = typer.main.get_command(cli.app)
    text = " ".join((command.commands["tune"].help or "").split())
    assert "--trial-budget does not" in text
    assert "--member {index}" in text
