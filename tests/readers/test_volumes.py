"""Boxes of volumes: grids, resampling and the way back, against formulas in space and scipy on the whole array."""

from __future__ import annotations

import itertools
import os
import pickle
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from readers import nifti_store, volume_grid
from readers.mri import NiftiReader, NiftiRecording
from readers.mri_write import write_nifti
from readers.schema import Box, ReadError
from readers.volumes import foreground, patch_of
from tests.mri_files import affine, head, volume

OBLIQUE = affine((1.0, 1.3, 2.1), (8, -17, 30), (4, 5, -6))


def whole(recording, spacing_mm=None) -> Box:
    return Box((0, 0, 0), recording.grid(spacing_mm)[0])


def places(place: np.ndarray, shape) -> np.ndarray:
    """RAS mm (3, X, Y, Z) of every voxel of a grid."""
    index = np.array(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), float)
    return np.tensordot(place[:3, :3], index, 1) + place[:3, 3].reshape(3, 1, 1, 1)


def ramp(where: np.ndarray) -> np.ndarray:
    """Something linear in space, which trilinear interpolation keeps."""
    return 100 + 3 * where[0] - 2 * where[1] + 0.5 * where[2]


@pytest.fixture(scope="module")
def ramps(tmp_path_factory) -> NiftiRecording:
    """Four contrasts of one field: on oblique, flipped, turned and much finer grids."""
    folder = tmp_path_factory.mktemp("ramps")
    flipped = OBLIQUE @ np.array([[0, 0, -1.0, 15], [1, 0, 0, 0], [0, -1, 0, 13], [0, 0, 0, 1]])
    grids = [
        (OBLIQUE, (16, 18, 14)),
        (flipped, (18, 14, 16)),
        (affine((1.4, 1.1, 1.9), (-20, 12, 5), (0, 3, -8)), (20, 24, 16)),
        (OBLIQUE @ np.diag([0.4, 0.5, 0.45, 1]), (40, 36, 30)),
    ]
    paths = [
        volume(folder, f"s_{name}", ramp(places(where, shape)), dtype="float64", where=where)
        for name, (where, shape) in zip(("T1w", "T1ce", "T2w", "FLAIR"), grids, strict=True)
    ]
    return NiftiRecording(paths[0], paths[1:])


def test_cubes_cover_the_field_of_view(ramps):
    native_shape, native = ramps.grid()
    own = np.linalg.norm(native[:3, :3], axis=0)
    for spacing in (0.7, 1.0, 2.5, 100.0):
        shape, place = ramps.grid(spacing)
        columns = place[:3, :3]
        assert np.allclose(np.linalg.norm(columns, axis=0), spacing)
        assert np.allclose(columns / spacing, native[:3, :3] / own)  # oblique stays oblique
        extent, covered = np.array(native_shape) * own, np.array(shape) * spacing
        assert (covered > extent - 1e-2).all() and (covered - spacing < extent).all()
        middle = [g @ [*((np.array(s) - 1) / 2), 1] for g, s in ((place, shape), (native, native_shape))]
        assert np.allclose(*middle)
    for spacing in (0, -1, np.nan, 1e-4):
        with pytest.raises(ReadError, match="mm"):
            ramps.grid(spacing)


@pytest.mark.parametrize("spacing", [None, 0.8, 1.0, 1.7])
def test_a_linear_field_is_the_same_on_every_grid(ramps, spacing):
    sample = ramps.read(whole(ramps, spacing), spacing_mm=spacing)
    where = places(sample.affine, sample.values.shape[1:])
    inner = np.zeros_like(sample.valid)
    for k in range(4):
        # Away from the edges of the contrast, where there is nothing to interpolate with.
        back = np.linalg.inv(ramps.affine_of(k))
        index = np.tensordot(back[:3, :3], where, 1) + back[:3, 3].reshape(3, 1, 1, 1)
        size = np.array(ramps.shape_of(k)).reshape(3, 1, 1, 1)
        inside = ((index > -0.5) & (index < size - 0.5)).all(0)
        assert np.array_equal(sample.valid[k], inside) or np.mean(sample.valid[k] != inside) < 1e-3
        margin = 9 if k == 3 else 4
        inner[k] = ((index >= margin) & (index <= size - 1 - margin)).all(0)
        assert inner[k].sum() > 20
        assert np.allclose(sample.values[k][inner[k]], ramp(where)[inner[k]], atol=1e-3)
    assert np.array_equal(sample.valid[0], sample.valid[1])
    assert (sample.values[~sample.valid] == 0).all()


