"""NIfTI and Analyze headers: nibabel reads the same shape, type, scaling and positions, and what is wrong is named."""

from __future__ import annotations

import gzip
import itertools
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader

from readers.mri import NiftiReader, NiftiRecording
from readers.nifti_header import parse
from readers.schema import Box, ReadError
from tests.mri_files import affine, compress, head, volume

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


def whole(recording: NiftiRecording) -> Box:
    return Box((0, 0, 0), recording.grid()[0])


def agrees(path: Path, *, rtol: float = 0.0) -> NiftiRecording:
    """Open and read a file, as nibabel does."""
    recording, image = NiftiRecording(path), nib.load(path)
    closest = nib.as_closest_canonical(image)
    shape, place = recording.grid()
    sample = recording.read(whole(recording))
    want = closest.get_fdata().reshape(shape)
    with np.errstate(over="ignore"):
        want = want.astype(np.float32)
    assert np.allclose(place, closest.affine, atol=1e-5) and np.allclose(sample.affine, place)
    assert np.allclose(recording.affine_of(0), image.affine, atol=1e-5)
    assert recording.shape_of(0) == image.shape[:3] == recording.axes.shape
    assert recording.axes.orientation == "".join(nib.aff2axcodes(image.affine))
    assert np.allclose(recording.axes.spacing_mm, image.header.get_zooms()[:3], rtol=1e-4)
    assert np.array_equal(sample.valid[0], np.isfinite(want))
    assert np.allclose(sample.values[0], np.where(np.isfinite(want), want, 0), rtol=rtol, atol=0)
    return recording


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(kind, dtype) for kind in ("nifti1", "nifti2", "pair") for dtype in DTYPES]
    + [("analyze", dtype) for dtype in ("uint8", "int16", "int32", "float32", "float64")],
)
@pytest.mark.parametrize("big", [False, True])
def test_every_type_reads_as_in_nibabel(tmp_path, kind, dtype, big):
    values = np.random.default_rng(0).integers(0, 100, (3, 4, 5)) - (0 if dtype[0] == "u" else 50)
    scales = [None, 0.25] if kind == "analyze" else [None, (0.25, -7.0)]
    for k, scale in enumerate(scales):
        slope, inter = scale if isinstance(scale, tuple) else (None, 0.0)
        path = volume(tmp_path, f"v{k}", values, kind=kind, dtype=dtype, big=big, slope=slope, inter=inter)
        recording = agrees(path)
        assert recording.channels[0].dtype == dtype
        assert any("16777216" in note for note in recording.warnings) == (dtype in ("int64", "uint64"))
    before = recording.read(whole(recording)).values
    packed = NiftiRecording(compress(path))
    assert packed.volumes[0].compressed and np.array_equal(packed.read(whole(packed)).values, before)
    if kind in ("nifti1", "nifti2"):  # nibabel does not find the .img.gz of a .hdr
        agrees(packed.path)


def test_every_orientation_reads_as_in_nibabel(tmp_path):
    values = np.random.default_rng(1).integers(0, 1000, (2, 3, 4))
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            where = np.eye(4)
            where[:3, :3] = np.eye(3)[list(order)] * signs * (1.0, 1.5, 2.0)
            where[:3, 3] = 5, -6, 7
            for angles, quaternion in (((0, 0, 0), False), ((9, -14, 20), True)):
                turned = affine(angles=angles, origin=(0, 0, 0)) @ where

                def change(header, turned=turned, quaternion=quaternion):
                    if quaternion:
                        header.set_sform(None, 0)
                        header.set_qform(turned, 1)

                recording = agrees(volume(tmp_path, "v", values, where=turned, change=change))
                assert np.allclose(recording.affine_of(0), turned, atol=1e-5)
                shape, place = recording.grid()
                assert (np.diag(place)[:3] > 0).all() and sorted(shape) == [2, 3, 4]


