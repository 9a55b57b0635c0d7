from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.polynomial import legendre
from scipy import signal

from toolkit.demo import eeg, scalp
from toolkit.demo.eeg import ELECTRODES, NAMES, Simulation
from toolkit.errors import UsageError

SUBJECTS = range(3)
SECONDS = 32.0
RATE_HZ = 256

Recordings = dict[tuple[int, str], Simulation]


def subject_of(index: int, seed: int = 0) -> eeg.Subject:
    return eeg.draw_subject(np.random.default_rng([seed, index]))


@pytest.fixture(scope="module")
def recordings() -> Recordings:
    return {
        (index, condition): eeg.simulate(subject_of(index), condition, SECONDS, RATE_HZ, (0, index))
        for index in SUBJECTS
        for condition in eeg.CONDITIONS
    }


def column(recording: Simulation, name: str) -> eeg.FloatArray:
    return recording.signals[:, NAMES.index(name)]


def band_power(wave: eeg.FloatArray, low: float, high: float) -> float:
    frequency, power = signal.welch(wave, RATE_HZ, nperseg=2 * RATE_HZ)
    inside = (frequency >= low) & (frequency <= high)
    return float(power[inside].sum() * frequency[1])


def some_dipoles(count: int, deepest: float, shallowest: float) -> tuple[eeg.FloatArray, eeg.FloatArray]:
    rng = np.random.default_rng(11)
    places = rng.normal(size=(count, 3))
    places *= (np.linspace(deepest, shallowest, count) * scalp.RADIUS_M / np.linalg.norm(places, axis=1))[:, None]
    return places, rng.normal(size=(count, 3)) * 1e-8


def series(electrode: eeg.FloatArray, place: eeg.FloatArray, moment: eeg.FloatArray) -> float:
    """Potential on a homogeneous sphere by its Legendre series, the tangential part by a numeric derivative."""

    def of_monopole(source: eeg.FloatArray) -> float:
        depth = np.linalg.norm(source)
        n = np.arange(1, 200)
        terms = (2 * n + 1) / n * (depth / scalp.RADIUS_M) ** n
        angle = source @ electrode / (depth * scalp.RADIUS_M)
        total = legendre.legval(angle, np.concatenate(([0.0], terms)))
        return float(total / (4 * np.pi * scalp.CONDUCTIVITY * scalp.RADIUS_M))

    step = 1e-6 * moment / np.linalg.norm(moment)
    return float((of_monopole(place + step) - of_monopole(place - step)) / 2e-6 * np.linalg.norm(moment))


def test_the_closed_form_of_a_homogeneous_sphere_is_its_series() -> None:
    electrodes = scalp.electrode_positions()
    places, moments = some_dipoles(6, 0.2, 0.85)
    got = scalp.homogeneous_potential(electrodes, places, moments)
    want = [[series(e, p, q) for p, q in zip(places, moments, strict=True)] for e in electrodes]
    np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(got).max())


def test_a_dipole_at_the_centre_gives_three_times_the_potential_of_unbounded_space() -> None:
    electrodes = scalp.electrode_positions()
    moment = np.array([3.0, -2.0, 5.0]) * 1e-9
    got = scalp.homogeneous_potential(electrodes, np.zeros((1, 3)), moment[None])[:, 0]
    want = 3 * electrodes @ moment / (4 * np.pi * scalp.CONDUCTIVITY * scalp.RADIUS_M**3)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_the_potential_averages_to_zero_over_the_sphere() -> None:
    """The series begins with the dipole, so nothing is left of a constant."""
    rng = np.random.default_rng(2)
    everywhere = rng.normal(size=(40_000, 3))
    everywhere *= scalp.RADIUS_M / np.linalg.norm(everywhere, axis=1, keepdims=True)
    places, moments = some_dipoles(4, 0.3, 0.7)
    potential = scalp.homogeneous_potential(everywhere, places, moments)
    assert np.all(np.abs(potential.mean(axis=0)) < 0.03 * potential.std(axis=0))


