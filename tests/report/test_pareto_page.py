"""Who beats whom, and the page that says so, on made-up points."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackkeras import pareto_page
from trackkeras.domains.extrapolation.pareto_bench import conclusions
from trackkeras.errors import UserError
from trackkeras.pareto import Point, dominates, frontier, judge, standing

FEW = st.integers(1, 6).map(float)  # few values: ties occur
POINTS = st.lists(st.tuples(FEW, FEW | st.just(math.inf)), max_size=30).map(
    lambda pairs: [Point(f"point {number}", *pair) for number, pair in enumerate(pairs)]
)
POINT = st.tuples(FEW, FEW).map(lambda pair: Point("network", *pair))


@given(POINTS)
def test_the_frontier_is_what_nothing_dominates(points):
    best = frontier(points)
    finite = [point for point in points if math.isfinite(point.error)]
    assert {point.name for point in best} == {
        point.name for point in finite if not any(dominates(other, point) for other in points)
    }
    assert best == sorted(best, key=lambda point: point.us)
    errors = [point.error for point in best]
    assert errors == sorted(errors, reverse=True)
    # everything else is beaten by a point of the frontier
    for point in finite:
        assert point in best or any(dominates(other, point) for other in best)
    assert frontier(best) == best


@given(POINT, POINTS)
def test_standing_agrees_with_dominance(network, rivals):
    found = standing(network, rivals)
    assert (found.beaten_by is None) == (not any(dominates(rival, network) for rival in rivals))
    if found.time_ratio is not None:
        assert found.equal_error.error <= network.error
        # slower by less than nothing: a rival as accurate and faster beats the network
        if found.time_ratio < 1:
            assert found.beaten_by is not None
    if found.error_ratio is not None and found.error_ratio < 1:
        assert found.beaten_by is not None
    if found.beaten_by is not None:
        assert found.time_ratio <= 1
        assert found.error_ratio <= 1


@given(st.lists(POINT, min_size=1, max_size=5), POINTS, FEW)
def test_the_verdict_is_about_the_fastest_within_the_limit(networks, rivals, limit):
    verdict = judge(networks, rivals, limit)
    times = [network.us for network in networks if network.error <= limit]
    against = [rival.us for rival in rivals if rival.error <= limit]
    assert verdict.ahead == (bool(times) and min(times) < min(against, default=math.inf))
    assert verdict.within == bool(times)
    if not times:
        assert verdict.best.error == min(network.error for network in networks)


def test_of_two_engines_the_fast_one_stands_for_a_network_over_the_limit():
    slow, fast = Point("one engine", 0.3, 9.999), Point("another", 0.1, 10.0)
    assert judge([slow, fast], [], 0.5).best == fast
    assert judge([slow, fast], [], 10.0).best == fast


def test_without_a_network_there_is_no_verdict():
    with pytest.raises(UserError, match="no network to judge"):
        judge([], [], 0.5)


# -- the page ----------------------------------------------------------------------------------------------


def row(name, kind, us, p95, field="", own=None):
    engine = "generated C++" if kind == "network" else "Numba"
    return {
        **{"name": name, "kind": kind, "field": field, "engine": engine, "method": name, "setting": ""},
        **{"us_per_track": us, "mean_mm": p95, "p95_mm": p95, "own_p95_mm": own or p95, "lost": 0.0},
    }


CLASSICAL = [
    row("coarse", "classical", 0.4, 3.0, "trilinear map"),
    row("middle", "classical", 0.6, 0.4, "trilinear map", own=0.3),
    row("lost", "classical", 0.1, None, "trilinear map"),
    row("fine", "classical", 5.0, 0.01, "tricubic map"),
    row("exact", "classical", 2.0, 1e-4, "closed form"),
]


def sample(name, *networks):
    table = [*CLASSICAL, *(row(f"<{label}> & $", "network", *pair) for label, *pair in networks)]
    return {
        **{"name": name, "description": f"made-up points, {name}", "options": {}, "drawn": 10, "rows": 9},
        "map_p95_mm": {"trilinear map": 0.1, "tricubic map": 0.01},
        **conclusions(table, 0.5),
    }


@pytest.fixture
def report():
    samples = [
        sample("ahead", ("quick", 0.1, 0.45), ("slow", 3.0, 0.2)),
        sample("too_slow", ("exact but slow", 0.9, 0.45)),
        sample("too_coarse", ("rough", 0.2, 4.0), ("beaten", 0.5, 5.0)),
    ]
    head = {"limit_mm": 0.5, "rounds": 3, "seed": 1, "batch": 1024, "cpp": True, "load": [1.0, 2.0]}
    return {**head, "samples": samples}


def test_answers_are_plain(report):
    ahead, slow, coarse = (pareto_page.answer(sample["verdict"]) for sample in report["samples"])
    assert "at p95 ≤ 0.5 mm: yes, by <quick>" in ahead
    assert "middle (0.6 µs, p95 0.3 mm), takes 6 times as long" in ahead  # the smaller of its errors
    assert "no. <exact but slow>" in slow
    assert "takes 1.5 times as long as middle" in slow
    assert "no. The most accurate network, <rough>" in coarse
    assert "8 times over the limit" in coarse
    assert "(coarse) takes 2 times its time; no rival is as fast" in coarse


def test_every_network_is_told_what_beats_it(report):
    told = {
        network["name"]: pareto_page.statement(network)
        for sample in report["samples"]
        for network in sample["networks"]
    }
    assert {name for name, said in told.items() if said["worth"]} == {"<quick> & $", "<rough> & $"}
    assert told["<slow> & $"]["text"].startswith("Not worth it: exact (2 µs")
    assert told["<beaten> & $"]["text"].startswith("Not worth it: coarse (0.4 µs, p95 3 mm)")


def test_the_page_is_one_file_with_every_picture_and_point(report, tmp_path, parse_page):
    paths = pareto_page.write(report, "a machine, load 1", "trackkeras bench pareto x/1", tmp_path / "out")
    page = parse_page(paths["html"])
    assert page.tags.count("svg") == len(report["samples"])
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"https?:|javascript:", " ".join(content or "" for *_, content in page.attributes))
    names = [content for _, key, content in page.attributes if key == "id"]
    assert len(names) == len(set(names))
    for found in report["samples"]:
        assert found["description"] in page.text
        for point in found["points"]:
            assert point["name"] in page.text
    for line in pareto_page.headline(report):
        assert line.partition(": ")[2] in page.text
    assert "a machine, load 1" in page.text
    assert "trackkeras bench pareto x/1" in page.text
    assert paths["png"].read_bytes().startswith(b"\x89PNG")


def test_the_tables_name_every_network_and_keep_their_columns(report):
    text = pareto_page.tables(report, "a machine", "the command")
    for found in report["samples"]:
        assert f"## {found['name']}\n" in text
        assert pareto_page.answer(found["verdict"]) in text
        for network in found["networks"]:
            assert f"| {network['name']} | " in text
    tables = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) == 3 * len(report["samples"])
    for table in tables:
        assert len(table) > 2
        assert {line.count("|") for line in table} == {table[0].count("|")}
    for table in tables[2::3]:  # Runge-Kutta on the map: slower is more accurate
        times, errors = zip(
            *([float(cell) for cell in row.split(" | ")[1:3]] for row in table[2:]), strict=True
        )
        assert list(times) == sorted(times)
        assert list(errors) == sorted(errors, reverse=True)


def test_a_missing_compiler_is_told(report):
    missing = "There was no C++ compiler"
    assert missing not in pareto_page.page(report | {"samples": report["samples"][:1]}, "m", "c")
    assert missing in pareto_page.page(report | {"samples": [], "cpp": False}, "m", "c")


def test_the_json_is_the_report(report, tmp_path):
    paths = pareto_page.write(report, "m", "the command", tmp_path / "out")
    written = json.loads(paths["json"].read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert written == {"command": "the command", **report}
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in paths.values()
    )


def test_a_place_without_room_for_the_page_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; name a folder"):
        pareto_page.check_folder(tmp_path / "file")
    with pytest.raises(UserError, match="no such folder"):
        pareto_page.check_folder(tmp_path / "none" / "out")