def test_the_sform_counts_and_a_disagreement_is_told(tmp_path):
    def both(s_code: int, q_code: int, path_name: str) -> NiftiRecording:
        def change(header):
            header.set_qform(affine(angles=(0, 0, 30)), q_code)
            header.set_sform(affine(origin=(-10, -12, -8.5)), s_code)

        return agrees(volume(tmp_path, path_name, change=change))

    note = [w for w in both(1, 1, "a").warnings if "apart" in w]
    corners = np.array(list(itertools.product((0, 19), (0, 23), (0, 17), (1,))), float).T
    apart = np.linalg.norm(((affine(angles=(0, 0, 30)) - affine(origin=(-10, -12, -8.5))) @ corners)[:3], axis=0).max()
    assert len(note) == 1 and f"{apart:.4g} mm" in note[0]
    assert np.allclose(both(4, 0, "b").affine_of(0), affine(origin=(-10, -12, -8.5)), atol=1e-5) and not both(4, 0, "b").warnings
    assert np.allclose(both(0, 2, "c").affine_of(0), affine(angles=(0, 0, 30)), atol=1e-5) and not both(0, 2, "c").warnings
    assert any("no orientation" in w for w in both(0, 0, "d").warnings)


def test_units_are_turned_into_mm(tmp_path):
    for unit, factor, told in (
        ("mm", 1, ()),
        ("micron", 1e-3, ("micrometres",)),
        ("meter", 1e3, ("metres",)),
        ("unknown", 1, ("assumed",)),
    ):
        spacing = 2.0 / factor
        where = affine((spacing, spacing, spacing), origin=(1 / factor, 0, 0))
        recording = NiftiRecording(volume(tmp_path, unit, where=where, change=lambda h, u=unit: h.set_xyzt_units(u)))
        assert np.allclose(recording.affine_of(0), affine((2, 2, 2), origin=(1, 0, 0)), rtol=1e-6, atol=1e-6)
        assert np.allclose(recording.axes.spacing_mm, 2) and recording.axes.unit == "mm"
        assert len(recording.warnings) == len(told) and all(t in w for t, w in zip(told, recording.warnings, strict=True))


def test_slopes_that_are_none_and_ranges(tmp_path):
    def change(header):
        header["cal_min"], header["cal_max"] = 10, 900

    path = volume(tmp_path, "a", change=change)
    channel = agrees(path).channels[0]
    assert (channel.low, channel.high) == (10, 900)
    for slope in (0.0, np.nan, np.inf):
        raw = bytearray(path.read_bytes())
        raw[112:120] = struct.pack("<2f", slope, 5)
        path.write_bytes(raw)
        agrees(path)
    assert agrees(volume(tmp_path, "b")).channels[0].low is None


def test_analyze_scaling_and_origin_of_spm(tmp_path):
    path = volume(tmp_path, "a", kind="analyze", values=head() / 10)
    raw = bytearray(path.read_bytes())
    raw[124:132], raw[140:148], raw[253:259] = (
        struct.pack("<2f", 0.8, 0.2),
        struct.pack("<2i", 110, 10),
        struct.pack("<3h", 4, 5, 6),
    )
    path.write_bytes(raw)
    recording = agrees(path, rtol=1e-6)  # nibabel scales in float32 here
    assert any("10 to 110" in w for w in recording.warnings) and any("no orientation" in w for w in recording.warnings)
    raw[112:116] = struct.pack("<f", 0.5)
    path.write_bytes(raw)
    agrees(path)


def test_four_axes_of_one_volume_are_squeezed_and_more_are_refused(tmp_path):
    agrees(volume(tmp_path, "one", head()[..., None]))
    for shape, text in (((4, 4, 4, 3), "4-D, 4 x 4 x 4 x 3: 3 volumes"), ((4, 4, 4, 1, 3), "5-D"), ((4, 4), "2-D, 4 x 4 voxels")):
        with pytest.raises(ReadError, match=text):
            NiftiRecording(volume(tmp_path, "more", np.zeros(shape)))