def test_equal_layers_are_a_homogeneous_sphere() -> None:
    places, moments = some_dipoles(5, 0.2, 0.8)
    electrodes = scalp.electrode_positions()
    want = scalp.homogeneous_potential(electrodes, places, moments)
    for layers in (((1.0, 0.33),), ((0.88, 0.33), (0.95, 0.33), (1.0, 0.33))):
        got = scalp.layered_potential(electrodes, places, moments, layers=layers)
        np.testing.assert_allclose(got, want, atol=1e-7 * np.abs(want).max())


def test_layers_give_what_mne_computes() -> None:
    mne = pytest.importorskip("mne")
    mne.set_log_level("ERROR")
    electrodes = scalp.electrode_positions()
    places, moments = some_dipoles(5, 0.3, 0.8)
    sizes = np.linalg.norm(moments, axis=1)
    info = mne.create_info(list(ELECTRODES), 250, "eeg")
    montage = mne.channels.make_dig_montage(dict(zip(ELECTRODES, electrodes, strict=True)), coord_frame="head")
    info.set_montage(montage)
    sphere = mne.make_sphere_model(r0=(0, 0, 0), head_radius=scalp.RADIUS_M)  # the same four layers
    dipoles = mne.Dipole(np.arange(5.0), places, sizes, moments / sizes[:, None], np.ones(5))
    want = mne.make_forward_dipole(dipoles, sphere, info)[0]["sol"]["data"] * sizes
    got = scalp.layered_potential(electrodes, places, moments)
    assert np.all(np.abs(got - want).max(axis=0) < 0.005 * np.abs(want).max(axis=0))  # MNE's is a fit by three dipoles


def test_the_skull_weakens_and_blurs() -> None:
    place, moment = np.array([[0.0, 0.0, 0.07]]), np.array([[0.0, 0.0, 1e-8]])
    arc = np.array([scalp.RADIUS_M * scalp.direction(angle, 0) for angle in range(0, 90, 5)])
    bare = scalp.homogeneous_potential(arc, place, moment)[:, 0]
    under = scalp.layered_potential(arc, place, moment)[:, 0]
    assert 0.03 < under[0] / bare[0] < 0.3
    assert (under > under[0] / 2).sum() > (bare > bare[0] / 2).sum()


def test_a_dipole_outside_the_brain_is_refused() -> None:
    with pytest.raises(ValueError, match="dipoles must lie"):
        scalp.layered_potential(scalp.electrode_positions(), np.array([[0.0, 0.0, 0.085]]), np.array([[0.0, 0.0, 1e-8]]))


def test_electrodes_lie_where_the_standard_montage_has_them() -> None:
    mne = pytest.importorskip("mne")
    known = mne.channels.make_standard_montage("standard_1020").get_positions()["ch_pos"]
    standard = np.array([known[name] for name in ELECTRODES])
    standard -= (standard[ELECTRODES.index("T7")] + standard[ELECTRODES.index("T8")]) / 2
    standard[:, 2] += 0.03  # of a head with ears: its centre lies above the line between T7 and T8
    towards = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    cosine = (towards * scalp.electrode_positions(1.0)).sum(axis=1)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 20
    positions = scalp.electrode_positions()
    np.testing.assert_allclose(np.linalg.norm(positions, axis=1), scalp.RADIUS_M)
    assert positions[ELECTRODES.index("O1"), 1] < 0 and positions[ELECTRODES.index("T8"), 0] > 0


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_noise_falls_with_its_exponent(exponent: float) -> None:
    times = np.arange(60 * RATE_HZ) / RATE_HZ
    noise = eeg.power_law_noise(times, exponent, 40, np.random.default_rng(0))
    frequency, power = signal.welch(noise, RATE_HZ, nperseg=4 * RATE_HZ, axis=0)
    inside = (frequency > 2) & (frequency < 100)
    slope = np.polyfit(np.log(frequency[inside]), np.log(power[inside].mean(axis=1)), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)
    np.testing.assert_allclose(noise.var(axis=0), 1)


