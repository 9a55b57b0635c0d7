"""One ``probe``: labels joined, features computed, the protocol run, a report written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from toolkit import files
from toolkit.corpus.labels import Labels
from toolkit.errors import UsageError
from toolkit.probing import fewshot
from toolkit.probing.protocol import Features, ProbeResult, check_head, encode, infer_task, make_folds, run_probe
from toolkit.probing.rows import LabelledRows
from toolkit.probing.tune import Tuning
from toolkit.progress import Progress
from toolkit.report.figures import confusion_png, curve_png, regression_png, scores_png
from toolkit.report.page import Section, write_page


@dataclass(frozen=True)
class Question:
    """What is asked of the labels: the target column, how rows are grouped and split, which head answers.

    Also with how few: so many rows a class (``shots``), or so large a share of the training rows (``fractions``), each
    drawn ``draws`` times.
    """

    target: str = "label"
    task: str = "auto"
    group: str | None = None
    split: str | None = None
    folds: int = 5
    head: str = "linear"
    seed: int = 0
    bootstrap: int = 1000
    shots: tuple[int, ...] = ()
    fractions: tuple[float, ...] = ()
    draws: int = 3


class Probe:
    """A question about labelled rows. Building it checks labels, groups and splits, before any features are computed.

    Raises UsageError: a column that is not there, one class only, one group only, a group on both sides of a split, a
    head or a number of shots that does not fit the task.
    """

    def __init__(self, rows: LabelledRows, labels: Labels, question: Question) -> None:
        self.rows, self.question = rows, question
        self.cells = labels.column(question.target, "--target").iloc[rows.label_row].tolist()
        self.task = infer_task(self.cells, question.task, question.target)
        self.y = encode(self.cells, self.task)
        check_head(question.head, self.task)
        if question.shots and self.task.kind == "regression":
            raise UsageError(f"'{question.target}' is a quantity, which has no classes to take rows of: use --label-fractions.")
        self.groups, self.group_name = _groups(rows, labels, question)
        split = labels.column(question.split, "--split").iloc[rows.label_row].tolist() if question.split else None
        self.folds, self.split = make_folds(
            self.groups,
            self.y,
            self.task,
            folds=question.folds,
            split=split,
            seed=question.seed,
            group_column=self.group_name,
            split_column=question.split or "",
        )

    def run(self, features: Mapping[str, Features], progress: Progress, tuned: Mapping[str, Tuning] | None = None) -> ProbeResult:
        """Fit and score every feature matrix (N, F), or tokens, beside the majority; then with fewer labels, if asked.

        ``tuned``: what encoders predict that were trained on the same folds.
        """
        asked = self.question
        sizes = len(asked.shots) + len(asked.fractions)
        fits = max(1, len(features) * len(self.folds))
        progress.total = fits + sizes * asked.draws * (len(features) + 1)
        result = run_probe(
            features,
            self.y,
            self.task,
            self.groups,
            self.folds,
            head=asked.head,
            seed=asked.seed,
            bootstrap=asked.bootstrap,
            progress=lambda done, total, what: progress.update(done, what),
            tuned=tuned,
        )
        if asked.shots:
            result.few_shot = self._curve("shots", asked.shots, features, progress, fits)
            result.warnings += fewshot.too_few(asked.shots, self.y, self.task, self.folds)
        if asked.fractions:
            before = fits + len(asked.shots) * asked.draws * (len(features) + 1)
            result.fractions = self._curve("fraction", asked.fractions, features, progress, before)
        return result

    def _curve(
        self, by: str, sizes: Sequence[float], features: Mapping[str, Features], progress: Progress, before: int
    ) -> list[fewshot.Row]:
        return fewshot.curve(
            by,
            sizes,
            features,
            self.y,
            self.task,
            self.groups,
            self.folds,
            head=self.question.head,
            draws=self.question.draws,
            seed=self.question.seed,
            bootstrap=self.question.bootstrap,
            progress=lambda done, what: progress.update(before + done, what),
        )

    def document(self, result: ProbeResult) -> dict[str, Any]:
        """What ``probe --json`` prints and metrics.json holds; the rows of the main metric come first.

        Class scores in ``results`` lie from 0 to 1; Cohen's kappa, which can be negative, has a key of its own.
        """
        rows = sorted(result.rows, key=lambda r: r["metric"] != result.main_metric)
        kappa = [r for r in rows if r["metric"] == "kappa"]
        rows = [r for r in rows if r["metric"] != "kappa"]
        return {
            "task": self.task.kind,
            "target": self.task.target,
            "windows": len(self.y),
            "groups": len(set(self.groups.tolist())),
            "classes": list(self.task.classes),
            "class_counts": self._counts(),
            "split": {**self.split, "group": self.group_name},
            "main_metric": result.main_metric,
            "results": rows,
            "kappa": kappa,
            "differences": result.differences,
            "few_shot": result.few_shot,
            "fractions": result.fractions,
            "confusion": {k: v.tolist() for k, v in result.confusion.items()},
            "warnings": [*self.rows.warnings, *result.warnings],
        }

    def write(self, result: ProbeResult, document: dict[str, Any], out: Path) -> None:
        """metrics.json, predictions.parquet, PNGs and report.html into ``out``."""
        out.mkdir(parents=True, exist_ok=True)
        images = [scores_png(out / "scores.png", result.rows, result.main_metric)]
        tested = result.tested
        for name, predicted in result.predictions.items():
            if name == "majority":
                continue
            if self.task.kind == "regression":
                images.append(regression_png(out / f"scatter-{name}.png", self.y[tested], predicted[tested], self.task.target))
            elif self.task.kind != "multilabel":
                images.append(confusion_png(out / f"confusion-{name}.png", result.confusion[name], self.task.classes, name))
        curves = [
            _curve_section(by, title, rows, result.main_metric, out)
            for by, title, rows in (("shots", "Few-shot", result.few_shot), ("fraction", "Label fractions", result.fractions))
            if rows
        ]
        self._write_predictions(result, out / "predictions.parquet")
        write_page(out / "report.html", f"Probe of {self.task.target}", _sections(document, images, curves))
        files.write_json(out / "metrics.json", document)

    def _counts(self) -> dict[str, int]:
        if self.task.kind == "regression":
            return {}
        if self.task.kind == "multilabel":
            return {c: int(n) for c, n in zip(self.task.classes, self.y.sum(axis=0), strict=True)}
        return {c: int((self.y == i).sum()) for i, c in enumerate(self.task.classes)}

    def _write_predictions(self, result: ProbeResult, path: Path) -> None:
        columns: dict[str, Any] = {
            "path": self.rows.path,
            "start": self.rows.start,
            "stop": self.rows.stop,
            "label": self.cells,
            "group": self.groups.tolist(),
            "tested": result.tested,
        }
        for name, predicted in result.predictions.items():
            if predicted.ndim == 1:
                columns[name] = predicted
            else:
                columns |= {f"{name}:{c}": predicted[:, i] for i, c in enumerate(self.task.classes)}
        with files.atomic(path) as temporary:
            pq.write_table(pa.table(columns), temporary)


def _groups(rows: LabelledRows, labels: Labels, question: Question) -> tuple[NDArray[np.str_], str]:
    """The group of each row: the asked column, else the subject by the labels or the recordings, else the recording."""
    if question.group is not None or "subject" in labels.rows.columns:
        name = question.group or "subject"
        return np.array(labels.column(name, "--group").iloc[rows.label_row].tolist()), name
    if all(rows.subject):
        return np.array(rows.subject), "subject"
    return np.array(rows.path), "path"


def _curve_section(by: str, title: str, rows: list[fewshot.Row], metric: str, out: Path) -> Section:
    """A figure, written into ``out``, and its numbers."""
    shown = [{k: (round(v, 4) if isinstance(v, float) else v) for k, v in row.items()} for row in rows]
    image = curve_png(out / f"{title.lower().replace(' ', '-')}.png", rows, by, fewshot.WORDS[by], metric)
    text = (
        f"{fewshot.WORDS[by].capitalize()}, drawn {rows[0]['draws']} times from the training groups of each fold; scored on all "
        "test rows: mean and standard deviation over the draws, and 95 % intervals of the mean by bootstrap over groups."
    )
    return Section(f"{title} ({metric})", [text], [row for row in shown if row["metric"] == metric], [image])


def _sections(document: dict[str, Any], images: list[Path], curves: list[Section]) -> list[Section]:
    metric = document["main_metric"]
    shown = [
        {k: (round(v, 4) if isinstance(v, float) else v) for k, v in row.items()}
        for row in (*document["results"], *document["kappa"])
    ]
    split = document["split"]
    text = [
        f"{document['windows']} windows of {document['groups']} groups by {split['group']}; split by {split['kind']} in "
        f"{split['folds']} folds, no group on two sides. Intervals are 95 % bootstrap over groups.",
        f"Labels: {', '.join(f'{c} {n}' for c, n in document['class_counts'].items()) or document['target']}.",
    ]
    return [
        Section(f"Scores ({metric})", text, [r for r in shown if r["metric"] == metric], images[:1]),
        Section(
            "Differences",
            ["A model's score minus those of the baselines and of the models before it, over the same resamples."],
            [{k: (round(v, 4) if isinstance(v, float) else v) for k, v in d.items()} for d in document["differences"]],
        ),
        *curves,
        Section("Predictions", images=images[1:]),
        Section("All metrics", table=shown),
        Section("Warnings", document["warnings"] or ["None."]),
    ]