def test_warnings_tell_which_contrast_is_resampled(ramps):
    text = " ".join(ramps.warnings)
    assert "T1ce has another grid" not in text  # only turned
    assert "T2w has another grid (20 x 24 x 16 voxels of 1.4 x 1.1 x 1.9 mm) than T1w (16 x 18 x 14 voxels" in text
    assert "FLAIR has another grid (40 x 36 x 30" in text


def test_turned_contrasts_keep_their_values(ramps):
    sample = ramps.read(whole(ramps))
    for k in (0, 1):
        own = NiftiRecording(ramps.volumes[k].path)
        assert np.array_equal(sample.values[k], own.read(whole(own)).values[0])
    assert sample.valid[:2].all()


def test_resampling_is_what_scipy_makes_of_the_whole_volume(tmp_path):
    values = np.random.default_rng(0).normal(size=(14, 15, 16))
    recording = NiftiRecording(volume(tmp_path, "a", values, dtype="float64", where=affine((1, 1.2, 0.9))))
    for spacing in (0.6, 2.0):
        shape, place = recording.grid(spacing)
        ratio = spacing / np.array([1, 1.2, 0.9])
        sigma = np.where(ratio > 1.05, np.sqrt(np.maximum(ratio**2 - 1, 0)) / 2.354820045, 0)
        smooth = ndimage.gaussian_filter(values, sigma, mode="nearest")
        way = np.linalg.inv(recording.affine_of(0)) @ place
        want = ndimage.affine_transform(smooth, way[:3, :3], way[:3, 3], shape, order=1, mode="nearest")
        sample = recording.read(whole(recording, spacing), spacing_mm=spacing)
        assert sample.valid.all() and np.allclose(sample.values[0], want, atol=1e-5)


def test_no_alias_survives_going_coarser(tmp_path):
    """A checkerboard of single voxels is finer than the coarse grid can hold: it has to come out grey."""
    board = np.indices((40, 40, 40)).sum(0) % 2 * 100.0
    recording = NiftiRecording(volume(tmp_path, "a", board, dtype="float32"))
    values = recording.read(whole(recording, 4.0), spacing_mm=4.0).values[0]
    assert np.abs(values[2:-2, 2:-2, 2:-2] - 50).max() < 0.5


@settings(max_examples=40, deadline=None)
@given(data=st.data(), spacing=st.sampled_from([None, 0.9, 1.6, 3.0]))
def test_boxes_agree_wherever_they_begin(ramps, data, spacing):
    shape, place = ramps.grid(spacing)
    every = ramps.read(whole(ramps, spacing), spacing_mm=spacing)
    start = [data.draw(st.integers(-3, n + 2)) for n in shape]
    stop = [data.draw(st.integers(a, n + 4)) for a, n in zip(start, shape, strict=True)]
    picked = data.draw(st.permutations(range(4)))[: data.draw(st.integers(1, 4))]
    sample = ramps.read(Box(tuple(start), tuple(stop)), spacing_mm=spacing, channels=picked)
    assert np.allclose(sample.affine @ [0, 0, 0, 1], place @ [*start, 1])
    assert sample.channels == tuple(ramps.channels[k] for k in picked)
    padded = np.pad(every.values[picked], [(0, 0)] + [(4, 6)] * 3)
    known = np.pad(every.valid[picked], [(0, 0)] + [(4, 6)] * 3)
    at = (slice(None), *(slice(a + 4, b + 4) for a, b in zip(start, stop, strict=True)))
    assert np.array_equal(sample.valid, known[at]) and np.array_equal(sample.values, padded[at])


def test_small_steps_give_the_same(ramps, monkeypatch):
    before = {s: ramps.read(whole(ramps, s), spacing_mm=s) for s in (None, 1.6)}
    monkeypatch.setattr(volume_grid, "STEP_VOXELS", 3000)
    for spacing, want in before.items():
        sample = ramps.read(whole(ramps, spacing), spacing_mm=spacing)
        assert np.array_equal(sample.values, want.values) and np.array_equal(sample.valid, want.valid)


