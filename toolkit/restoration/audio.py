"""Restoring sound: the model predicts log-mel energies in a gap, a waveform is found that has them and fits its surroundings.

Every channel is repaired by itself, on the model's grid, and brought to its own rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from readers.schema import BoolArray, Recording, SignalLike, SignalSample, Window
from toolkit.corpus import windows
from toolkit.corpus.batches import collate
from toolkit.corpus.scaled import Scaled
from toolkit.model.folder import LoadedModel
from toolkit.model.tokenizers.spectrogram import FLOOR, SpectrogramPatches
from toolkit.recipe import SignalData
from toolkit.restoration import phase
from toolkit.restoration.completion import completed, opened
from toolkit.restoration.mender import generator
from toolkit.restoration.repair import Repaired, regions, visible_levels
from toolkit.restoration.sound import surrounding_noise
from toolkit.restoration.spans import Span, rate_of, seconds, visible_values

Float64 = NDArray[np.float64]
AROUND_S = 1.0  # visible time on either side whose spectrum stands for the surroundings
REGION_S = 20.0  # spans are repaired together up to this length
BLOCK_S = 10.0  # seconds read at once
EDGE_S = 0.06  # visible time from which the sound is continued into a gap
FADE_S = 0.005
MIXED = 11  # periods of the slower rate that the resampling filter reaches


@dataclass(frozen=True)
class _Place:
    """Where a region of one channel is repaired: ``near`` are the hidden spans about it; windows on the model's grid."""

    recording: SignalLike
    near: tuple[Span, ...]
    grid: Window
    gap: Window


