"""The records that people have: 12-lead, MATLAB, Holter, wearable, monitor segments; read at one rate, written back, damaged."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
import wfdb

from readers import open_recording, scan, write
from readers.schema import Patch, ReadError
from tests.ecg import TWELVE
from tests.wfdb_files import FORMATS, holter, wearable

RATE_HZ = 250.0
MUTATIONS = 80  # of each kind


def expanded(path: Path, **options) -> list[np.ndarray]:
    """Each signal on its own grid, as the library reads it."""
    return wfdb.rdrecord(str(path.with_suffix("")), smooth_frames=False, **options).e_p_signal


@pytest.mark.parametrize("kind", FORMATS)
def test_every_kind_reads_as_wfdb_reads_it(tmp_path, kind):
    path = FORMATS[kind](tmp_path)
    recording = open_recording(path)
    truth = [wfdb.rdrecord(str(path.with_suffix(""))).p_signal.T[c] for c in range(2)] if kind == "monitor" else expanded(path)
    for channel, expected in enumerate(truth):
        rate = recording.channels[channel].rate_hz
        sample = recording.read(0, len(expected), rate_hz=rate, channels=[channel])
        assert np.array_equal(sample.valid[0], np.isfinite(expected))
        assert np.array_equal(sample.values[0], np.nan_to_num(expected).astype(np.float32))
    assert recording.verify() == ()
    assert [found for found, *_ in scan(tmp_path)[0]] == [path]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_kind_is_patched_sample_by_sample(tmp_path, kind):
    path = FORMATS[kind](tmp_path / "in")
    recording = open_recording(path)
    picked = {
        c: np.array([3, 17, recording.stored(c) - 2]) for c in range(len(recording.channels)) if kind != "monitor" or c == 0
    }
    out = tmp_path / "out" / path.name
    write(recording, [Patch(c, index, np.array([0.02, -0.01, 0.015])) for c, index in picked.items()], out)
    same, physical = open_recording(path), open_recording(out)
    for c, index in picked.items():
        rate, length = recording.channels[c].rate_hz, recording.stored(c)
        before, after = (r.read(0, length, rate_hz=rate, channels=[c]).values[0] for r in (same, physical))
        assert np.allclose(after[index], [0.02, -0.01, 0.015], atol=3e-3)
        assert np.array_equal(np.delete(before, index), np.delete(after, index))
    assert physical.verify() == () and len(physical.events) == len(recording.events)
    assert (physical.ids, physical.axes, physical.channels) == (recording.ids, recording.axes, recording.channels)


def test_signals_of_four_rates_meet_on_one_grid(tmp_path):
    per_frame = [16, 4, 2, 1]  # of 16 frames a second
    hertz = [11.0, 3.0, 2.0, 0.5]
    waves = [np.sin(2 * np.pi * f * np.arange(30 * 16 * n) / (16 * n)) for f, n in zip(hertz, per_frame, strict=True)]
    wfdb.wrsamp(
        "w", 16, ["mV", "NU", "g", "NU"], ["ECG", "PPG green", "ACCX", "RESP"], e_p_signal=waves, samps_per_frame=per_frame,
        fmt=["24"] * 4, adc_gain=[1e6] * 4, baseline=[0] * 4, write_dir=str(tmp_path),
    )  # fmt: skip
    recording = open_recording(tmp_path / "w.hea")
    assert [c.rate_hz for c in recording.channels] == [256.0, 64.0, 32.0, 16.0]
    assert [c.kind for c in recording.channels] == ["ecg", "ppg", "acc", "resp"]
    sample = recording.read(1000, 6000, rate_hz=RATE_HZ)
    assert sample.values.shape == (4, 5000) and sample.valid.all()
    for values, f in zip(sample.values, hertz, strict=True):
        assert np.abs(values - np.sin(2 * np.pi * f * sample.time_s)).max() < 2e-3
    part = recording.read(2345, 2399, rate_hz=RATE_HZ)
    assert np.allclose(part.values, sample.values[:, 1345:1399], atol=1e-6)


def test_what_a_wearable_a_tape_and_a_twelve_lead_say_of_themselves(tmp_path):
    watch = open_recording(wearable(tmp_path / "w"))
    assert [(c.canonical, c.kind) for c in watch.channels] == [
        ("ECG", "ecg"), ("PPG red", "ppg"), ("PPG infrared", "ppg"), ("ACCX", "acc"), ("RESP", "resp"),
    ]  # fmt: skip
    assert any("mixed rates: 16, 32, 64, 256 Hz" in warning for warning in watch.warnings)
    tape = open_recording(holter(tmp_path / "h"))
    assert tape.axes.start_date == "2004-03-02T08:30:00" and tape.ids["subject"] == "h7"
    assert tape.events[0].label == "+" and tape.events[0].extra["aux_note"] == "(N"
    assert [c.canonical for c in tape.channels] == ["MLII", "V1"]
    twelve = open_recording(FORMATS["twelve"](tmp_path / "t"))
    assert [c.canonical for c in twelve.channels] == list(TWELVE)
    assert all(c.position_frame == "lead-axis" for c in twelve.channels)


def test_a_window_of_a_day_costs_a_window(tmp_path):
    path = holter(tmp_path, annotated=False)
    text, dat = path.read_text(), path.with_suffix(".dat")
    day = 24 * 3600 * 128
    first, rest = text.split("\n", 1)
    path.write_text(first.replace(" 9216 ", f" {day} ") + "\n" + rest)
    with dat.open("r+b") as file:
        file.truncate(day * 3)
    recording = open_recording(path)
    recording.read(0, 10, rate_hz=256.0)  # loads what resamples
    began = time.process_time()
    sample = recording.read((day - 1280) * 2, day * 2, rate_hz=256.0)
    assert time.process_time() - began < 1 and sample.valid.all() and sample.values.shape == (2, 2560)


def mutated(path: Path, rng: random.Random) -> None:
    """Spoil one file of a record: cut it, fill it with zeros or noise, or put nonsense into a header's fields."""
    files = [f for f in path.parent.iterdir() if f.is_file()]
    victim = rng.choice([path, *files])
    data = bytearray(victim.read_bytes())
    way = rng.randrange(5)
    if way == 0:
        data = data[: rng.randrange(len(data) + 1)]
    elif way == 1:
        at = rng.randrange(len(data))
        data[at : at + 16] = bytes(16)
    elif way == 2:
        for _ in range(8):
            data[rng.randrange(len(data))] = rng.randrange(256)
    else:
        words = bytes(data).split(b" ")
        nonsense = [
            b"-1",
            b"0",
            b"99999999999999",
            b"1e308",
            b"nan",
            b"inf",
            b"\xff\xb5",
            b"",
            b"~",
            b"..",
            b"16x0",
            b"8",
            b"16+99999",
        ]
        words[rng.randrange(len(words))] = rng.choice(nonsense)
        data = bytearray(b" ".join(words))
    victim.write_bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_record_is_refused_with_a_reason_or_read(tmp_path, kind):
    FORMATS[kind](tmp_path / "good")
    originals = {f.name: f.read_bytes() for f in (tmp_path / "good").iterdir()}
    path = tmp_path / "bad" / FORMATS[kind](tmp_path / "good").name
    refused = 0
    for seed in range(MUTATIONS):
        path.parent.mkdir(exist_ok=True)
        for name, data in originals.items():
            (path.parent / name).write_bytes(data)
        mutated(path, random.Random(seed))
        began = time.process_time()
        try:
            recording = open_recording(path)
            recording.read(10, 300, rate_hz=RATE_HZ)
            _ = recording.events
            assert all(isinstance(problem, str) for problem in recording.verify())
            write(recording, [Patch(0, np.array([1]), np.array([0.5]))], tmp_path / "out" / path.name)
        except ReadError as error:
            refused += 1
            assert str(error)
        assert time.process_time() - began < 10, seed
    assert 0 < refused < MUTATIONS
