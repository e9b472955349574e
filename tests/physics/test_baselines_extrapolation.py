"""The classical methods: their own accuracy, and costs held to the source that they claim to count."""

import inspect
import re
from types import SimpleNamespace

import numpy as np
import pytest

from trackkeras.domains.extrapolation import baselines, blocks, grid_kernels, kernels, propagation
from trackkeras.domains.extrapolation.baselines import (
    default_baselines,
    equal_cost_steps,
    field_operations,
    mlp_operations,
    parabola,
    rk4_equal_cost,
    step_operations,
    straight_line,
)
from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.generation_options import GenerateOptions
from trackkeras.domains.extrapolation.propagation import propagate
from trackkeras.domains.extrapolation.real_data import cpp_states, data_folder, real_field_crossing, samples
from trackkeras.domains.extrapolation.sanity import check_rows
from trackkeras.domains.extrapolation.simulate import make_shard
from trackkeras.domains.extrapolation.tableaus import TABLEAUS
from trackkeras.errors import UserError


@pytest.fixture(scope="module")
def lhcb():
    return make_field("lhcb")


@pytest.fixture(scope="module")
def rows():
    return next(make_shard({}, np.random.default_rng(4), 2000))[0]


def position_error(rows, pred):
    return np.hypot(*(pred["final_state"] - rows["final_state"])[:, :2].T)


def test_every_method_keeps_shape_and_momentum(lhcb, rows):
    for predict in (straight_line, parabola(lhcb), rk4_equal_cost(lhcb, 3)):
        final = predict(rows)["final_state"]
        assert final.shape == rows["state"].shape
        assert np.isfinite(final).all()
        assert (final[:, 4] == rows["state"][:, 4]).all()


def test_without_charge_all_methods_are_the_straight_line(lhcb, rows):
    neutral = rows | {"state": rows["state"] * np.array([1, 1, 1, 1, 0.0])}
    line = straight_line(neutral)["final_state"]
    # Steep free tracks may leave the volume when nothing bends them; the parabola does not ask.
    np.testing.assert_array_equal(parabola(lhcb)(neutral)["final_state"], line)
    np.testing.assert_allclose(rk4_equal_cost(lhcb, 4)(neutral)["final_state"], line, rtol=0, atol=1e-9)


def test_the_parabola_is_of_second_order(lhcb):
    """Over a short distance its position is wrong by dz ** 3, the straight line's by dz ** 2."""
    start = {"state": np.array([[100.0, 200.0, 0.1, -0.05, 1e-4]]), "z0": np.array([[4000.0]])}
    errors = {"line": [], "parabola": []}
    lengths = np.array([200.0, 100.0, 50.0])
    for dz in lengths:
        track = start | {"dz": np.array([[dz]])}
        truth = {"final_state": propagate(lhcb, track["state"], 4000.0, dz, step=5.0).state}
        errors["line"].append(position_error(truth, straight_line(track))[0])
        errors["parabola"].append(position_error(truth, parabola(lhcb)(track))[0])
    orders = {name: np.polyfit(np.log(lengths), np.log(values), 1)[0] for name, values in errors.items()}
    assert orders["line"] == pytest.approx(2, abs=0.1)
    assert orders["parabola"] == pytest.approx(3, abs=0.3)


def test_many_steps_approach_the_truth(lhcb, rows):
    medians = [np.median(position_error(rows, rk4_equal_cost(lhcb, steps)(rows))) for steps in (1, 4, 16, 64)]
    assert medians == sorted(medians, reverse=True)
    assert medians[-1] < 1e-3
    assert medians[1] < np.median(position_error(rows, straight_line(rows)))


def test_a_coarse_path_that_leaves_the_volume_becomes_the_straight_line(lhcb):
    track = {
        "state": np.array([[2900.0, 0.0, 0.3, 0.0, 1 / 500.0], [0.0, 0.0, 0.0, 0.0, 1e-5]]),
        "z0": np.full((2, 1), 4000.0),
        "dz": np.full((2, 1), 9000.0),
    }
    final = rk4_equal_cost(lhcb, 1)(track)["final_state"]
    line = straight_line(track)["final_state"]
    np.testing.assert_array_equal(final[0], line[0])
    assert abs(final[1, 0] - line[1, 0]) > 1.0


def test_default_baselines_follow_the_dataset(rows):
    config = GenerateOptions(field={"name": "gaussian", "polarity": -1}).model_dump(mode="json")
    found = default_baselines(config, mlp_operations((7, 256, 256, 128, 4)))
    assert [one.name for one in found] == ["straight_line", "parabola", "polynomial", "rk4_equal_cost"]
    assert found[0].cost < found[1].cost < found[2].cost < found[3].cost
    second = found[1]
    field = make_field("gaussian", polarity=-1)
    np.testing.assert_array_equal(second.predict(rows)["final_state"], parabola(field)(rows)["final_state"])
    assert [one.name for one in default_baselines({}, 1000)] == ["straight_line"]
    assert [one.name for one in default_baselines({"source": "tracks.npz"}, 1000)] == ["straight_line"]


