"""Beats and rhythm of made signals whose truth is known by construction."""

import numpy as np
import pytest

from toolkit.probing.beats import find_beats
from toolkit.probing.handcrafted import Context, cardiac_features


def _ecg(beat_s: np.ndarray, rate_hz: float, seconds: float, wide: tuple[int, ...] = ()) -> np.ndarray:
    """Narrow QRS and a T wave at each beat; the beats in ``wide`` are broad and inverted."""
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    wave = 0.05 * np.sin(2 * np.pi * 0.3 * t) + 0.02 * np.random.default_rng(0).normal(size=len(t))
    for number, at in enumerate(beat_s):
        height, width = (-1.4, 0.03) if number in wide else (1.2, 0.012)
        wave += height * np.exp(-(((t - at) / width) ** 2) / 2) + 0.2 * np.exp(-(((t - at - 0.25) / 0.05) ** 2) / 2)
    return wave


def _features(wave: np.ndarray, rate_hz: float, name: str = "II", context: Context | None = None) -> dict[str, float]:
    values = np.atleast_2d(wave).astype(np.float32)
    vector, names = cardiac_features(values, np.ones(values.shape, bool), rate_hz, [name] * len(values), context)
    assert vector.dtype == np.float32 and vector.shape == (len(names),) and len(set(names)) == len(names)
    return dict(zip(names, vector.tolist(), strict=True))


@pytest.mark.parametrize("rate_hz", [100.0, 128.0, 360.0, 1000.0])
@pytest.mark.parametrize("bpm", [45, 75, 170])
def test_every_beat_is_found_where_it_is(rate_hz: float, bpm: int) -> None:
    truth = np.arange(0.5, 11.5, 60 / bpm)
    beats = find_beats(_ecg(truth, rate_hz, 12), rate_hz, pulse=False)
    assert len(beats.time_s) == len(truth)
    assert np.abs(beats.time_s - truth).max() < 0.03
    assert _features(_ecg(truth, rate_hz, 12), rate_hz)["mean_beats_per_min"] == pytest.approx(bpm, rel=0.02)


def test_a_pulse_wave_is_counted_too() -> None:
    t = np.arange(1500) / 125
    wave = 500 + 20 * np.maximum(np.sin(2 * np.pi * 1.5 * t), -0.3) + 5 * np.sin(2 * np.pi * 0.1 * t)
    found = _features(wave, 125, "PLETH")
    assert found["mean_beats_per_min"] == pytest.approx(90, rel=0.02)
    assert found["mean_rate_peak_hz"] == pytest.approx(1.5, abs=0.1)


def test_a_wide_early_beat_stands_out() -> None:
    regular = np.arange(0.5, 9.6, 0.8)
    early = regular.copy()
    early[5] -= 0.3
    plain, odd = _features(_ecg(regular, 360, 10), 360), _features(_ecg(early, 360, 10, wide=(5,)), 360)
    assert plain["mean_rr_ratio_min"] > 0.97 and odd["mean_rr_ratio_min"] == pytest.approx(0.5 / 0.8, abs=0.03)
    assert plain["mean_rr_ratio_max"] < 1.03 and odd["mean_rr_ratio_max"] == pytest.approx(1.1 / 0.5, abs=0.1)
    assert odd["mean_area_max_ratio"] > 1.5 > plain["mean_area_max_ratio"]
    assert odd["mean_template_min"] < 0.5 < 0.95 < plain["mean_template_min"]


def test_context_places_one_beat_among_its_neighbours() -> None:
    beats = np.arange(0.5, 9.6, 0.8)
    beats[5] -= 0.3
    wave = _ecg(beats, 360, 10, wide=(5,))[None].astype(np.float32)
    good = np.ones(wave.shape, bool)

    def at(beat: int) -> dict[str, float]:
        start, stop = int((beats[beat] - 0.25) * 360), int((beats[beat] + 0.45) * 360)
        return _features(wave[0, start:stop], 360, context=Context(wave, good, start, stop))

    early, usual = at(5), at(3)
    assert early["mean_rr_before_ratio"] == pytest.approx(0.5 / 0.8, abs=0.03)
    assert early["mean_rr_after_ratio"] == pytest.approx(1.1 / 0.8, abs=0.03)
    assert early["mean_own_template"] < 0.5 and early["mean_own_area_ratio"] > 1.5 and early["mean_own_up_share"] < 0.4
    assert usual["mean_rr_before_ratio"] == pytest.approx(1, abs=0.03) and usual["mean_own_template"] > 0.95
    assert usual["mean_own_up_share"] > 0.6


def test_powers_follow_the_frequency() -> None:
    t = np.arange(2000) / 200
    for hz, band in ((0.75, "0.5_1"), (3, "2_4"), (20, "15_30")):
        found = _features(np.sin(2 * np.pi * hz * t), 200)
        assert np.exp(found[f"mean_power_{band}_hz_log"]) > 0.9


def test_the_length_is_the_same_for_any_channels_and_bad_ones_are_passed_over() -> None:
    wave = _ecg(np.arange(0.5, 9.6, 0.8), 250, 10)
    one = _features(wave, 250)
    values = np.stack([np.zeros_like(wave), 5 * wave, np.sin(np.arange(len(wave)) / 99), wave, 9 * wave])
    valid = np.ones(values.shape, bool)
    valid[3, : int(0.8 * len(wave))] = False
    valid[1, 100:130] = False
    vector, names = cardiac_features(values, valid, 250, ["I", "II", "RESP", "III", "V1"])
    many = dict(zip(names, vector.tolist(), strict=True))
    assert list(many) == list(one)
    assert many["mean_std"] == pytest.approx(7 * one["mean_std"], rel=0.02)  # channels II and V1
    assert many["max_std"] == pytest.approx(9 * one["mean_std"], rel=0.02)
    empty, _ = cardiac_features(values, np.zeros_like(valid), 250, ["I", "II", "RESP", "III", "V1"])
    assert empty.shape == vector.shape and np.isnan(empty).all()


@pytest.mark.parametrize("seconds", [0.1, 0.7])
def test_a_very_short_window_has_gaps_and_no_failure(seconds: float) -> None:
    found = _features(_ecg(np.array([0.3]), 125, seconds), 125)
    assert np.isnan(found["mean_rr_mean_s"]) and np.isfinite(found["mean_std"])
