"""What a run writes down: means between the lines, the detail of the last step, and which terms have collapsed."""

import pytest
import torch

from toolkit.objective.objective import Scored, TermScore
from toolkit.training.meter import METRICS, Meter, collapsed, progress_line, read_metrics


def scored(loss, *, predicted=None, target=None, copy=None, rank=None, learned=False):
    """Two terms, the second of weight 2."""
    one = TermScore(torch.tensor(loss), torch.tensor(3.0), copy, predicted, target, learned)
    other = TermScore(torch.tensor(10 * loss), torch.tensor(5.0))
    return Scored(one.loss + 2 * other.loss, torch.tensor(13.0), {"one": one, "other": other}, rank)


def test_a_line_holds_the_means_since_the_last_one_and_the_detail_of_the_last_step(tmp_path, tiny):
    with Meter(tmp_path / METRICS, 0, tiny(training__steps=100)) as meter:
        for step, loss in enumerate((1.0, 2.0, 6.0), 1):
            meter.add(step, scored(loss, predicted=0.25, target=1.0 + step, copy=0.5, rank=7.125), step, 0.0, 0.1 * step)
        meter.log()
        meter.add(4, scored(5.0, rank=2.0), 4.0, 0.0, 0.4)
        meter.log()
    first, second = read_metrics(tmp_path)
    assert (first["step"], first["loss"], first["loss_trivial"], first["grad_norm"]) == (3, 63.0, 13.0, 2.0)
    assert first["terms"] == {"one": {"loss": 3.0, "trivial": 3.0, "copy": 0.5}, "other": {"loss": 30.0, "trivial": 5.0}}
    assert first["deviation"] == {"one": {"predicted": 0.25, "target": 4.0}}
    assert (first["rank"], first["learning_rate"], first["collapsed"]) == (7.12, pytest.approx(0.3), [])
    assert (second["loss"], second["terms"]["one"]["loss"], second["deviation"]) == (105.0, 5.0, {})  # nothing is kept over
    assert first["data_wait"] >= 0 and first["samples_per_s"] > 0


def test_the_progress_line_names_each_of_several_terms_and_what_collapsed():
    row = {"loss": 1.5, "loss_trivial": 2.0, "samples_per_s": 3.0, "data_wait": 0.25, "rank": 9.0, "collapsed": []}
    one, two = ({"terms": {name: {"loss": 0.5, "trivial": 1.0} for name in names}} for names in (("a",), ("a", "b")))
    assert "a 0.500" not in progress_line(row | one) and "loss 1.5000 (trivial 2.0000)" in progress_line(row | one)
    assert "a 0.500 (1.000), b 0.500 (1.000)" in progress_line(row | two) and "COLLAPS" not in progress_line(row | two)
    assert "COLLAPSING: a, encoder" in progress_line(row | two | {"collapsed": ["a", "encoder"]})


@pytest.mark.parametrize(
    ("predicted", "target", "learned", "rank", "named"),
    [
        (1.0, 1.0, True, 9.0, []),
        (0.009, 1.0, True, 9.0, ["one"]),  # always the same prediction
        (0.011, 1.0, True, 9.0, []),
        (0.009, 1.0, False, 9.0, []),  # of data: heads begin there, and have only learned nothing yet
        (0.09, 0.09, True, 9.0, ["one"]),  # targets made by weights that became all the same
        (0.09, 0.09, False, 9.0, []),  # targets made of data may well vary little
        (1.0, 1.0, True, 1.4, ["encoder"]),
        (0.0, 0.0, True, 1.0, ["one", "encoder"]),
        (None, None, True, None, []),  # codes have no deviation
    ],
)
def test_what_no_longer_varies_is_named_from_a_tenth_of_the_run_on(predicted, target, learned, rank, named):
    terms = scored(1.0, predicted=predicted, target=target, learned=learned).terms
    assert collapsed(0.1, terms, rank) == named and collapsed(0.099, terms, rank) == []
