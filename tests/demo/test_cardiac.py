from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import signal

from toolkit.demo import cardiac, heart
from toolkit.demo.cardiac import NAMES, RATE_HZ, Simulation
from toolkit.errors import UsageError

SUBJECTS = range(8)
SECONDS = 40.0


def subject_of(index: int, seed: int = 0) -> heart.Subject:
    return heart.draw_subject(np.random.default_rng([seed, index]))


@pytest.fixture(scope="module")
def recordings() -> dict[tuple[int, str], Simulation]:
    return {
        (index, rhythm): cardiac.simulate(subject_of(index), rhythm, SECONDS, np.random.default_rng([0, index, order]))
        for index in SUBJECTS
        for order, rhythm in enumerate(heart.RHYTHMS)
    }


Recordings = dict[tuple[int, str], Simulation]


def column(recording: Simulation, name: str) -> heart.FloatArray:
    return recording.signals[:, NAMES.index(name)]


def nearest(of: heart.FloatArray, among: heart.FloatArray) -> heart.FloatArray:
    return np.asarray(np.abs(of[:, None] - among[None, :]).min(axis=1))


def test_limb_algebra_holds_to_rounding(recordings: Recordings) -> None:
    for recording in recordings.values():
        one, two, three = (column(recording, n) for n in ("I", "II", "III"))
        for got, want in (
            (three, two - one),
            (column(recording, "aVR"), -(one + two) / 2),
            (column(recording, "aVL"), one - two / 2),
            (column(recording, "aVF"), two - one / 2),
        ):
            np.testing.assert_allclose(got, want, atol=1e-12)


def test_noise_at_a_limb_electrode_reaches_a_chest_lead_by_a_third() -> None:
    noise = np.zeros((5, 9))
    noise[:, heart.ELECTRODES.index("LA")] = 0.3
    got = dict(zip(heart.LEADS, heart.leads(np.zeros((5, 3)), noise)[0], strict=True))
    assert got["I"] == pytest.approx(0.3) and got["II"] == 0 and got["V4"] == pytest.approx(-0.1)
    assert got["aVL"] == pytest.approx(0.3) and got["aVF"] == pytest.approx(-0.15)  # the Goldberger terminals


@pytest.mark.parametrize("rhythm", heart.RHYTHMS)
def test_r_peaks_are_where_the_annotations_say(recordings: Recordings, rhythm: str) -> None:
    found_beats, true_peaks = [], []
    for index in SUBJECTS:
        recording = recordings[index, rhythm]
        lead = column(recording, "II") - np.median(column(recording, "II"))
        if rhythm == "ectopic":  # a premature beat may point away from lead II
            lead = np.abs(lead)
        height = 0.5 * np.percentile([lead[round(t * RATE_HZ)] for t in recording.peaks], 20)
        found = signal.find_peaks(lead, height=height, distance=round(0.25 * RATE_HZ))[0] / RATE_HZ
        edge = recording.peaks[(recording.peaks > 0.1) & (recording.peaks < SECONDS - 0.1)]
        found_beats.append(nearest(edge, found) < 0.06)
        true_peaks.append(nearest(found, recording.peaks) < 0.06)
    assert np.concatenate(found_beats).mean() > 0.95
    if rhythm != "ectopic":  # there the T wave of a premature beat is as tall as an R wave
        assert np.concatenate(true_peaks).mean() > 0.95


def test_rates_and_their_variation(recordings: Recordings) -> None:
    for index in SUBJECTS:
        variation = {}
        for rhythm in heart.RHYTHMS:
            rr = np.diff(recordings[index, rhythm].peaks)
            assert 45 < 60 / rr.mean() < 140
            assert rr.min() > 0.3
            variation[rhythm] = rr.std() / rr.mean()
        assert 0.005 < variation["sinus"] < 0.12
        assert variation["fibrillation"] > max(0.15, 1.5 * variation["sinus"])


def test_sinus_rhythm_varies_with_the_breath_and_near_a_tenth_of_a_hertz() -> None:
    rng = np.random.default_rng(3)
    subject = subject_of(0)
    peaks = heart.sinus_beats(subject, 0.0, 900.0, 0.0, rng)
    even = np.interp(np.arange(0, 890, 0.25), peaks, heart.rr_intervals(peaks))
    frequency, power = signal.welch(even, 4.0, nperseg=512)
    low = power[(frequency > 0.07) & (frequency < 0.13)].max()
    breath = power[np.abs(frequency - subject.breath_hz) < 0.03].max()
    elsewhere = np.median(power[(frequency > 0.4) & (frequency < 0.6)])
    assert low > 10 * elsewhere and breath > 10 * elsewhere