@pytest.mark.parametrize(
    ("dtype", "text"), [("complex64", "complex64"), ("complex128", "complex128"), ("rgb", "RGB colours"), ("rgba", "RGBA")]
)
def test_types_that_are_no_real_number_are_refused_by_name(tmp_path, dtype, text):
    colours = {"rgb": np.dtype([(c, "u1") for c in "RGB"]), "rgba": np.dtype([(c, "u1") for c in "RGBA"])}
    values = np.zeros((4, 4, 4), colours.get(dtype, dtype))
    nib.Nifti1Image(values, np.eye(4), dtype=values.dtype).to_filename(tmp_path / "a.nii")
    with pytest.raises(ReadError, match=text):
        NiftiRecording(tmp_path / "a.nii")


def set_field(path: Path, at: int, code: str, *values: float) -> Path:
    raw = bytearray(path.read_bytes())
    struct.pack_into("<" + code, raw, at, *values)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("at", "code", "values", "text"),
    [
        (0, "i", [7], "neither 348 nor 540"),
        (40, "h", [9], "claims 9 axes"),
        (42, "h", [-3], "claims -3 x"),
        (42, "h", [0], "claims 0 x"),
        (42, "3h", [30000, 30000, 30000], "54000000000352 bytes; its file holds at most 17632"),
        (46, "h", [19], "18592 bytes; its file holds at most 17632"),
        (70, "h", [77], "data type 77"),
        (70, "h", [1], "one bit a voxel"),
        (70, "h", [1536], "float128"),
        (108, "f", [np.nan], "byte nan"),
        (108, "f", [-8], "byte -8"),
        (108, "f", [100], "inside its header of 352"),
        (108, "f", [1e9], "1000017280 bytes"),
        (280, "4f", [0, 0, 0, 0], "singular"),
        (280, "4f", [0, 1, 0, 0], "singular"),
        (280, "f", [np.inf], "not finite"),
        (280, "f", [1e7], "1e\\+07 mm along axis 1"),
        (292, "f", [1e9], "1e\\+09 mm away"),
        (344, "4s", [b"ni2\0"], "the mark n\\+1 is missing"),
    ],
)
def test_broken_headers_are_named(tmp_path, at, code, values, text):
    path = set_field(volume(tmp_path, "a"), at, code, *values)
    with pytest.raises(ReadError, match=text):
        NiftiRecording(path)


def test_a_spacing_of_zero_needs_an_affine(tmp_path):
    path = set_field(volume(tmp_path, "a"), 80, "3f", 0, 1, 1)
    recording = NiftiRecording(path)
    assert np.allclose(recording.axes.spacing_mm, 1) and any("pixdim" in w for w in recording.warnings)
    for spacing in (0, -1, np.nan):
        set_field(path, 252, "2h", 1, 0)
        with pytest.raises(ReadError, match=f"spacing of {spacing:g} mm along axis 1"):
            NiftiRecording(set_field(path, 80, "f", spacing))
    set_field(path, 80, "f", 1)
    with pytest.raises(ReadError, match="quaternion is 1 x 1 x 0"):
        NiftiRecording(set_field(path, 256, "3f", 1, 1, 0))
    both = NiftiRecording(set_field(path, 252, "2h", 1, 1))
    assert any("qform is no rotation" in w for w in both.warnings) and np.allclose(both.affine_of(0), affine())


def test_a_compressed_file_cannot_claim_more_than_it_can_hold(tmp_path):
    path = volume(tmp_path, "a", np.zeros((60, 60, 60)), dtype="uint8")
    set_field(path, 42, "3h", 30000, 30000, 3000)
    with pytest.raises(ReadError, match="its file holds at most"):
        NiftiRecording(compress(path))


