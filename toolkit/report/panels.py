"""Pictures of samples as a model in training saw and completed them: original, masked, reconstructed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import SubFigure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from readers.schema import Channel
from toolkit.model.tokenizers import (
    GridTokenizer,
    PointGroups,
    SignalPatches,
    SpectrogramPatches,
    Tokenizer,
    VolumePatches,
    VoxelGrid,
)
from toolkit.model.tokens import TokenSet
from toolkit.recipe import Recipe
from toolkit.report.figures import BLUE, GREEN, GREY, ORANGE, blank, save

WIDTH_INCH, TITLE_INCH = 9.0, 0.35
SHOWN_CHANNELS, SHOWN_SAMPLES = 4, 2
HIDDEN, UNKNOWN = "#f6c48f", "#dfe3e8"  # where values are colours
LEAST_SIDE = 0.5  # of the box around a cloud, of its longest side: labels of a flat one would overlap
DECIBELS = 10 / np.log(10)  # of a natural logarithm of energy
TICKS_HZ = (16000, 8000, 4000, 2000, 1000, 500, 250, 125)
TICK_APART = 0.1  # of the height of a picture, at least
VIEW_DEG = (22.0, -60.0)
AMPLITUDE = {
    "kind": "amplitude (multiples of the recording's scale)",
    "channel": "amplitude (multiples of the channel's scale)",
    "session": "amplitude (deviations of the channel in its recording)",
    "none": "amplitude (unit of the file)",
}


@dataclass(frozen=True)
class Sample:
    """One sample on the CPU: float (N, P) patches by stage, NaN where blank; ``coords`` (N, 4), ``hidden`` bool (N,).

    ``chosen``: numbers of the channels to draw; ``names``: of all channels.
    """

    stages: dict[str, Tensor]
    coords: Tensor
    hidden: Tensor
    grid: tuple[int, ...]
    chosen: list[int]
    names: list[str]

    def dense(self, tokenizer: GridTokenizer) -> dict[str, NDArray]:
        """The stages in the tokenizer's own form, (chosen channels, ...)."""
        return {name: tokenizer.untokenize(p[None], self.grid)[0, self.chosen].numpy() for name, p in self.stages.items()}


class Drawing(NamedTuple):
    """How one kind of token is drawn into its part of the figure, and how tall that is: inches a sample, inches a channel."""

    draw: Callable[[SubFigure, Any, Recipe, Sample], None]
    inches: float
    inches_a_channel: float


