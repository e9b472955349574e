"""Every command that takes a RUS file, with every fault that such a file may have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from trackkeras.domains.dimuon.muons import hit_arrays, muon_rows
from trackkeras.domains.dimuon.reconstructed import with_muons
from trackkeras.domains.dimuon.reconstruction import Muons
from trackkeras.domains.dimuon.rus_writing import write_rus
from trackkeras.domains.dimuon.tools_bench import sample_events

NETWORK = Path(__file__).parents[2] / "results" / "momentum_medium"

COMMANDS = (
    "dimuon check BAD",
    "dimuon separate BAD --out made",
    "dimuon gen-training BAD good.root --out made",
    "dimuon gen-training good.root BAD --out made",
    "dimuon combine BAD good.root --out made.root",
    "dimuon combine good.root BAD --out made.root",
    "dimuon messy BAD muons.root --out made.root",
    "dimuon messy good.root BAD --out made.root",
    "dimuon noise BAD --out made.root",
    "dimuon skim BAD --out made.root",
    "dimuon merge BAD good.root --out made.root",
    "dimuon merge good.root BAD --out made.root",
    "dimuon background BAD --out made.root",
    "dimuon reconstruct BAD --momentum bundle --truth-hits --out made.root",
    "dimuon evaluate BAD --out made.html",
    "dimuon evaluate good.root BAD --out made.html",
    "dimuon mass BAD --out made.png",
    "dimuon display BAD --out made.png",
    f"dimuon calibrate {NETWORK} --file BAD --out calibrated",
    "ingest dimuon BAD --out dataset",
)

FAULTS = {
    "truncated": "cannot be read as a ROOT file",
    "no_tree": "has no TTree named 'tree', but other",
    "no_branch": "lacks the branches? elementID",
    "ragged": "elementID has 4 values where detectorID has 5",
    "past_the_plane": "event 0: a hit in detector [0-9]+, element 201",
}
"""What the message says of each."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good reconstructed file, good single muons, and a bad one for each fault."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "made").mkdir()
    events = sample_events(6, 5, 2, np.random.default_rng(0))
    elements, drift = hit_arrays(events, muon_rows(events))
    found = with_muons(events, Muons(elements, drift, np.ones((6, 2, 3)), np.zeros((6, 2))))
    write_rus(folder / "good.root", [found])
    write_rus(folder / "muons.root", [sample_events(6, 5, 1, np.random.default_rng(1))])
    content = (folder / "good.root").read_bytes()
    (folder / "truncated.root").write_bytes(content[: len(content) * 7 // 10])
    with uproot.recreate(folder / "no_tree.root") as root:
        root["other"] = {"x": np.zeros(3)}
    with uproot.open(folder / "good.root") as root:
        branches = root["tree"].arrays(library="ak", how=dict)
    element = branches.pop("elementID")
    for counter in ("nhit", "ntrk"):
        del branches[counter]
    first = ak.local_index(element) == 0
    beyond = ak.where(first, 201, element)
    short = element[~(first & (np.arange(6) == 0))]
    for name, changed in (
        ("no_branch", {}),
        ("ragged", {"elementID": short}),
        ("past_the_plane", {"elementID": ak.values_astype(beyond, np.int32)}),
    ):
        arrays = {**branches, **changed}
        with uproot.recreate(folder / f"{name}.root") as root:
            root.mktree("tree", {key: array.type.content for key, array in arrays.items()}).extend(arrays)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: re.sub(r"/\S+/", "", command))
def test_a_bad_file_is_one_line_and_leaves_nothing(
    command: str, fault: str, files: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    from trackkeras.domains.dimuon import networks

    monkeypatch.setattr(networks, "open_network", lambda *words: lambda inputs: {})
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    code, out, err = run(*shlex.split(command.replace("BAD", f"{fault}.root")))
    if command.startswith("dimuon check") and code == 1:  # its report is what was asked for
        assert "not valid RUS" in out
        assert not err
    else:
        assert code == 2
        assert not out
        lines = [line for line in err.splitlines() if not re.match("dimuon |read dimuon ", line)]  # progress
        assert len(lines) == 1, err
        assert lines[0].startswith("error: ")
        assert f"{fault}.root" in lines[0]
        assert re.search(FAULTS[fault], lines[0]), lines[0]
    assert sorted(files.rglob("*")) == before