# -- costs -------------------------------------------------------------------------------------------------


class Counted(float):
    """A number that counts what is done with it."""

    operations = 0


def _counting(name):
    def operation(*operands):
        Counted.operations += 1
        return Counted(getattr(float, name)(*operands))

    return operation


for _name in ("add", "sub", "mul", "truediv"):
    for _side in ("__{}__", "__r{}__"):
        setattr(Counted, _side.format(_name), _counting(_side.format(_name)))
Counted.__neg__ = lambda self: Counted(-float(self))


def interpreted(module, **names):
    """The module's functions as plain Python, by leaving out the compiler."""
    source = re.sub(
        r"from numba import njit(, )?(.*)", r"from numba import njit as _, \2", inspect.getsource(module)
    )
    source = source.replace("njit as _, \n", "njit as _\n")

    def njit(*args, **kwargs):
        return args[0] if args else lambda function: function

    namespace = {"njit": njit, "__name__": "interpreted"}
    exec(compile(source.replace("@dataclass(frozen=True)", ""), module.__file__, "exec"), namespace)
    namespace.update(names)
    return SimpleNamespace(**namespace)


def count(function, *arguments):
    Counted.operations = 0
    function(*arguments)
    return Counted.operations


def numbers(*values):
    return np.array([Counted(value) for value in values], dtype=object)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "gaussian"},
        {"name": "maxwell", "terms": ((-1.0, 5000.0, 1800.0, 0.0),)},
        {"name": "maxwell", "terms": ((-1.0, 5000.0, 1800.0, 0.2), (-0.1, 5500.0, 2000.0, 0.1))},
        {"name": "lhcb"},
    ],
)
def test_field_operations_are_those_of_the_kernel(options):
    field, plain = make_field(**options), interpreted(kernels)
    point, out = [numbers(value) for value in (120.0, -340.0, 4700.0)], [numbers(0.0) for _ in range(3)]
    kind = plain.gaussian_block if field.kind == kernels.GAUSSIAN else plain.maxwell_block
    assert count(kind, numbers(*field.params), *point, *out) == field_operations(field)
    np.testing.assert_allclose(
        [float(component[0]) for component in out],
        field.field(120.0, -340.0, 4700.0)[0],
        rtol=1e-13,
        atol=1e-15,
    )


def test_two_dipole_operations_are_those_of_the_kernel():
    root = _counting("__pow__")  # a square root counts as one operation
    plain = interpreted(kernels, np=SimpleNamespace(sqrt=lambda value: root(value, 0.5)))
    field = make_field("two_dipole")
    point, out = [numbers(value) for value in (120.0, -340.0, 4700.0)], [numbers(0.0) for _ in range(3)]
    counted = count(plain.two_dipole_block, numbers(*field.params), *point, *out)
    assert counted == field_operations(field)


def blend(values, base, stride_x, stride_y, *sides):
    """What the compiled `blend` does, number by number; a single weight is 1 and costs nothing."""
    flat = values.reshape(-1)

    def total(weights, parts):
        terms = [part if len(weights) == 1 else w * part for w, part in zip(weights, parts, strict=True)]
        return sum(terms[1:], terms[0])

    def component(c):
        x, y, z = (range(len(side)) for side in sides)
        node = lambda i, j, k: flat[base + i * stride_x + j * stride_y + 4 * k + c]  # noqa: E731
        row = lambda i, j: total(sides[2], [node(i, j, k) for k in z])  # noqa: E731
        return total(sides[0], [total(sides[1], [row(i, j) for j in y]) for i in x])

    return component(0), component(1), component(2)


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("order", ["linear", "cubic", "nearest"])
def test_grid_operations_are_those_of_the_kernel(order, variable):
    """Counted inside the grid, between its planes, for points that do not share one z."""
    plain = interpreted(grid_kernels, blend=blend)
    values = numbers(*np.arange(5 * 5 * 5 * 4.0)).reshape(5, 5, 5, 4)
    params = numbers(*[0.0, 100.0] * 3, 0.0, *[0.0, 100.0, 200.0, 300.0, 400.0] * 3)
    counted = []
    for n in (2, 3):  # what is done once per block does not count
        points = [numbers(*np.linspace(value, value + 1.0, n)) for value in (130.0, 160.0, 180.0)]
        out = [numbers(*np.zeros(n)) for _ in range(3)]
        counted.append(count(getattr(plain, f"{order}_block"), variable, params, values, *points, *out))
    kind = getattr(kernels, "VARIABLE_" * variable + {"linear": "GRID"}.get(order, f"GRID_{order.upper()}"))
    assert counted[1] - counted[0] == baselines.FIELD_POINT[kind]


