"""Pictures of restored sounds, volumes and point clouds as PNG files, each written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import signal

from readers.schema import Box
from toolkit.report.figures import BLUE, GREEN, GREY, ORANGE, blank, save

DYNAMIC_RANGE_DB = 70.0
HIGHEST_HZ = 16000.0
FRAMES = 900  # about one a pixel column
SHOWN_POINTS = 8000
AROUND = 2.5  # how much further than the repaired points the picture of a cloud reaches
COLUMN_INCH = 2.4
DIFFERENCE_COLOURS = "RdBu_r"
UNKNOWN = "#fbe3c8"
VIEW_DEG, ABOVE_DEG = (22.0, -60.0), (90.0, -90.0)  # elevation and azimuth
AXES_MM = ("x (mm, + right)", "y (mm, + front)", "z (mm, + up)")
SLICES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}  # the axes that lie across and up the picture


class SpectrogramPanel(TypedDict):
    """One channel of a sound: waves (T,) from ``start_s``; ``hidden`` bool (T,), the samples that were repaired."""

    title: str
    rate_hz: float
    before: NDArray
    after: NDArray
    hidden: NDArray
    start_s: NotRequired[float]
    truth: NotRequired[NDArray | None]


class VolumePanel(TypedDict):
    """One contrast: (X, Y, Z) towards right, front and up, NaN where nothing is known; ``affine`` (4, 4) to RAS mm.

    ``box`` is what was repaired, in voxels of these arrays.
    """

    title: str
    before: NDArray
    after: NDArray
    affine: NDArray
    box: Box
    truth: NotRequired[NDArray | None]
    unit: NotRequired[str]


class PointsPanel(TypedDict):
    """One cloud, (N, 3) in ``unit``: the points that were there, the added ones, and the truth that had been removed."""

    title: str
    visible: NDArray
    repaired: NDArray
    truth: NotRequired[NDArray | None]
    unit: NotRequired[str]


def spectrogram_png(path: Path, panels: Sequence[SpectrogramPanel]) -> Path:
    """Spectrograms before, after and (where known) the truth, one under the other over a common time; dB of full scale.

    All of a panel have one colour scale, the 70 dB under the loudest of its truth or repair. Repaired spans are marked
    by orange bars above and dashed edges.
    """
    rows = [_stages(panel) for panel in panels]
    figure = blank(9.5, 0.7 + 1.75 * sum(map(len, rows)))
    parts = figure.subfigures(len(panels), 1, height_ratios=[len(stages) for stages in rows], squeeze=False)[:, 0]
    for part, panel, stages in zip(parts, panels, rows, strict=True):
        _draw_sound(part, panel, stages)
    return save(path, figure)


def volume_png(path: Path, panels: Sequence[VolumePanel]) -> Path:
    """Three slices through the middle of the repaired box for each contrast: before, after, truth and difference.

    The difference is after less truth, or after less before where the truth is not known and the box was not empty.
    The box is outlined; axes are RAS mm (along the grid's axes where those are oblique). Unknown voxels are pale orange.
    """
    heights = [_row_heights(panel) for panel in panels]
    columns = max(3 + (panel.get("truth") is not None) for panel in panels)
    figure = blank(COLUMN_INCH * columns + 1.4, sum(sum(rows) + 1.5 for rows in heights))
    parts = figure.subfigures(len(panels), 1, height_ratios=[sum(rows) + 1.5 for rows in heights], squeeze=False)[:, 0]
    for part, panel, rows in zip(parts, panels, heights, strict=True):
        _draw_volume(part, panel, rows, columns)
    return save(path, figure)


def points_png(path: Path, panels: Sequence[PointsPanel]) -> Path:
    """Clouds in perspective around the repaired part: visible grey, repaired blue, and beside it the truth.

    Where the truth is known, the removed points are green in a picture of their own; else the second picture is the
    repair from above. At most 8,000 points of each kind are drawn, evenly from the list. Equal scales on all axes.
    """
    figure = blank(10.5, 4.4 * len(panels))
    for part, panel in zip(figure.subfigures(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        _draw_cloud(part, panel)
    return save(path, figure)


def _stages(panel: SpectrogramPanel | VolumePanel) -> dict[str, NDArray]:
    found = {"before": panel["before"], "after": panel["after"], "truth": panel.get("truth")}
    return {name: values for name, values in found.items() if values is not None}


def _draw_sound(part: SubFigure, panel: SpectrogramPanel, stages: dict[str, NDArray]) -> None:
    start, rate = panel.get("start_s") or 0.0, panel["rate_hz"]
    spectra = {name: _decibels(wave, rate) for name, wave in stages.items()}
    top = max(float(spectra[name][2].max()) for name in ("after", "truth") if name in spectra)
    stacked = part.subplots(len(spectra), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, (hz, at, level)) in zip(stacked, spectra.items(), strict=True):
        image = axes.pcolormesh(
            start + at, hz / 1000, level, cmap="magma", vmin=top - DYNAMIC_RANGE_DB, vmax=top, shading="nearest", rasterized=True
        )
        axes.set_ylabel("kHz")
        axes.set_xlim(start, start + len(panel["hidden"]) / rate)
        axes.text(
            0.006, 0.93, name, transform=axes.transAxes, va="top", color="white", bbox={"color": "black", "alpha": 0.6, "pad": 2}
        )
        _mark_spans(axes, panel["hidden"], start, rate)
    stacked[-1].set_xlabel("time (s)")
    stacked[0].set_title(panel["title"], loc="left", fontsize=10, pad=9)
    part.colorbar(image, ax=list(stacked), label="dB of full scale", fraction=0.03, pad=0.01)


def _decibels(wave: NDArray, rate_hz: float) -> tuple[NDArray, NDArray, NDArray]:
    """Frequencies (Hz), times (s) and levels (dB, a full-scale sine at 0), unknown samples as silence."""
    size = min(len(wave), max(16, round(0.032 * rate_hz)))
    hop = max(1, len(wave) // FRAMES, min(size // 4, len(wave) // 8))
    hz, at, spectrum = signal.stft(np.nan_to_num(wave), rate_hz, nperseg=size, noverlap=max(0, size - hop), boundary="zeros")
    seen = hz <= HIGHEST_HZ
    step = max(1, len(at) // (2 * FRAMES))
    level = 20 * np.log10(2 * np.abs(spectrum[seen][:, ::step]) + 1e-7)
    return hz[seen], at[::step], level


def _mark_spans(axes: Axes, hidden: NDArray, start: float, rate: float) -> None:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(hidden, dtype=np.int8), [0]])))
    bar: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "color": ORANGE, "lw": 4, "clip_on": False}
    for first, last in start + edges.reshape(-1, 2) / rate:
        axes.plot([first, last], [1.035, 1.035], solid_capstyle="butt", **bar)
        for edge in (first, last):
            axes.axvline(edge, color=ORANGE, lw=0.9, ls="--")


def _draw_volume(part: SubFigure, panel: VolumePanel, heights: Sequence[float], columns: int) -> None:
    shown = _shown(panel)
    grid = part.subplots(len(SLICES), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes in grid[:, len(shown) :].flat:
        axes.set_visible(False)
    for row, (plane, (across, up)) in zip(grid, SLICES.items(), strict=True):
        for axes, (values, scale) in zip(row, shown.values(), strict=False):
            image = _draw_slice(axes, values, panel, (across, up), scale)
            axes.tick_params(labelsize=8, labelleft=axes is row[0])
            if scale["cmap"] == DIFFERENCE_COLOURS and plane == "sagittal":
                column = list(grid[:, len(shown) - 1])
                part.colorbar(image, ax=column, fraction=0.08, shrink=0.6, label=panel.get("unit") or "")
        row[0].set_ylabel(f"{plane}\n{AXES_MM[up]}", fontsize=8)
    for axes, name in zip(grid[0], shown, strict=False):
        axes.set_title(name, fontsize=10)
    part.suptitle(panel["title"], x=0.02, ha="left", fontsize=11)


def _shown(panel: VolumePanel) -> dict[str, tuple[NDArray, dict[str, Any]]]:
    """What the columns show, by title: the volume and its colour scale, the difference last where there is one."""
    stages = _stages(panel)
    base = "truth" if "truth" in stages else "before"
    known = np.concatenate([stages[name][np.isfinite(stages[name])] for name in ("after", base)])
    low, high = np.percentile(known, [0.5, 99.5]) if known.size else (0.0, 1.0)
    shown: dict[str, tuple[NDArray, dict[str, Any]]] = {
        name: (values, {"cmap": "gray", "vmin": low, "vmax": high}) for name, values in stages.items()
    }
    difference = stages["after"] - stages[base]
    changes = np.abs(difference[tuple(slice(a, b) for a, b in zip(panel["box"].start, panel["box"].stop, strict=True))])
    if np.isfinite(changes).any():
        reach = float(np.nanpercentile(changes, 99)) or 1.0
        shown[f"after − {base}"] = difference, {"cmap": DIFFERENCE_COLOURS, "vmin": -reach, "vmax": reach}
    return shown


def _row_heights(panel: VolumePanel) -> list[float]:
    """Inches of the three rows of slices, so that each fills its column."""
    spacing = np.linalg.norm(np.asarray(panel["affine"])[:3, :3], axis=0)
    size = spacing * panel["after"].shape
    return [float(np.clip(COLUMN_INCH * size[up] / size[across], 1.0, 2 * COLUMN_INCH)) for across, up in SLICES.values()]


def _draw_slice(axes: Axes, values: NDArray, panel: VolumePanel, plane: tuple[int, int], scale: dict[str, Any]) -> Any:
    """One slice through the middle of the box, in mm, with the box's outline."""
    box, affine = panel["box"], np.asarray(panel["affine"], dtype=np.float64)
    centre = [(a + b) // 2 for a, b in zip(box.start, box.stop, strict=True)]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    origin = affine[:3, :3] @ centre + affine[:3, 3] - (np.array(centre) + 0.5) * spacing  # the outer corner of voxel 0
    through = next(axis for axis in range(3) if axis not in plane)
    picture = np.take(values, centre[through], axis=through).T
    low = [origin[axis] for axis in plane]
    high = [origin[axis] + values.shape[axis] * spacing[axis] for axis in plane]
    axes.set_facecolor(UNKNOWN)
    image = axes.imshow(
        np.ma.masked_invalid(picture), origin="lower", extent=(low[0], high[0], low[1], high[1]), interpolation="nearest", **scale
    )
    corner = [origin[axis] + box.start[axis] * spacing[axis] for axis in plane]
    size = [box.shape[axis] * spacing[axis] for axis in plane]
    axes.add_patch(Rectangle((corner[0], corner[1]), size[0], size[1], fill=False, edgecolor=ORANGE, lw=1.4))
    axes.set_xlabel(AXES_MM[plane[0]], fontsize=8)
    return image


def _draw_cloud(part: SubFigure, panel: PointsPanel) -> None:
    visible, repaired = _known(panel["visible"]), _known(panel["repaired"])
    truth = None if panel.get("truth") is None else _known(panel["truth"])
    low, high = _reach([repaired, *([truth] if truth is not None else [])], visible)
    after = (repaired, BLUE, "repaired")
    if truth is None:
        views = [("after", after, VIEW_DEG), ("after, from above", after, ABOVE_DEG)]
    else:
        views = [("truth", (truth, GREEN, "removed"), VIEW_DEG), ("after", after, VIEW_DEG)]
    for number, (title, added, view) in enumerate(views, 1):
        axes: Any = part.add_subplot(1, 2, number, projection="3d")
        for points, colour, label in ((visible, GREY, "visible"), added):
            inside = points[np.all((points >= low) & (points <= high), axis=1)]
            shown = inside[:: max(1, -(-len(inside) // SHOWN_POINTS))]
            size = float(np.clip(8000 / max(len(shown), 1), 1.5, 10)) + (0 if colour == GREY else 2.5)
            style = {"s": size, "color": colour, "alpha": 0.5 if colour == GREY else 0.9, "lw": 0, "depthshade": False}
            axes.scatter(*shown.T, label=f"{label} ({len(points):,})", **style)
        _frame(axes, low, high, panel.get("unit"), view)
        axes.set_title(title, fontsize=10)
        for handle in axes.legend(loc="upper right", frameon=False, fontsize=8).legend_handles:
            handle.set_sizes([16])
    part.suptitle(panel["title"], x=0.02, ha="left", fontsize=11)


def _known(points: Any) -> NDArray:
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    return points[np.isfinite(points).all(axis=1)]


def _reach(changed: list[NDArray], visible: NDArray) -> tuple[NDArray, NDArray]:
    """Corners (3,), (3,) of what is drawn: the changed points and what lies around them, or all where none changed."""
    points = np.concatenate([part for part in changed if len(part)] or [visible])
    low, high = points.min(axis=0), points.max(axis=0)
    wider = AROUND * max(float((high - low).max()), 1e-6) / 2
    middle = (low + high) / 2
    everything = np.concatenate([points, visible])
    return np.maximum(middle - wider, everything.min(axis=0)), np.minimum(middle + wider, everything.max(axis=0))


def _frame(axes: Any, low: NDArray, high: NDArray, unit: str | None, view: tuple[float, float]) -> None:
    """Limits, equal scales, labels with units, and the direction of the view (elevation, azimuth)."""
    size = np.maximum(high - low, 0.02 * max(float((high - low).max()), 1e-6))
    axes.set(xlim=(low[0], low[0] + size[0]), ylim=(low[1], low[1] + size[1]), zlim=(low[2], low[2] + size[2]))
    axes.set_box_aspect(size, zoom=1.1)
    for axis in "xyz":
        getattr(axes, f"set_{axis}label")(f"{axis} ({unit})" if unit else axis)
    if view == ABOVE_DEG:
        axes.set(zticks=[], zlabel="")
    axes.view_init(*view)
    axes.tick_params(labelsize=7)
    axes.locator_params(nbins=5)