def width_of(dipole: heart.FloatArray, at: int) -> float:
    """Seconds for which the dipole near a beat is larger than a quarter of its peak."""
    size = np.linalg.norm(dipole[at - 60 : at + 61], axis=1)
    return float((size > 0.25 * size.max()).sum() / RATE_HZ)


def test_premature_beats_are_early_wide_and_followed_by_a_pause(recordings: Recordings) -> None:
    for index in SUBJECTS:
        recording, subject = recordings[index, "ectopic"], subject_of(index)
        usual = 60 / subject.heart_rate
        rr = heart.rr_intervals(recording.peaks)
        premature = [k for k, s in enumerate(recording.symbols) if s == "V" and 0 < k < len(rr) - 1]
        assert premature
        for k in premature:
            assert rr[k] < 0.85 * usual and rr[k + 1] > 1.15 * usual
            assert rr[k] + rr[k + 1] == pytest.approx(2 * usual, rel=0.25)  # the sinus node is not reset
        times = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
        dipole = heart.vcg(times, recording.peaks, recording.symbols, subject)
        width = {k: width_of(dipole, round(recording.peaks[k] * RATE_HZ)) for k in range(2, len(rr) - 2)}
        narrow = [w for k, w in width.items() if recording.symbols[k] == "N"]
        wide = [w for k, w in width.items() if recording.symbols[k] == "V"]
        assert max(narrow) < 0.11 and min(wide) > 0.12


def test_fibrillation_has_no_p_wave_but_waves_of_4_to_9_hz() -> None:
    subject, rng = subject_of(1), np.random.default_rng(5)
    times = np.arange(20 * RATE_HZ) / RATE_HZ
    peaks = np.arange(1.0, 19.0)
    with_p = heart.vcg(times, peaks, ["N"] * 18, subject)
    without = heart.vcg(times, peaks, ["N"] * 18, subject, atrial=False)
    assert np.abs((with_p - without)[4 * RATE_HZ + 400 : 4 * RATE_HZ + 450]).max() > 0.05  # 0.2 s before a beat
    waves = heart.leads(heart.fibrillatory_waves(times, subject, rng))[:, heart.LEADS.index("V1")]
    frequency, power = signal.welch(waves, RATE_HZ, nperseg=2048)
    assert 4 < frequency[power.argmax()] < 9
    assert 0.03 < np.ptp(waves) < 0.6


def test_the_pulse_follows_the_r_peak_and_is_weak_after_a_premature_beat(recordings: Recordings) -> None:
    lags = []
    for index in SUBJECTS:
        recording = recordings[index, "sinus"]
        pulse = column(recording, "PLETH")
        for peak in recording.peaks[1:-2]:
            at = round(peak * RATE_HZ)
            crest = at + int(pulse[at + 50 : at + 300].argmax()) + 50
            rise = np.diff(pulse[at + 25 : crest])
            steepest = int(rise.argmax()) + at + 25
            foot = steepest - (pulse[steepest] - pulse[at + 25 : steepest + 1].min()) / rise.max()  # by the tangent
            lags.append((foot - at) / RATE_HZ)
    assert np.mean((np.array(lags) > 0.1) & (np.array(lags) < 0.45)) > 0.95
    sizes: dict[str, list[float]] = {"N": [], "V": []}
    for index in SUBJECTS:
        recording = recordings[index, "ectopic"]
        for peak, symbol in list(zip(recording.peaks, recording.symbols, strict=True))[1:-2]:
            start = round((peak + 0.2) * RATE_HZ)
            sizes[symbol].append(float(np.ptp(column(recording, "PLETH")[start : start + 150])))
    assert np.median(sizes["V"]) < 0.7 * np.median(sizes["N"])


