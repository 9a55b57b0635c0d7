from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from toolkit.demo import birds, outdoors
from toolkit.demo.birds import SPECIES, Bird, Place
from toolkit.demo.outdoors import RATE_HZ, Syllable
from toolkit.errors import UsageError

SYLLABLES = {f"{species} {name}": s for species, song in SPECIES.items() for name, s in song.syllables.items()}
QUIET = Place(1e-9, 1.0, 1e-9, 8000.0, 30.0, 0.0, 0.3, 80.0, 0.5)


def place_of(who: int, seed: int = 0) -> Place:
    return outdoors.draw_place(np.random.default_rng([seed, who, 1]))


@pytest.mark.parametrize("name", SYLLABLES)
def test_the_instantaneous_frequency_is_the_contour(name: str) -> None:
    syllable = SYLLABLES[name]
    pure = Syllable(syllable.contour, syllable.seconds)
    wave = outdoors.sing(pure, pitch=1.1)
    analytic = signal.hilbert(wave)
    found = np.diff(np.unwrap(np.angle(analytic))) * RATE_HZ / (2 * np.pi)
    times = (np.arange(len(found)) + 0.5) / RATE_HZ
    middle = (times > 0.2 * pure.seconds) & (times < 0.8 * pure.seconds)
    want = 1.1 * pure.frequency(times)
    assert np.median(np.abs(found - want)[middle] / want[middle]) < 0.02
    low, high = 1.1 * min(pure.contour), 1.1 * max(pure.contour)
    assert np.all(want >= low - 1e-6) and np.all(want <= high + 1e-6)  # the contour does not overshoot its knots


def test_harmonics_are_multiples_with_their_amplitudes() -> None:
    wave = outdoors.sing(Syllable((1000.0,), 1.0, (1.0, 0.5, 0.0, 0.25)))
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    level = [spectrum[k * 1000 - 5 : k * 1000 + 6].max() for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(np.array(level) / level[0], [1, 0.5, 0, 0.25], atol=0.005)
    assert wave[0] == pytest.approx(0) and abs(wave[-1]) < 1e-3 and np.abs(wave).max() <= 1


def test_no_harmonic_folds_back() -> None:
    wave = outdoors.sing(Syllable((6000.0,), 0.5, (1.0, 1.0, 1.0, 1.0, 1.0)))
    spectrum = np.abs(np.fft.rfft(wave)) ** 2
    frequency = np.fft.rfftfreq(len(wave), 1 / RATE_HZ)
    kept = np.min([np.abs(frequency - k * 6000) for k in (1, 2, 3)], axis=0) < 100
    assert spectrum[~kept].sum() < 1e-3 * spectrum.sum()


def test_a_trill_beats_at_its_rate() -> None:
    wave = outdoors.sing(Syllable((3000.0,), 1.0, (1.0,), trill_hz=40.0, trill_depth=0.8))
    envelope = np.abs(signal.hilbert(wave))
    spectrum = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(len(envelope))))
    assert 10 + spectrum[10:200].argmax() == pytest.approx(40, abs=1)


def test_air_absorbs_as_the_standard_tabulates() -> None:
    """ISO 9613-2, table 2: dB per km at the octave bands from 63 Hz to 8 kHz, by their exact centres."""
    exact = np.array([1000.0 * 2.0**k for k in range(-4, 4)])
    table = {
        (10.0, 70.0): [0.1, 0.4, 1.0, 1.9, 3.7, 9.7, 32.8, 117.0],
        (20.0, 70.0): [0.1, 0.3, 1.1, 2.8, 5.0, 9.0, 22.9, 76.6],
        (15.0, 20.0): [0.3, 0.6, 1.2, 2.7, 8.2, 28.2, 88.8, 202.0],
    }
    for (celsius, humidity), want in table.items():
        got = 1000 * outdoors.air_absorption(exact, celsius, humidity)
        np.testing.assert_allclose(got, want, rtol=0.015, atol=0.051)


