"""Field maps as text: exact round trip, trilinear interpolation, and one clear line for every broken file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from trackkeras.domains.extrapolation import grid as grid_module
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.grid import read_grid, write_grid
from trackkeras.domains.extrapolation.grid_nodes import FIELD_UNITS, LENGTH_UNITS, NODES
from trackkeras.errors import UserError

SMALL = ((-400.0, 400.0, 200.0), (-300.0, 300.0, 300.0), (4000.0, 6000.0, 250.0))


def nodes_of(limits):
    axes = [np.arange(first, last + 1, step) for first, last, step in limits]
    return axes, np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def write_lines(path, table, order=None):
    table = table if order is None else table[order]
    path.write_text("".join(" ".join(f"{v:.10g}" for v in row) + "\n" for row in table))
    return path


@pytest.fixture
def small_map(tmp_path):
    path = tmp_path / "small.txt"
    write_grid(make_field("lhcb"), path, SMALL)
    return path


@pytest.fixture
def table(small_map):
    return np.loadtxt(small_map)


def load(path, **options):
    return make_field("grid", path=path, **({"length": "mm", "field": "T"} | options))


def test_default_grid_has_81_x_81_x_146_nodes():
    assert [round((last - first) / step) + 1 for first, last, step in NODES] == [81, 81, 146]


def test_round_trip_keeps_every_node(small_map):
    field, copy = make_field("lhcb"), load(small_map)
    _, points = nodes_of(SMALL)
    # Nodes are held in single precision.
    np.testing.assert_allclose(copy.field(*points.T), field.field(*points.T), rtol=6e-8, atol=1e-9)
    assert copy.volume.tolist() == [-400, 400, -300, 300, 4000, 6000]
    assert copy.values.shape == (5, 3, 9, 4)
    assert "x y z Bx By Bz" in small_map.read_text().splitlines()[0]


def test_interpolation_equals_scipy(small_map):
    field = load(small_map)
    axes, _ = nodes_of(SMALL)
    reference = RegularGridInterpolator(axes, field.values[..., :3].astype(float))
    low, high = field.volume[::2], field.volume[1::2]
    points = np.random.default_rng(0).uniform(low, high, (2000, 3))
    points[:8] = np.stack(np.meshgrid(*zip(low, high, strict=True)), axis=-1).reshape(8, 3)  # the corners
    np.testing.assert_allclose(field.field(*points.T), reference(points), rtol=0, atol=1e-14)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_order_of_the_lines_does_not_matter(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    _, points = nodes_of(((0, 200, 100), (-50, 50, 50), (0, 30, 10)))
    table = np.column_stack([points, rng.normal(size=points.shape)])
    folder = tmp_path_factory.mktemp("order")
    straight = read_grid(write_lines(folder / "a.txt", table), "mm", "T")
    shuffled = read_grid(write_lines(folder / "b.txt", table, rng.permutation(len(table))), "mm", "T")
    np.testing.assert_array_equal(straight.nodes, shuffled.nodes)
    for one, other in zip(straight.axes, shuffled.axes, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("length", LENGTH_UNITS)
@pytest.mark.parametrize("unit", FIELD_UNITS)
def test_units_are_honoured(tmp_path, table, length, unit):
    mm, tesla = (
        {"mm": 1, "cm": 10, "m": 1000}[length],
        {"T": 1, "mT": 1e-3, "kG": 0.1, "G": 1e-4, "Gaudi": 1000}[unit],
    )
    path = write_lines(tmp_path / "units.txt", table / ([mm] * 3 + [tesla] * 3))
    point = (120.0, -80.0, 4711.0)
    expected = read_grid(write_lines(tmp_path / "plain.txt", table), "mm", "T")
    field = load(path, length=length, field=unit)
    np.testing.assert_allclose(field.params, expected.params(masked=False), rtol=1e-12)
    np.testing.assert_allclose(field.values, expected.values(), rtol=2e-7, atol=1e-9)
    assert field.inside(*point).all()


def test_polarity_and_rebuild(small_map):
    field, up = load(small_map), load(small_map, polarity=-1)
    np.testing.assert_array_equal(up.values[..., :3], -field.values[..., :3])
    np.testing.assert_array_equal(make_field(**up.options).values, up.values)


def test_outside_the_hull_is_refused(small_map):
    with pytest.raises(UserError, match="1 of 1 points outside"):
        load(small_map).field(401, 0, 5000)


def broken_lines(table):
    """Name -> (table as lines, expected message)."""
    lines = [" ".join(f"{v:.10g}" for v in row) for row in table]
    x, y, z = (f"{v:g}" for v in table[37, :3])
    return {
        "hole": ([*lines[:37], *lines[38:]], f"node x={x}, y={y}, z={z} mm is missing"),
        "duplicate": ([*lines, lines[37]], f"node x={x}, y={y}, z={z} mm is given more than once"),
        "nan": (
            [*lines[:37], f"{x} {y} {z} 0 nan 0", *lines[38:]],
            "line 38: By must be a finite number.*'nan'",
        ),
        "inf": ([*lines[:3], "0 0 4000 0 0 -inf"], "line 4: Bz must be a finite number.*'-inf'"),
        "word": (
            [*lines[:37], f"{x} {y} {z} 0 oops 0", *lines[38:]],
            "line 38: By must be a finite number.*'oops'",
        ),
        "short line": (
            [*lines[:37], f"{x} {y} {z} 0 0", *lines[38:]],
            "line 38: needs 6 columns.*received 5",
        ),
        "short table": ([line.rsplit(" ", 1)[0] for line in lines], "line 1: needs 6 columns.*received 5"),
        "irregular": (["0 0 0 0 0 0", "0 0 100 0 0 0", "0 0 250 0 0 0"], "needs at least two different x"),
        "empty": (["# nothing"], "holds no nodes"),
    }


@pytest.mark.parametrize("name", broken_lines(np.zeros((40, 6))))
@pytest.mark.filterwarnings("ignore:loadtxt. input contained no data")
def test_a_broken_file_is_one_clear_line(tmp_path, table, name):
    lines, message = broken_lines(table)[name]
    path = tmp_path / "broken.txt"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_line_numbers_count_comments(tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("# x y z Bx By Bz\n\n0 0 0 0 0 0  # first\n0 0 1 0 0\n")
    with pytest.raises(UserError, match="line 4: needs 6 columns"):
        load(path)


def test_binary_and_missing_files(tmp_path):
    path = tmp_path / "map.dat"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"map.dat, line 1"):
        load(path)
    with pytest.raises(UserError, match="No such file"):
        load(tmp_path / "absent.txt")
    with pytest.raises(UserError, match="unknown unit 'furlong'"):
        read_grid(path, "furlong", "T")


def test_writing_never_harms_an_existing_file(tmp_path, small_map):
    before = small_map.read_bytes()
    with pytest.raises(UserError, match="exists"):
        write_grid(make_field("gaussian"), small_map, SMALL)
    with pytest.raises(UserError, match="the grid's x from -9000 to 9000 mm has nodes outside"):
        write_grid(make_field("lhcb"), small_map, ((-9000, 9000, 1000), *SMALL[1:]), overwrite=True)
    with pytest.raises(UserError, match="cannot be divided"):
        write_grid(make_field("lhcb"), small_map, ((0, 1000, 300), *SMALL[1:]), overwrite=True)
    with pytest.raises(UserError, match="no such folder"):
        write_grid(make_field("lhcb"), tmp_path / "absent" / "map.txt", SMALL)
    assert small_map.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["small.txt"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def breaks(field, axes):
        calls.append(axes)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return np.zeros((*map(len, axes), 3))

    monkeypatch.setattr(grid_module, "at_nodes", breaks)
    with pytest.raises(KeyboardInterrupt):
        write_grid(make_field("lhcb"), tmp_path / "map.txt", SMALL)
    assert len(calls) == 4
    assert not list(tmp_path.iterdir())


def test_units_are_read_from_the_first_line(tmp_path, small_map, table):
    plain = make_field("grid", path=small_map)
    np.testing.assert_array_equal(plain.values, load(small_map).values)
    centimetres = tmp_path / "cm.txt"
    lines = write_lines(tmp_path / "body.txt", table / ([10] * 3 + [0.1] * 3)).read_text()
    centimetres.write_text("# x y z Bx By Bz  [cm, kG]\n" + lines)
    found = make_field("grid", path=centimetres)
    np.testing.assert_array_equal(found.volume, plain.volume)
    np.testing.assert_allclose(found.values, plain.values, rtol=2e-7, atol=1e-9)
    with pytest.raises(UserError, match=r"name the units with length=mm and field=T"):
        make_field("grid", path=tmp_path / "body.txt")
    (tmp_path / "inch.txt").write_text("# [inch, T]\n" + lines)
    with pytest.raises(UserError, match=r"unknown unit 'inch'"):
        make_field("grid", path=tmp_path / "inch.txt")


def test_long_files_are_read_in_parts_and_reported(small_map, monkeypatch):
    expected = load(small_map).values
    monkeypatch.setattr(grid_module, "CHUNK_LINES", 45)  # 135 nodes: the last part is empty
    reports = []
    found = make_field("grid", path=small_map, report=lambda *counts: reports.append(counts))
    np.testing.assert_array_equal(found.values, expected)
    assert len(reports) == 4
    assert reports[-1] == (small_map.stat().st_size,) * 2
    monkeypatch.setattr(grid_module, "CHUNK_LINES", 40)
    np.testing.assert_array_equal(load(small_map).values, expected)
