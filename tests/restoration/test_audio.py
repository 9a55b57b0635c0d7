"""Restoring sound: what is untouched stays, joins do not click, levels are right, scores follow their formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy import signal

import readers
from readers.schema import ReadError, SignalLike, Window
from tests.audio_files import audio, song
from toolkit import recipe as recipes
from toolkit.corpus.inputs import Input
from toolkit.model import folder, masked
from toolkit.model.folder import LoadedModel
from toolkit.restoration import damage, phase
from toolkit.restoration.audio import AudioRepairer
from toolkit.restoration.mender import Request, Restored
from toolkit.restoration.repair import Repaired
from toolkit.restoration.run import Restoration
from toolkit.restoration.sound import SIZE, AudioMended, AudioMender, log_spectral_distances, surrounding_noise
from toolkit.restoration.spans import Span

SMALL = {
    "data.window_s": 2.0,
    "encoder": {"width": 32, "depth": 1, "heads": 2, "head_width": 16, "mlp": 64},
    "decoder": {"width": 32, "depth": 1, "heads": 2, "head_width": 16, "mlp": 64},
}


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Bird-MAE, made small, that has learnt nothing."""
    recipe = recipes.resolve("bird-mae", size="tiny", flags=dict(SMALL))
    place = tmp_path_factory.mktemp("birdmae")
    (place / folder.RECIPE).write_text(recipes.to_toml(recipe))
    folder.save_weights(masked.build(recipe), place / folder.WEIGHTS)
    return folder.load(place)


class Knowing(AudioRepairer):
    """Repairs with the true log-mel energies in place of the model's, also where nothing is visible."""

    def _window(self, place: Any, window: Window) -> np.ndarray:
        sample = place.recording.read(window.start, window.stop, rate_hz=self.rate, channels=[place.near[0].channel])
        return self.tokenizer.log_mel(torch.from_numpy(sample.values))[0].double().numpy()


@pytest.fixture(scope="module")
def untrained(heard: LoadedModel) -> AudioRepairer:
    return AudioRepairer(heard, torch.device("cpu"))


@pytest.fixture(scope="module")
def knowing(heard: LoadedModel) -> AudioRepairer:
    return Knowing(heard, torch.device("cpu"))


def opened(path: Path) -> SignalLike:
    recording = readers.open_recording(path)
    assert isinstance(recording, SignalLike)
    return recording


def sung(folder: Path, seconds: float, rate: int, channels: int = 1, *, seed: int = 0, subtype: str = "FLOAT") -> Path:
    return audio(folder, "wav", subtype, song(seconds, rate, channels, seed=seed), rate=rate)


def spliced(path: Path, repaired: list[Repaired]) -> np.ndarray:
    values = soundfile.read(path, always_2d=True)[0]
    for one in repaired:
        values[one.span.start : one.span.stop, one.span.channel] = one.values
    return values


def distance(path: Path, one: Repaired, estimate: np.ndarray) -> float:
    """Log-spectral distance over a span by scipy's STFT, floored as the report says."""
    truth, rate = soundfile.read(path, always_2d=True)
    truth = truth[:, one.span.channel]
    changed = truth.copy()
    changed[one.span.start : one.span.stop] = estimate
    levels = []
    for wave in (truth, changed):
        _, at, spectrum = signal.stft(wave, rate, np.hanning(2048), 2048, 2048 - 512, padded=False)
        inside = (at * rate >= one.span.start) & (at * rate < one.span.stop)
        levels.append(10 * np.log10(np.maximum(4 * np.abs(spectrum[:, inside]) ** 2, 1e-12)))
    return float(np.sqrt(((levels[0] - levels[1]) ** 2).mean(axis=0)).mean())


