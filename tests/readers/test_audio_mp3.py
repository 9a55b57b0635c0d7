"""MP3: every frame counted, and any window decoded to the bits of a whole decode."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import soundfile

from readers.audio_mp3 import Mp3, read_mp3
from readers.audio_mpeg import Walk, sound_span
from readers.audio_record import AudioRecording
from tests.audio_files import song


def encoded(folder, rate=44_100, channels=2, *, seconds=6.0, mode="CONSTANT", level=0.5, seed=0):
    """An MP3 by LAME, with its Info tag."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{rate}-{channels}-{mode}-{level}.mp3"
    values = song(seconds, rate, channels, seed=seed) * np.linspace(0.05, 1, round(seconds * rate))[:, None]
    soundfile.write(str(path), values, rate, format="MP3", bitrate_mode=mode, compression_level=level)
    return path


def whole(path):
    return soundfile.read(str(path), dtype="float32", always_2d=True)[0].T


def tagless(path):
    """The frames of an MP3 without the Info frame, and the decoder's view of both."""
    walk = Walk(path, *sound_span(path, path.stat().st_size))
    content = path.read_bytes()
    return content[walk.after_first[0] : walk.end]


def windows_agree(recording, truth, count, seed=0):
    starts = np.random.default_rng(seed).integers(-500, truth.shape[1], count).tolist()
    for start in [0, truth.shape[1] - 300, *starts]:
        sample = recording.read(start, start + 3000)
        lo, hi = max(start, 0), min(start + 3000, truth.shape[1])
        if not np.array_equal(sample.values[:, lo - start : hi - start], truth[:, lo:hi]) or sample.valid.sum() != (
            hi - lo
        ) * len(truth):
            return False
    return True


@pytest.mark.parametrize(
    ("rate", "channels", "mode", "level"),
    [
        (44_100, 2, "CONSTANT", 0.2), (44_100, 1, "CONSTANT", 0.99), (48_000, 1, "VARIABLE", 0.1), (32_000, 2, "VARIABLE", 0.9),
        (22_050, 1, "CONSTANT", 0.9), (24_000, 2, "AVERAGE", 0.5), (8000, 1, "VARIABLE", 0.99), (12_000, 2, "CONSTANT", 0.99),
    ],
)  # fmt: skip
def test_windows_are_those_of_a_whole_decode(tmp_path, rate, channels, mode, level):
    path = encoded(tmp_path, rate, channels, mode=mode, level=level)
    recording, truth = AudioRecording(path), whole(path)
    assert recording.axes.shape == truth.shape and abs(truth.shape[1] / rate - 6) < 0.2
    assert recording.warnings == ()
    assert windows_agree(recording, truth, 25)


def test_a_variable_bit_rate_without_a_header_is_counted(tmp_path):
    path = encoded(tmp_path, 44_100, 1, mode="VARIABLE", level=0.2)
    truth, frames = whole(path), tagless(path)
    bare = tmp_path / "bare.mp3"
    bare.write_bytes(frames)
    recording = AudioRecording(bare)
    length = recording.axes.shape[1]
    assert length % 1152 == 0 and length > whole(bare).shape[1]  # libsndfile stops where it expects the end
    # The encoder's delay, which the tag tells to leave out, is part of the recording now.
    delay = next(d for d in range(3000) if np.array_equal(truth[:, 1000:3000], recording.read(1000 + d, 3000 + d).values))
    assert delay == 529 + 576 and np.array_equal(recording.read(delay, delay + truth.shape[1]).values, truth)


@pytest.mark.parametrize("delay", [0, 100, 1105, 1729, 4095])
def test_an_encoders_delay_is_left_out_as_libsndfile_does(tmp_path, delay):
    for rate in (8000, 44_100):
        path = encoded(tmp_path, rate, 1, seconds=2)
        content = bytearray(path.read_bytes())
        at = content.index(b"LAME") + 21
        content[at : at + 2] = bytes([delay >> 4, (delay & 15) << 4 | content[at + 1] & 15])
        path.write_bytes(content)
        recording, truth = AudioRecording(path), whole(path)
        assert recording.axes.shape == truth.shape and windows_agree(recording, truth, 6)