def test_a_pair_needs_its_voxels_and_other_hdr_files_are_not_claimed(tmp_path):
    path = volume(tmp_path, "a", kind="pair")
    reader = NiftiReader()
    assert list(reader.members(path)) == [path.with_suffix(".img")]
    assert reader.claims(path, path.read_bytes()[:4096])
    assert not reader.claims(tmp_path / "envi.hdr", b"ENVI\ndescription = {a picture}\n")
    assert not reader.claims(tmp_path / "empty.hdr", b"")
    assert NiftiRecording(path).files == (path, path.with_suffix(".img"))
    path.with_suffix(".img").unlink()
    assert list(reader.members(path)) == []
    with pytest.raises(ReadError, match=r"a\.hdr has no a\.img"):
        NiftiRecording(path)


def test_empty_and_foreign_files_are_named(tmp_path):
    for content, text in (
        (b"", "is empty"),
        (b"\x1f\x8b", "damaged"),
        (gzip.compress(b""), "is empty"),
        (b"text" * 200, "no NIfTI"),
    ):
        path = tmp_path / "a.nii.gz"
        path.write_bytes(content)
        with pytest.raises(ReadError, match=text):
            NiftiRecording(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), pair=st.booleans())
def test_any_header_is_read_as_nibabel_reads_it_or_refused(data, pair):
    """Fields at random: no other error than ReadError, and a header that is taken means what nibabel takes it for."""
    order = data.draw(st.sampled_from("<>"))
    image = (nib.Nifti1Pair if pair else nib.Nifti1Image)(np.zeros((4, 5, 6), np.int16), affine(angles=(5, 10, 15)))
    raw = bytearray(image.header.as_byteswapped(order).binaryblock)
    number = st.one_of(st.floats(width=32), st.floats(-10, 10, width=32), st.sampled_from([0.0, 1.0, -1.0]))
    for at, code in data.draw(
        st.lists(
            st.sampled_from(
                [
                    (40, "h"),
                    (42, "h"),
                    (48, "h"),
                    (70, "h"),
                    (108, "f"),
                    (112, "f"),
                    (116, "f"),
                    (123, "B"),
                    (124, "f"),
                    (252, "h"),
                ]
                + [(at, "f") for at in (76, 80, 88, 256, 260, 264, 268, 280, 284, 292, 300, 320)]
                + [(254, "h")]
            ),
            max_size=4,
        )
    ):
        limits = {"h": st.integers(-4, 8) | st.integers(-(2**15), 2**15 - 1), "B": st.integers(0, 255), "f": number}
        struct.pack_into(order + code, raw, at, data.draw(limits[code]))
    try:
        header = parse(bytes(raw) + bytes(200), "a", pair=pair, room=10**9)
    except ReadError:
        return
    want = (Nifti1PairHeader if pair else Nifti1Header)(bytes(raw), order, check=False)
    assert header.shape == want.get_data_shape()[:3]
    assert header.dtype == want.get_data_dtype()
    assert header.voxels > 0 and header.offset >= 0
    assert np.isfinite(header.affine).all() and np.linalg.det(np.array(header.affine)[:3, :3]) != 0
    if np.isfinite(float(want["scl_inter"])):
        slope, inter = want.get_slope_inter()
        assert (header.slope, header.inter) == ((1, 0) if slope is None else (slope, inter))
    codes = int(want["qform_code"]), int(want["sform_code"])
    factor = {1: 1e3, 3: 1e-3}.get(int(want["xyzt_units"]) & 7, 1.0)
    if min(codes) >= 0 and float(want["pixdim"][0]) in (1, -1):
        try:
            best = want.get_best_affine()
        except ValueError:  # a quaternion a little longer than 1
            return
        best = np.array(best, np.float64)
        best[:3] *= factor
        assert np.allclose(header.affine, best, rtol=1e-4, atol=1e-4 * max(1, np.abs(best[:3, :3]).max()))
