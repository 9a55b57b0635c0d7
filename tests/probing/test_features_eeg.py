"""EEG features of made signals whose powers, spectra and places are known by construction."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from readers.schema import Channel, SignalSample, Window
from toolkit.probing.features_eeg import BANDS_HZ, EEG_NAMES, REGIONS, eeg_features, regions

RATE_HZ = 250.0
# Ten electrodes of the 10-20 system, metres in the head frame (measured on a template, to the centimetre).
PLACES = {
    "Fp1": (-0.03, 0.11, 0.03),
    "F3": (-0.05, 0.09, 0.08),
    "F8": (0.07, 0.07, 0.02),
    "Cz": (0.0, 0.03, 0.14),
    "C4": (0.06, 0.02, 0.1),
    "T7": (-0.09, 0.01, 0.03),
    "P3": (-0.05, -0.04, 0.1),
    "Pz": (0.0, -0.04, 0.13),
    "O1": (-0.03, -0.08, 0.05),
    "O2": (0.03, -0.08, 0.05),
}
BY_NAME = {"F": "frontal", "C": "central", "T": "temporal", "P": "parietal", "O": "occipital"}


def _channel(name: str, kind: str = "eeg", si_factor: float = 1e-6, missing: bool = False, bad: bool = False) -> Channel:
    return Channel(name, name, kind, "uV", si_factor, RATE_HZ, position=PLACES.get(name), missing=missing, bad=bad)


def _sample(values: NDArray, channels: Sequence[Channel], rate_hz: float = RATE_HZ, valid: NDArray | None = None) -> SignalSample:
    values = np.atleast_2d(values).astype(np.float32)
    valid = np.ones(values.shape, bool) if valid is None else valid
    return SignalSample(values, valid, tuple(channels), Window(0, values.shape[1]), rate_hz)


def _found(sample: SignalSample) -> dict[str, float]:
    vector, names = eeg_features(sample)
    assert vector.dtype == np.float32 and vector.shape == (len(names),) and len(set(names)) == len(names)
    return dict(zip(names, vector.tolist(), strict=True))


def _noise(channels: int, seconds: float = 4, exponent: float = 0, rate_hz: float = RATE_HZ) -> NDArray:
    """Noise whose power falls with frequency to the given exponent."""
    shape = (channels, round(seconds * rate_hz))
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(0, 10, shape))
    hz = np.maximum(np.fft.rfftfreq(shape[1], 1 / rate_hz), 0.5)
    return np.fft.irfft(spectrum * hz ** (exponent / 2), shape[1])


@pytest.mark.parametrize(("hz", "band"), [(2.5, "delta"), (6, "theta"), (10, "alpha"), (20, "beta"), (38, "gamma")])
@pytest.mark.parametrize("rate_hz", [100.0, 256.0, 1000.0])
def test_the_power_of_a_sine_is_half_its_square_in_its_own_band(hz: float, band: str, rate_hz: float) -> None:
    wave = 20 * np.sin(2 * np.pi * hz * np.arange(int(4 * rate_hz)) / rate_hz)
    found = _found(_sample(wave, [_channel("Cz")], rate_hz))
    assert found[f"mean_{band}_power_log"] == pytest.approx(np.log(200), abs=0.05)
    assert found[f"mean_{band}_relative"] > 0.95
    assert found["mean_edge_95_hz"] == pytest.approx(hz, abs=1) and found["mean_spectral_entropy"] < 0.4
    assert found["mean_activity_log"] == pytest.approx(np.log(200), abs=0.05)
    assert found["mean_mobility_hz_log"] == pytest.approx(np.log(rate_hz / np.pi * np.sin(np.pi * hz / rate_hz)), abs=0.05)
    assert found["mean_complexity_log"] == pytest.approx(0, abs=0.05)


def test_volts_and_microvolts_are_the_same_thing() -> None:
    wave = _noise(3)
    one = _found(_sample(wave, [_channel(name) for name in ("Cz", "O1", "T7")]))
    volts = _found(_sample(wave * 1e-6, [_channel(name, si_factor=1.0) for name in ("Cz", "O1", "T7")]))
    assert volts == pytest.approx(one, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("exponent", [0, -1, -2])
def test_the_slope_is_the_exponent_of_the_spectrum(exponent: int) -> None:
    found = _found(_sample(_noise(4, seconds=20, exponent=exponent), [_channel(n) for n in ("Cz", "O1", "T7", "F3")]))
    assert found["mean_slope"] == pytest.approx(exponent, abs=0.15)


def test_regions_follow_the_names_of_the_electrodes() -> None:
    found = dict(zip(REGIONS, regions([*PLACES.values(), None, (np.nan, np.nan, np.nan)]), strict=True))
    for i, name in enumerate(PLACES):
        assert [region for region in BY_NAME.values() if found[region][i]] == [BY_NAME[name[0]]]
        last = name[-1]
        sides = [False, False] if last == "z" else [int(last) % 2 == 1, int(last) % 2 == 0] if last.isdigit() else [True, False]
        assert [found["left"][i], found["right"][i]] == sides
    assert not any(there[-2:].any() for there in found.values())


def test_a_rhythm_of_the_back_shows_in_its_region_and_a_region_without_electrodes_takes_the_mean() -> None:
    names = ["F3", "Cz", "O1", "O2"]
    values = _noise(4)
    values[2:] += 60 * np.sin(2 * np.pi * 10 * np.arange(values.shape[1]) / RATE_HZ)
    found = _found(_sample(values, [_channel(name) for name in names]))
    assert found["occipital_alpha_power_log"] > found["frontal_alpha_power_log"] + 2
    assert found["temporal_alpha_power_log"] == pytest.approx(found["mean_alpha_power_log"], abs=1e-5)
    assert found["std_alpha_power_log"] > 1 > 5 * found["std_beta_power_log"]
    placeless = _found(_sample(values, [_channel(f"E{i}") for i in range(4)]))
    assert placeless["occipital_alpha_power_log"] == pytest.approx(placeless["mean_alpha_power_log"], abs=1e-5)


def test_what_eight_channels_share_is_taken_away() -> None:
    channels = [_channel(name) for name in list(PLACES)[:8]]
    values = _noise(8)
    shared = 500 * np.sin(2 * np.pi * 10 * np.arange(values.shape[1]) / RATE_HZ)
    assert _found(_sample(values + shared, channels)) == pytest.approx(_found(_sample(values, channels)), abs=2e-3)


def test_other_bad_missing_flat_and_invalid_channels_are_passed_over() -> None:
    values = np.concatenate([_noise(2), 1e4 * _noise(5)])
    values[4] = 3
    valid = np.ones(values.shape, bool)
    valid[5, : len(valid[5]) * 2 // 3] = False
    odd = [_channel("ECG", "ecg"), _channel("C4", bad=True), _channel("P3"), _channel("O2"), _channel("T7", missing=True)]
    plain = _found(_sample(values[:2], [_channel("Cz"), _channel("O1")]))
    assert _found(_sample(values, [_channel("Cz"), _channel("O1"), *odd], valid=valid)) == pytest.approx(plain, abs=1e-5)


def test_a_gap_is_bridged_and_what_lies_in_it_does_not_matter() -> None:
    wave = _noise(1)
    valid = np.ones(wave.shape, bool)
    valid[:, 400:430] = False
    first, second = wave.copy(), wave.copy()
    first[~valid], second[~valid] = 0, 1e6
    channels = [_channel("Cz")]
    found = _found(_sample(first, channels, valid=valid))
    assert found == _found(_sample(second, channels, valid=valid))
    assert found["mean_alpha_power_log"] == pytest.approx(_found(_sample(wave, channels))["mean_alpha_power_log"], abs=0.4)


@pytest.mark.parametrize(("seconds", "rate_hz"), [(0.1, 250.0), (1.0, 64.0), (30.0, 100.0), (8.0, 1.0)])
def test_every_length_and_rate_gives_the_same_finite_features(seconds: float, rate_hz: float) -> None:
    values = _noise(3, seconds, rate_hz=rate_hz)
    vector, names = eeg_features(_sample(values, [_channel(name) for name in ("Cz", "O1", "T7")], rate_hz))
    assert names == EEG_NAMES and np.isfinite(vector).all() and len(names) == 2 * 16 + len(REGIONS) * len(BANDS_HZ)


@pytest.mark.parametrize("length", [0, 1, 500])
def test_nothing_valid_gives_gaps_of_the_same_length(length: int) -> None:
    values = np.zeros((2, length))
    vector, names = eeg_features(_sample(values, [_channel("Cz"), _channel("O1")], valid=np.zeros(values.shape, bool)))
    assert names == EEG_NAMES and vector.shape == (len(names),) and np.isnan(vector).all()