class AudioRepairer:
    """Repairs spans of sound with one model, with the preprocessing the model was trained on."""

    def __init__(self, loaded: LoadedModel, device: torch.device) -> None:
        self.model, self.tokenizer, self.data = opened(loaded, device, SpectrogramPatches, SignalData)
        self.device = device
        self.rate, self.samples = self.data.rate_hz, round(self.data.rate_hz * self.data.window_s)

    def channels(self, recording: Recording) -> list[int]:
        """Channels of sound. Raises ReadError when there are none."""
        return windows.channels_for(recording, self.data)

    def repair(self, recording: SignalLike, spans: Sequence[Span]) -> Iterator[Repaired]:
        """Repair merged spans, channel by channel; a channel that is wholly hidden becomes the mean of the others.

        Raises ReadError.
        """
        channels, levels = self.channels(recording), visible_levels(recording, spans)
        for channel in sorted({s.channel for s in spans}):
            mine = [s for s in spans if s.channel == channel]
            if sum(s.stop - s.start for s in mine) >= recording.stored(channel):
                others = [c for c in channels if c != channel]
                yield from (_mean_of_others(recording, span, others, spans) for span in mine)
                continue
            for region in _bounded(recording, mine):
                yield from self._region(recording, region, mine, levels[channel])

    def _region(self, recording: SignalLike, region: Sequence[Span], mine: Sequence[Span], level: float) -> Iterator[Repaired]:
        """Repair spans of one channel that lie near one another; ``mine`` are all spans of the channel."""
        place = self._place(recording, region, mine)
        wave, known = self._wave(place)
        wave = np.where(known, wave - level, 0.0)
        frames = self._visible_frames(wave, known)
        steady, share = self._steady(frames), self._share(place, region, wave, known)
        mel = steady + share * (self._predict(place, steady) - steady)
        rng = generator(region[0].channel, region[0].start)
        made = phase.fill(wave, ~known, mel, self._spectra(frames), rng) + level
        method = f"model {share.mean():.2f}, surroundings {1 - share.mean():.2f}"
        for span in region:
            yield Repaired(span, self._native(place, span, made, level), method, level)

    def _place(self, recording: SignalLike, region: Sequence[Span], mine: Sequence[Span]) -> _Place:
        """The region with ``AROUND_S`` on either side in whole frames, and what else is hidden within reach of a window."""
        hop, frame, around = self.tokenizer.hop, self.tokenizer.frame, AROUND_S * self.rate
        low, high = seconds(recording, region[0])[0] * self.rate, seconds(recording, region[-1])[1] * self.rate
        first = int((low - around - frame) // hop) * hop
        last = first + -(-int(high + around - first) // hop) * hop + frame
        begin, end = (first - self.samples) / self.rate - 1, (last + self.samples) / self.rate + 1
        near = [s for s in mine if s.stop > begin * rate_of(recording, s) and s.start < end * rate_of(recording, s)]
        return _Place(recording, tuple(near), Window(first, last), Window(int(low), int(high) + 1))

    def _share(self, place: _Place, region: Sequence[Span], wave: Float64, known: BoolArray) -> Float64:
        """How far the model is believed over the steady surroundings, 0 to 1 for each mel band (mels,).

        The visible time of a token on either side is hidden as well; the share is the one with which the mixture of both
        predictions comes closest to what is there, for each row of tokens. 1 where nothing is visible beside the spans.
        """
        token, frame = self.tokenizer.patch * self.tokenizer.hop, self.tokenizer.frame
        more = [_widened(place.recording, span, token / self.rate) for span in region]
        gap = Window(place.gap.start - token, place.gap.stop + token)
        wider = replace(place, near=(*place.near, *more), gap=gap)
        seen = known & ~self._hidden(wider, place.grid)
        steady = self._steady(self._visible_frames(wave, seen))
        begins = np.arange(self.tokenizer.frames(len(wave))) * self.tokenizer.hop
        whole, left = (np.concatenate([[0], np.cumsum(k)]) for k in (known, seen))
        asked = (whole[begins + frame] - whole[begins] == frame) & (left[begins + frame] - left[begins] < frame)
        if not asked.any():
            return np.ones(len(steady))
        true = self._log_mel(wave[begins[asked][:, None] + np.arange(frame)])
        found = self._predict(wider, steady)[asked]
        rows = (-1, self.tokenizer.table.mels // self.tokenizer.patch, self.tokenizer.patch)
        ours, theirs = ((x - steady).reshape(rows) for x in (found, true))
        share = (ours * theirs).sum((0, 2)) / np.maximum((ours**2).sum((0, 2)), 1e-9)
        return np.repeat(np.clip(share, 0.0, 1.0), self.tokenizer.patch)

    def _wave(self, place: _Place) -> tuple[Float64, BoolArray]:
        """What is visible on the model's grid (T,), and where; what is wholly hidden is not read."""
        grid = place.grid
        wave, known = np.zeros(grid.stop - grid.start), np.zeros(grid.stop - grid.start, dtype=bool)
        step = round(BLOCK_S * self.rate)
        for start in range(grid.start, grid.stop, step):
            window = Window(start, min(start + step, grid.stop))
            inside = slice(window.start - grid.start, window.stop - grid.start)
            if not self._hidden(place, window).all():
                sample = self._read(place, window)
                wave[inside], known[inside] = sample.values[0], sample.valid[0]
        return wave, known

    def _read(self, place: _Place, window: Window) -> SignalSample:
        """The channel of the spans in a window, with the spans' samples not valid."""
        sample = place.recording.read(window.start, window.stop, rate_hz=self.rate, channels=[place.near[0].channel])
        valid = sample.valid & ~self._hidden(place, window)
        return replace(sample, values=np.where(valid, sample.values, np.float32(0)), valid=valid)

    def _hidden(self, place: _Place, window: Window) -> BoolArray:
        """Samples of the model's grid (T,) in a span, or mixed with one by the resampling filter."""
        hidden = np.zeros(window.stop - window.start, dtype=bool)
        for span in place.near:
            rate = rate_of(place.recording, span)
            margin = 0.0 if rate == self.rate else MIXED / min(rate, self.rate)
            low, high = (span.start / rate - margin) * self.rate, ((span.stop - 1) / rate + margin) * self.rate
            a, b = int(np.ceil(low - 1e-6)) - window.start, int(np.floor(high + 1e-6)) + 1 - window.start
            hidden[max(a, 0) : max(b, 0)] = True
        return hidden

    def _visible_frames(self, wave: Float64, known: BoolArray) -> Float64:
        """Frames (K, frame) that lie whole in the visible second at either end of the wave."""
        hop, frame, around = self.tokenizer.hop, self.tokenizer.frame, round(AROUND_S * self.rate)
        begins = np.arange(0, len(wave) - frame + 1, hop)
        begins = begins[(begins <= around) | (begins >= len(wave) - frame - around)]
        counted = np.concatenate([[0], np.cumsum(known)])
        whole = begins[counted[begins + frame] - counted[begins] == frame]
        return wave[whole[:, None] + np.arange(frame)]

    def _steady(self, frames: Float64) -> Float64:
        """Mean log-mel energies (mels,) of visible frames; silence where there are none."""
        if not len(frames):
            return np.full(self.tokenizer.table.mels, np.log(FLOOR))
        return self._log_mel(frames).mean(axis=0)

    def _log_mel(self, frames: Float64) -> Float64:
        """Log-mel energies (K, mels) of frames (K, frame)."""
        mel: Float64 = self.tokenizer.log_mel(torch.from_numpy(frames.astype(np.float32)))[:, 0].double().numpy()
        return mel

    def _spectra(self, frames: Float64) -> phase.Spectra:
        """How mel energies become spectra, by the mean power spectrum of visible frames."""
        size = self.tokenizer.fft
        reference = np.ones(size // 2 + 1)
        if len(frames):
            reference = (np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]), size)) ** 2).mean(axis=0)
        filters = self.tokenizer.filters.numpy()
        return phase.Spectra(self.tokenizer.frame, self.tokenizer.hop, size, filters, reference.astype(np.float32))

    def _predict(self, place: _Place, steady: Float64) -> Float64:
        """Log-mel energies (K, mels) of the frames of the grid: the model's where windows reach, else the nearest ones.

        A window in which nothing is visible tells nothing; the steady energies of the surroundings stand for it.
        """
        hop, grid = self.tokenizer.hop, place.grid
        count = self.tokenizer.frames(grid.stop - grid.start)
        total, weight = np.zeros((count, len(steady))), np.zeros(count)
        for start in self._starts(place):
            found = self._window(place, Window(start, start + self.samples))
            inside = self.tokenizer.frames(self.samples)
            mel = np.tile(steady, (inside, 1)) if found is None else found
            fade = np.minimum(np.arange(1, inside + 1), np.arange(inside, 0, -1))
            at = (start - grid.start) // hop
            a, b = max(0, at), min(count, at + inside)
            total[a:b] += (mel * fade[:, None])[a - at : b - at]
            weight[a:b] += fade[a - at : b - at]
        reached = np.flatnonzero(weight)
        nearest = reached[np.abs(np.searchsorted(reached, np.arange(count)).clip(max=len(reached) - 1))]
        return total[nearest] / weight[nearest, None]

    def _starts(self, place: _Place) -> list[int]:
        """First samples of windows: one around a short gap, half overlapping ones over a long one.

        They are whole hops apart, and inside the recording where they can be.
        """
        size, hop, gap, origin = self.samples, self.tokenizer.hop, place.gap, place.grid.start
        if gap.stop - gap.start <= size // 2:
            starts = [(gap.start + gap.stop - size) // 2]
        else:
            starts = list(range(gap.start - size // 4, gap.stop - size // 4, size // 2))
        last = max(0, windows.length_on_grid(place.recording, self.rate) - size)
        placed = [min(max(s, 0), last) for s in starts]
        return list(dict.fromkeys(origin + round((s - origin) / hop) * hop for s in placed))

    @torch.inference_mode()
    def _window(self, place: _Place, window: Window) -> Float64 | None:
        """The model's log-mel energies (frames, mels) of one window, the visible ones as they are; None if none is visible."""
        sample = self._read(place, window)
        scaling = windows.fit_scaling(sample, self.data.scaling)
        scaled = Scaled.of(sample.values, sample.valid, sample.channels, scaling, window)
        tokens = self.tokenizer.tokenize(collate([scaled]))
        if not tokens.valid.any():
            return None
        patches = completed(self.model, tokens, self.device)
        mel = self.tokenizer.untokenize(patches, tokens.grid)[0, 0, : self.tokenizer.frames(self.samples)]
        return mel.double().numpy() + 2 * np.log(scaling.scale[0])

    def _native(self, place: _Place, span: Span, made: Float64, level: float) -> Float64:
        """The wave at the span's own samples, joined to the visible ones beside it.

        Above what the model hears it is steady noise like that of the surroundings.
        """
        recording, near = place.recording, place.near
        rate = rate_of(recording, span)
        inside = np.arange(span.start, span.stop, dtype=np.float64) * (self.rate / rate) - place.grid.start
        values = phase.interpolate(made, inside, min(1.0, rate / self.rate))
        if rate > self.rate:
            values += surrounding_noise(recording, span, near, level, self.rate / 2) - level
        width = round(EDGE_S * rate)
        before = visible_values(recording, near, span.channel, max(0, span.start - width), span.start)
        after = visible_values(recording, near, span.channel, span.stop, min(recording.stored(span.channel), span.stop + width))
        start = np.flatnonzero(np.isnan(before))
        stop = np.flatnonzero(np.isnan(after))
        before = before[start[-1] + 1 :] if len(start) else before
        after = after[: stop[0]] if len(stop) else after
        return phase.join(values, before, after, round(FADE_S * rate))


def _bounded(recording: SignalLike, spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Regions of spans, cut between spans where they are longer than ``REGION_S``."""
    for region in regions(recording, spans):
        group: list[Span] = []
        for span in region:
            if group and seconds(recording, span)[1] - seconds(recording, group[0])[0] > REGION_S:
                yield group
                group = []
            group.append(span)
        yield group


def _widened(recording: SignalLike, span: Span, more_s: float) -> Span:
    more = round(more_s * rate_of(recording, span))
    return replace(span, start=max(0, span.start - more), stop=min(recording.stored(span.channel), span.stop + more))


def _mean_of_others(recording: SignalLike, span: Span, others: Sequence[int], spans: Sequence[Span]) -> Repaired:
    """A wholly hidden channel as the mean of the visible ones, silent where there are none."""
    values, step = np.zeros(span.stop - span.start), round(BLOCK_S * rate_of(recording, span))
    for start in range(span.start, span.stop, step):
        stop = min(start + step, span.stop)
        heard = np.stack([visible_values(recording, spans, c, start, stop) for c in others])
        count = np.isfinite(heard).sum(axis=0)
        values[start - span.start : stop - span.start] = np.nansum(heard, axis=0) / np.maximum(count, 1)
    return Repaired(span, values, "mean of the other channels", float(values.mean()))
