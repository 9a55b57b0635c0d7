"""What kind of question the labels ask, and the labels as numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import UsageError

KINDS = ("binary", "multiclass", "multilabel", "regression")
MANY_NUMBERS = 10  # a numeric column with more distinct values than this is a quantity, not a class


@dataclass(frozen=True)
class Task:
    """``kind`` is one of KINDS; ``target`` the label column; ``classes`` in the order of the columns of a prediction.

    Classes are sorted (numerically where all are numbers); the second class of a binary task is the positive one.
    A regression has no classes.
    """

    kind: str
    target: str
    classes: tuple[str, ...]


def infer_task(values: Sequence[str], asked: str = "auto", target: str = "label") -> Task:
    """The task that the cells of a label column describe, or the one asked for where the cells allow it.

    ``auto``: a ';' in a cell means multilabel; numbers with more than 10 distinct values regression; two classes
    binary; more multiclass. In a multilabel column an empty cell means that no class applies.
    Raises UsageError: unknown kind, one class only, empty cells, not numeric for regression, not 2 classes for binary.
    """
    if asked != "auto" and asked not in KINDS:
        raise UsageError(f"Unknown task '{asked}': expected auto, {', '.join(KINDS)}.")
    cells = [value.strip() for value in values]
    multilabel = asked == "multilabel" or (asked == "auto" and any(";" in cell for cell in cells))
    empty = cells.count("")
    if empty and not multilabel:
        raise UsageError(f"{empty} of {len(cells)} rows have an empty '{target}': fill them in or leave the rows out.")
    numbers = [_number(cell) for cell in cells]
    distinct = len(set(cells))
    quantity = asked == "auto" and not multilabel and None not in numbers and distinct > MANY_NUMBERS
    if asked == "regression" or quantity:
        return _regression(cells, numbers, target)
    classes = _classes(cells, multilabel)
    _check_classes(cells, classes, asked, multilabel, target)
    kind = "multilabel" if multilabel else asked if asked != "auto" else "binary" if len(classes) == 2 else "multiclass"
    return Task(kind, target, classes)


def encode(values: Sequence[str], task: Task) -> NDArray[np.int64] | NDArray[np.float64]:
    """Labels as numbers: int64 (N,) class indices, int64 (N, K) 0/1 for multilabel, float64 (N,) for regression.

    Raises UsageError for a value that is no class of the task.
    """
    if task.kind == "regression":
        return np.array([float(value) for value in values], dtype=np.float64)
    index = {name: i for i, name in enumerate(task.classes)}
    unknown = sorted({name for value in values for name in _names(value, task.kind)} - set(index))
    if unknown:
        raise UsageError(f"'{task.target}' holds {', '.join(unknown)}; the classes are {', '.join(task.classes)}.")
    if task.kind != "multilabel":
        return np.array([index[value.strip()] for value in values], dtype=np.int64)
    y = np.zeros((len(values), len(task.classes)), dtype=np.int64)
    for row, value in enumerate(values):
        y[row, [index[name] for name in _names(value, task.kind)]] = 1
    return y


def _names(value: str, kind: str) -> list[str]:
    pieces = value.split(";") if kind == "multilabel" else [value]
    return [piece.strip() for piece in pieces if piece.strip()]


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _regression(cells: Sequence[str], numbers: Sequence[float | None], target: str) -> Task:
    bad = [cell for cell, number in zip(cells, numbers, strict=True) if number is None]
    if bad:
        raise UsageError(
            f"Regression needs numbers: {len(bad)} of {len(cells)} values of '{target}' are not, the first is '{bad[0]}'."
        )
    if len(set(numbers)) < 2:
        raise UsageError(f"'{target}' has one value only ({cells[0]}, {len(cells)} rows): nothing to predict.")
    return Task("regression", target, ())


def _classes(cells: Sequence[str], multilabel: bool) -> tuple[str, ...]:
    names = {name for cell in cells for name in _names(cell, "multilabel" if multilabel else "multiclass")}
    if all(_number(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))


def _check_classes(cells: Sequence[str], classes: tuple[str, ...], asked: str, multilabel: bool, target: str) -> None:
    counts = Counter(cells)
    if len(counts) < 2:
        shown = classes[0] if len(classes) == 1 else ";".join(classes)
        raise UsageError(
            f"'{target}' has one class only: '{shown}', {len(cells)} rows. A probe needs at least two; "
            "label other rows or choose another column with --target."
        )
    if asked == "binary" and len(classes) != 2:
        listed = ", ".join(f"{name} ({counts[name]})" for name in classes)
        raise UsageError(f"A binary task needs 2 classes; '{target}' has {len(classes)}: {listed}.")