def test_derivative_operations_are_those_of_the_kernel(monkeypatch):
    lanes = [numbers(*[0.1 * (index + 1)] * propagation.BLOCK) for index in range(7)]
    root = SimpleNamespace(sqrt=_counting("__pow__"))  # a square root counts as one operation
    monkeypatch.setattr(blocks, "np", SimpleNamespace(sqrt=lambda value: root.sqrt(value, 0.5)))
    total = 0
    for function in (blocks.bending, blocks.slope_change_x, blocks.slope_change_y):
        arity = len(inspect.signature(function.py_func).parameters)
        total += count(function.py_func, *lanes[:arity])
    assert total == baselines.DERIVATIVE * propagation.BLOCK


@pytest.mark.parametrize("method", TABLEAUS)
def test_step_operations_are_those_of_the_kernel(lhcb, method):
    tableau, lanes = TABLEAUS[method], blocks.BLOCK
    tables, plain = propagation.stage_table(tableau), interpreted(blocks)
    arrays = [numbers(*np.ones(lanes)) for _ in range(5)]
    changes = numbers(*np.ones(lanes * tableau.stages)).reshape(tableau.stages, lanes)
    sums = 0
    for stage, (place_row, slope_row, node) in enumerate(zip(*tables, strict=True)):
        done = min(stage, tableau.stages)
        out, start, slope, h, square = arrays
        place = (out, start, slope, numbers(node)[0], h, square, numbers(*place_row), changes, done)
        sums += count(plain.sum_position, *place)
        sums += count(plain.sum_slope, out, start, h, numbers(*slope_row), changes, done)
    own_field = tableau.stages - len(tableau.same_field) - tableau.reuse
    rest = 4 + tableau.stages * (2 + baselines.DERIVATIVE) + own_field * field_operations(lhcb)
    assert 2 * sums / lanes + rest == step_operations(lhcb, tableau)


def test_network_operations():
    assert mlp_operations((6, 4), activation=0) == 2 * 24
    assert mlp_operations((6, 64, 64, 4), activation=0) == 2 * (4868 - 132)  # all weights but the biases
    assert mlp_operations((6, 64, 64, 4)) == mlp_operations((6, 64, 64, 4), activation=0) + 34 * 128


@pytest.mark.parametrize("operations", [1, 5e3, 2e5, 1e6])
def test_equal_cost_steps_do_not_cost_more(lhcb, operations):
    steps, each = equal_cost_steps(lhcb, operations), step_operations(lhcb, TABLEAUS["rk4"])
    assert steps >= 1
    assert steps == 1 or steps * each <= operations < (steps + 1) * each


# -- tracks made elsewhere ---------------------------------------------------------------------------------


def test_a_named_data_folder_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKKERAS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"TRACKKERAS_DATA must name a folder, received .*nowhere"):
        data_folder()
    monkeypatch.setenv("TRACKKERAS_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    assert samples() == ()
    (tmp_path / "lhcb").mkdir()
    with pytest.raises(UserError, match=r"no such file: .*real_field_crossing_4000\.npz"):
        samples()


@pytest.fixture(scope="module")
def folder():
    found = data_folder()
    if found is None or not (found / "lhcb").is_dir():
        pytest.skip("no experiment data beside the project")
    return found


@pytest.mark.data
def test_real_rows_exclude_those_of_the_fit(folder):
    rows = real_field_crossing(folder)
    with np.load(folder / "lhcb" / "real_field_crossing_4000.npz") as arrays:
        first = arrays["X_plane"][:1200, 0]
    assert len(rows["state"]) == 2800
    assert not np.isin(rows["state"][:, 0], first).any()


@pytest.mark.data
def test_real_tracks_are_sane_and_in_our_units(folder):
    crossing, cpp = real_field_crossing(folder), cpp_states(folder)
    assert len(cpp["state"]) == 872
    momentum = 1e-3 / np.abs(crossing["state"][:, 4])
    assert momentum.min() > 1.9
    assert momentum.max() < 101
    for rows in (crossing, cpp):  # a few tracks of 2 GeV end steeper than the generator allows
        assert not any("q/p" in line or "side" in line or "|x|" in line for line in check_rows(rows))


@pytest.mark.data
def test_methods_on_real_tracks_stand_in_the_expected_order(folder, lhcb):
    for sample in samples():
        errors = [
            np.median(position_error(sample.rows, predict(sample.rows)))
            for predict in (rk4_equal_cost(lhcb, 100), parabola(lhcb), straight_line)
        ]
        assert errors == sorted(errors), sample.name
        assert not sample.simulated
