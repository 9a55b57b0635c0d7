"""Audio files come out as libsndfile reads them, wherever the window begins, and with the length they really have."""

from __future__ import annotations

import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.audio import AUDIO_READERS
from readers.audio_record import AudioRecording
from readers.schema import ReadError
from tests.audio_files import CONTAINERS, audio, fmt_chunk, riff, song

LOSSLESS = [(c, s) for c, (_, _, kinds) in CONTAINERS.items() for s in kinds if c not in ("ogg", "opus", "mp3")]
READER = {reader.name: reader for reader in AUDIO_READERS}


def whole(path) -> np.ndarray:
    """(C, T) float32, as libsndfile decodes the file from its start."""
    return soundfile.read(str(path), dtype="float32", always_2d=True)[0].T


def agrees(recording, truth, starts, length=4000) -> bool:
    for start in starts:
        sample = recording.read(start, start + length)
        lo, hi = max(start, 0), min(start + length, truth.shape[1])
        inside = sample.values[:, lo - start : hi - start]
        if not (np.array_equal(inside, truth[:, lo:hi]) and sample.valid.sum() == (hi - lo) * truth.shape[0]):
            return False
    return True


@pytest.mark.parametrize(("container", "subtype"), LOSSLESS)
def test_windows_are_bit_for_bit_those_of_libsndfile(tmp_path, container, subtype):
    for channels, rate in ((1, 384_000), (3, 8000)):
        path = audio(tmp_path / str(channels), container, subtype, song(0.1, rate, channels), rate=rate)
        recording = pickle.loads(pickle.dumps(AudioRecording(path)))
        truth = whole(path)
        assert recording.axes.shape == truth.shape and recording.axes.rate_hz == rate
        assert recording.axes.duration_s == pytest.approx(0.1) and recording.warnings == ()
        assert recording.channels[-1].name == f"channel {channels}" and recording.channels[0].dtype == subtype
        assert {(c.kind, c.canonical, c.unit, c.low, c.high) for c in recording.channels} == {("audio", "audio", "FS", -1, 1)}
        assert agrees(recording, truth, [-5, 0, 1, 333, truth.shape[1] - 10])
        assert recording.format == (container if container in READER else "wav")
        assert recording.verify() == ()


@pytest.mark.parametrize("container", ["ogg", "opus", "flac"])
def test_windows_of_coded_files_are_those_of_a_whole_decode(tmp_path, container):
    rate = 48_000
    path = audio(tmp_path, container, signals=song(6, rate, 2), rate=rate)
    recording, truth = AudioRecording(path), whole(path)
    assert recording.axes.shape == truth.shape
    starts = np.random.default_rng(0).integers(0, 6 * rate, 12).tolist()
    assert agrees(recording, truth, [-100, 0, truth.shape[1] - 50, *starts])


@settings(max_examples=40, deadline=None)
@given(start=st.integers(-3000, 10_000), length=st.integers(0, 9000), rate=st.sampled_from([None, 8000.0, 22_050.0, 48_000.0]))
def test_reads_that_share_a_sample_agree(tmp_path_factory, start, length, rate):
    path = tmp_path_factory.getbasetemp() / "share" / "song.wav"
    if not path.exists():
        audio(path.parent, "wav", "PCM_16", song(0.3, 32_000, 2))
    recording = AudioRecording(path)
    whole_read = recording.read(-3000, 20_000, rate_hz=rate)
    part = recording.read(start, start + length, rate_hz=rate, channels=[1])
    assert np.allclose(part.values[0], whole_read.values[1, start + 3000 : start + 3000 + length], atol=1e-6)
    assert np.array_equal(part.valid[0], whole_read.valid[1, start + 3000 : start + 3000 + length])


@pytest.mark.parametrize(("bits", "align"), [(24, 4), (12, 2), (20, 3)])
def test_fewer_bits_than_bytes_are_the_upper_ones(tmp_path, bits, align):
    stored = np.array([0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))]) * 2 ** (8 * align - bits)
    data = b"".join(int(v).to_bytes(align, "little", signed=True) for v in stored)
    (tmp_path / "x.wav").write_bytes(riff([(b"fmt ", fmt_chunk(bits=bits, align=align)), (b"data", data)]))
    recording = AudioRecording(tmp_path / "x.wav")
    assert np.array_equal(recording.read(0, 5).values[0], (stored / 2.0 ** (8 * align - 1)).astype(np.float32))
    assert recording.warnings == ()