def test_tags_around_the_frames_are_no_sound(tmp_path):
    path = encoded(tmp_path, seconds=2)
    truth, content = whole(path), path.read_bytes()
    ape = b"APETAGEX" + (2000).to_bytes(4, "little") + (32 + 10).to_bytes(4, "little") + bytes(4) + bytes(12)
    tagged = b"ID3\4\0\0\0\0\x0f\x00" + b"\xff\xfb\x90\x64" * 480 + content + bytes(10) + ape + b"TAG" + bytes(125)
    path.write_bytes(tagged)
    recording = AudioRecording(path)
    assert recording.axes.shape == truth.shape and recording.warnings == ()
    assert windows_agree(recording, truth, 5)


def test_a_cut_file_is_read_up_to_its_last_frame(tmp_path):
    path = encoded(tmp_path)
    truth, content = whole(path), path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 100])
    recording = AudioRecording(path)
    length = recording.axes.shape[1]
    assert 0.45 < length / truth.shape[1] < 0.55 and np.array_equal(recording.read(0, length).values, truth[:, :length])
    assert any("claims" in w and "frames" in w for w in recording.warnings) and any("cut" in w for w in recording.warnings)


def test_bytes_between_frames_are_left_out_and_named(tmp_path):
    path = encoded(tmp_path, channels=2, level=0.5)
    truth, content = whole(path), path.read_bytes()
    decoder = read_mp3(path).decoder
    assert isinstance(decoder, Mp3)
    at = int(decoder.groups[9])
    path.write_bytes(content[:at] + b"\xff\xfbjunk\xff\xfa\x90" * 90 + content[at:])
    recording = AudioRecording(path)
    assert recording.axes.shape == truth.shape and any("810 bytes" in w for w in recording.warnings)
    assert windows_agree(recording, truth, 12)


def test_a_start_in_the_middle_decodes_as_libsndfile_does(tmp_path):
    # The first frame then asks for bytes of frames that are gone.
    for channels in (1, 2):
        frames = tagless(encoded(tmp_path, 44_100, channels, level=0.6))
        path = tmp_path / "cut.mp3"
        path.write_bytes(frames[len(frames) // 3 // 417 * 417 :])
        recording = AudioRecording(path)
        truth = recording.read(0, recording.axes.shape[1]).values
        library = whole(path)
        n = min(truth.shape[1], library.shape[1])
        assert np.allclose(truth[:, :n], library[:, :n], atol=1e-6) and np.abs(truth).max() > 0.05
        assert windows_agree(recording, truth, 20)


def test_what_holds_no_frame_says_so(tmp_path):
    from readers.schema import ReadError

    path = tmp_path / "x.mp3"
    for content in (
        b"ID3\4\0\0\0\0\0\x0a" + bytes(10),
        b"\xff\xfb\x90\x64" + b"x" * 30,
        b"\xff\xe0" * 40_000,
        b"\xff" * 3_000_000,
    ):
        path.write_bytes(content)
        with pytest.raises(ReadError, match="MP3 frame"):
            AudioRecording(path)


def test_real_recordings_decode_as_a_whole(shared):
    folder = shared / "birds"
    with (folder / "labels.csv").open() as file:
        cut = {row["path"]: row["cut"] not in ("", "0", "no", "False") for row in csv.DictReader(file)}
    files = sorted(path for path in (folder / "audio").rglob("*.mp3"))
    longer = 0
    for number, path in enumerate(files[::3]):
        recording = AudioRecording(path)
        library = whole(path)
        n = library.shape[1]
        assert recording.axes.shape[1] >= n and recording.warnings == ()
        longer += recording.axes.shape[1] > n
        # These were cut after 30 s, at a frame.
        assert not cut[str(path.relative_to(folder))] or abs(recording.axes.duration_s - 30) < 0.1
        for start in np.random.default_rng(number).integers(0, n - 5000, 4):
            assert np.array_equal(recording.read(start, start + 5000).values, library[:, start : start + 5000])
    assert longer  # libsndfile gives up early on some