def panels_png(
    path: Path,
    tokenizer: Tokenizer,
    recipe: Recipe,
    tokens: TokenSet,
    visible: Tensor,
    reconstructed: Tensor,
    channels: Sequence[Sequence[Channel]],
    title: str,
) -> Path:
    """Draw one or two samples of a batch, at most four channels in all; returns ``path``.

    The first in which something is hidden, or the first of all where nothing is in any.

    ``tokens`` as ``tokenizer`` made them, grid included; ``visible`` int64 (B, v), the tokens that entered the model;
    ``reconstructed`` (B, N, P), patches in the unit of ``tokens.patches``, read where tokens are hidden; ``channels`` of
    each sample. Tokens that are not valid are blank in every stage. Raises KeyError for tokens without a drawing.
    """
    drawing = DRAWINGS[type(tokenizer)]
    shown = max(1, SHOWN_CHANNELS // tokens.grid[0])
    hidden = tokens.valid.scatter(1, visible, False).any(1).tolist()
    rows = sorted(range(len(hidden)), key=lambda row: not hidden[row])[: min(SHOWN_SAMPLES, shown)]
    samples = [_sample(tokens, visible, reconstructed, channels[row], row) for row in rows]
    heights = [drawing.inches + drawing.inches_a_channel * len(sample.chosen) for sample in samples]
    figure = blank(WIDTH_INCH, TITLE_INCH + sum(heights))
    head, *parts = figure.subfigures(1 + len(samples), 1, height_ratios=[TITLE_INCH, *heights], squeeze=False)[:, 0]
    head.text(0.01, 0.5, title, ha="left", va="center", fontsize=11)
    for part, sample in zip(parts, samples, strict=True):
        drawing.draw(part, tokenizer, recipe, sample)
    return save(path, figure)


def _sample(tokens: TokenSet, visible: Tensor, reconstructed: Tensor, channels: Sequence[Channel], row: int) -> Sample:
    patches, valid = tokens.patches[row].detach().float().cpu(), tokens.valid[row].cpu()
    seen = torch.zeros_like(valid).scatter(0, visible[row].cpu(), True) & valid
    hidden = valid & ~seen
    model = reconstructed[row].detach().float().cpu()
    stages = {
        "original": patches.masked_fill(~valid[:, None], torch.nan),
        "masked": patches.masked_fill(~seen[:, None], torch.nan),
        "reconstructed": torch.where(hidden[:, None], model, patches).masked_fill(~valid[:, None], torch.nan),
    }
    names = [channel.canonical or channel.name for channel in channels]
    return Sample(stages, tokens.coords[row].cpu(), hidden, tokens.grid, _chosen(hidden, valid, tokens.grid[0]), names)


def _chosen(hidden: Tensor, valid: Tensor, channels: int) -> list[int]:
    """At most four channels, evenly from those with something hidden (of all, where none has)."""
    found = np.flatnonzero(hidden.view(channels, -1).any(1).numpy())
    found = found if found.size else np.arange(channels)
    return sorted({int(found[i]) for i in np.linspace(0, len(found) - 1, SHOWN_CHANNELS).round().astype(int)})


def _draw_signal(part: SubFigure, tokenizer: SignalPatches, recipe: Recipe, sample: Sample) -> None:
    """Channels one under the other in each stage, over a common time."""
    waves = sample.dense(tokenizer)
    tiles = sample.hidden.float()[None, :, None].expand(-1, -1, tokenizer.patch)
    hidden = (tokenizer.dense(tiles, sample.grid)[0, sample.chosen] > 0).numpy()  # by a patch or by one of two that overlap
    known = waves["original"][np.isfinite(waves["original"])]
    low, high = np.percentile(known, [0.05, 99.95]) if np.ptp(known) else (-1.0, 1.0)
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    lines = (low - high) * np.arange(len(sample.chosen))
    time_s = (np.arange(hidden.shape[1]) + 0.5) / tokenizer.rate_hz
    stacked = part.subplots(len(waves), 1, sharex=True, sharey=True)
    for axes, (stage, wave) in zip(stacked, waves.items(), strict=True):
        for line, whole, values, mask in zip(lines, waves["original"], wave, hidden, strict=True):
            if stage != "original":
                span = {"where": mask, "step": "mid", "color": ORANGE, "alpha": 0.15, "lw": 0}
                axes.fill_between(time_s, line + low, line + high, label="hidden", **span)
            if stage == "reconstructed":
                axes.plot(time_s, np.where(mask, line + whole, np.nan), color=GREEN, lw=1.6, alpha=0.45, label="hidden, true")
                axes.plot(time_s, np.where(mask, line + values, np.nan), color=BLUE, lw=1.0, label="model")
            axes.plot(time_s, np.where(mask & (stage == "reconstructed"), np.nan, line + values), color="#3d4550", lw=0.7)
        axes.set_title(stage, loc="left", fontsize=10)
        axes.set_yticks(*_offset_ticks(lines, low, high, [sample.names[i] for i in sample.chosen]), fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, hidden.shape[1] / tokenizer.rate_hz)
        axes.set_ylim(lines[-1] + low, high)
    stacked[-1].set_xlabel("time (s)")
    part.supylabel(AMPLITUDE[tokenizer.scaling], fontsize=9)
    _legend(part, stacked)


def _offset_ticks(lines: NDArray, low: float, high: float, names: Sequence[str]) -> tuple[list[float], list[str]]:
    """Ticks on each line's own axis from ``low`` to ``high``: zero, with the name, and a step up and down where it fits."""
    step = _round(0.7 * max(high, -low))
    steps = [number for number in (-step, step) if low <= number <= high]
    at, labels = [], []
    for line, name in zip(lines, names, strict=True):
        at += [float(line), *(float(line) + number for number in steps)]
        labels += [f"{name}   0", *(f"{number:g}".replace("-", "−") for number in steps)]
    return at, labels


def _round(value: float) -> float:
    """The greatest 1, 2 or 5 times a power of ten that is not above ``value`` > 0."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(power * max(step for step in (1, 2, 5) if step * power <= value * (1 + 1e-9)))


def _draw_spectrogram(part: SubFigure, tokenizer: SpectrogramPatches, recipe: Recipe, sample: Sample) -> None:
    """Mel bands over time, the stages one under the other, in dB with one colour scale."""
    frames = tokenizer.frames(round(recipe.data.window * tokenizer.rate_hz))
    levels = {name: DECIBELS * mel[:, :frames] for name, mel in sample.dense(tokenizer).items()}
    known = levels["original"][np.isfinite(levels["original"])]
    low, high = np.percentile(known, [1, 99.8]) if known.size else (-1.0, 1.0)
    rows = [(number, name) for number in range(len(sample.chosen)) for name in levels]
    stacked, blanks = part.subplots(len(rows), 1, sharex=True, sharey=True), _blanks(levels)
    end_s, mels = frames * tokenizer.hop / tokenizer.rate_hz, tokenizer.table.mels
    for axes, (number, name) in zip(stacked, rows, strict=True):
        extent, scale = (0.0, end_s, -0.5, mels - 0.5), {"cmap": "magma", "vmin": low, "vmax": high, "aspect": "auto"}
        image = _image(axes, levels[name][number], blanks[name][number], extent, scale)
        axes.set_yticks(*_hz_ticks(mels, tokenizer.table.lowest_hz, tokenizer.rate_hz / 2), fontsize=7)
        axes.set_title(f"{sample.names[sample.chosen[number]]}: {name}", loc="left", fontsize=10)
    stacked[-1].set_xlabel("time (s)")
    part.supylabel("mel bands, at their frequencies (Hz)", fontsize=9)
    part.colorbar(image, ax=list(stacked), label="energy of a mel band (dB)", fraction=0.03, pad=0.01)
    _colour_key(part)


def _hz_ticks(mels: int, lowest_hz: float, highest_hz: float) -> tuple[list[float], list[str]]:
    """Places of round frequencies, in bands from 0: the middle of band k is edge k + 1 of the ``mels`` + 2 of the filterbank."""
    low, high = np.log1p(np.array([lowest_hz, highest_hz]) / 700)
    found: dict[str, float] = {}
    for hz in TICKS_HZ:
        at = float((np.log1p(hz / 700) - low) / (high - low) * (mels + 1) - 1)
        if 0 <= at <= min([mels, *found.values()]) - TICK_APART * mels:
            found[str(hz)] = at
    return list(found.values()), list(found)


def _blanks(stages: dict[str, NDArray]) -> dict[str, NDArray]:
    """Where each stage is blank because it is hidden, not because it is not known."""
    return {name: np.isnan(values) & ~np.isnan(stages["original"]) for name, values in stages.items()}


def _image(axes: Axes, values: NDArray, hidden: NDArray, extent: tuple[float, ...], style: dict[str, Any]) -> Any:
    """``values`` (across, up) as colours; NaN is orange where ``hidden``, else grey."""
    axes.set_facecolor(UNKNOWN)
    place: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
    image = axes.imshow(values.T, **place, **style)
    axes.imshow(np.where(hidden, 1.0, np.nan).T, **place, **{**style, "cmap": ListedColormap([HIDDEN])})
    return image


def _draw_volume(part: SubFigure, tokenizer: VolumePatches, recipe: Recipe, sample: Sample) -> None:
    """The most known axial slice: contrasts are rows, stages columns; each contrast has its own grey scale."""
    volumes = sample.dense(tokenizer)
    layer = _fullest(np.isfinite(volumes["original"]).sum((0, 1, 2)))
    grid = part.subplots(len(sample.chosen), len(volumes), squeeze=False, sharex=True, sharey=True)
    for number, (row, channel) in enumerate(zip(grid, sample.chosen, strict=True)):
        sides = volumes["original"][number].shape
        slices = {name: volume[number, :, :, layer] for name, volume in volumes.items()}
        known = slices["original"][np.isfinite(slices["original"])]
        low, high = np.percentile(known, [0.5, 99.5]) if known.size else (0.0, 1.0)
        half = np.array(sides) * tokenizer.spacing_mm / 2
        image = _draw_slices(row, slices, half, {"cmap": "gray", "vmin": low, "vmax": high})
        row[0].set_title(f"{sample.names[channel]}: original", loc="left", fontsize=10)
        row[0].set_ylabel("y (mm, + front)", fontsize=8)
        part.colorbar(image, ax=list(row), label="intensity (scaled)", fraction=0.03, pad=0.01)
    for axes in grid[-1]:
        axes.set_xlabel("x (mm, + right)", fontsize=8)
    height = (layer + 0.5 - sides[2] / 2) * tokenizer.spacing_mm
    part.supxlabel(f"axial slice at z = {height:g} mm from the middle of the sample (+ up)", fontsize=9)
    _colour_key(part)


def _fullest(known: NDArray) -> int:
    """The layer nearest to the middle of those with the greatest number ``known`` (layers,)."""
    best = np.flatnonzero(known == known.max())
    return int(best[np.abs(best - len(known) / 2).argmin()])


def _draw_voxels(part: SubFigure, tokenizer: VoxelGrid, recipe: Recipe, sample: Sample) -> None:
    """The level layer of voxels that holds most points of the cloud, from above."""
    cubes = {name: values[0] for name, values in sample.dense(tokenizer).items()}
    layer = int(np.nan_to_num(cubes["original"]).sum((0, 1)).argmax())
    slices = {name: cube[:, :, layer] for name, cube in cubes.items()}
    row = part.subplots(1, len(slices), sharex=True, sharey=True)
    top = max(1.0, float(np.nanmax(slices["original"], initial=0.0)))
    image = _draw_slices(row, slices, np.ones(2), {"cmap": "viridis", "vmin": 0.0, "vmax": top})
    part.colorbar(image, ax=list(row), label="log2(1 + points in a voxel)", fraction=0.03, pad=0.01)
    row[0].set_ylabel("y", fontsize=8)
    for axes in row:
        axes.set_xlabel("x", fontsize=8)
    height = (layer + 0.5) * 2 / tokenizer.side - 1
    part.supxlabel(f"coordinates in the unit sphere around the cloud; layer at z = {height:.2f}", fontsize=9)
    _colour_key(part)


def _draw_slices(row: Sequence[Axes], slices: dict[str, NDArray], half: NDArray, style: dict[str, Any]) -> Any:
    """The same slice (X, Y) of each stage in a row, ``half`` its size to either side of the middle."""
    extent, blanks = (-half[0], half[0], -half[1], half[1]), _blanks(slices)
    for axes, (name, values) in zip(row, slices.items(), strict=True):
        image = _image(axes, values, blanks[name], extent, style)
        axes.set_title(name, loc="left", fontsize=10)
        axes.tick_params(labelsize=7)
    return image


def _draw_points(part: SubFigure, tokenizer: PointGroups, recipe: Recipe, sample: Sample) -> None:
    """Clouds from one side: visible points grey, hidden ones green, the model's blue."""
    clouds = {name: tokenizer.untokenize(p[None], sample.coords[None])[0].numpy() for name, p in sample.stages.items()}
    hidden = sample.hidden.repeat_interleave(tokenizer.neighbours).numpy()
    known = clouds["original"][np.isfinite(clouds["original"]).all(1)]
    low, high = _box(known) if len(known) else (-np.ones(3), np.ones(3))
    for number, (name, cloud) in enumerate(clouds.items(), 1):
        axes: Any = part.add_subplot(1, len(clouds), number, projection="3d", facecolor="none", computed_zorder=False)
        # Groups overlap: a point of a hidden group is hidden only where no visible one has it too, so those go on top.
        added = (hidden, BLUE, "model", 3) if name == "reconstructed" else (hidden, GREEN, "hidden", 1)
        for mask, colour, label, order in ((~hidden, GREY, "visible", 2), added):
            points = cloud[mask & np.isfinite(cloud).all(1)]
            axes.scatter(*points.T, s=5, color=colour, alpha=0.8, lw=0, depthshade=False, label=label, zorder=order)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
        axes.set_box_aspect(high - low, zoom=1.0)
        axes.view_init(*VIEW_DEG)
        axes.tick_params(labelsize=7, pad=0)
        axes.locator_params(nbins=3)
        axes.set_title(name, loc="left", fontsize=10)
        for axis in "xyz":
            getattr(axes, f"set_{axis}label")(axis, fontsize=8)
    part.supxlabel("coordinates in the unit sphere around the cloud", fontsize=9)
    _legend(part, part.axes)


def _box(points: NDArray) -> tuple[NDArray, NDArray]:
    """Corners (3,), (3,) around points (N, 3), no side shorter than half of the longest."""
    middle, size = (points.min(0) + points.max(0)) / 2, points.max(0) - points.min(0)
    half = np.maximum(size, LEAST_SIDE * max(float(size.max()), 1e-3)) / 2
    return middle - half, middle + half


def _legend(part: SubFigure, drawn: Sequence[Axes]) -> None:
    _key(part, {label: handle for axes in drawn for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)})


def _colour_key(part: SubFigure) -> None:
    _key(part, {"hidden": Patch(color=HIDDEN), "not known": Patch(color=UNKNOWN)})


def _key(part: SubFigure, known: dict[str, Any]) -> None:
    style: dict[str, Any] = {"ncols": len(known), "frameon": False, "fontsize": 9, "markerscale": 2}
    part.legend(known.values(), known.keys(), loc="outside upper right", **style)


DRAWINGS: dict[type[Tokenizer], Drawing] = {
    SignalPatches: Drawing(_draw_signal, 1.6, 1.6),
    SpectrogramPatches: Drawing(_draw_spectrogram, 0.9, 3.9),
    VolumePatches: Drawing(_draw_volume, 0.8, 2.6),
    VoxelGrid: Drawing(_draw_voxels, 3.2, 0.0),
    PointGroups: Drawing(_draw_points, 3.1, 0.0),
}
