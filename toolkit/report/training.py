"""The report of a pretraining run: curves of its log, what each term reached, and whether a term collapsed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from toolkit.report.figures import BLUE, GREEN, ORANGE, blank, save
from toolkit.report.page import Section, write_page


class Course(NamedTuple):
    """A number that is drawn over the steps, times ``factor``; ``wide``: it may span decades."""

    title: str
    unit: str
    factor: float = 1.0
    wide: bool = False


CURVE_POINTS, LEVEL_POINTS = 300, 20  # a level changes slowly, so its noise from batch to batch is averaged away
COLUMNS = 3
PANEL_INCH = (3.0, 2.3)
LONGEST_TITLE = 34
NOT_KNOWN = "–"
LOG_SPAN = 10.0  # how many times its least value the greatest is, for a logarithmic axis
LEVELS = {"trivial": (ORANGE, "--", "trivial prediction"), "copy": (GREEN, ":", "copy of the neighbour")}
COURSES = {
    "learning_rate": Course("Learning rate", "learning rate"),
    "grad_norm": Course("Gradient norm before clipping", "norm", wide=True),
    "rank": Course("Effective rank of the states", "dimensions"),
    "samples_per_s": Course("Throughput", "samples / s"),
    "data_wait": Course("Waiting for data", "% of the time", factor=100.0),
}
ADVICE = (
    "What is predicted, or what should be, hardly differs from token to token any more, so a low loss of such a term says "
    "nothing. Do not use these weights. Usual remedies: a term with target 'raw' beside it, target normalisation, a teacher "
    "that follows more slowly (teacher.start nearer 1), a longer warm-up or a lower learning rate."
)


def write_report(
    run: Path,
    *,
    headline: str,
    facts: Mapping[str, object],
    rows: Sequence[Mapping[str, Any]],
    terms: Mapping[str, str],
    panels: Path | None,
) -> Path:
    """Write ``report.html`` into a run folder, and the figures it embeds, loss.png and training.png; returns its path.

    ``rows``: the lines of metrics.jsonl in order, at least one; lines without ``terms`` have one term, the loss.
    ``terms``: what each term asks of the model, in words. ``panels``: a picture of reconstructions to embed.

    Raises OSError where a file cannot be written or ``panels`` cannot be read, ValueError without rows.
    """
    if not rows:
        raise ValueError("a run without a log line has nothing to report")
    curves = losses_png(run / "loss.png", rows)
    course = training_png(run / "training.png", rows)
    sections = [
        Section(
            "The run", _warnings(rows), [{"": name, "value": _cell(value)} for name, value in _all_facts(facts, rows).items()]
        ),
        Section("Terms", [_verdict(name, rows) for name in term_names(rows)], _term_table(rows, terms), [curves]),
    ]
    if course is not None:
        sections.append(Section("Course of the run", images=[course]))
    if panels is not None:
        words = "Visible parts as they are, hidden parts as the model predicts them from the visible ones."
        sections.append(Section("Reconstructions", [words], images=[panels]))
    return write_page(run / "report.html", headline, sections)


def losses_png(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A panel for the total loss and one for each term (one in all where there is one term), with the levels that are known.

    The axis is logarithmic where what is drawn spans more than a factor of ten.
    """
    names = term_names(rows)
    drawn = [(name, {key: term_column(rows, name, key) for key in ("loss", *LEVELS)}) for name in names]
    if len(names) > 1:
        drawn.insert(0, ("total loss", {"loss": column(rows, "loss"), "trivial": column(rows, "loss_trivial")}))
    figure, panels = _panels(len(drawn), wide=6.4)
    steps = column(rows, "step")
    for axes, (name, lines) in zip(panels, drawn, strict=True):
        for key, (colour, style, label) in LEVELS.items():
            _line(axes, steps, lines.get(key), LEVEL_POINTS, color=colour, ls=style, lw=1.4, label=label)
        _line(axes, steps, lines["loss"], CURVE_POINTS, color=BLUE, lw=1.3, label="loss")
        _finish(axes, name, "loss", wide=True)
    _legend(figure, panels)
    return save(path, figure)


