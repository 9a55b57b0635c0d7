"""Writing audio back: only the patched samples change, and libsndfile agrees."""

from __future__ import annotations

import random
import struct
import time

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.audio_record import AudioRecording
from readers.audio_write import create_wav, write_audio
from readers.schema import Patch, ReadError
from tests.audio_files import CONTAINERS, FORMATS, audio, field_wav, song

BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
EXACT = [(c, s) for c, (_, _, kinds) in CONTAINERS.items() for s in kinds if s in BITS]


def patch(channel, index, values) -> Patch:
    return Patch(channel, np.asarray(index, np.int64), np.asarray(values, np.float64))


def stored(path) -> np.ndarray:
    return soundfile.read(str(path), dtype="int32", always_2d=True)[0].astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), case=st.sampled_from(EXACT), seed=st.integers(0, 1000))
def test_only_patched_samples_change(tmp_path_factory, data, case, seed):
    rng = np.random.default_rng(seed)
    container, subtype = case
    channels = data.draw(st.integers(1, 3))
    folder = tmp_path_factory.mktemp("patch")
    path = audio(folder / "in", container, subtype, song(0.02, 8000, channels, seed=seed), rate=8000)
    recording = AudioRecording(path)
    before = stored(path)
    want, half, patches, clipped = before.copy(), 2 ** (BITS[subtype] - 1), [], 0
    for channel in data.draw(st.lists(st.integers(0, channels - 1), unique=True)):
        index = rng.permutation(len(before))[: data.draw(st.integers(0, len(before)))]
        values = rng.uniform(-1.2, 1.2, index.size)
        digital = np.rint(values * half)
        limited = np.clip(digital, -half, half - 1)
        clipped += int((limited != digital).sum())
        want[index, channel] = limited.astype(np.int64) * 2 ** (32 - BITS[subtype])
        patches.append(patch(channel, index, values))
    written = write_audio(recording, patches, folder / "out" / path.name)
    assert written.path == folder / "out" / path.name and written.notes == ()
    assert (written.changed, written.clipped) == (int((want != before).sum()), clipped)
    assert np.array_equal(stored(written.path), want)
    assert [f.name for f in written.path.parent.iterdir()] == [path.name]
    again = AudioRecording(written.path)
    assert again.axes.shape == recording.axes.shape and again.channels == recording.channels
    if container != "flac":
        one, two = path.read_bytes(), written.path.read_bytes()
        assert len(one) == len(two) and sum(a != b for a, b in zip(one, two, strict=True)) <= written.changed * BITS[subtype] // 8
    if not patches:
        assert path.read_bytes() == written.path.read_bytes()


def test_floats_are_set_exactly_and_nan_is_kept_out_of_integers(tmp_path):
    values = [0.1, -3.5, np.nan]
    for subtype, kind in (("FLOAT", np.float32), ("DOUBLE", np.float64)):
        path = audio(tmp_path / subtype, "wav", subtype, song(0.1))
        written = write_audio(AudioRecording(path), [patch(0, [5, 6, 7], values)], tmp_path / "out" / f"{subtype}.wav")
        found = soundfile.read(str(written.path), dtype="float64")[0]
        assert np.array_equal(found[5:8], np.array(values, kind).astype(float), equal_nan=True) and written.clipped == 0
    for container in ("wav", "flac"):
        path = audio(tmp_path / container, container, "PCM_16", song(0.1))
        written = write_audio(AudioRecording(path), [patch(0, [5, 6, 7, 7], [*values, 0.25])], tmp_path / "out" / path.name)
        assert written.notes == () and written.clipped == 1  # the last of two values counts
        written = write_audio(AudioRecording(path), [patch(0, [5, 6, 7], values)], tmp_path / "out" / path.name)
        before, after = stored(path), stored(written.path)
        assert after[7] == before[7] and written.notes == ("1 samples of channel 1 were to be NaN and are left as they were",)


