"""Rules of the code base that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("trackkeras", "tfrecords_tools", "serving", "tuner")


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("tfrecords_tools", ("trackkeras", "serving", "tuner", "tensorflow", "keras")),
        ("serving", ("trackkeras", "tfrecords_tools", "tuner", "tensorflow", "keras")),
        ("trackkeras", ("tuner",)),
    ],
)
def test_imports_point_one_way(package: str, forbidden: tuple[str, ...]) -> None:
    for path in (ROOT / package).rglob("*.py"):
        found = {name for name in imports(path) if name.split(".")[0] in forbidden}
        if path.name == "cli.py":  # the command starts tools of every package
            continue
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_shared_modules_know_no_domain_and_domains_not_each_other() -> None:
    for path in (ROOT / "trackkeras").rglob("*.py"):
        inside = path.relative_to(ROOT / "trackkeras").parts
        own = f"trackkeras.domains.{inside[1]}" if inside[0] == "domains" and len(inside) > 2 else None
        for name in imports(path):
            if not name.startswith("trackkeras.domains."):
                continue
            allowed = own is not None and name.startswith(own)
            # commands and benchmarks of the magnetic field belong to the extrapolation domain
            allowed |= inside in (("cli.py",), ("bench.py",))
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_bending_constant_stands_in_one_place() -> None:
    number = re.compile(r"299[_,]?792|2\.9979\d*|0\.2998|2\.998e")
    for path in sources():
        if path.name == "units.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
                assert not number.search(repr(node.value)), f"{path.relative_to(ROOT)}:{node.lineno}"


def test_names_say_what_a_module_is() -> None:
    vague = re.compile(r"(^|_)(utils?|common|misc|helpers?|v\d|final|new|old|backup)(_|\.|$)")
    for path in sources():
        assert not vague.search(path.name), path


def test_no_machine_paths_and_no_notebooks() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    private = re.compile(r"/(home|root|eos|afs|mnt|Users)/\w")
    for name in listed.stdout.split():
        path = ROOT / name
        assert path.suffix not in {".ipynb", ".root", ".npz", ".tfrecord", ".log"}, name
        assert path.stat().st_size < 1_000_000, f"{name} is too large for the repository"
        if path.suffix in {".py", ".sh", ".md", ".cfg", ".toml", ".yaml", ".txt", ".j2"} and path != Path(
            __file__
        ):
            found = private.search(path.read_text())
            assert not found, f"{name} names {found.group() if found else ''}"


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    if script.name != "environment.sh":
        assert "Example: " in text
        assert script.stat().st_mode & 0o100, "not executable"
