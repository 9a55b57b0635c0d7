"""Which rows train and which test: whole groups on one side, always."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold

from toolkit.errors import UsageError
from toolkit.probing.task import Task

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]  # row indices: train, test

TRAIN_WORDS = ("train", "val", "valid", "validation", "dev")  # validation rows serve the inner selection
NAMED = 5  # offenders named in a message


def make_folds(
    groups: NDArray,
    y: NDArray,
    task: Task,
    *,
    folds: int = 5,
    split: Sequence[str] | None = None,
    seed: int = 0,
    group_column: str = "group",
    split_column: str = "split",
) -> tuple[list[Fold], dict[str, object]]:
    """The folds, and their description {"kind": "group" | "column", "column": ..., "folds": n}.

    ``groups`` (N,) one name a row; ``y`` as ``encode`` gives it. Without ``split``: one group out where there are at
    most ``folds`` groups, else ``folds`` parts of whole groups with class shares kept alike (StratifiedGroupKFold,
    the same for the same seed) or, for regression, alike in rows (GroupKFold). With ``split`` (N cells): the words
    train (and val) and test make one fold; otherwise each distinct value is the test part of one fold.
    Raises UsageError, before any fitting: one group only, a group on two sides of the split, an unusable split.
    """
    groups = np.asarray(groups)
    if split is not None:
        made = _column_folds(np.array([cell.strip() for cell in split]), groups, group_column, split_column)
        return made, {"kind": "column", "column": split_column, "folds": len(made)}
    names = np.unique(groups)
    if len(names) < 2:
        raise UsageError(
            f"All {len(groups)} rows belong to one group of '{group_column}' ('{names[0]}'), so nothing "
            "is left to test on. Name a column that tells subjects or recordings apart with --group "
            "COLUMN, or say which rows train and test with --split COLUMN."
        )
    made = grouped(groups, strata(y, task), parts=min(folds, len(names)), seed=seed)
    return made, {"kind": "group", "column": group_column, "folds": len(made)}


def inner_folds(groups: NDArray, y: NDArray, task: Task, *, seed: int) -> list[Fold]:
    """At most 3 splits of a training part, by groups, on which heads choose their hyper-parameters.

    A training part of one group is cut into contiguous blocks: shuffled neighbours in time would leak.
    Empty where the rows are too few to split.
    """
    names = np.unique(groups)
    if len(names) > 1:
        return grouped(groups, strata(y, task), parts=min(3, len(names)), seed=seed)
    classes = strata(y, task)
    if classes is None:
        return list(KFold(3).split(groups)) if len(groups) >= 3 else []
    if np.bincount(classes).max() < 3:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class rarer than the number of splits
        return list(StratifiedKFold(3).split(groups, classes))


def strata(y: NDArray, task: Task) -> NDArray[np.int64] | None:
    """The class by which rows are kept alike (N,): for multilabel the rarest of a row's labels; none for regression."""
    if task.kind == "regression":
        return None
    if task.kind != "multilabel":
        return y
    counts = y.sum(axis=0)
    rarity = np.where(y == 1, counts, len(y) + 1)
    return np.where(y.any(axis=1), rarity.argmin(axis=1), y.shape[1]).astype(np.int64)


def grouped(groups: NDArray, classes: NDArray[np.int64] | None, *, parts: int, seed: int) -> list[Fold]:
    """``parts`` folds of whole groups (fewer where a part would be empty)."""
    if len(np.unique(groups)) <= parts:  # StratifiedGroupKFold may put two groups together and leave a fold empty
        made = LeaveOneGroupOut().split(groups, groups=groups)
    elif classes is None:
        made = GroupKFold(parts).split(groups, groups=groups)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class rarer than the number of parts
            if np.bincount(classes).max() < parts:  # more parts than rows of any class: balance rows alone
                made = GroupKFold(parts).split(groups, groups=groups)
            else:
                splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
                made = iter(list(splitter.split(groups, classes, groups)))
    return [(train, test) for train, test in made if len(train) and len(test)]


def _column_folds(split: NDArray, groups: NDArray, group_column: str, split_column: str) -> list[Fold]:
    values = Counter(split.tolist())
    if values[""]:
        raise UsageError(f"{values['']} of {len(split)} rows have an empty '{split_column}': fill them in.")
    words = np.char.lower(split)
    if {"train", "test"} & set(words):
        _check_words(words, split_column)
        words = np.where(words == "test", "test", "train")
        _check_sides(words, groups, group_column, split_column)
        return [(np.flatnonzero(words == "train"), np.flatnonzero(words == "test"))]
    if len(values) < 2:
        raise UsageError(
            f"'{split_column}' has one value only ('{split[0]}', {len(split)} rows): expected train and "
            "test, or one value a fold."
        )
    _check_sides(split, groups, group_column, split_column)
    return [(np.flatnonzero(split != value), np.flatnonzero(split == value)) for value in sorted(values)]


def _check_words(words: NDArray, split_column: str) -> None:
    found = Counter(words.tolist())
    unknown = sorted(set(found) - {*TRAIN_WORDS, "test"})
    if unknown or not found["test"] or not found["train"]:
        listed = ", ".join(f"{word} ({count})" for word, count in sorted(found.items()))
        raise UsageError(f"'{split_column}' must hold both train and test, and may hold val; it holds {listed}.")


def _check_sides(sides: NDArray, groups: NDArray, group_column: str, split_column: str) -> None:
    """Raise UsageError where rows of one group lie on more than one side."""
    counts: dict[str, Counter[str]] = {}
    for group, side in zip(groups.tolist(), sides.tolist(), strict=True):
        counts.setdefault(str(group), Counter())[side] += 1
    torn = {group: sides for group, sides in counts.items() if len(sides) > 1}
    if torn:
        listed = "; ".join(
            f"'{group}' ({', '.join(f'{n} rows in {side}' for side, n in sorted(sides.items()))})"
            for group, sides in sorted(torn.items())[:NAMED]
        )
        more = f"; and {len(torn) - NAMED} more" if len(torn) > NAMED else ""
        raise UsageError(
            f"{len(torn)} of {len(counts)} groups of '{group_column}' lie on more than one side of "
            f"'{split_column}': {listed}{more}. Put each group on one side, or name the column of "
            "independent groups with --group COLUMN."
        )
