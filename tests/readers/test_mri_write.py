"""Writing volumes back: nothing but the patched voxels changes, in any type, and nibabel reads the same."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.mri import NiftiReader, NiftiRecording
from readers.schema import Patch, ReadError
from tests.mri_files import affine, compress, head, session, volume

READER = NiftiReader()
KINDS = ["nifti1", "nifti2", "pair", "analyze"]


def patch(channel, index, values) -> Patch:
    return Patch(channel, np.asarray(index, np.int64), np.asarray(values, np.float64))


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def stored(recording: NiftiRecording) -> np.ndarray:
    """The stored numbers, straight from the bytes of the file."""
    volume, raw = recording.volumes[0], content(recording.volumes[0].data)
    flat = np.frombuffer(raw, volume.header.dtype, volume.header.voxels, volume.header.offset)
    return flat.reshape(volume.header.shape, order="F")


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]),
    big=st.booleans(),
    packed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_only_patched_voxels_change(data, kind, dtype, big, packed, seed):
    if kind == "analyze" and dtype not in ("uint8", "int16", "int32", "float32", "float64"):
        dtype = "int16"
    rng = np.random.default_rng(seed)
    shape = tuple(data.draw(st.integers(1, 6)) for _ in range(3))
    values = rng.integers(0, 120, shape) - (0 if dtype[0] == "u" else 60)
    slope, inter = (1.0, 0.0) if kind == "analyze" else data.draw(st.sampled_from([(1.0, 0.0), (0.5, -3.0), (-2.0, 10.0)]))
    with tempfile.TemporaryDirectory() as folder:
        path = volume(Path(folder) / "in", "v_T1w", values, kind=kind, dtype=dtype, big=big, slope=slope, inter=inter)
        recording = NiftiRecording(compress(path) if packed else path)
        index = rng.permutation(values.size)[: data.draw(st.integers(0, values.size))]
        wanted = rng.integers(-300, 300, index.size)
        limits = np.iinfo(dtype) if dtype[0] != "f" else None
        limited = wanted if limits is None else np.array([min(max(int(w), limits.min), limits.max) for w in wanted])
        before = stored(recording).reshape(-1)  # in C order: the first axis slowest
        flat = before.copy()
        flat[index] = limited.astype(dtype)
        out = Path(folder) / "out" / recording.path.name
        written = READER.write(recording, [patch(0, index, wanted * slope + inter)], out)
        got = stored(NiftiRecording(out))
        assert np.array_equal(got.reshape(-1), flat)
        assert written.path == out and written.changed == int((before != flat).sum())
        assert written.clipped == int((limited != wanted).sum()) and not written.notes
        size = recording.volumes[0].header.offset
        files = list(zip(recording.files, NiftiRecording(out).files, strict=True))
        for source, copy in files:
            assert content(source)[:size] == content(copy)[:size] and len(content(source)) == len(content(copy))
        assert sorted(p.name for p in out.parent.iterdir()) == sorted(p.name for _, p in files)


def test_header_forms_codes_units_and_extensions_stay(tmp_path):
    def change(header):
        header.set_qform(affine(angles=(0, 0, 4)), 1)
        header.set_sform(affine(angles=(0, 0, 5)), 4)
        header.set_xyzt_units("micron", "msec")
        header["descrip"], header["cal_max"], header["intent_code"] = b"as it came", 1000, 5
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a note of odd length"))

    for compressed in (False, True):
        path = volume(tmp_path / "in", "x_T1w", change=change, compressed=compressed)
        recording = NiftiRecording(path)
        where = np.ravel_multi_index((3, 4, 5), (20, 24, 18))
        written = READER.write(recording, [patch(0, [where], [1234])], tmp_path / "out" / path.name)
        one, other = nib.load(path), nib.load(written.path)
        assert one.header.binaryblock == other.header.binaryblock
        assert [e.get_content() for e in one.header.extensions] == [e.get_content() for e in other.header.extensions]
        difference = np.argwhere(np.asarray(one.dataobj) != np.asarray(other.dataobj))
        assert difference.tolist() == [[3, 4, 5]] and other.dataobj[3, 4, 5] == 1234
        offset = len(content(path)) - 20 * 24 * 18 * 2
        assert content(path)[:offset] == content(written.path)[:offset] and offset > 352


def test_a_compressed_copy_has_no_name_and_no_time(tmp_path):
    path = volume(tmp_path, "x_T1w", compressed=True)
    written = READER.write(NiftiRecording(path), [patch(0, [0], [5])], tmp_path / "out" / path.name)
    assert written.path.read_bytes()[3:8] == bytes(5)  # flags and time
    again = READER.write(NiftiRecording(path), [patch(0, [0], [5])], tmp_path / "more" / path.name)
    assert again.path.read_bytes() == written.path.read_bytes()
    same = READER.write(NiftiRecording(path), [], tmp_path / "same" / path.name)
    assert same.path.read_bytes() == path.read_bytes() and same.changed == 0


def test_nan_never_becomes_a_number(tmp_path):
    whole_numbers = NiftiRecording(volume(tmp_path, "x_T1w"))
    written = READER.write(whole_numbers, [patch(0, [0, 7, 9], [np.nan, 3, np.nan])], tmp_path / "o" / "x_T1w.nii")
    assert (written.changed, written.clipped) == (1, 0)
    assert written.notes == ("2 voxels of T1w were to be NaN, which the file cannot hold, and stay",)
    assert stored(NiftiRecording(written.path)).reshape(-1)[[0, 7, 9]].tolist() == [0, 3, 0]
    floats = NiftiRecording(volume(tmp_path, "y_T1w", dtype="float32"))
    written = READER.write(floats, [patch(0, [0, 7], [np.nan, np.inf])], tmp_path / "o" / "y_T1w.nii")
    got = stored(NiftiRecording(written.path)).reshape(-1)[[0, 7]]
    assert np.isnan(got[0]) and np.isinf(got[1]) and (written.changed, written.clipped) == (2, 0)
    written = READER.write(floats, [patch(0, [0], [1e200])], tmp_path / "o" / "y_T1w.nii")
    assert stored(NiftiRecording(written.path)).reshape(-1)[0] == np.finfo(np.float32).max and written.clipped == 1
    for dtype, value in (("int64", 1e30), ("uint64", 1e30), ("int64", -np.inf), ("uint8", np.inf)):
        recording = NiftiRecording(volume(tmp_path, "z_T1w", np.ones((2, 2, 2)), dtype=dtype))
        written = READER.write(recording, [patch(0, [0], [value])], tmp_path / "o" / "z_T1w.nii")
        got = int(stored(NiftiRecording(written.path)).reshape(-1)[0])
        limit = np.iinfo(dtype).max if value > 0 else np.iinfo(dtype).min
        assert abs(got - limit) <= 2048 and written.clipped == 1


def test_the_last_of_two_values_counts_and_scaled_values_round(tmp_path):
    recording = NiftiRecording(volume(tmp_path, "x_T1w", np.zeros((3, 3, 3)), slope=0.5, inter=1.0))
    patches = [patch(0, [4, 5, 4], [9, 9, 3]), patch(0, [5], [1.7])]
    written = READER.write(recording, patches, tmp_path / "o" / "x_T1w.nii")
    got = nib.load(written.path).get_fdata().reshape(-1)
    assert got[4] == 3 and got[5] == 1.5 and written.changed == 2


def test_a_session_is_written_whole(tmp_path):
    paths = session(tmp_path / "in")
    recording = READER.open(paths[0], paths[1:])
    patches = [patch(1, [0, 1], [70, 80]), patch(2, [5], [90])]
    written = READER.write(recording, patches, tmp_path / "out" / "renamed_T1w.nii.gz")
    names = sorted(p.name for p in written.path.parent.iterdir())
    assert names == ["renamed_T1w.nii.gz", "sub-01_ses-1_FLAIR.nii.gz", "sub-01_ses-1_T2w.nii.gz"]
    assert written.changed == 3 and written.path.read_bytes() == paths[0].read_bytes()
    got = [nib.load(tmp_path / "out" / p.name).get_fdata().reshape(-1) for p in paths[1:]]
    assert got[0][:2].tolist() == [70, 80] and got[1][5] == 90


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    paths = session(tmp_path / "in")
    recording = READER.open(paths[0], paths[1:])
    out = tmp_path / "out" / paths[0].name
    cases = [
        ([], paths[0], "replace"),
        ([], tmp_path / "in" / "other_T1w.nii.gz", "replace"),  # its T2w would
        ([], tmp_path / "out" / "a.nii", "end in .nii.gz"),
        ([], out.with_name(paths[1].name), "another contrast"),
        ([patch(3, [0], [1])], out, "no channel 3"),
        ([patch(0, [8640], [1])], out, "outside its 8640 voxels"),
        ([patch(0, [-1], [1])], out, "outside"),
        ([patch(0, [0, 1], [1])], out, "2"),
    ]
    kept = [path.read_bytes() for path in paths]
    for patches, target, text in cases:
        with pytest.raises(ReadError, match=text):
            READER.write(recording, patches, target)
    assert not out.parent.exists() or not list(out.parent.iterdir())
    damaged = bytearray(kept[1])
    damaged[len(damaged) // 2] ^= 0xFF
    paths[1].write_bytes(damaged)
    with pytest.raises(ReadError, match="damaged|ends before"):
        READER.write(recording, [patch(1, [0], [1])], out)
    assert not list(out.parent.iterdir())
    assert paths[0].read_bytes() == kept[0] and sorted((tmp_path / "in").iterdir()) == sorted(paths)


def test_real_scans_come_back_byte_for_byte(shared, tmp_path):
    for name in ("ixi/IXI014-HH-1236_T1", "ms_mni/mscs07_T1w", "ms_raw/mslong04_study1_T1w"):
        path = shared / "mri" / f"{name}.nii.gz"
        recording = NiftiRecording(path)
        index = np.random.default_rng(0).permutation(recording.stored(0))[:500]
        values = np.arange(500) % 200
        one = nib.load(path)
        physical = values * one.dataobj.slope + one.dataobj.inter
        written = READER.write(recording, [patch(0, index, physical)], tmp_path / path.name)
        other = nib.load(written.path)
        before, after = one.dataobj.get_unscaled(), other.dataobj.get_unscaled()
        want = np.array(before)
        want[np.unravel_index(index, want.shape)] = values
        assert np.array_equal(want, after) and other.header.binaryblock == one.header.binaryblock
        offset = recording.volumes[0].header.offset
        assert content(path)[:offset] == content(written.path)[:offset]


def test_verify_names_what_disagrees(tmp_path):
    assert NiftiRecording(volume(tmp_path, "good")).verify() == ()
    holes = head()
    holes[0, 0, :3] = np.nan, np.inf, -np.inf
    assert "holds 3 voxels that are not finite" in NiftiRecording(volume(tmp_path, "nan", holes, dtype="float32")).verify()[0]
    assert "nothing but 4" in NiftiRecording(volume(tmp_path, "same", np.full((3, 3, 3), 4))).verify()[0]
    large = NiftiRecording(volume(tmp_path, "large", np.arange(27).reshape(3, 3, 3) + 2**24 - 3, dtype="int64"))
    assert "holds 23 integers beyond 16777216" in large.verify()[0]
    path = volume(tmp_path, "long")
    path.write_bytes(path.read_bytes() + bytes(77))
    assert "77 bytes after" in NiftiRecording(path).verify()[0]
    path = volume(tmp_path, "bits", compressed=True)
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1  # the checksum
    path.write_bytes(raw)
    assert "CRC" in NiftiRecording(path).verify()[0]
