"""Harmonics are vacuum fields, sensitivities are derivatives, and calibration finds a field by its tracks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackkeras.domains.extrapolation import lhcb, real_data
from trackkeras.domains.extrapolation.field_calibration import (
    CalibrationOptions,
    calibrate_harmonics,
    calibrate_terms,
    calibrated_map,
    sensitivity,
    write_calibrated_terms,
)
from trackkeras.domains.extrapolation.field_fit import Tracks, track_errors
from trackkeras.domains.extrapolation.field_harmonics import Harmonics
from trackkeras.domains.extrapolation.fields import field_options, make_field
from trackkeras.domains.extrapolation.generation_options import GenerateOptions
from trackkeras.domains.extrapolation.propagation import propagate
from trackkeras.errors import UserError
from trackkeras.presets import load_run

FEW = Harmonics(waves_x=1, waves_z=3)
PLANES = (2665.0, 7826.0)


def crossing(field, n, seed=0):
    rng = np.random.default_rng(seed)
    tx, ty = rng.uniform(-0.2, 0.2, n), rng.uniform(-0.15, 0.15, n)
    qop = rng.choice([-1, 1], n) / np.exp(rng.uniform(np.log(3e3), np.log(1e5), n))
    start = np.stack([PLANES[0] * tx, PLANES[0] * ty, tx, ty, qop], axis=1)
    end = propagate(field, start, PLANES[0], PLANES[1] - PLANES[0], step=50.0).state
    return Tracks(start, end, *PLANES)


@given(
    x=st.floats(-3500, 3500),
    y=st.floats(-1800, 1800),
    z=st.floats(2700, 7800),
)
@settings(max_examples=30, deadline=None)
def test_every_harmonic_obeys_maxwells_equations(x, y, z):
    harmonics, h = Harmonics(waves_x=2, waves_z=3), 0.1
    point = np.array([x, y, z])
    points = np.concatenate([point + h * np.eye(3), point - h * np.eye(3)])
    b = harmonics(*points.T)
    slopes = (b[:3] - b[3:]) / (2 * h)  # along, component, harmonic
    size = np.abs(slopes).max(axis=(0, 1)) + 1e-9
    assert (np.abs(np.einsum("iik->k", slopes)) < 1e-5 * size + 1e-10).all()
    assert (np.abs(slopes - slopes.transpose(1, 0, 2)).max(axis=(0, 1)) < 1e-5 * size + 1e-10).all()
    assert b.shape == (6, 3, len(harmonics))


def test_harmonics_have_all_parities():
    """Mirrored points give a field whose signs differ between harmonics: no plane of symmetry is built in."""
    points = np.array([[300.0, 400.0, 5000.0]])
    b, other = FEW(*points.T)[0, 1], FEW(*(points * [-1, 1, 1]).T)[0, 1]
    assert ((b * other) > 1e-9).any()
    assert ((b * other) < -1e-9).any()


def test_sensitivity_is_the_derivative_of_the_final_state():
    """Against Runge-Kutta of another implementation in a field that is a little stronger everywhere."""
    field = make_field("lhcb")
    tracks = crossing(field, 40)
    found = sensitivity(field, tracks, steps=40)
    np.testing.assert_allclose(found.end[:, :2], tracks.end[:, :2], atol=2e-3)
    change, terms = 1e-4, np.array(lhcb.TERMS)
    near = []
    for sign in (1, -1):
        scaled = terms * np.array([1 + sign * change, 1, 1, 1])
        near.append(crossing(make_field("maxwell", terms=scaled.tolist()), 40).end[:, :4])
    expected = (near[0] - near[1]) / (2 * change)
    b = field.field(*found.places.reshape(-1, 3).T).reshape(found.places.shape)
    response = np.einsum("nimk,nmk->ni", found.response, b)
    assert (np.abs(response - expected) < 2e-3 * np.abs(expected).max(axis=0)).all()


def test_perturbed_terms_are_found_again():
    field = make_field("lhcb")
    tracks = crossing(field, 500)
    wrong = np.array(lhcb.TERMS) * [1.01, 1, 1, 1] + [0.0, 30.0, 20.0, 0.02]
    before = np.median(track_errors(make_field("maxwell", terms=wrong.tolist()), tracks))
    options = CalibrationOptions(floor=0.2, evaluations=10, steps=15)
    found = make_field("maxwell", terms=calibrate_terms(tracks, wrong.tolist(), options))
    unseen = crossing(field, 300, seed=1)
    assert np.median(track_errors(found, unseen)) < before / 8


def test_calibrated_terms_are_a_field_file_for_generators_and_networks(tmp_path):
    tracks = crossing(make_field("lhcb"), 50)
    terms = ((-1.0, 5000.0, 1700.0, 0.1), (0.25, 3000.0, 1500.0, -0.5))
    path = tmp_path / "calibrated.yaml"
    write_calibrated_terms(path, terms, tracks)
    head = path.read_text().splitlines()
    assert head[0] == "# 2 terms calibrated with 50 tracks from z = 2665 to 7826 mm"
    median = np.median(track_errors(make_field("maxwell", terms=terms), tracks))
    assert f"median {median:.4g} mm" in head[1]
    wanted = {"name": "maxwell", "terms": [list(term) for term in terms]}
    assert field_options(str(path)) == wanted
    options = GenerateOptions(field=str(path))
    np.testing.assert_array_equal(options.make_field().params, make_field("maxwell", terms=terms).params)
    run = load_run("hybrid_tiny", [f"model.field={path}"])
    assert run.model.field == options.field == wanted, "the data's field is the equation's"
    for make in (
        lambda file: GenerateOptions(field=file),
        lambda file: load_run("pinn_tiny", [f"model.field={file}"]),
    ):
        with pytest.raises(ValueError, match=r"no such file: none\.yaml"):
            make("none.yaml")


def test_a_displaced_field_without_symmetry_is_found_by_harmonics():
    base = make_field("lhcb")
    bump = np.zeros(len(FEW))
    bump[[3, 20, 37]] = 0.01, -0.01, 0.02
    truth = calibrated_map(base, FEW, bump)
    tracks, unseen = crossing(truth, 500), crossing(truth, 300, seed=1)
    before = np.median(track_errors(base, unseen))
    found = calibrate_harmonics(tracks, base, FEW, CalibrationOptions(rounds=2, steps=20))
    after = np.median(track_errors(calibrated_map(base, FEW, found), unseen))
    assert after < before / 50


def test_more_terms_than_tracks_are_refused():
    tracks = crossing(make_field("lhcb"), 3)
    with pytest.raises(UserError, match="6 terms cannot be calibrated with 3 tracks"):
        calibrate_terms(tracks, lhcb.TERMS)


@pytest.mark.data
def test_a_few_harmonics_bring_the_real_map_nearer():
    folder = real_data.data_folder()
    if folder is None or not (folder / "lhcb").is_dir():
        pytest.skip("no experiment data")
    rows = real_data.real_field_crossing(folder)
    tracks = Tracks(rows["state"], rows["final_state"], *real_data.CROSSING_Z)
    base = make_field("lhcb")
    found = calibrate_harmonics(tracks[:800], base, FEW, CalibrationOptions(rounds=2, steps=20))
    unseen = tracks[800:1600]
    assert np.median(track_errors(calibrated_map(base, FEW, found), unseen)) < 0.8 * np.median(
        track_errors(base, unseen)
    )