def test_a_box_that_is_none_is_refused(ramps):
    with pytest.raises(ReadError, match="cannot be read from"):
        ramps.read(Box((0, 0, 5), (1, 1, 4)))
    assert ramps.read(Box((2, 2, 2), (2, 9, 9))).values.shape == (4, 0, 7, 7)


@pytest.mark.parametrize("angles", [(0, 0, 0), (10, 5, -20)])
def test_voxels_that_are_not_finite_are_not_valid_nor_felt(tmp_path, angles):
    values = np.full((16, 16, 16), 7.0)
    holes = [(5, 5, 5), (5, 5, 6), (12, 3, 8)]
    for hole, value in zip(holes, (np.nan, np.inf, -np.inf), strict=True):
        values[hole] = value
    first = volume(tmp_path, "x_T1w", np.zeros((16, 16, 16)), where=affine((0.8, 0.8, 0.8), angles), dtype="float32")
    recording = NiftiRecording(first, [volume(tmp_path, "x_T2w", values, dtype="float32")])
    native = NiftiRecording(recording.volumes[1].path).read(Box((0, 0, 0), (16, 16, 16)))
    assert set(map(tuple, np.argwhere(~native.valid[0]))) == set(holes)
    for spacing in (None, 1.2):
        sample = recording.read(whole(recording, spacing), spacing_mm=spacing, channels=[1])
        way = np.linalg.inv(recording.affine_of(1)) @ sample.affine
        index = places(way, sample.values.shape[1:])
        inside = ((index >= -0.5 - 1e-6) & (index <= 15.5 + 1e-6)).all(0)
        near = [(np.abs(index - np.reshape(hole, (3, 1, 1, 1))) < 1 - 1e-6).all(0) for hole in holes]
        assert np.array_equal(sample.valid[0], inside & ~np.any(near, 0))
        assert np.allclose(sample.values[0][sample.valid[0]], 7, atol=1e-5)  # what surrounds a hole does not feel it
        assert np.any(near, 0).sum() > 0


def test_float64_beyond_float32_is_not_valid(tmp_path):
    values = np.ones((3, 4, 5))
    values[1, 2, 3] = 1e300
    recording = NiftiRecording(volume(tmp_path, "a", values, dtype="float64"))
    sample = recording.read(Box((0, 0, 0), (3, 4, 5)))
    assert np.argwhere(~sample.valid[0]).tolist() == [[1, 2, 3]] and sample.values[0, 1, 2, 3] == 0
    finer = recording.read(whole(recording, 0.8), spacing_mm=0.8)
    assert np.isfinite(finer.values).all() and 0 < np.count_nonzero(~finer.valid) < 20


