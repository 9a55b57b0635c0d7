"""Recordings of a corpus against those of the files that they were decoded from."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from readers.prepared import open_entry
from readers.prepared_store import INDEX, entries
from readers.schema import Box, PointsLike, ReadError, Recording, SignalLike, VolumeLike
from tests import prepared
from toolkit.corpus import framing, inputs

KINDS = tuple(prepared.MAKERS)
BLOCKED = ("mne", "wfdb", "nibabel", "librosa", "soundfile", "open3d", "torch", "scipy", "pandas", "pydantic", "toolkit")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Of each kind: the recordings of a folder, those of its corpus, and the corpus."""
    made = {}

    def make(kind: str) -> tuple[list[Recording], list[Recording], Path]:
        if kind not in made:
            place = tmp_path_factory.mktemp(kind)
            data = prepared.folder_of(kind, place / "data")
            prepared.prepare(data, place / "corpus", prepared.recipe(kind))
            files = [inputs.open_input(item) for item in inputs.gather([str(data)]).items]
            made[kind] = files, [open_entry(entry) for entry in entries(place / "corpus")], place / "corpus"
        return made[kind]

    return make


def same(one, other):
    assert one.channels == other.channels and one.window == other.window
    for name in ("values", "valid", "time_s", "affine", "coords", "known"):
        if hasattr(one, name):
            a, b = getattr(one, name), getattr(other, name)
            assert a.dtype == b.dtype and a.shape == b.shape
            assert a.tobytes() == b.tobytes(), name


def chosen(kind, recording):
    return framing.build(prepared.recipe(kind)).channels(recording)


@pytest.mark.parametrize("kind", KINDS)
def test_headers_are_those_of_the_files(both, kind):
    files, stored, _ = both(kind)
    assert [r.path for r in files] == [r.path for r in stored] and len(files) > 1
    for file, recording in zip(files, stored, strict=True):
        for name in ("path", "format", "domain", "channels", "axes", "ids", "warnings", "files"):
            assert getattr(file, name) == getattr(recording, name), name
        assert list(file.events) == list(recording.events)
        assert [file.stored(k) for k in range(len(file.channels))] == [recording.stored(k) for k in range(len(file.channels))]
        assert file.verify() == recording.verify()
        again = pickle.loads(pickle.dumps(recording))
        assert again.axes == recording.axes and again.stamps == recording.stamps
        assert [size for _, size, _ in recording.stamps] == [f.stat().st_size for f in file.files]


@pytest.mark.parametrize("kind", ["wfdb", "edf", "audio"])
def test_signals_are_equal_to_the_last_bit_wherever_a_window_lies(both, kind):
    files, stored, _ = both(kind)
    rate, rng = prepared.recipe(kind).data.rate_hz, np.random.default_rng(0)
    some_gap = False
    for file, recording in zip(files, stored, strict=True):
        assert isinstance(file, SignalLike) and isinstance(recording, SignalLike)
        length, channels = round(file.axes.duration_s * rate), chosen(kind, file)
        spans = [(-50, -10), (-30, 40), (0, length), (length - 20, length + 30), (length + 5, length + 9), (7, 7)]
        spans += [tuple(np.sort(rng.integers(-20, length + 20, 2)).tolist()) for _ in range(10)]
        for start, stop in spans:
            for picked in (channels, channels[-1:], channels[::-1]):
                one = file.read(start, stop, rate_hz=rate, channels=picked)
                same(one, recording.read(start, stop, rate_hz=rate, channels=picked))
                some_gap |= (start, stop) == (0, length) and not one.valid.all()
    assert some_gap or kind == "audio"


def test_volumes_are_equal_to_the_last_bit_at_both_spacings(both):
    files, stored, _ = both("nifti")
    rng = np.random.default_rng(0)
    for file, recording in zip(files, stored, strict=True):
        assert isinstance(file, VolumeLike) and isinstance(recording, VolumeLike)
        channels = chosen("nifti", file)
        for k in range(len(file.channels)):
            assert file.shape_of(k) == recording.shape_of(k) and (file.affine_of(k) == recording.affine_of(k)).all()
        for spacing in (None, 3.0, 2.0):
            (a, b), (c, d) = file.grid(spacing), recording.grid(spacing)
            assert a == c and b.tobytes() == d.tobytes()
        for spacing in (3.0, 2.0):
            shape = np.array(file.grid(spacing)[0])
            corners = [np.stack([np.zeros(3, int), shape]), np.stack([-shape, -shape + 2]), np.stack([shape - 1, shape + 3])]
            corners += [np.sort(rng.integers(-4, shape + 4, (2, 3)), axis=0) for _ in range(10)]
            for low, high in corners:
                box = Box(tuple(low.tolist()), tuple(high.tolist()))
                for picked in (channels, channels[-1:]):
                    one = file.read(box, spacing_mm=spacing, channels=picked)
                    same(one, recording.read(box, spacing_mm=spacing, channels=picked))


