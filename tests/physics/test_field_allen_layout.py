"""Allen's binary layout: lossless round trip, the header byte by byte, one clear line for a broken file."""

import struct

import numpy as np
import pytest

from trackkeras.domains.extrapolation.fields import make_field
from trackkeras.domains.extrapolation.grid import write_grid
from trackkeras.domains.extrapolation.grid_allen import read_allen, write_allen
from trackkeras.domains.extrapolation.grid_nodes import axes_of
from trackkeras.errors import UserError

LIMITS = ((-400.0, 400.0, 200.0), (-300.0, 300.0, 300.0), (4000.0, 6000.0, 250.0))


@pytest.fixture
def binary(tmp_path):
    path = tmp_path / "map.bin"
    assert write_allen(make_field("lhcb"), path, LIMITS) == 135
    return path


def test_header_and_order_of_the_nodes(binary):
    content = binary.read_bytes()
    inverse, counts, first = (
        struct.unpack_from(f"<4{kind}", content, 16 * k) for k, kind in enumerate("fif")
    )
    np.testing.assert_allclose(inverse, [1 / 200, 1 / 300, 1 / 250, 0], rtol=1e-7)
    assert counts == (5, 3, 9, 0)
    assert first == (-400.0, -300.0, 4000.0, 0.0)
    assert len(content) == 48 + 16 * 135
    field = make_field("lhcb")
    for x, y, z in ((0, 0, 0), (3, 1, 7), (4, 2, 8)):
        bx, by, bz, pad = struct.unpack_from("<4f", content, 48 + 16 * (x + 5 * (y + 3 * z)))
        b = field.field(-400 + 200 * x, -300 + 300 * y, 4000 + 250 * z)[0]
        np.testing.assert_array_equal(np.float32(b), np.float32([bx, by, bz]))
        assert pad == 0


def test_round_trip_is_lossless(binary, tmp_path):
    field = make_field("grid", path=binary)
    for found, limits in zip(axes_of(field), LIMITS, strict=True):
        np.testing.assert_array_equal(found, np.arange(limits[0], limits[1] + 1, limits[2]))
    again = tmp_path / "again.bin"
    write_allen(field, again, LIMITS)
    assert again.read_bytes() == binary.read_bytes()


def test_text_and_binary_hold_the_same_field(binary, tmp_path):
    text = tmp_path / "map.txt"
    write_grid(make_field("lhcb"), text, LIMITS)
    one, other = make_field("grid", path=binary), make_field("grid", path=text)
    np.testing.assert_allclose(one.values, other.values, rtol=1.2e-7, atol=1e-9)
    np.testing.assert_array_equal(one.params, other.params)


def test_format_and_unit_are_options(binary, tmp_path):
    plain = make_field("grid", path=binary)
    other = tmp_path / "magfield"
    other.write_bytes(binary.read_bytes())
    same = make_field("grid", path=other, format="allen", field="Gaudi")
    np.testing.assert_allclose(same.values, plain.values * 1000, rtol=1e-6)
    with pytest.raises(UserError, match="in mm, received length 'cm'"):
        make_field("grid", path=binary, length="cm")
    with pytest.raises(UserError, match="unknown unit 'kT'"):
        read_allen(binary, "kT")


def edited(content, offset, kind, value):
    changed = bytearray(content)
    struct.pack_into(kind, changed, offset, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:40], "40 bytes, less than its header"),
        (lambda b: b[:-16], r"5 x 3 x 9 nodes take 2208 bytes, received 2192; the file is cut off"),
        (lambda b: b + b"x", "take 2208 bytes, received 2209"),
        (lambda b: edited(b, 16, "<i", -5), "its header says .*-5"),
        (lambda b: edited(b, 0, "<f", 0.0), "its header says"),
        (lambda b: edited(b, 36, "<f", np.nan), "its header says"),
        (lambda b: edited(b, 48 + 16 * 7 + 4, "<f", np.inf), r"By of node \(2, 1, 0\) is not finite"),
    ],
)
def test_a_broken_file_is_one_clear_line(binary, change, message):
    binary.write_bytes(change(binary.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        read_allen(binary)
    assert "\n" not in str(caught.value)
    assert str(binary) in str(caught.value)


def test_writing_never_harms_an_existing_file(binary):
    before = binary.read_bytes()
    with pytest.raises(UserError, match="exists"):
        write_allen(make_field("gaussian"), binary, LIMITS)
    with pytest.raises(UserError, match="nodes outside"):
        write_allen(make_field("lhcb"), binary, ((-9000, 9000, 1000), *LIMITS[1:]), overwrite=True)
    with pytest.raises(UserError, match="No such file"):
        read_allen(binary.with_name("absent.bin"))
    assert binary.read_bytes() == before
    assert [path.name for path in binary.parent.iterdir()] == ["map.bin"]