def test_every_chunk_of_a_field_recording_stays(tmp_path):
    path = field_wav(tmp_path / "in", channels=2)
    recording = AudioRecording(path)
    written = write_audio(recording, [patch(1, [0, 9599], [0.5, -0.5])], tmp_path / "out" / "field.wav")
    one, two = path.read_bytes(), written.path.read_bytes()
    differing = [k for k, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    at = one.index(b"data\x00\x96\x00\x00") + 8
    assert set(differing) <= {at + 2, at + 3, at + 4 * 9599 + 2, at + 4 * 9599 + 3} and len(one) == len(two)
    again = AudioRecording(written.path)
    assert again.axes == recording.axes and again.ids == recording.ids and [e.extra.get("cue") for e in again.events] == [1, 2]


def test_metadata_blocks_of_a_flac_stay(tmp_path):
    path = audio(tmp_path / "in", "flac", "PCM_24", song(2.0, channels=2))
    content = path.read_bytes()
    texts = [struct.pack("<I", len(text)) + text for text in (b"a vendor", b"TITLE=Cecropis daurica", b"SITE=\xc3\xa9")]
    comments = texts[0] + struct.pack("<I", 2) + texts[1] + texts[2]
    picture = struct.pack(">II", 3, 9) + b"image/png" + struct.pack(">6I", 0, 4, 4, 24, 0, 5) + b"bytes"
    blocks = [(2, b"applanything"), (4, comments), (1, bytes(100)), (6, picture), (2, b"moreof it")]
    after = AudioRecording(path).flac.audio
    inside = [bytes([kind | 0x80 * (k == 4)]) + len(c).to_bytes(3, "big") + c for k, (kind, c) in enumerate(blocks)]
    path.write_bytes(content[:42] + b"".join(inside) + content[after:])
    recording = AudioRecording(path)
    written = write_audio(recording, [patch(0, [100], [0.25])], tmp_path / "out" / path.name)
    before, after = stored(path), stored(written.path)
    before[100, 0] = 2**29
    assert np.array_equal(before, after)
    again = AudioRecording(written.path)
    found = written.path.read_bytes()
    kept = [(kind, found[at : at + length]) for kind, at, length in again.flac.blocks]
    assert kept[1:] == [block for block in blocks if block[0] != 1] and again.verify() == ()


@pytest.mark.parametrize("container", ["mp3", "ogg", "opus"])
def test_lossy_files_become_flac_within_a_24_bit_step(tmp_path, container):
    rate = 48_000
    path = audio(tmp_path / "in", container, signals=song(3, rate, 2), rate=rate)
    with soundfile.SoundFile(str(path)) as file:
        texts = file.copy_metadata()
    recording = AudioRecording(path)
    written = write_audio(recording, [patch(1, [7, 100_000], [0.5, 2.0])], tmp_path / "out" / path.name)
    assert written.path.name == "song.flac" and written.clipped == 1 and "24 bits" in written.notes[0]
    assert not (tmp_path / "out" / path.name).exists()
    decoded = soundfile.read(str(path), dtype="float64", always_2d=True)[0]
    found = soundfile.read(str(written.path), dtype="float64", always_2d=True)[0]
    decoded[[7, 100_000], 1] = [0.5, 1 - 2.0**-23]
    assert found.shape == decoded.shape and np.abs(found - decoded).max() <= 2.0**-24
    assert AudioRecording(written.path).channels[0].dtype == "PCM_24" and isinstance(texts, dict)


@pytest.mark.parametrize("kind", ["ogg", "mp3"])
def test_titles_of_a_lossy_file_go_along(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    with soundfile.SoundFile(str(path), "w", 32_000, 1, format=kind.upper()) as file:
        file.title, file.artist = "Cecropis daurica", "a recordist"
        file.write(song(1.0))
    written = write_audio(AudioRecording(path), [], tmp_path / "out" / path.name)
    with soundfile.SoundFile(str(written.path)) as file:
        assert (file.title, file.artist) == ("Cecropis daurica", "a recordist")


def test_long_files_are_patched_in_steps(tmp_path):
    values = song(60, 16_000)
    for container in ("wav", "flac"):
        path = audio(tmp_path / "in", container, "PCM_16", np.tile(values, (2, 1)), rate=16_000)
        index = np.r_[0:10, 262_140:262_150, 1_000_000:1_100_000:7, 1_919_999]
        written = write_audio(AudioRecording(path), [patch(0, index, np.full(index.size, 0.5))], tmp_path / "out" / path.name)
        before, after = stored(path), stored(written.path)
        before[index, 0] = 2**30
        assert np.array_equal(before, after)


def test_what_cannot_be_written_says_why_and_leaves_nothing(tmp_path):
    path = audio(tmp_path / "in", "wav", "PCM_16", song(0.1))
    recording = AudioRecording(path)
    before = path.read_bytes()
    out = tmp_path / "out" / "song.wav"
    for patches, target, reason in [
        ([], path, "elsewhere"),
        ([patch(1, [0], [0])], out, "no channel 1"),
        ([patch(0, [3200], [0])], out, "outside"),
        ([patch(0, [-1], [0])], out, "outside"),
        ([patch(0, [1, 2], [0])], out, "indices"),
    ]:
        with pytest.raises(ReadError, match=reason):
            write_audio(recording, patches, target)
    soundfile.write(str(tmp_path / "u.wav"), song(0.1), 32_000, subtype="ULAW")
    law = AudioRecording(tmp_path / "u.wav")
    assert np.array_equal(law.read(0, 3200).values[0], soundfile.read(str(tmp_path / "u.wav"), dtype="float32")[0])
    with pytest.raises(ReadError, match="restore cannot write ULAW"):
        write_audio(law, [patch(0, [1], [0.0])], out)
    assert path.read_bytes() == before and not list(out.parent.iterdir())
    path.unlink()
    with pytest.raises(ReadError, match="cannot be written"):
        write_audio(recording, [], out)
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_a_new_wav_is_what_libsndfile_reads(tmp_path, subtype):
    values = song(0.1, channels=3)
    values[0, 0] = 1.5
    path = create_wav(tmp_path / "a" / "x.wav", values, 32_000, subtype, [(b"guan", b"GUANO|Version: 1.0\nSerial: 7")])
    found, rate = soundfile.read(str(path), dtype="float64")
    step = 2.0 ** (1 - BITS[subtype]) if subtype in BITS else 0
    want = np.clip(values, -1, 1 - step) if step else values
    assert rate == 32_000 and soundfile.info(str(path)).subtype == subtype
    assert np.abs(found - want).max() <= max(step / 2, 1e-7) and dict(AudioRecording(path).ids) == {"device": "7"}
    with pytest.raises(ValueError):
        create_wav(tmp_path / "y.wav", np.full((3, 1), np.nan), 32_000)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One damage: cut, numbers overwritten, zeros, bytes lost or put in."""
    data = bytearray(content)
    head = min(len(data), rng.choice([60, 400, len(data)]))
    at = rng.randrange(head)
    kind = rng.randrange(7)
    if kind == 0:
        del data[at:]
    elif kind == 1:
        data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 65_535]))
    elif kind == 2:
        for _ in range(10):
            data[rng.randrange(head)] = rng.randrange(256)
    elif kind == 3:
        data[at : at + rng.randrange(1, 300)] = bytes(rng.randrange(1, 300))
    elif kind == 4:
        del data[at : at + rng.randrange(1, 300)]
    elif kind == 5:
        data[at:at] = rng.randbytes(rng.randrange(1, 300))
    else:
        data[at : at + 8] = struct.pack("<d", rng.choice([float("nan"), float("inf"), 1e300]))
    return bytes(data)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_give_samples_or_a_reason(tmp_path, name):
    path = FORMATS[name](tmp_path / "in")
    content, rng = path.read_bytes(), random.Random(name)
    slowest = opened = 0.0
    for _ in range(60):
        path.write_bytes(mutated(content, rng))
        begin = time.process_time()
        try:
            recording = AudioRecording(path)
            frames = recording.axes.shape[1]
            opened += 1
            assert recording.events is not None and isinstance(recording.verify(), tuple)
            for start in (0, frames // 2, frames - 500):
                values = recording.read(start, start + 900).values
                assert np.isfinite(values).all()
            write_audio(recording, [patch(0, [0, frames - 1], [0.1, np.nan])], tmp_path / "out" / path.name)
        except ReadError as error:
            assert 10 < len(str(error)) < 500 and "\n" not in str(error)
        slowest = max(slowest, time.process_time() - begin)
    assert slowest < 10 and opened