def test_a_narrow_band_waxes_and_wanes_as_gaussian_noise_does() -> None:
    times = np.arange(400 * RATE_HZ) / RATE_HZ
    rhythm = eeg.narrow_band(times, 10.0, 0.6, np.random.default_rng(1))
    envelope = np.abs(rhythm)
    # Rayleigh: median over mean, and the deviation.
    assert np.median(envelope) / envelope.mean() == pytest.approx(np.sqrt(2 * np.log(2)) / np.sqrt(np.pi / 2), rel=0.05)
    frequency, power = signal.welch(rhythm.real, RATE_HZ, nperseg=20 * RATE_HZ)
    centre = (frequency * power).sum() / power.sum()
    assert centre == pytest.approx(10.0, abs=0.1)
    assert np.sqrt(((frequency - centre) ** 2 * power).sum() / power.sum()) == pytest.approx(0.6 / np.sqrt(2), rel=0.1)


def test_closed_eyes_bring_occipital_alpha_at_the_subjects_own_frequency(recordings: Recordings) -> None:
    for index in SUBJECTS:
        subject = subject_of(index)
        opened, closed = recordings[index, "open"], recordings[index, "closed"]
        for name in ("O1", "O2"):
            ratio = band_power(column(closed, name), 8, 13) / band_power(column(opened, name), 8, 13)
            assert ratio > 2, (index, name, ratio)
        frequency, power = signal.welch(column(closed, "O1"), RATE_HZ, nperseg=4 * RATE_HZ)
        near = (frequency > 5) & (frequency < 15)
        assert frequency[near][power[near].argmax()] == pytest.approx(subject.alpha_hz, abs=1.0)
        size = np.sqrt([band_power(column(closed, name), 8, 13) for name in ELECTRODES])
        assert 8 < max(size) < 60
        assert ELECTRODES[int(size.argmax())] in ("O1", "O2", "P7", "P8", "Pz", "P3", "P4")
        assert size[ELECTRODES.index("Fp1")] < 0.4 * size[ELECTRODES.index("O1")]


def test_the_background_falls_as_the_subject_has_it(recordings: Recordings) -> None:
    times = np.arange(60 * RATE_HZ) / RATE_HZ
    for index in SUBJECTS:
        subject = subject_of(index)
        waves = eeg.background(times, subject, np.random.default_rng(0), np.random.default_rng(1))
        frequency, power = signal.welch(waves, RATE_HZ, nperseg=4 * RATE_HZ, axis=0)
        inside = (frequency > 2) & (frequency < 60)
        slope = np.polyfit(np.log(frequency[inside]), np.log(power[inside].mean(axis=1)), 1)[0]
        assert slope == pytest.approx(-subject.exponent, abs=0.1)
        assert 4 < waves.std(axis=0).mean() < 25  # uV


