"""Figures as PNG files. Each function draws one kind, writes it whole or not at all, and returns its path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from toolkit import files

BLUE, ORANGE, GREEN, GREY = "#2b6cb0", "#d9730d", "#2f855a", "#8a8f98"
BASELINES = ("majority", "handcrafted", "random-init")
STYLES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "x", "D")
PRINTED_CLASSES = 20  # above this the counts of a confusion matrix would not be legible


class Panel(TypedDict):
    """One channel of a restoration: arrays (T,) in ``unit``; ``hidden`` bool (T,), the samples that were repaired."""

    title: str
    time_s: NDArray
    before: NDArray
    after: NDArray
    hidden: NDArray
    truth: NotRequired[NDArray | None]
    unit: NotRequired[str]


def confusion_png(path: Path, counts: NDArray, classes: Sequence[str], title: str) -> Path:
    """Confusion counts (K, K), truth by predicted; colour is the share of the true class, numbers are counts."""
    k = len(classes)
    side = min(12.0, 2.6 + 0.6 * k)
    figure, axes = _figure(side + 0.8, side)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(k), classes, rotation=45, ha="right", rotation_mode="anchor")
    rows = [f"{name} ({total:.0f})" for name, total in zip(classes, counts.sum(axis=1), strict=True)]
    axes.set_yticks(range(k), rows)
    if k <= PRINTED_CLASSES:
        for (row, column), value in np.ndenumerate(counts):
            axes.text(
                column, row, f"{value:.0f}", ha="center", va="center", color="white" if share[row, column] > 0.55 else "black"
            )
    axes.set(xlabel="predicted", ylabel="truth (rows)", title=title)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    return save(path, figure)


def scores_png(path: Path, rows: Sequence[Mapping[str, object]], metric: str) -> Path:
    """Bars of one metric with intervals, from the rows of a probe result (name, metric, value, low, high)."""
    chosen = [row for row in rows if row["metric"] == metric]
    names = [str(row["name"]) for row in chosen]
    value, low, high = (np.array([float(str(row[key])) for row in chosen]) for key in ("value", "low", "high"))
    figure, axes = _figure(6.4, 1.2 + 0.5 * len(chosen))
    colours = [GREY if name in BASELINES else BLUE for name in names]
    axes.barh(
        range(len(chosen)),
        value,
        xerr=[value - low, high - value],
        color=colours,
        height=0.62,
        error_kw={"ecolor": "black", "capsize": 3, "lw": 1},
    )
    for at, number in enumerate(value):
        axes.annotate(
            f"{number:.3f}",
            (max(np.nan_to_num(high[at]), np.nan_to_num(number)), at),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(chosen)), names)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlabel(f"{metric.replace('_', ' ')} (95 % interval over groups)")
    return save(path, figure)


def curve_png(path: Path, rows: Sequence[Mapping[str, object]], by: str, label: str, metric: str) -> Path:
    """One metric against the number ``by`` of each row, its axis named by ``label``; a line a name.

    Rows have name, metric, value and sd, which is drawn up and down from the value.
    """
    figure, axes = _figure(6.4, 4.2)
    chosen = [row for row in rows if row["metric"] == metric]
    names = list(dict.fromkeys(str(row["name"]) for row in chosen))
    for at, name in enumerate(names):
        x, value, sd = (np.array([float(str(row[key])) for row in chosen if row["name"] == name]) for key in (by, "value", "sd"))
        axes.errorbar(
            x,
            value,
            yerr=sd,
            color=GREY if name in BASELINES else BLUE,
            ls=STYLES[at % len(STYLES)],
            marker=MARKERS[at % len(MARKERS)],
            capsize=3,
            lw=1.5,
            label=name,
        )
    axes.set_xscale("log")
    sizes = sorted({float(str(row[by])) for row in chosen})
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
    axes.minorticks_off()
    axes.set(xlabel=label, ylabel=f"{metric.replace('_', ' ')} (mean and deviation over draws)")
    axes.legend(frameon=False)
    return save(path, figure)


def regression_png(path: Path, truth: NDArray, predicted: NDArray, label: str = "target") -> Path:
    """Predicted against true numbers, both (N,) in the unit of ``label``, with the line of identity."""
    figure, axes = _figure(4.8, 4.6)
    low, high = float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))
    axes.plot([low, high], [low, high], color=GREY, lw=1, ls="--", label="identity")
    axes.scatter(truth, predicted, s=14, color=BLUE, alpha=0.5, lw=0)
    axes.set(xlabel=f"true {label}", ylabel=f"predicted {label}", aspect="equal")
    axes.legend(frameon=False, loc="upper left")
    return save(path, figure)


def restoration_png(path: Path, panels: Sequence[Panel]) -> Path:
    """Channels stacked over a common time in seconds: before, after, the truth where known, repaired spans shaded."""
    figure = blank(9, 0.9 + 1.7 * len(panels))
    stacked = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(stacked, panels, strict=True):
        _draw_panel(axes, panel)
    stacked[-1].set_xlabel("time (s)")
    handles, labels = stacked[0].get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known.keys(), loc="outside upper right", ncols=len(known), frameon=False)
    return save(path, figure)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    time_s, truth = panel["time_s"], panel.get("truth")
    axes.fill_between(
        time_s,
        0,
        1,
        where=panel["hidden"],
        transform=axes.get_xaxis_transform(),
        color=ORANGE,
        alpha=0.15,
        lw=0,
        label="repaired span",
    )
    axes.plot(time_s, panel["before"], color=GREY, lw=0.9, label="before")
    if truth is not None:
        axes.plot(time_s, truth, color=GREEN, lw=2.2, alpha=0.5, label="truth")
    axes.plot(time_s, panel["after"], color=BLUE, lw=1, label="after")
    axes.set_title(panel["title"], loc="left", fontsize=10)
    axes.set_ylabel(panel.get("unit") or "")
    axes.margins(x=0)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = blank(width, math.ceil(height * 10) / 10)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def blank(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(path: Path, figure: Figure) -> Path:
    """Write a figure as PNG, whole or not at all; returns its path."""
    with files.atomic(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.12)
    return path