@pytest.mark.parametrize("rate", [12_000, 32_000, 44_100, 96_000])
def test_known_energies_bring_the_sound_back(tmp_path: Path, knowing: AudioRepairer, rate: int) -> None:
    path = sung(tmp_path, 4, rate)
    recording = opened(path)
    span = Span(0, round(1.5 * rate), round(2.5 * rate))
    (one,) = knowing.repair(recording, [span])
    found = distance(path, one, one.values)
    assert found < 7.8  # two noises of the same spectrum are 7.9 dB apart
    assert distance(path, one, np.zeros(len(one.values))) > 30
    assert distance(path, one, surrounding_noise(recording, span, [span], 0.0)) > found + 0.5  # above 16 kHz both are noise


@pytest.mark.parametrize("seconds", [0.3, 3.0])
def test_the_repair_has_the_energies_that_were_asked_for(tmp_path: Path, knowing: AudioRepairer, seconds: float) -> None:
    path = sung(tmp_path, 6, 32_000)
    recording = opened(path)
    span = Span(0, 64_000, 64_000 + round(seconds * 32_000))
    (one,) = knowing.repair(recording, [span])
    waves = np.stack([soundfile.read(path)[0], spliced(path, [one])[:, 0]])
    mel = knowing.tokenizer.log_mel(torch.from_numpy(waves).float()).numpy() * 10 / np.log(10)
    inside = slice(span.start // 320 + 1, (span.stop - 800) // 320)
    difference = (mel[1] - mel[0])[inside, 4:]  # the lowest bands are narrower than a bin
    assert abs(difference.mean()) < 0.7
    assert np.abs(difference.mean(axis=0)).max() < 4
    assert np.abs(difference).mean() < 3


def test_nothing_clicks_at_the_edges(tmp_path: Path, knowing: AudioRepairer, untrained: AudioRepairer) -> None:
    rate = 44_100
    time = np.arange(4 * rate) / rate
    wave = 0.4 * np.sin(2 * np.pi * 440 * time) + 0.001 * np.random.default_rng(0).standard_normal(len(time))
    path = audio(tmp_path, "wav", "FLOAT", wave[:, None], rate=rate)
    span = Span(0, 60_000, 90_000)
    largest = np.abs(np.diff(wave)).max()
    for repairer in (knowing, untrained):
        joined = spliced(path, list(repairer.repair(opened(path), [span])))[:, 0]
        for edge in (span.start, span.stop):
            assert np.abs(np.diff(joined[edge - 4 : edge + 4])).max() < 1.1 * largest
        bent = np.abs(np.diff(joined, 3))
        assert bent[[span.start - 2, span.start - 1, span.stop - 2, span.stop - 1]].max() < 3 * np.abs(np.diff(wave, 3)).max()


def test_only_spans_change_and_twice_is_the_same(tmp_path: Path, untrained: AudioRepairer) -> None:
    recording = opened(sung(tmp_path, 5, 44_100, 2))
    spans = damage.make(recording, [0, 1], [("block", 0.2)], 3)
    first, second = (list(untrained.repair(recording, spans)) for _ in range(2))
    assert sorted(r.span for r in first) == spans
    for a, b in zip(first, second, strict=True):
        assert a.values.shape == (a.span.stop - a.span.start,)
        assert np.isfinite(a.values).all()
        np.testing.assert_array_equal(a.values, b.values)


def test_what_is_hidden_does_not_matter(tmp_path: Path, untrained: AudioRepairer) -> None:
    values = song(4, 44_100)
    spans = [Span(0, 50_000, 80_000), Span(0, 90_000, 90_700), Span(0, 0, 1000)]
    loud = values.copy()
    for span in spans:
        loud[span.start : span.stop] = np.random.default_rng(1).uniform(-1, 1, (span.stop - span.start, 1))
    quiet = opened(audio(tmp_path / "a", "wav", "FLOAT", values, rate=44_100))
    noisy = opened(audio(tmp_path / "b", "wav", "FLOAT", loud, rate=44_100))
    for a, b in zip(untrained.repair(quiet, spans), untrained.repair(noisy, spans), strict=True):
        np.testing.assert_array_equal(a.values, b.values)


def test_channels_do_not_mix(tmp_path: Path, untrained: AudioRepairer) -> None:
    values = song(3, 32_000, 2)
    other = values.copy()
    other[:, 1] = np.random.default_rng(2).uniform(-1, 1, len(other))
    spans = [Span(0, 40_000, 50_000), Span(1, 45_000, 60_000)]
    a, b = (
        list(untrained.repair(opened(audio(tmp_path / name, "wav", "FLOAT", v)), spans))
        for name, v in (("a", values), ("b", other))
    )
    np.testing.assert_array_equal(a[0].values, b[0].values)
    assert not np.array_equal(a[1].values, b[1].values)


@pytest.mark.parametrize("bounds", [(0, 9000), (87_000, 96_000), (0, 1), (95_999, 96_000), (40_000, 40_003)])
def test_gaps_at_the_ends_and_tiny_ones(tmp_path: Path, knowing: AudioRepairer, bounds: tuple[int, int]) -> None:
    path = sung(tmp_path, 3, 32_000)
    (one,) = knowing.repair(opened(path), [Span(0, *bounds)])
    truth = soundfile.read(path)[0][slice(*bounds)]
    assert np.isfinite(one.values).all()
    assert np.abs(one.values).max() < 3 * max(np.abs(truth).max(), 0.1)
    if len(truth) > 1000:
        assert 10 * abs(np.log10((one.values**2).mean() / (truth**2).mean())) < 1.5


def test_a_gap_longer_than_a_window_keeps_the_level(tmp_path: Path, untrained: AudioRepairer) -> None:
    rng = np.random.default_rng(0)
    noise = 0.1 * signal.lfilter([1.0], [1.0, -0.9], rng.standard_normal(12 * 32_000))
    path = audio(tmp_path, "wav", "FLOAT", noise[:, None])
    (one,) = untrained.repair(opened(path), [Span(0, 64_000, 11 * 32_000)])
    for part in np.array_split(one.values, 9):
        assert 10 * abs(np.log10((part**2).mean() / (noise**2).mean())) < 4


def test_the_model_counts_as_far_as_it_is_right_beside_the_gap(
    tmp_path: Path, knowing: AudioRepairer, heard: LoadedModel
) -> None:
    class Wrong(AudioRepairer):
        def _window(self, place: Any, window: Window) -> np.ndarray:
            return np.full((198, 128), 5.0)

    recording = opened(sung(tmp_path, 4, 32_000))
    wrong = Wrong(heard, torch.device("cpu"))
    assert {r.method for r in knowing.repair(recording, [Span(0, 50_000, 70_000)])} == {"model 1.00, surroundings 0.00"}
    (one,) = wrong.repair(recording, [Span(0, 50_000, 70_000)])
    assert float(one.method.split()[-1]) > 0.8
    assert 0.01 < one.values.std() < 0.2  # as loud as the file, not as wrong as the model


def test_silence_stays_silent(tmp_path: Path, untrained: AudioRepairer) -> None:
    path = audio(tmp_path, "wav", "PCM_16", np.zeros((96_000, 1)))
    (one,) = untrained.repair(opened(path), [Span(0, 30_000, 60_000)])
    assert np.abs(one.values).max() < 1e-3


def test_a_lost_channel_is_the_mean_of_the_others(tmp_path: Path, untrained: AudioRepairer) -> None:
    path = sung(tmp_path, 2, 22_050, 3)
    recording = opened(path)
    (one,) = untrained.repair(recording, [Span(1, 0, recording.stored(1))])
    assert one.method == "mean of the other channels"
    np.testing.assert_allclose(one.values, soundfile.read(path)[0][:, [0, 2]].mean(axis=1), atol=1e-6)


@pytest.fixture
def restore(untrained: AudioRepairer, heard: LoadedModel, tmp_path: Path) -> Callable[..., Restored]:
    def run(path: Path, spec: str, **more: object) -> Restored:
        request = Request(damage=tuple(damage.parse(spec)) if spec else (), **more)  # type: ignore[arg-type]
        job = Restoration(AudioMender(untrained, 16_000), request, tmp_path / "out", heard)
        return job.restore(Input(path, path.parent))

    return run


@pytest.mark.parametrize(("container", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_24")])
def test_files_keep_every_other_sample(tmp_path: Path, restore: Callable[..., Restored], container: str, subtype: str) -> None:
    path = audio(tmp_path / "in", container, subtype, song(4, 44_100, 2), rate=44_100)
    done = restore(path, "block:0.1")
    before, after = (soundfile.read(p, dtype="int32", always_2d=True)[0] for p in (path, done.facts["out"]))
    spans = damage.make(opened(path), [0, 1], [("block", 0.1)], 0)
    asked = np.zeros(before.shape, dtype=bool)
    for span in spans:
        asked[span.start : span.stop, span.channel] = True
    assert (before != after).any()
    assert not ((before != after) & ~asked).any()
    assert any("16000 Hz" in note and "22050 Hz" in note for note in done.notes)
    assert Path(done.facts["picture"]).read_bytes().startswith(b"\x89PNG")
    rows = [done.facts["metrics"], *done.facts["baselines"].values()]
    assert done.facts["main_metric"] == "lsd"
    assert all(np.isfinite(row["lsd"]) and row["spans"] == len(spans) for row in rows)
    assert set(done.facts["baselines"]) == {"linear interpolation", "identity", "noise of the surroundings"}


def test_a_file_that_is_all_hidden_is_refused(tmp_path: Path, restore: Callable[..., Restored]) -> None:
    with pytest.raises(ReadError, match="nothing of 'song.wav' is visible"):
        restore(sung(tmp_path / "in", 2, 32_000), "", channels=("channel 1",))


def test_dropouts_marked_by_nan_are_found_and_filled(tmp_path: Path, restore: Callable[..., Restored]) -> None:
    values = song(3, 32_000)
    values[40_000:44_000] = np.nan
    done = restore(audio(tmp_path / "in", "wav", "FLOAT", values), "")
    assert [(d["why"], d["start"], d["stop"]) for d in done.facts["detected"]] == [("invalid", 1.25, 1.375)]
    assert np.isfinite(soundfile.read(done.facts["out"])[0]).all()


def test_scores_follow_the_formula(tmp_path: Path, untrained: AudioRepairer) -> None:
    path = sung(tmp_path, 4, 44_100)
    recording = opened(path)
    start = 512 * 150 - 256  # so that the frames of scipy's grid are the ones compared
    repaired = list(untrained.repair(recording, [Span(0, start, start + 512 * 40)]))
    metrics, baselines = AudioMended(recording, repaired, [0], Request(), []).score(recording)
    assert metrics["lsd"] == pytest.approx(distance(path, repaired[0], repaired[0].values), rel=1e-3)
    silent = np.full(512 * 40, repaired[0].level)
    assert baselines["identity"]["lsd"] == pytest.approx(distance(path, repaired[0], silent), rel=1e-3)
    assert metrics["by_length"][0]["lsd"] == pytest.approx(metrics["lsd"])


def test_distance_of_a_gain_is_the_gain() -> None:
    wave = np.random.default_rng(0).standard_normal(20_000) * 0.1
    np.testing.assert_allclose(log_spectral_distances(wave, wave / 2, SIZE, 18_000), 20 * np.log10(2), rtol=1e-6)
    assert len(log_spectral_distances(wave, wave, 5000, 5003)) == 1


def test_surrounding_noise_has_the_spectrum_of_the_surroundings(tmp_path: Path) -> None:
    noise = signal.lfilter([1.0, 0.5], [1.0, -0.8], 0.05 * np.random.default_rng(3).standard_normal(5 * 44_100))
    recording = opened(audio(tmp_path, "wav", "FLOAT", noise[:, None], rate=44_100))
    span = Span(0, 60_000, 150_000)
    made = surrounding_noise(recording, span, [span], 0.0)
    _, power = signal.welch(made, nperseg=512)
    _, wanted = signal.welch(noise, nperseg=512)
    assert np.abs(10 * np.log10(power / wanted))[2:-2].max() < 3
    high = surrounding_noise(recording, span, [span], 0.0, 16_000)
    hz, power_high = signal.welch(high, 44_100, nperseg=512)
    assert power_high[hz < 15_500].max() < 1e-4 * power[2:].min() * 44_100
    np.testing.assert_allclose(10 * np.log10(power_high / power * 44_100)[hz > 16_500], 0, atol=0.5)


def test_phases_found_block_by_block_join_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    wave = 0.1 * signal.lfilter([1.0], [1.0, -0.9], rng.standard_normal(80_000))
    spectra = phase.Spectra(800, 320, 1024, np.eye(513, dtype=np.float32), np.ones(513, np.float32))
    frames = wave[spectra.places(248)] * np.hanning(800)
    mel = np.log(np.abs(np.fft.rfft(frames, 1024)) ** 2 * phase.emphasis(1024) + 1e-9)
    hidden = np.zeros(len(wave), dtype=bool)
    hidden[10_000:60_000] = hidden[65_000:65_500] = True
    monkeypatch.setattr(phase, "BLOCK", 40)
    made = phase.fill(np.where(hidden, 0, wave), hidden, mel, spectra, rng)
    np.testing.assert_array_equal(made[~hidden], wave[~hidden])
    level = [10 * np.log10((x[10_000:60_000].reshape(-1, 500) ** 2).mean(axis=1)) for x in (made, wave)]
    assert np.abs(level[0] - level[1]).mean() < 1.5
    assert abs((level[0] - level[1]).mean()) < 0.5


@pytest.mark.parametrize("count", [1, 2, 3, 20, 150, 441, 2000])
def test_a_join_follows_both_sides(count: int) -> None:
    tone = np.sin(0.05 * np.arange(6000))
    noise = np.random.default_rng(0).standard_normal(count)
    joined = phase.join(noise, tone[:2646], tone[2646 + count : 5200], 220)
    assert abs(joined[0] - tone[2646]) < 0.02
    assert abs(joined[-1] - tone[2646 + count - 1]) < 0.02
    np.testing.assert_array_equal(joined[220 : count - 220], noise[220 : count - 220])
    np.testing.assert_array_equal(phase.join(noise, tone[:0], tone[:0], 220), noise)
    one_sided = phase.join(noise, tone[:2646], tone[:0], 220)
    np.testing.assert_array_equal(one_sided[220:], noise[220:])
    assert abs(one_sided[0] - tone[2646]) < 0.02


def test_linear_prediction_continues_tones() -> None:
    time = np.arange(3000)
    tones = np.sin(0.21 * time) + 0.5 * np.sin(0.63 * time + 1) + 0.3
    np.testing.assert_allclose(phase.continued(tones[:2646], 100), tones[2646:2746], atol=0.1)
    assert not phase.continued(np.zeros(100), 5).any()
    assert np.abs(phase.continued(np.random.default_rng(0).standard_normal(300), 5000)).max() < 4


@pytest.mark.parametrize("ratio", [1.0, 44_100 / 32_000, 12_000 / 32_000])
def test_interpolation_is_that_of_band_limited_sound(ratio: float) -> None:
    places = np.arange(400, 500) / ratio + 0.3
    tone = np.sin(0.8 * np.arange(3000))
    np.testing.assert_allclose(phase.interpolate(tone, places, min(1.0, ratio)), np.sin(0.8 * places), atol=2e-3)
    if ratio < 1:
        assert np.abs(phase.interpolate(np.sin(2.0 * np.arange(3000)), places, ratio)).max() < 2e-3