@pytest.mark.parametrize("kind", [b"sowt", b"twos", b"raw ", b"fl32", b"in24"])
def test_aifc_types_are_those_of_libsndfile(tmp_path, kind):
    bits = {b"raw ": 8, b"fl32": 32, b"in24": 24}.get(kind, 16)
    values = (np.arange(40) / 50).astype(">f4") if kind == b"fl32" else np.arange(40 * bits // 8).astype(np.uint8)
    data = values.tobytes()
    comm = struct.pack(">HIH", 1, 40, bits) + bytes.fromhex("400cfa00000000000000") + kind + b"\0\0"
    chunks = [(b"COMM", comm), (b"SSND", bytes(8) + data)]
    (tmp_path / "x.aifc").write_bytes(riff(chunks, form=b"FORM", kind=b"AIFC"))
    recording = AudioRecording(tmp_path / "x.aifc")
    assert recording.axes.rate_hz == 16_000 and np.array_equal(recording.read(0, 40).values, whole(tmp_path / "x.aifc"))


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 0x7FFFFFF0, 5000])
def test_the_length_of_a_wav_is_counted(tmp_path, claimed):
    data = np.rint(song(0.1)[:, 0] * 3e4).astype("<i2").tobytes()
    content = riff([(b"fmt ", fmt_chunk()), (b"data", data)])
    content = content.replace(b"data" + struct.pack("<I", len(data)), b"data" + struct.pack("<I", claimed))
    (tmp_path / "x.wav").write_bytes(content if claimed != 5000 else content[: 44 + 4001])
    recording = AudioRecording(tmp_path / "x.wav")
    frames = 3200 if claimed != 5000 else 2000
    assert recording.axes.shape == (1, frames) and len(recording.warnings) == 1
    assert str(frames) in recording.warnings[0] and (claimed in (0, 0xFFFFFFFF) or str(claimed // 2) in recording.warnings[0])
    assert np.array_equal(recording.read(0, frames).values[0] * 2**15, np.frombuffer(data, "<i2")[:frames])


def test_a_data_chunk_of_length_zero_before_another_chunk_is_empty(tmp_path):
    (tmp_path / "x.wav").write_bytes(riff([(b"fmt ", fmt_chunk()), (b"data", b""), (b"LIST", b"INFO")]))
    with pytest.raises(ReadError, match="no samples"):
        AudioRecording(tmp_path / "x.wav")


def test_the_length_of_an_aiff_is_counted(tmp_path):
    path = audio(tmp_path, "aiff", "PCM_16", song(0.1))
    content = bytearray(path.read_bytes())
    at = content.index(b"COMM") + 10
    assert content[at : at + 4] == struct.pack(">I", 3200)
    content[at : at + 4] = struct.pack(">I", 99_999)
    path.write_bytes(content)
    recording = AudioRecording(path)
    assert recording.axes.shape == (1, 3200) and "99999" in recording.warnings[0] and "3200" in recording.warnings[0]


@pytest.mark.parametrize("total", [0, 1000, 2**36 - 1])
def test_the_length_of_a_flac_is_counted(tmp_path, total):
    path = audio(tmp_path, "flac", "PCM_16", song(1.0, channels=2))
    truth = whole(path)
    content = bytearray(path.read_bytes())
    packed = int.from_bytes(content[18:26], "big")
    assert packed & 2**36 - 1 == 32_000
    content[18:26] = (packed >> 36 << 36 | total).to_bytes(8, "big")
    path.write_bytes(content)
    recording = pickle.loads(pickle.dumps(AudioRecording(path)))
    assert recording.axes.shape == (2, 32_000) and "32000" in recording.warnings[0]
    assert ("no length" if total == 0 else str(total)) in recording.warnings[0]
    assert agrees(recording, truth, [0, 17_000, 31_000])
    path.write_bytes(bytes(content) + b"TAG" + bytes(125))
    assert AudioRecording(path).axes.shape == (2, 32_000)


def test_a_flac_that_was_cut_is_read_up_to_its_last_whole_frame(tmp_path):
    path = audio(tmp_path, "flac", "PCM_16", song(1.0))
    truth, content = whole(path), path.read_bytes()
    for share in (0.35, 0.6, 0.95):
        path.write_bytes(content[: int(len(content) * share)])
        recording = AudioRecording(path)
        frames = recording.axes.shape[1]
        assert frames % 4096 == 0 and 0 < frames < 32_000 * share + 4096
        assert any("32000" in w and str(frames) in w for w in recording.warnings) and any("cut" in w for w in recording.warnings)
        assert np.array_equal(recording.read(0, frames).values, truth[:, :frames])


def test_a_damaged_flac_frame_costs_only_itself(tmp_path):
    path = audio(tmp_path, "flac", "PCM_16", song(4.0))
    truth, content = whole(path), bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    recording = AudioRecording(path)
    lost = 0
    for start in range(0, 128_000, 4000):
        try:
            sample = recording.read(start, start + 4000)
        except ReadError as error:
            assert f"between samples {start} and {start + 4000}" in str(error)
            lost += 1
        else:
            assert np.array_equal(sample.values, truth[:, start : start + 4000])
    assert 0 < lost <= 4 and "cannot be decoded" in recording.verify()[0]


def test_an_ogg_that_was_cut_is_read_and_says_so(tmp_path):
    path = audio(tmp_path, "ogg", signals=song(4, 32_000))
    truth, content = whole(path), path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    recording = AudioRecording(path)
    frames = recording.axes.shape[1]
    assert 0.5 < frames / truth.shape[1] < 0.9 and "cut" in recording.warnings[0]
    assert np.array_equal(recording.read(0, frames).values[:, : frames - 4096], truth[:, : frames - 4096])


def test_a_file_is_opened_as_what_it_holds(tmp_path):
    for container, suffix in (("wav", ".mp3"), ("flac", ".wav"), ("mp3", ".ogg"), ("aiff", ".FLAC")):
        rate = 32_000
        path = audio(tmp_path, container, signals=song(0.3, rate), rate=rate)
        truth = whole(path)
        other = path.rename(tmp_path / f"renamed{suffix}")
        reader = next(r for r in AUDIO_READERS if other.name.lower().endswith(r.suffixes))
        assert reader.claims(other, other.read_bytes()[:4096])
        recording = reader.open(other)
        assert recording.format == container and f"named {suffix}" in recording.warnings[0]
        assert agrees(recording, truth, [0, 2000])


def test_what_is_no_audio_says_so(tmp_path):
    path = tmp_path / "x.wav"
    for content, claimed, reason in [
        (b"", True, "is empty"),
        (bytes(10_000), True, "zero bytes"),
        (b"hello, this is text" * 50, True, "no audio"),
        (b"RIFF\x10\0\0\0AVI LIST" + bytes(50), True, "no audio"),
    ]:
        path.write_bytes(content)
        assert READER["wav"].claims(path, content[:4096]) is claimed
        with pytest.raises(ReadError, match=reason):
            AudioRecording(path)


@pytest.mark.parametrize(
    ("fmt", "reason"),
    [
        (fmt_chunk(0), "0 channels"),
        (fmt_chunk(65_535), "65535 channels"),
        (fmt_chunk(rate=0), "0 Hz"),
        (fmt_chunk(rate=2**31), "2.14748e\\+09 Hz"),
        (fmt_chunk(bits=0), "0-bit"),
        (fmt_chunk(bits=9999), "9999-bit"),
        (fmt_chunk(bits=16, tag=3), "16-bit float"),
        (fmt_chunk(tag=0x1234), "codec 0x1234"),
        (b"short", "fmt chunk"),
    ],
)
def test_headers_that_cannot_be_true_are_refused(tmp_path, fmt, reason):
    (tmp_path / "x.wav").write_bytes(riff([(b"fmt ", fmt), (b"data", bytes(4000))]))
    with pytest.raises(ReadError, match=reason):
        AudioRecording(tmp_path / "x.wav")


def test_a_wrong_block_align_and_chunks_without_end_are_survived(tmp_path):
    (tmp_path / "x.wav").write_bytes(riff([(b"fmt ", fmt_chunk(2, align=77)), (b"data", bytes(4000))]))
    recording = AudioRecording(tmp_path / "x.wav")
    assert recording.axes.shape == (2, 1000) and "77 bytes a frame" in recording.warnings[0]
    zeros = b"RIFF\xff\xff\xff\xffWAVE" + bytes(2_000_000)
    (tmp_path / "x.wav").write_bytes(zeros)
    with pytest.raises(ReadError, match="fmt chunk"):
        AudioRecording(tmp_path / "x.wav")


def test_what_is_not_finite_is_not_valid_and_clipping_is_counted(tmp_path):
    values = song(0.1)
    values[[5, 6], 0], values[7, 0] = np.nan, np.inf
    values[100:103], values[200:202], values[3197:] = 1.0, 1.0, -1.0
    recording = AudioRecording(audio(tmp_path, "wav", "DOUBLE", values))
    assert np.flatnonzero(~recording.read(0, 3200).valid[0]).tolist() == [5, 6, 7]
    assert recording.verify() == (
        "channel 1: 3 samples are NaN, infinite or cannot be decoded",
        "channel 1: 2 runs of 3 or more samples at full scale",
    )


def test_a_flac_with_a_wrong_checksum_is_named(tmp_path):
    path = audio(tmp_path, "flac", "PCM_24", song(0.5))
    assert AudioRecording(path).verify() == ()
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)
    assert "checksum" in AudioRecording(path).verify()[0]


def test_windows_of_ten_hours_cost_their_own_bytes(tmp_path):
    path, frames = tmp_path / "long.wav", 36_000 * 48_000
    with path.open("wb") as file:
        header = riff([(b"fmt ", fmt_chunk(rate=48_000)), (b"data", b"")])
        file.write(header[:-4] + struct.pack("<I", 2 * frames))
        file.seek(44 + 2 * (frames - 48_000))
        file.write(np.arange(48_000, dtype="<i2").tobytes())
    recording = AudioRecording(path)
    assert recording.axes.shape == (1, frames) and recording.warnings == ()
    recording.read(0, 1000)
    tracemalloc.start()
    for hour in range(10):
        recording.read(hour * 3600 * 48_000, hour * 3600 * 48_000 + 240_000)
    last = recording.read(frames - 240_000, frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(last.values[0, -48_000:] * 2**15, np.arange(48_000, dtype="<i2"))
    assert peak < 12e6  # 5 s at 48 kHz: 1 MB of values, 2 MB of times