def test_a_box_of_a_large_file_costs_a_box(tmp_path):
    path = volume(tmp_path, "a", np.zeros((4, 4, 4)), dtype="float32")
    raw = bytearray(path.read_bytes()[:352])
    raw[42:48] = np.array([800, 700, 600], "<i2").tobytes()
    raw[280:284], raw[300:304], raw[320:324] = (np.array([0.5], "<f4").tobytes() for _ in range(3))
    path.write_bytes(raw)
    os.truncate(path, 352 + 800 * 700 * 600 * 4)  # 1.3 GB, of which the disk holds nothing
    recording = NiftiRecording(path)
    tracemalloc.start()
    recording.read(Box((10, 20, 0), (42, 52, 600)))
    recording.read(Box((10, 20, 30), (42, 52, 62)), spacing_mm=1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_compressed_volumes_read_alike_from_memory_disk_and_stream(tmp_path, monkeypatch):
    path = volume(tmp_path, "a", head(), compressed=True)
    box, want = Box((3, 4, 5), (15, 16, 17)), nib.load(path).get_fdata()[3:15, 4:16, 5:17]
    assert np.array_equal(NiftiRecording(path).read(box).values[0], want)
    monkeypatch.setattr(nifti_store, "HELD_BYTES", 100)
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for _ in range(2):
        assert np.array_equal(NiftiRecording(path).read(box).values[0], want)
    copies = list(cache.rglob("*.*"))
    assert [copy.stat().st_size for copy in copies] == [20 * 24 * 18 * 2]
    monkeypatch.setattr(nifti_store, "ON_DISK_BYTES", 20 * 24 * 18 * 2)
    other = volume(tmp_path, "b", head(seed=5), compressed=True)
    NiftiRecording(other).read(box)
    kept = list(cache.rglob("*.*"))
    assert len(kept) == 1 and kept != copies  # the older copy made room
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file, no folder: nothing can be written
    assert np.array_equal(NiftiRecording(path).read(box).values[0], want)


def test_volumes_held_in_memory_are_bounded_and_follow_the_file(tmp_path, monkeypatch):
    held = nifti_store._Held()
    monkeypatch.setattr(nifti_store, "_HELD", held)
    monkeypatch.setattr(nifti_store, "ALL_HELD_BYTES", 40_000)
    box = Box((5, 5, 5), (10, 10, 10))
    for k in range(4):
        path = volume(tmp_path, f"v{k}", head(seed=k), compressed=True)
        NiftiRecording(path).read(box)
    assert sum(voxels.nbytes for voxels in held._volumes.values()) <= 40_000 and len(held._volumes) == 2
    path = volume(tmp_path, "v3", head(seed=9), compressed=True)
    os.utime(path, (1, 1))
    assert np.array_equal(NiftiRecording(path).read(box).values[0], nib.load(path).get_fdata()[5:10, 5:10, 5:10])


@pytest.mark.parametrize("turn", list(itertools.permutations(range(3)))[:4])
def test_patches_go_back_to_the_stored_voxels(tmp_path, turn):
    where = np.eye(4)
    where[:3, :3] = np.eye(3)[list(turn)] * (1, -1, 1)
    recording = NiftiRecording(volume(tmp_path, "a_T1w", head((7, 8, 9)), where=where, dtype="float32"))
    box = Box((-1, 2, 3), (4, 6, 12))
    values = np.random.default_rng(3).normal(size=box.shape)
    values[2, 1, 0] = np.nan
    patch = patch_of(recording, 0, box, values)
    written = write_nifti(recording.volumes, ["T1w"], [patch], tmp_path / "out" / "a_T1w.nii")
    before, after = recording.read(whole(recording)), NiftiRecording(written.path).read(whole(recording))
    want = before.values[0].copy()
    for at in itertools.product(*[range(max(a, 0), min(b, n)) for a, b, n in zip(box.start, box.stop, want.shape, strict=True)]):
        value = values[tuple(p - a for p, a in zip(at, box.start, strict=True))]
        want[at] = want[at] if np.isnan(value) else np.float32(value)
    assert np.array_equal(after.values[0], want)


def test_patches_from_another_grid_are_interpolated(ramps, tmp_path):
    """A linear field given on cubes comes back to every contrast's own voxels inside the box, and to no other."""
    spacing = 1.1
    shape, place = ramps.grid(spacing)
    box = Box((1, 1, 0), (shape[0], shape[1] - 1, shape[2]))
    offset = place.copy()
    offset[:3, 3] += place[:3, :3] @ box.start
    for channel in range(4):
        patch = patch_of(ramps, channel, box, ramp(places(offset, box.shape)) + 5, spacing_mm=spacing)
        index = np.unravel_index(patch.index, ramps.shape_of(channel))
        where = ramps.affine_of(channel) @ np.stack([*index, np.ones(patch.index.size)])
        back = (np.linalg.inv(offset) @ where)[:3]
        assert len(set(patch.index.tolist())) == patch.index.size > 100
        assert ((back >= -0.5 - 1e-5) & (back <= np.reshape(box.shape, (3, 1)) - 0.5 + 1e-5)).all()
        inner = ((back >= 4) & (back <= np.reshape(box.shape, (3, 1)) - 5)).all(0)
        assert inner.sum() > 10
        assert np.allclose(patch.values[inner], ramp(where[:3])[inner] + 5, atol=1e-6)
    with pytest.raises(ReadError, match="values of shape"):
        patch_of(ramps, 0, box, np.zeros((2, 2, 2)), spacing_mm=spacing)


@pytest.mark.parametrize("spacing", [None, 1.5])
def test_foreground_is_the_box_of_the_head(tmp_path, spacing):
    values = np.zeros((60, 70, 50))
    values[12:40, 20:60, 9:38] = head((28, 40, 29))
    values[55, 66, 47] = 900  # a speck is no head
    where = np.diag([-1.0, 1.0, 1.0, 1.0])
    recording = NiftiRecording(volume(tmp_path, "a_T1w", values, where=where))
    box = foreground(recording, spacing)
    shape, place = recording.grid(spacing)
    native = np.linalg.inv(recording.grid()[1]) @ place
    edges = [native @ [*(np.array(end) - 0.5), 1] for end in (box.start, box.stop)]
    # The head's ellipsoid fills 0.85 of its array, in RAS order: the first axis was flipped.
    want = np.array([[60 - 40 + 2, 20 + 3, 9 + 2], [60 - 12 - 2, 60 - 3, 38 - 2]])
    assert (edges[0][:3] + 0.5 <= want[0] + 1).all() and (edges[1][:3] + 0.5 >= want[1] - 1).all()
    assert (edges[0][:3] + 0.5 >= want[0] - 5).all() and (edges[1][:3] + 0.5 <= want[1] + 5).all()
    assert foreground(NiftiRecording(recording.path), spacing) == box
    assert all(0 <= a < b <= n for a, b, n in zip(box.start, box.stop, shape, strict=True))


def test_foreground_of_nothing_is_everything(tmp_path):
    for name, values in (("zero", np.zeros((9, 8, 7))), ("nan", np.full((9, 8, 7), np.nan))):
        recording = NiftiRecording(volume(tmp_path, name, values, dtype="float32"))
        assert foreground(recording) == Box((0, 0, 0), (9, 8, 7))


def test_recordings_are_equal_by_their_files_and_can_be_pickled(tmp_path):
    path = volume(tmp_path, "sub-01_T1w", compressed=True)
    one, other = NiftiRecording(path), NiftiRecording(path)
    again = pickle.loads(pickle.dumps(one))
    assert one == other == again and hash(one) == hash(other) == hash(again)
    assert np.array_equal(again.read(whole(again)).values, one.read(whole(one)).values)
    assert one.ids == {"subject": "01"} and one.events == () and one.files == (path,)
    path.write_bytes(path.read_bytes())
    os.utime(path, (1, 1))
    assert NiftiRecording(path) != one


def test_real_scans_read_as_in_nibabel(shared):
    paths = sorted((shared / "mri").rglob("*.nii.gz"))
    for path in paths[::9] + [p for p in paths if p.name.endswith("study1_T1w.nii.gz")]:
        recording, closest = NiftiRecording(path), nib.as_closest_canonical(nib.load(path))
        sample = recording.read(whole(recording))
        assert np.array_equal(sample.values[0], closest.get_fdata().astype(np.float32)) and sample.valid.all()
        assert np.allclose(sample.affine, closest.affine, atol=1e-5)
        assert np.allclose(recording.axes.spacing_mm, nib.load(path).header.get_zooms(), atol=1e-4)


def test_real_contrasts_are_brought_together_by_their_headers(shared):
    """Raw scans of one session on three grids: after resampling their heads lie in the same place."""
    paths = sorted((shared / "mri" / "ms_raw").glob("*.nii.gz"))
    (group,) = NiftiReader().groups(paths)
    assert [path.name.split("_")[2] for path in group] == ["T1w.nii.gz", "T2w.nii.gz", "FLAIR.nii.gz"]
    recording = NiftiRecording(group[0], group[1:])
    sample = recording.read(whole(recording, 3.0), spacing_mm=3.0)
    both = sample.valid.all(0)
    heads = [(v > 0.15 * np.percentile(v[both], 99)) & both for v in sample.values]
    for one, other in itertools.combinations(heads, 2):
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.9


def test_sets_of_real_contrasts(shared):
    groups = list(NiftiReader().groups(sorted((shared / "mri" / "ms_mni").glob("*.nii.gz"))))
    assert sorted(len(group) for group in groups) == [1, 1, 4, 4]
    group = max(groups, key=len)
    recording = NiftiReader().open(group[0], group[1:])
    assert [c.kind for c in recording.channels] == ["T1w", "T1ce", "T2w", "FLAIR"] and not recording.warnings
    assert Path(recording.files[0]).name.endswith("T1w.nii.gz") and len(recording.files) == 4
