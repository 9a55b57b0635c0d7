"""Audio features of made sounds whose pitch, level and onsets are known by construction."""

import numpy as np
import pytest
from numpy.typing import NDArray

from readers.schema import Channel, SignalSample, Window
from toolkit.probing.features_audio import AUDIO_NAMES, HIGHEST_HZ, LOWEST_HZ, MELS, _mel_bank, audio_features

RNG = np.random.default_rng(3)


def _sample(values: NDArray, rate_hz: float, valid: NDArray | None = None) -> SignalSample:
    values = np.atleast_2d(values).astype(np.float32)
    valid = np.ones(values.shape, bool) if valid is None else np.atleast_2d(valid)
    channels = tuple(Channel(f"ch{i}", f"ch{i}", "audio", None, None, rate_hz) for i in range(len(values)))
    return SignalSample(values, valid, channels, Window(0, values.shape[1]), rate_hz)


def _found(values: NDArray, rate_hz: float = 32000.0, valid: NDArray | None = None) -> dict[str, float]:
    vector, names = audio_features(_sample(values, rate_hz, valid))
    assert vector.dtype == np.float32 and vector.shape == (len(names),) and names == AUDIO_NAMES
    assert np.isfinite(vector).all()
    return dict(zip(names, vector.tolist(), strict=True))


def _time(seconds: float, rate_hz: float = 32000.0) -> NDArray:
    return np.arange(int(seconds * rate_hz)) / rate_hz


def _chirps(rate_hz: float = 32000.0, seconds: float = 3.0) -> NDArray:
    """Four short sweeps a second from 3 to 5 kHz, over a little hum."""
    time_s = _time(seconds, rate_hz)
    within = (time_s % 0.25) / 0.25
    sweep = np.sin(2 * np.pi * (3000 * within + 1000 * within**2) * 0.25) * np.exp(-(((within - 0.5) / 0.12) ** 2))
    return 0.3 * sweep + 0.003 * np.sin(2 * np.pi * 200 * time_s)


def _mel_edges() -> NDArray:
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOWEST_HZ, HIGHEST_HZ))
    return 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)


def test_the_mel_filters_are_triangles_between_even_steps_of_mel() -> None:
    hz, edges = np.arange(513) * 31.25, _mel_edges()
    truth = np.stack([np.interp(hz, edges[i : i + 3], [0, 1, 0]) for i in range(MELS)])
    assert _mel_bank(tuple(hz)) == pytest.approx(truth / truth.sum(axis=1, keepdims=True), abs=1e-9)
    coarse = _mel_bank(tuple(np.arange(20) * 400.0))  # bins wider than the low mels
    assert [row.sum() > 0 for row in coarse] == [centre < 7600 for centre in edges[1:-1]]


@pytest.mark.parametrize("hz", [440.0, 2000.0, 6000.0])
@pytest.mark.parametrize("rate_hz", [16000.0, 22050.0, 48000.0])
def test_a_tone_is_where_it_is(hz: float, rate_hz: float) -> None:
    found = _found(0.2 * np.sin(2 * np.pi * hz * _time(2, rate_hz)), rate_hz)
    centres = _mel_edges()[1:-1]
    loudest = int(np.argmax([found[f"mel_{i}_mean"] for i in range(MELS)]))
    assert abs(np.log(centres[loudest] / hz)) < 0.15
    assert found["centroid_log_mean"] == pytest.approx(np.log(hz), abs=0.05)
    assert found["rolloff_85_log_mean"] == pytest.approx(np.log(hz), abs=0.1)
    assert found["zero_crossings_log"] == pytest.approx(np.log1p(2 * hz), abs=0.02)
    noise = _found(RNG.normal(0, 0.2, int(2 * rate_hz)), rate_hz)
    assert found["flatness_log_mean"] < noise["flatness_log_mean"] - 5 and noise["flatness_log_mean"] > -1


def test_a_louder_copy_differs_in_level_only() -> None:
    plain, louder = _found(_chirps()), _found(3 * _chirps())
    assert louder["level_log_mean"] - plain["level_log_mean"] == pytest.approx(np.log(9), abs=1e-3)
    for name, value in plain.items():
        if not name.startswith("level") or name.endswith("std"):
            assert louder[name] == pytest.approx(value, abs=1e-3)


def test_the_rate_of_the_recording_hardly_matters() -> None:
    at_32, at_48 = _found(_chirps(32000.0)), _found(_chirps(48000.0), 48000.0)
    away = [abs(at_32[f"mel_{i}_{over}"] - at_48[f"mel_{i}_{over}"]) for i in range(MELS) for over in ("mean", "std", "p90")]
    assert max(away) < 1.5 and np.median(away) < 0.1  # natural logarithm of power; 40 dB are 9.2
    low = _found(_chirps(12000.0), 12000.0)
    top = [low[f"mel_{i}_std"] for i in range(MELS) if i > MELS * 0.9]
    assert max(top) < 1e-9


def test_onsets_are_counted() -> None:
    assert _found(_chirps(seconds=5))["onsets_per_s"] == pytest.approx(4, abs=0.4)
    assert _found(0.1 * np.sin(2 * np.pi * 1000 * _time(5)))["onsets_per_s"] == 0
    assert _found(np.tile(_chirps(16000.0, 10), 10), 16000.0)["onsets_per_s"] == pytest.approx(4, abs=0.4)  # 100 s


def test_a_changing_sound_changes_and_peaks_stand_out() -> None:
    tone, chirps, noise = 0.3 * np.sin(2 * np.pi * 4000 * _time(3)), _chirps(), RNG.normal(0, 0.1, 96000)
    found = [_found(wave) for wave in (tone, chirps, noise)]
    assert found[1]["mfcc_1_change"] > 10 * found[0]["mfcc_1_change"]
    assert found[1]["mel_23_std"] > 1 > found[0]["mel_23_std"] + found[2]["mel_23_std"]
    assert found[0]["contrast_4"] > found[2]["contrast_4"] + 3  # 4 to 8 kHz


def test_what_is_not_valid_is_not_heard_and_a_dead_channel_is_passed_over() -> None:
    wave = np.concatenate([_chirps(), RNG.normal(0, 5, 32000)])
    valid = np.arange(len(wave)) < 96000
    assert _found(wave, valid=valid) == pytest.approx(_found(wave[:96000]), abs=1e-4)
    two = np.stack([_chirps(), RNG.normal(0, 5, 96000)])
    heard = np.ones(two.shape, bool)
    heard[1, : 96000 * 2 // 3] = False
    assert _found(two, valid=heard) == pytest.approx(_found(two[0]), abs=1e-4)


def test_digital_silence_and_one_frame_are_finite() -> None:
    _found(np.zeros(32000))
    _found(RNG.normal(0, 0.1, 1024))
    _found(np.concatenate([np.zeros(16000), _chirps()]))


@pytest.mark.parametrize("length", [0, 500, 32000])
def test_nothing_valid_or_nothing_long_enough_gives_gaps(length: int) -> None:
    vector, names = audio_features(_sample(np.zeros((1, length)), 32000.0, np.zeros((1, length), bool)))
    assert names == AUDIO_NAMES and vector.shape == (len(names),) and np.isnan(vector).all()