def test_blinks_are_where_the_events_say_and_largest_at_the_front(recordings: Recordings) -> None:
    for index in SUBJECTS:
        recording = recordings[index, "open"]
        assert 3 < len(recording.blinks) < 20 and np.diff(recording.blinks).min() >= 0.8
        assert len(recordings[index, "closed"].blinks) == 0
        eye, front, back = (column(recording, name) for name in ("EOG", "Fp1", "O1"))
        height = 0.4 * np.median([eye[round((t + 0.12) * RATE_HZ)] for t in recording.blinks])
        found = signal.find_peaks(eye, height=height, distance=RATE_HZ // 2, prominence=height)[0] / RATE_HZ
        assert len(found) == len(recording.blinks)
        np.testing.assert_allclose(found, recording.blinks + 0.12, atol=0.05)

        def rise(wave: eeg.FloatArray, at: eeg.FloatArray = recording.blinks) -> float:
            return float(np.median([wave[round((t + 0.12) * RATE_HZ)] - wave[round(t * RATE_HZ)] for t in at]))

        assert 40 < rise(front) < 250 and rise(eye) > 0 and abs(rise(back)) < 0.35 * rise(front)


def test_a_blink_rises_faster_than_it_falls() -> None:
    lag = np.linspace(-0.1, 0.6, 701)
    shape = eeg.blink_shape(lag)
    assert shape.max() == pytest.approx(1, abs=1e-3) and lag[shape.argmax()] == pytest.approx(0.12, abs=2e-3)
    assert np.all(shape[(lag < 0) | (lag > eeg.BLINK_S)] < 1e-12)
    risen, fallen = lag[shape > 0.5][[0, -1]]
    assert 0.12 - risen < fallen - 0.12


def test_mains_hum_is_as_strong_as_each_electrode_has_it(recordings: Recordings) -> None:
    times = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    wave = np.exp(-2j * np.pi * 50.0 * times)
    for (index, _), recording in recordings.items():
        found = np.abs(2 * wave @ recording.signals / len(times))
        error = np.abs(found - subject_of(index).hum)  # uV; muscles and brain leave some in the narrow bin, too
        assert error.max() < 0.6 and np.median(error) < 0.15


def test_amplitudes_are_those_of_a_scalp(recordings: Recordings) -> None:
    for recording in recordings.values():
        assert recording.signals.shape == (SECONDS * RATE_HZ, len(NAMES)) and np.isfinite(recording.signals).all()
        spread = recording.signals[:, : len(ELECTRODES)].std(axis=0)
        assert spread.min() > 4 and spread.max() < 70
        assert np.abs(recording.signals).max() < 800


def test_the_seed_decides_everything() -> None:
    def run(seed: int) -> Simulation:
        return eeg.simulate(subject_of(1, seed), "open", 8.0, 200, (seed, 1))

    first, again, other = run(0), run(0), run(1)
    np.testing.assert_array_equal(first.signals, again.signals)
    np.testing.assert_array_equal(first.blinks, again.blinks)
    assert not np.array_equal(first.signals, other.signals)


def test_an_unknown_condition_is_refused() -> None:
    with pytest.raises(ValueError, match="asleep"):
        eeg.simulate(subject_of(0), "asleep", 8.0, 200, (0, 0))


@pytest.mark.parametrize(("subjects", "seconds"), [(0, 60.0), (2, 3.0)])
def test_less_than_a_window_or_nobody_is_refused(tmp_path: Path, subjects: int, seconds: float) -> None:
    with pytest.raises(UsageError):
        eeg.generate(tmp_path / "demo", subjects=subjects, seconds=seconds)
    assert not (tmp_path / "demo").exists()


def test_generated_files_read_back_with_mne(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne")
    labels = eeg.generate(tmp_path / "a", subjects=2, seconds=10.0)
    eeg.generate(tmp_path / "b", subjects=1, seconds=10.0)
    rows = list(csv.DictReader(labels.open(encoding="utf-8")))
    assert list(rows[0]) == ["path", "label", "subject", "start", "stop"]
    assert len(rows) == 2 * 2 * 2 and {r["label"] for r in rows} == {"open", "closed"}
    assert all(float(r["stop"]) - float(r["start"]) == 4 for r in rows)
    assert {r["path"] for r in rows} == {p.name for p in (tmp_path / "a").glob("*.edf")}
    raw = mne.io.read_raw_edf(labels.parent / "s02_open.edf", verbose="ERROR")
    assert tuple(raw.ch_names) == NAMES and raw.info["sfreq"] == 200 and raw.info["subject_info"]["his_id"] == "s02"
    expected = eeg.simulate(subject_of(1), "open", 10.0, 200, (0, 1))
    np.testing.assert_allclose(raw.get_data(units="uV").T, expected.signals, atol=0.02)
    np.testing.assert_allclose(raw.annotations.onset, expected.blinks, atol=1e-3)
    assert set(raw.annotations.description) <= {"blink"}
    for name in ("s01_open.edf", "s01_closed.edf"):  # more subjects leave the first as it is
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