def training_png(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path | None:
    """Learning rate, gradient norm, effective rank, throughput and data wait over the steps.

    What no line tells has no panel; nothing is written and None returned where there is none.
    """
    drawn = {key: values for key in COURSES if np.isfinite(values := column(rows, key)).any()}
    if not drawn:
        return None
    figure, panels = _panels(len(drawn), wide=6.4)
    for axes, (key, values) in zip(panels, drawn.items(), strict=True):
        course = COURSES[key]
        _line(axes, column(rows, "step"), course.factor * values, CURVE_POINTS, color=BLUE, lw=1.3)
        _finish(axes, course.title, course.unit, wide=course.wide)
        if axes.get_yscale() == "linear":
            axes.set_ylim(bottom=0)
    return save(path, figure)


def column(rows: Sequence[Mapping[str, Any]], key: str) -> NDArray:
    """One number of each line, float64 (len(rows),), NaN where a line does not have it."""
    return np.array([_number(row.get(key)) for row in rows])


def term_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The terms in the order of their first mention; ``loss`` alone where no line names terms."""
    return list(dict.fromkeys(name for row in rows for name in row.get("terms") or ())) or ["loss"]


def term_column(rows: Sequence[Mapping[str, Any]], name: str, key: str) -> NDArray:
    """``loss``, ``trivial`` or ``copy`` of a term in each line, float64 (len(rows),), NaN where a line does not have it."""
    if not any(row.get("terms") for row in rows):
        old = {"loss": "loss", "trivial": "loss_trivial"}
        return column(rows, old[key]) if key in old else np.full(len(rows), np.nan)
    return column([(row.get("terms") or {}).get(name) or {} for row in rows], key)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _late(values: NDArray) -> float:
    """Mean over the last tenth of the lines, as the summary of a run takes it; NaN where none of them is finite."""
    last = values[-max(1, len(values) // 10) :]
    last = last[np.isfinite(last)]
    return float(last.mean()) if last.size else math.nan


def _all_facts(facts: Mapping[str, object], rows: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    found = {
        "steps": int(column(rows, "step")[-1]),
        "loss": _late(column(rows, "loss")),
        "loss of trivial predictions": _late(column(rows, "loss_trivial")),
        "effective rank of the states": _late(column(rows, "rank")),
        "samples / s": _late(column(rows, "samples_per_s")),
        "waiting for data, % of the time": 100 * _late(column(rows, "data_wait")),
    }
    return {**facts, **{name: value for name, value in found.items() if name not in facts and math.isfinite(value)}}


def _term_table(rows: Sequence[Mapping[str, Any]], terms: Mapping[str, str]) -> list[dict[str, object]]:
    table = []
    for name in term_names(rows):
        loss, trivial, copy = (_late(term_column(rows, name, key)) for key in ("loss", *LEVELS))
        spread = [(row.get("deviation") or {}).get(name) or {} for row in rows]
        cells = {
            "term": name,
            "what": terms.get(name, NOT_KNOWN),
            "loss": loss,
            "trivial level": trivial,
            "loss / trivial": loss / trivial if trivial > 0 else math.nan,
            "copy level": copy,
            "deviation predicted": _late(column(spread, "predicted")),
            "deviation target": _late(column(spread, "target")),
        }
        table.append({key: _cell(value) for key, value in cells.items()})
    known = [key for key in table[0] if any(row[key] != NOT_KNOWN for row in table)]
    return [{key: row[key] for key in known} for row in table]


def _cell(value: object) -> object:
    return NOT_KNOWN if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def _verdict(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether a term has learnt anything, in a sentence."""
    loss, trivial, copy = (_late(term_column(rows, name, key)) for key in ("loss", *LEVELS))
    if not math.isfinite(loss):
        return f"{name}: no finite loss in the last lines."
    if name in (rows[-1].get("collapsed") or ()):
        return f"{name}: collapsed, so that its loss {loss:.4g} says nothing."
    if not math.isfinite(trivial):
        return f"{name}: loss {loss:.4g}; its trivial level is not known."
    if loss >= trivial:
        return f"{name}: nothing learnt so far: loss {loss:.4g}, no better than the trivial prediction's {trivial:.4g}."
    share = f", {100 * loss / trivial:.0f} % of it" if loss >= 0 else ""
    better = f"{name}: loss {loss:.4g} is below the trivial prediction's {trivial:.4g}{share}"
    if not math.isfinite(copy):
        return f"{better}."
    return f"{better}, and {'below' if loss < copy else 'not below'} that of copying the neighbour, {copy:.4g}."


def _warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Collapsed terms in words: those of the last line with advice, those of earlier lines as a remark."""
    flagged = [tuple(row.get("collapsed") or ()) for row in rows]
    found = []
    if flagged[-1]:
        found.append(f"COLLAPSED at the last step: {', '.join(flagged[-1])}. {ADVICE}")
    for name in dict.fromkeys(n for names in flagged for n in names if n not in flagged[-1]):
        lines = [row for row, names in zip(rows, flagged, strict=True) if name in names]
        found.append(
            f"{name} looked collapsed in {len(lines)} of {len(rows)} log lines (steps {lines[0]['step']} to "
            f"{lines[-1]['step']}), no longer at the end."
        )
    return found or ["No term looked collapsed in any line of the log."] if _watched(rows) else found


def _watched(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any("collapsed" in row for row in rows)


def _panels(count: int, wide: float) -> tuple[Figure, Sequence[Axes]]:
    """A figure of ``count`` axes in rows of three, four in two rows; a lone one is ``wide`` inches."""
    columns = 2 if count == 4 else min(count, COLUMNS)
    lines = math.ceil(count / columns)
    figure = blank(max(wide, PANEL_INCH[0] * columns), 0.5 + PANEL_INCH[1] * lines * (1.3 if count == 1 else 1.0))
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:count])


def _line(axes: Axes, steps: NDArray, values: NDArray | None, most: int, **style: Any) -> None:
    """Draw what is finite of ``values`` (N,) over ``steps`` (N,), at most ``most`` means; nothing where nothing is."""
    if values is None:
        return
    known = np.isfinite(values)
    if known.any():
        drawn = list(_thinned(steps[known], values[known], most))
        axes.plot(*zip(*drawn, strict=True), marker="o" if len(drawn) == 1 else "", ms=4, **style)


def _thinned(steps: NDArray, values: NDArray, most: int) -> Iterator[tuple[float, float]]:
    """Means of equally many neighbours (the last: of what is left), at most ``most``, from the first step to the last."""
    size = math.ceil(len(steps) / most)
    for first in range(0, len(steps), size):
        part = slice(first, first + size)
        at = steps[0] if first == 0 else steps[-1] if first + size >= len(steps) else steps[part].mean()
        yield float(at), float(values[part].mean())


def _finish(axes: Axes, title: str, unit: str, *, wide: bool) -> None:
    """Title, labels and scale once the lines are drawn; ``wide``: a logarithmic one where they span so much."""
    lines = axes.get_lines()
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in lines]) if lines else np.zeros(1)
    if wide and drawn.min() > 0 and drawn.max() > LOG_SPAN * drawn.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if drawn.max() < LOG_SPAN**2 * drawn.min() else (1,)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.set_title(title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…", loc="left", fontsize=10)
    axes.set(xlabel="step", ylabel=unit)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    known = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if known:
        figure.legend(known.values(), known.keys(), loc="outside upper right", ncols=len(known), frameon=False)