def test_amplitudes_are_those_of_a_body(recordings: Recordings) -> None:
    for (_, rhythm), recording in recordings.items():
        assert np.isfinite(recording.signals).all()
        assert np.abs(recording.signals[:, :12]).max() < 5
        if rhythm == "sinus":
            lead = column(recording, "II")
            spans = [np.ptp(lead[round(t * RATE_HZ) - 30 : round(t * RATE_HZ) + 30]) for t in recording.peaks[1:-1]]
            assert min(spans) > 0.3 and max(spans) < 4
            # R grows from V1 to V5, and V1 is mostly negative.
            assert np.percentile(column(recording, "V5"), 99.8) > 2 * np.percentile(column(recording, "V1"), 99.8)
            assert -column(recording, "V1").min() > column(recording, "V1").max()


def test_the_seed_decides_everything() -> None:
    def run(seed: int) -> Simulation:
        return cardiac.simulate(subject_of(2, seed), "ectopic", 12.0, np.random.default_rng([seed, 2, 1]))

    first, again, other = run(0), run(0), run(1)
    np.testing.assert_array_equal(first.signals, again.signals)
    np.testing.assert_array_equal(first.peaks, again.peaks)
    assert not np.array_equal(first.signals, other.signals)


def test_an_unknown_rhythm_is_refused() -> None:
    with pytest.raises(ValueError, match="flutter"):
        cardiac.simulate(subject_of(0), "flutter", 10.0, np.random.default_rng(0))


@pytest.mark.parametrize(("subjects", "seconds"), [(0, 60.0), (2, 9.0)])
def test_less_than_a_window_or_nobody_is_refused(tmp_path: Path, subjects: int, seconds: float) -> None:
    with pytest.raises(UsageError):
        cardiac.generate(tmp_path / "demo", subjects=subjects, seconds=seconds)
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("seconds", [10.0, 25.0, 30.0])
def test_windows_lie_within_the_recording(seconds: float) -> None:
    recording = Simulation(np.zeros((1, 13)), np.array([1.0, 12.0]), ["N", "V"])
    rows = cardiac.window_labels("ectopic", recording, seconds)
    assert len(rows) == int(seconds // 10)
    assert rows[0] == ("sinus", 0.0, 10.0) and rows[-1][2] <= seconds
    assert [label for label, start, _ in rows if start == 10.0] in ([], ["ectopic"])


def test_generate_writes_mixed_devices_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, dict[str, Any]] = {}

    def create_wfdb(folder: Path, name: str, signals: heart.FloatArray, **about: Any) -> Path:
        written[name] = {"signals": signals, **about}
        return folder / f"{name}.hea"

    writer = ModuleType("readers.cardiac")
    monkeypatch.setattr(writer, "create_wfdb", create_wfdb, raising=False)
    monkeypatch.setitem(sys.modules, "readers.cardiac", writer)
    labels = cardiac.generate(tmp_path / "demo", subjects=4, seconds=20.0)
    assert labels == tmp_path / "demo" / "labels.csv"
    rows = list(csv.DictReader(labels.open(encoding="utf-8")))
    assert list(rows[0]) == ["path", "label", "subject", "start", "stop"]
    assert len(rows) == 4 * 3 * 2 and {r["label"] for r in rows} == set(heart.RHYTHMS)
    assert {r["path"] for r in rows} == {f"{name}.hea" for name in written}
    for name, rate, channels in (("s01_sinus", 500, 13), ("s03_ectopic", 360, 2), ("s04_fibrillation", 125, 1)):
        assert written[name]["rate_hz"] == rate
        assert written[name]["signals"].shape == (20 * rate, channels)
        assert f"subject: {name[:3]}" in written[name]["comments"]
    assert written["s03_sinus"]["names"] == ["MLII", "V5"] and written["s04_sinus"]["units"] == ["NU"]
    assert {s for _, s in written["s03_ectopic"]["annotations"]} == {"N", "V"}


def test_generated_records_read_back_with_wfdb(tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    first = cardiac.generate(tmp_path / "a", subjects=1, seconds=10.0)
    cardiac.generate(tmp_path / "b", subjects=1, seconds=10.0)
    record = wfdb.rdrecord(str(first.parent / "s01_ectopic"))
    assert record.fs == 500 and record.sig_name == list(NAMES) and record.units == ["mV"] * 12 + ["NU"]
    expected = cardiac.simulate(subject_of(0), "ectopic", 10.0, np.random.default_rng([0, 0, 2]))
    np.testing.assert_allclose(record.p_signal, expected.signals, atol=2e-3)
    again = wfdb.rdrecord(str(tmp_path / "b" / "s01_ectopic"))
    np.testing.assert_array_equal(record.p_signal, again.p_signal)
