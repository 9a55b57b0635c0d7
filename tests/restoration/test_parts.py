"""The small parts of restore: damage, spans and scores."""

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from readers import open_recording
from tests.conftest import TINY
from tests.ecg import record
from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.model import masked
from toolkit.model.folder import LoadedModel
from toolkit.restoration import damage, spans
from toolkit.restoration.metrics import Piece, scores, table
from toolkit.restoration.repair import Repairer
from toolkit.restoration.spans import Span


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return open_recording(record(tmp_path_factory.mktemp("in"), "s", ["I", "II", "V5"], 40))


@given(severity=st.floats(0, damage.MOST), seed=st.integers(0, 50))
def test_blocks_hide_their_share_of_time_and_never_overlap(recording, severity: float, seed: int) -> None:
    made = damage.make(recording, [0, 1, 2], [("block", severity)], seed)
    assert made == damage.make(recording, [0, 1, 2], [("block", severity)], seed)
    hidden = np.zeros((3, 4000), dtype=bool)
    for span in made:
        assert not hidden[span.channel, span.start : span.stop].any()
        hidden[span.channel, span.start : span.stop] = True
    assert hidden.any(0).mean() == pytest.approx(severity, abs=0.02)


@pytest.mark.parametrize(("severity", "count"), [(0, 0), (0.01, 1), (0.34, 1), (0.67, 2), (1, 2)])
def test_a_channel_always_stays(recording, severity: float, count: int) -> None:
    made = damage.make(recording, [0, 1, 2], [("channel", severity)], 0)
    assert [(s.start, s.stop) for s in made] == [(0, 4000)] * count


def test_kinds_of_damage_add_up() -> None:
    assert damage.parse("block:0.1,channel:0.2") == [("block", 0.1), ("channel", 0.2)]
    for text in ("", "block", "block:x", "block:-1", "block:nan", "block:0.95"):
        with pytest.raises(UsageError):
            damage.parse(text)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50), st.integers(0, 20))))
def test_merged_spans_cover_the_same_samples_once(items: list[tuple[int, int, int]]) -> None:
    merged = spans.merge([Span(c, a, a + n) for c, a, n in items])
    covered = [(s.channel, i) for s in merged for i in range(s.start, s.stop)]
    assert len(covered) == len(set(covered))
    assert set(covered) == {(c, i) for c, a, n in items for i in range(a, a + n)}
    assert all(one.channel < two.channel or one.stop < two.start for one, two in pairwise(merged))


@given(st.lists(st.booleans()))
def test_runs_are_the_true_samples(mask: list[bool]) -> None:
    found = spans.runs(np.array(mask, dtype=bool))
    assert [i for a, b in found for i in range(a, b)] == [i for i, true in enumerate(mask) if true]


def model_of(name: str) -> LoadedModel:
    """A model of an objective on ECG that has learnt nothing."""
    flags = {k: v for k, v in copy.deepcopy(TINY).items() if k != "terms" and (name != "spark" or k != "encoder")}
    recipe = recipes.resolve(name, size="tiny", domain="cardiac", flags=flags)
    return LoadedModel(masked.build(recipe).eval(), recipe, "none", Path("run"), ())


@pytest.mark.parametrize("name", ["mae", "spark", "byol", "hubert"])
def test_a_model_that_predicts_no_patches_as_they_are_cannot_repair_and_says_what_can(name: str) -> None:
    with pytest.raises(UsageError, match=rf"'run' cannot repair: no term of its objective '{name}'.*target = 'raw'"):
        Repairer(model_of(name), torch.device("cpu"))


@pytest.mark.parametrize("name", ["bert", "cae", "gmml", "global-token"])
def test_a_model_of_any_objective_that_does_can(recording, name: str) -> None:
    repairer = Repairer(model_of(name), torch.device("cpu"))
    first, again = (list(repairer.repair(recording, [Span(2, 1000, 1150)])) for _ in range(2))
    assert [len(one.values) for one in first] == [150] and np.isfinite(first[0].values).all()
    assert np.array_equal(first[0].values, again[0].values)  # nothing is drawn at random


def test_scores_of_known_errors() -> None:
    truth = np.array([1.0, 3.0, 5.0, 3.0])
    perfect = scores([Piece(truth, truth, 3.0, 1.0, True)])
    assert (perfect["nmse"], perfect["rrmse"]) == (0, 0)
    assert perfect["r"] == pytest.approx(1)
    assert scores([Piece(truth, np.full(4, 3.0), 3.0, 1.0, True)])["nmse"] == 1
    half = scores([Piece(truth, truth + 1, 3.0, 1.0, True)])
    assert half["nmse"] == pytest.approx(4 / 8)
    assert half["rrmse"] == pytest.approx(np.sqrt(4 / 44))
    gap = np.array([1.0, np.nan, 5.0, 3.0])
    assert scores([Piece(gap, np.array([1.0, 99, 5.0, 3.0]), 3.0, 1.0, True)])["nmse"] == 0
    assert np.isnan(scores([])["nmse"])


def test_a_table_of_scores_splits_by_length() -> None:
    pieces = [
        Piece(np.arange(4.0), np.arange(4.0), 0.0, seconds, alone) for seconds, alone in ((0.4, True), (0.9, True), (7, False))
    ]
    rows = table(pieces)
    assert rows["spans"] == 3
    assert [(r["longer_than_s"], r["channels"], r["spans"]) for r in rows["by_length"]] == [
        (0.0, "one", 1),
        (0.5, "one", 1),
        (2.0, "all", 1),
    ]