def test_sound_weakens_with_distance_and_high_notes_more() -> None:
    times = np.arange(RATE_HZ) / RATE_HZ
    for hertz in (1000.0, 8000.0):
        wave = np.sin(2 * np.pi * hertz * times)
        loss = 20 * np.log10(wave.std() / outdoors.travel(wave, 51.0).std())
        want = 20 * np.log10(51) + 50 * outdoors.air_absorption(np.array([hertz]))[0]
        assert loss == pytest.approx(want, abs=0.01)
    assert 50 * outdoors.air_absorption(np.array([8000.0]))[0] > 4


@pytest.mark.parametrize("decay_s", [0.3, 0.9])
def test_echoes_die_away_by_sixty_decibel(decay_s: float) -> None:
    tail = outdoors.echoes(decay_s, np.random.default_rng(0))
    left = np.cumsum(tail[::-1] ** 2)[::-1]  # Schroeder's backward integral
    level = 10 * np.log10(left / left[0])
    times = np.arange(len(tail)) / RATE_HZ
    inside = (level < -5) & (level > -35)
    assert -60 / np.polyfit(times[inside], level[inside], 1)[0] == pytest.approx(decay_s, rel=0.05)
    assert left[0] == pytest.approx(1)


def test_direct_and_scattered_sound_are_equal_at_the_critical_distance() -> None:
    click = np.zeros(RATE_HZ)
    click[0] = 1.0
    heard = outdoors.reverberant(click, 30.0, 0.5, np.random.default_rng(1))
    scattered = heard - click
    assert (scattered**2).sum() == pytest.approx(1, rel=1e-6)
    further = outdoors.reverberant(click, 60.0, 0.5, np.random.default_rng(1)) - click
    np.testing.assert_allclose(further, 2 * scattered, atol=1e-12)


@pytest.mark.parametrize("exponent", [0.7, 1.4, 3.0])
def test_noise_has_its_colour(exponent: float) -> None:
    noise = outdoors.coloured_noise(8 * RATE_HZ, exponent, np.random.default_rng(0))
    frequency, power = signal.welch(noise, RATE_HZ, nperseg=1 << 14)
    inside = (frequency > 50) & (frequency < 5000)
    slope = np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1, w=np.sqrt(1 / frequency[inside]))[0]
    assert slope == pytest.approx(-exponent, abs=0.1) and noise.std() == pytest.approx(1)


def test_insects_sing_in_their_band() -> None:
    place = Place(0.001, 1.0, 0.001, 7000.0, 30.0, 0.01, 0.3, 80.0, 0.5)
    frequency, power = signal.welch(outdoors.insects(4 * RATE_HZ, place, np.random.default_rng(0)), RATE_HZ, nperseg=4096)
    assert power[(frequency > 6300) & (frequency < 7700)].sum() > 0.8 * power.sum()


@pytest.mark.parametrize("name", SPECIES)
def test_songs_follow_their_grammar(name: str) -> None:
    species = SPECIES[name]
    rng = np.random.default_rng(0)
    following: dict[str, list[str]] = {s: [] for s in species.syllables}
    for _ in range(400):
        song = birds.draw_song(species, 1.0, rng)
        assert song[0] == (0.0, species.first) and len(song) <= species.most
        for (onset, one), (later, other) in pairwise(song):
            following[one].append(other)
            gap = later - onset - species.syllables[one].seconds
            assert 0.8 * species.gap_s < gap < 1.2 * species.gap_s
    for one, rules in species.grammar.items():
        assert sum(p for _, p in rules) == pytest.approx(1) and set(following[one]) <= {s for s, _ in rules if s}
        inside = sum(p for s, p in rules if s)
        for other, chance in rules:
            if other and len(following[one]) > 300:
                assert following[one].count(other) / len(following[one]) == pytest.approx(chance / inside, abs=0.08)
    assert (
        set(species.syllables)
        == set(species.grammar)
        == {species.first} | {s for r in species.grammar.values() for s, _ in r if s}
    )


