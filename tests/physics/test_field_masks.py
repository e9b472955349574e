"""Suspicious nodes: what is flagged, what is refused, and what is reported."""

import numpy as np
import pytest

from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.grid import write_grid
from trackkeras.domains.extrapolation.grid_mask import Mask, flags, mask_report, suspicious
from trackkeras.domains.extrapolation.grid_nodes import Grid, node_axes
from trackkeras.domains.extrapolation.propagation import Status, propagate
from trackkeras.errors import UserError

LIMITS = ((-4000.0, 4000.0, 400.0), (-4000.0, 4000.0, 400.0), (3000.0, 7000.0, 400.0))
READS = {"linear": range(2), "cubic": range(-1, 3)}


def random_grid(seed, share=0.02, shape=(7, 6, 8)):
    rng = np.random.default_rng(seed)
    nodes = rng.uniform(-0.5, 0.5, (*shape, 3)).astype(np.float32)
    nodes[rng.random(shape) < share, 1] = 5.0
    return Grid(tuple(np.linspace(-3000.0, 3000.0, n) for n in shape), nodes)


@pytest.mark.parametrize("order", ["linear", "cubic"])
@pytest.mark.parametrize("seed", range(4))
def test_a_cell_is_flagged_if_it_reads_a_strong_node(order, seed):
    grid = random_grid(seed)
    found, (_, strong) = flags(grid, Mask(), order), suspicious(grid, Mask())
    assert strong.any()
    shape = np.array(strong.shape)
    for cell in np.ndindex(*(shape - 1)):
        read = (
            np.stack(np.meshgrid(*(READS[order] for _ in range(3)), indexing="ij"), axis=-1).reshape(-1, 3)
            + cell
        )
        read = read[((read >= 0) & (read < shape)).all(axis=1)]
        assert found[cell] == strong[tuple(read.T)].any()


@pytest.fixture(scope="module")
def dipole_map(tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "two_dipole.txt"
    write_grid(make_field("two_dipole"), path, LIMITS)
    return path


@pytest.mark.parametrize("order", ["linear", "cubic", "nearest"])
def test_masked_points_are_refused_and_no_strong_field_is_left(dipole_map, order):
    plain = make_field("grid", path=dipole_map, interpolation=order)
    masked = make_field("grid", path=dipole_map, interpolation=order, mask=True)
    points = np.random.default_rng(1).uniform([-4000, -4000, 3000], [4000, 4000, 7000], (20_000, 3)).T
    known = masked.inside(*points)
    assert plain.inside(*points).all()
    assert 0.1 < known.mean() < 0.9
    assert not known[(np.abs(points[:2]) > 3500).any(axis=0)].any()
    np.testing.assert_array_equal(masked.field(*points[:, known]), plain.field(*points[:, known]))
    limit = 2.0 if order != "cubic" else 2.5  # a cubic may overshoot between trusted nodes
    assert np.linalg.norm(masked.field(*points[:, known]), axis=1).max() <= limit
    with pytest.raises(UserError, match=r"away from nodes with \|B\| > 2 T; received"):
        masked.field(*points)
    assert masked.volume.tolist() == [-3500, 3500, -3500, 3500, 3000, 7000]
    assert make_field(**masked.options).options == masked.options


def test_limits_are_options(dipole_map):
    lax = make_field("grid", path=dipole_map, mask={"strength": 1e6})
    assert lax.restriction == ""
    assert lax.volume[0] == -3500
    wide = make_field("grid", path=dipole_map, mask={"edge": 9000, "strength": 1e6})
    assert wide.volume[0] == -4000
    assert make_field("grid", path=dipole_map, mask=False).volume[0] == -4000
    with pytest.raises(UserError, match="leaves nothing of the grid"):
        make_field("grid", path=dipole_map, mask={"strength": 1e-6})
    with pytest.raises(UserError, match=r"mask.strength.*received -1"):
        make_field("grid", path=dipole_map, mask={"strength": -1})


def test_polarity_does_not_touch_the_mask(dipole_map):
    down, up = (make_field("grid", path=dipole_map, mask=True, polarity=sign) for sign in (1, -1))
    np.testing.assert_array_equal(up.values[..., :3], -down.values[..., :3])
    np.testing.assert_array_equal(up.values[..., 3], down.values[..., 3])


def test_a_track_that_enters_a_masked_cell_gets_a_status(dipole_map):
    field = make_field("grid", path=dipole_map, mask=True)
    state = np.zeros((3, 5))
    state[:, 1] = [0.0, 3000.0, 0.0]
    state[2, 3] = 0.9  # from the axis into the strong field
    found = propagate(field, state, 3000.0, 3900.0, step=100.0)
    assert found.status.tolist() == [0, Status.LEFT_VOLUME, Status.LEFT_VOLUME]


def test_the_report_counts_and_locates():
    axes = node_axes(((-4000, 4000, 1000), (-4000, 4000, 1000), (0, 3000, 1000)))
    nodes = np.zeros((9, 9, 4, 3), np.float32)
    nodes[4, 5, 2] = (0.0, -3.0, 4.0)
    nodes[0, 0, 0] = (9.0, 0.0, 0.0)
    report = mask_report(Grid(axes, nodes), Mask())
    beyond = 9 * 9 * 4 - 7 * 7 * 4
    assert report["nodes"] == 324
    assert report["By_too_strong_fraction"] == 1 / 324
    assert report["beyond_edge"] == {
        "nodes": beyond,
        "fraction": beyond / 324,
        "extent_mm": [-4000.0, 4000.0, -4000.0, 4000.0, 0.0, 3000.0],
        "largest_T": 9.0,
    }
    assert report["too_strong"]["nodes"] == 2
    assert report["too_strong"]["extent_mm"] == [-4000.0, 0.0, -4000.0, 1000.0, 0.0, 2000.0]
    assert report["either"]["nodes"] == beyond + 1
    clean = mask_report(Grid(axes, np.zeros_like(nodes)), Mask(edge=5000))
    assert clean["either"] == {"nodes": 0, "fraction": 0.0, "extent_mm": None, "largest_T": None}