def test_points_are_equal_to_the_last_bit_with_their_attributes(both):
    for file, recording in zip(*both("points")[:2], strict=True):
        assert isinstance(file, PointsLike) and isinstance(recording, PointsLike)
        every = range(3, len(file.channels))
        for start, stop in ((0, 1000), (-5, 9), (3, 3), (6, 30), (500, 600)):
            for picked in ((), every, (5, 3)):
                same(file.read(start, stop, channels=picked), recording.read(start, stop, channels=picked))
        assert not file.read(0, 20).known.all() and not file.read(0, 9, channels=every).valid.all()


def test_another_grid_or_a_channel_that_is_not_held_is_refused(both):
    _, stored, _ = both("edf")
    (signal,) = [r for r in stored if r.path.name == "mixed.edf"]
    with pytest.raises(ReadError, match="this corpus holds 50 Hz, asked for 40 Hz; prepare it again with that recipe"):
        signal.read(0, 10, rate_hz=40.0, channels=[0])
    with pytest.raises(ReadError, match="does not hold the channel EOG"):
        signal.read(0, 10, rate_hz=50.0)
    with pytest.raises(ReadError, match="no channel 9"):
        signal.read(0, 10, rate_hz=50.0, channels=[9])
    volume = both("nifti")[1][0]
    with pytest.raises(ReadError, match="this corpus holds 3 mm and 2 mm, asked for 1 mm"):
        volume.read(Box((0, 0, 0), (1, 1, 1)), spacing_mm=1.0)
    with pytest.raises(ReadError, match="asked for the voxels of the file"):
        volume.read(Box((0, 0, 0), (1, 1, 1)))
    with pytest.raises(ReadError, match="no channel 99"):
        both("points")[1][0].read(0, 1, channels=[99])


@pytest.mark.parametrize("kind", ["wfdb", "nifti", "points"])
def test_a_shard_that_is_cut_is_named_and_never_read_past(tmp_path, kind):
    data = prepared.folder_of(kind, tmp_path / "data")
    prepared.prepare(data, tmp_path / "corpus", prepared.recipe(kind))
    last = max(entries(tmp_path / "corpus"), key=lambda e: e.row["offset"])
    recording = open_entry(last)
    assert recording.verify() == ()
    shard = tmp_path / "corpus" / "shard-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-200])
    assert "the index of the corpus says" in recording.verify()[0]
    reads = {
        "wfdb": lambda: recording.read(0, 10_000, rate_hz=80.0),
        "nifti": lambda: recording.read(Box((0, 0, 0), recording.grid(2.0)[0]), spacing_mm=2.0),
        "points": lambda: recording.read(0, 10_000, channels=range(3, len(recording.channels))),
    }
    with pytest.raises(ReadError, match="before what the index says"):
        reads[kind]()
    with pytest.raises(ReadError, match="the index of the corpus says"):
        open_entry(last)


@pytest.mark.parametrize("damage", [{"axes_kind": "smell"}, {"channels": "{"}, {"axes": "{}"}, {"offset": -64}, {"shape": []}])
def test_a_damaged_index_is_a_read_error(both, damage):
    entry = entries(both("wfdb")[2])[0]
    with pytest.raises(ReadError):
        open_entry(type(entry)(entry.folder, {**entry.row, **damage}))


def test_an_index_that_is_no_table_is_a_read_error(tmp_path):
    data = prepared.folder_of("points", tmp_path / "data")
    prepared.prepare(data, tmp_path / "corpus", prepared.recipe("points"))
    (tmp_path / "corpus" / INDEX).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ReadError, match="cannot be read"):
        entries(tmp_path / "corpus")
    with pytest.raises(ReadError, match="no finished corpus"):
        entries(data)


def blocking(names):
    """Python that refuses to import packages of these names."""
    return (
        "import sys\nclass Block:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {names!r}:\n            raise ImportError('blocked: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )


def test_numpy_and_pyarrow_alone_read_a_corpus(both):
    files, _, corpus = both("wfdb")
    code = blocking((*BLOCKED, "readers")) + (
        "import numpy as np, pyarrow.parquet as pq\n"
        f"for row in pq.read_table({str(corpus / INDEX)!r}).to_pylist():\n"
        f"    shard = {str(corpus)!r} + '/shard-%05d.bin' % row['shard']\n"
        "    assert row['offset'] % 64 == 0\n"
        "    values = np.memmap(shard, '<f4', 'r', row['offset'], tuple(row['shape']))\n"
        "    print(row['path'], row['rate_hz'], row['units'][0], np.nansum(values[0, :400], dtype=float), sep='\\t')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == len(files)
    for (path, rate, unit, total), file in zip(lines, files, strict=True):
        values = file.read(0, 400, rate_hz=80.0, channels=[0]).values
        assert (path, float(rate), unit) == (str(file.path), 80.0, file.channels[0].unit)
        assert float(total) == pytest.approx(values.sum(dtype=float), rel=1e-12)


def test_the_reader_of_corpora_needs_no_other_package(both):
    code = blocking(BLOCKED) + (
        "from readers.prepared import open_entry\nfrom readers.prepared_store import entries\n"
        f"for kind, corpus in {[(k, str(both(k)[2])) for k in KINDS]!r}:\n"
        "    for entry in entries(__import__('pathlib').Path(corpus)):\n        print(kind, open_entry(entry).axes.shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == sum(len(both(k)[0]) for k in KINDS)
