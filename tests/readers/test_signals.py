from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.schema import Axes, Channel, ReadError
from readers.signals import SignalRecording


class InMemory(SignalRecording):
    """Channels given as (rate, values); notes the largest span that was asked of it."""

    format = "memory"
    domain = "cardiac"
    events = ()
    files = ()
    ids: dict[str, str] = {}
    warnings = ()

    def __init__(self, *signals, missing=()):
        self.path = Path("memory")
        self.data = [np.asarray(values, float) for _, values in signals]
        self.channels = tuple(
            Channel(f"c{i}", f"c{i}", "other", None, None, rate, missing=i in missing) for i, (rate, _) in enumerate(signals)
        )
        self.axes = Axes(shape=(len(signals), 0), rate_hz=max(rate for rate, _ in signals))
        self.largest = 0

    def _length(self, channel):
        return len(self.data[channel])

    def _native(self, channels, spans):
        assert all(0 <= a <= b <= self._length(c) for c, (a, b) in zip(channels, spans, strict=True))
        self.largest = max([self.largest, *(b - a for a, b in spans)])
        return [self.data[c][a:b] for c, (a, b) in zip(channels, spans, strict=True)]

    def verify(self):
        return ()


def wave(rate, seconds, hz=3.0):
    return np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def test_the_own_rate_is_not_filtered():
    data = np.random.default_rng(0).normal(size=500)
    data[[3, 7]] = np.nan
    sample = InMemory((250.0, data)).read(0, 500)
    assert np.array_equal(sample.valid[0], np.isfinite(data))
    assert np.array_equal(sample.values[0], np.nan_to_num(data).astype(np.float32))
    assert sample.values.dtype == np.float32 and sample.time_s.dtype == np.float64


@pytest.mark.parametrize("rate", [100.0, 128.0, 200.0, 250.0, 333.0, 500.0, 1000.0])
def test_resampling_keeps_a_sine_in_place(rate):
    recording = InMemory((360.0, wave(360, 20)), (125.0, wave(125, 20)))
    sample = recording.read(0, int(20 * rate), rate_hz=rate)
    middle = (sample.time_s > 2) & (sample.time_s < 18)
    assert sample.valid.all()
    assert np.abs(sample.values - np.sin(2 * np.pi * 3 * sample.time_s))[:, middle].max() < 2e-3


@settings(max_examples=60, deadline=None)
@given(
    rates=st.sampled_from([(360.0, 250.0), (250.0, 100.0), (125.0, 250.0), (249.89, 250.0), (1000.0, 99.0)]),
    start=st.integers(-50, 1500),
    shift=st.integers(0, 300),
    seed=st.integers(0, 10),
    gaps=st.lists(st.tuples(st.integers(0, 3999), st.integers(1, 1500)), max_size=4),
)
def test_windows_that_overlap_agree(rates, start, shift, seed, gaps):
    native, wanted = rates
    data = np.random.default_rng(seed).normal(size=4000).cumsum()
    for first, length in gaps:
        data[first : first + length] = np.nan
    recording = InMemory((native, data))
    one = recording.read(start, start + 400, rate_hz=wanted)
    other = recording.read(start + shift, start + shift + 500, rate_hz=wanted)
    whole = recording.read(0, 4000, rate_hz=wanted)
    size = np.nanmax(data) - np.nanmin(data) if np.isfinite(data).any() else 1.0
    assert np.array_equal(one.valid[0, shift:], other.valid[0, : 400 - shift])
    assert np.abs(one.values[0, shift:] - other.values[0, : 400 - shift]).max() <= 1e-5 * size
    assert np.abs(one.values[0, max(-start, 0) :] - whole.values[0, max(start, 0) : start + 400]).max() <= 1e-5 * size
    assert not np.isnan(whole.values).any() and (whole.values[~whole.valid] == 0).all()


def test_a_gap_hides_its_neighbours_and_does_not_leak():
    data = wave(500, 10)
    broken = data.copy()
    broken[2000:2500] = np.nan
    clean, gap = (InMemory((500.0, d)).read(0, 1000, rate_hz=100) for d in (data, broken))
    # Output 399.8 .. 500.2 have an unknown stored sample within one stored period.
    assert np.flatnonzero(~gap.valid[0]).tolist() == list(range(400, 500))
    away = gap.valid[0].copy()
    away[385:515] = False
    assert np.abs(clean.values - gap.values)[0, away].max() < 1e-6
    finer = InMemory((500.0, broken)).read(0, 10_000, rate_hz=1000)
    assert np.flatnonzero(~finer.valid[0]).tolist() == list(range(3999, 5000))


def test_outside_is_not_valid_and_the_ends_do_not_ring():
    recording = InMemory((250.0, np.full(1000, 7.0)))
    for rate in (250.0, 100.0, 360.0):
        sample = recording.read(-30, int(4 * rate) + 30, rate_hz=rate)
        assert sample.valid[0].tolist() == [False] * 30 + [True] * int(4 * rate) + [False] * 30
        assert np.allclose(sample.values[0, 30:-30], 7.0, rtol=1e-6)
        assert sample.time_s[0] == -30 / rate
    assert not recording.read(5000, 5010, rate_hz=100).valid.any()
    assert recording.read(10, 10).values.shape == (1, 0)


def test_channels_of_different_rates_share_one_grid():
    recording = InMemory((250.0, wave(250, 8)), (125.0, wave(125, 8)), (50.0, np.zeros(400)), missing=(2,))
    sample = recording.read(500, 1500, channels=[2, 1])
    assert sample.rate_hz == 250 and [c.name for c in sample.channels] == ["c2", "c1"]
    assert not sample.valid[0].any() and sample.valid[1].all()
    assert np.abs(sample.values[1] - np.sin(6 * np.pi * sample.time_s)).max() < 2e-3


def test_a_window_costs_its_own_samples():
    recording = InMemory((1000.0, np.zeros(2_000_000)))
    recording.read(100_000, 101_000, rate_hz=100)
    assert recording.largest < 12_000


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e9, 1e-6])
def test_impossible_rates(rate):
    with pytest.raises(ReadError):
        InMemory((250.0, np.zeros(100))).read(0, 1, rate_hz=rate)