@pytest.mark.parametrize("name", SPECIES)
def test_the_selections_hold_the_sound(name: str) -> None:
    """Within the boxes there is more sound than outside them, where nothing else is heard."""
    bird = Bird(name, 1.0, 1.0, 10.0)
    rng = np.random.default_rng(3)
    bout = birds.draw_bout(bird, 0.2, 6.0, rng)
    dry = Place(**{**vars(QUIET), "decay_s": 0.001})
    sound = birds.at_microphone(bird, bout, 6 * RATE_HZ, dry, rng)
    frequency, times, power = signal.spectrogram(sound, RATE_HZ, nperseg=512, noverlap=384)
    inside = np.zeros(power.shape, bool)
    for onset, syllable in bout:
        box = birds.selection(bird, syllable, onset)
        assert 0 <= box.start < box.stop <= 6.0 and 0 < box.low < box.high < RATE_HZ / 2
        near = (times > box.start - 0.01) & (times < box.stop + 0.01)
        inside |= ((frequency > box.low - 150) & (frequency < box.high + 150))[:, None] & near
        assert power[:, near].sum() > 0
    assert power[inside].sum() > 0.97 * power.sum() and inside.mean() < 0.4


def test_recordings_stay_in_range_and_recordists_differ() -> None:
    first, boxes = birds.simulate("bellfinch", place_of(0), 5.0, np.random.default_rng(1))
    assert first.shape == (5 * RATE_HZ,) and np.abs(first).max() == pytest.approx(place_of(0).peak)
    assert boxes and [b.start for b in boxes] == sorted(b.start for b in boxes)
    assert len({place_of(who) for who in range(birds.RECORDISTS)}) == birds.RECORDISTS
    quiet, _ = birds.simulate("bellfinch", QUIET, 5.0, np.random.default_rng(1))
    assert np.percentile(np.abs(quiet), 10) < 0.1 * np.percentile(np.abs(first), 10)


def test_the_seed_decides_everything() -> None:
    one, boxes = birds.simulate("rasp_tit", place_of(1), 4.0, np.random.default_rng(5))
    again, same = birds.simulate("rasp_tit", place_of(1), 4.0, np.random.default_rng(5))
    other, _ = birds.simulate("rasp_tit", place_of(1), 4.0, np.random.default_rng(6))
    np.testing.assert_array_equal(one, again)
    assert boxes == same and not np.array_equal(one, other)


@pytest.mark.parametrize(("recordings", "seconds"), [(0, 12.0), (4, 1.0)])
def test_nothing_to_record_is_refused(tmp_path: Path, recordings: int, seconds: float) -> None:
    with pytest.raises(UsageError):
        birds.generate(tmp_path / "demo", recordings=recordings, seconds=seconds)
    assert not (tmp_path / "demo").exists()


def test_generated_recordings_read_back_with_soundfile(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    labels = birds.generate(tmp_path / "a", recordings=9, seconds=4.0)
    birds.generate(tmp_path / "b", recordings=2, seconds=4.0)
    rows = list(csv.DictReader(labels.open(encoding="utf-8")))
    assert list(rows[0]) == ["path", "label", "recordist"] and len(rows) == 9
    assert {r["label"] for r in rows} == set(SPECIES) and len({r["recordist"] for r in rows}) == 3
    for row in rows:
        path = labels.parent / row["path"]
        about = soundfile.info(path)
        assert (about.samplerate, about.channels, about.subtype, about.frames) == (RATE_HZ, 1, "PCM_16", 4 * RATE_HZ)
        table = path.with_name(f"{path.stem}.Table.1.selections.txt").read_text(encoding="utf-8").splitlines()
        assert table[0].split("\t") == list(birds.RAVEN) and len(table) > 1
        for number, line in enumerate(table[1:], start=1):
            cells = line.split("\t")
            assert cells[0] == str(number) and cells[1:3] == ["Spectrogram 1", "1"] and cells[-1] == row["label"]
            start, stop, low, high = map(float, cells[3:7])
            assert 0 <= start < stop <= 4.0 and 0 < low < high < RATE_HZ / 2
    index = 5
    expected, _ = birds.simulate(rows[index]["label"], place_of(1), 4.0, np.random.default_rng([0, index, 2]))
    got, _ = soundfile.read(labels.parent / rows[index]["path"])
    np.testing.assert_allclose(got, expected, atol=1 / 32768)
    for path in (tmp_path / "b").glob("r*"):  # more recordings leave the first as they are
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
