"""Encoders that learn from labels: what enters, what moves, what the held-out rows may know, and what it is worth."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.domain_files import CUT, make, small
from tests.ecg import record
from toolkit import recipe as recipes
from toolkit.corpus import framing, inputs
from toolkit.corpus.inputs import open_input
from toolkit.embedding.encoder import Options, RecordingEncoder
from toolkit.errors import ToolkitError, UsageError
from toolkit.model import masked
from toolkit.probing.rows import LabelledRows
from toolkit.probing.task import Task
from toolkit.probing.tune import MODES, Schedule, Tuner
from toolkit.probing.tune_model import Tuned, target
from toolkit.probing.tune_train import Plan, optimizer_of, share, train
from toolkit.probing.tune_windows import Windows
from toolkit.progress import Progress

CPU = torch.device("cpu")
OPTIONS = Options("window", 2.0, 2.0, -1, "meanmax")
BINARY, NUMBER = Task("binary", "rhythm", ("slow", "fast")), Task("regression", "bpm", ())
MANY = Task("multilabel", "tags", ("slow", "fast", "loud"))
PEOPLE, EACH = 6, 4


def silent(what: str = "tune") -> Progress:
    return Progress(what, 0, "steps", enabled=False)


def whole(items, spans) -> LabelledRows:
    """Rows of intervals ``spans`` of each recording."""
    path = [str(i.path) for i in items for _ in spans]
    start, stop = (np.array([span[k] for _ in items for span in spans], dtype=float) for k in (0, 1))
    return LabelledRows(path, start, stop, np.arange(len(path)), [None] * len(path))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Three people whose hearts are slow and three whose are fast, 8 s each."""
    folder = tmp_path_factory.mktemp("people")
    for index in range(PEOPLE):
        record(folder, f"s{index}", ("I", "II"), 8.2, seed=index, bpm=50 + 10 * (index // 2) + 80 * (index % 2))
    return inputs.gather([str(folder)]).items


@pytest.fixture(scope="module")
def windows(people, tiny):
    return Windows(
        whole(people, [(2 * k, 2 * k + 2) for k in range(EACH)]), {str(i.path): i for i in people}, tiny(), OPTIONS, silent()
    )


@pytest.fixture(scope="module")
def model(tiny):
    return masked.build(tiny(), seed=5).eval()


ROWS = np.arange(PEOPLE * EACH)
Y = (ROWS // EACH) % 2
pair_of = ROWS // (2 * EACH)  # of people, one slow and one fast; the last pair is never tested
FOLDS = [(np.flatnonzero(pair_of != pair), np.flatnonzero(pair_of == pair)) for pair in (0, 1)]


def tuned(mode: str, model, windows, y=Y, task=BINARY, *, folds=FOLDS, epochs=1, seed=0, rate=None, rank=2):
    tuner = Tuner(model, OPTIONS, Schedule(epochs, rate, rank), [mode], CPU)
    return tuner.run(mode, windows, y, task, folds, seed=seed, progress=silent())


@pytest.mark.parametrize("name", sorted(CUT))
def test_the_windows_of_an_interval_give_the_vector_that_embedding_gives(name, tmp_path) -> None:
    recipe = small(name)
    items = inputs.gather([str(make(name, tmp_path))]).items
    net, cut = masked.build(recipe).eval(), framing.build(recipe)
    options = Options("window", recipe.data.window, recipe.data.window, -1, "meanmax", 3)
    end = min(cut.end(open_input(item)) for item in items)
    short = [(0.3 * end, 0.35 * end)] if cut.unit == "s" else []
    rows = whole(items, [(0.0, end), *short])
    found = Windows(rows, {str(i.path): i for i in items}, recipe, options, silent())
    assert max(map(len, found.of)) > 1
    encoder = RecordingEncoder(net, recipe, options, CPU)
    spans = np.stack([rows.start, rows.stop], axis=1)[: 1 + len(short)]
    expected = np.concatenate([encoder.intervals(open_input(item), spans) for item in items])
    head = Tuned(net, options, 1)
    head.settle(found, found.of)
    np.testing.assert_allclose(head.mean, expected.mean(0), atol=1e-5)
    spread = expected.std(0)
    np.testing.assert_allclose(head.deviation, np.where(spread > 1e-6, spread, 1), atol=1e-5)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_predictions_are_out_of_fold_and_a_function_of_the_seed(mode, model, windows) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again, other = (tuned(mode, model, windows, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.predictions, again.predictions)
    assert np.nanmax(np.abs(first.predictions - other.predictions)) > 1e-6
    tested = np.concatenate([test for _, test in FOLDS])
    assert np.isfinite(first.predictions[tested]).all() and np.isnan(np.delete(first.predictions, tested, axis=0)).all()
    np.testing.assert_allclose(first.predictions[tested].sum(1), 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("task", [BINARY, NUMBER, MANY])
@pytest.mark.parametrize("mode", sorted(MODES))
def test_labels_of_test_rows_never_reach_a_prediction(mode, task, model, windows) -> None:
    y = {"binary": Y, "regression": 60.0 + 10 * Y + ROWS, "multilabel": np.stack([1 - Y, Y, ROWS % 2], 1)}[task.kind]
    changed = y.copy()
    changed[FOLDS[0][1]] = 1 - changed[FOLDS[0][1]]
    found, again = (tuned(mode, model, windows, labels, task, folds=FOLDS[:1]).predictions for labels in (y, changed))
    np.testing.assert_array_equal(again, found)
    assert found.shape == ((len(ROWS),) if task is NUMBER else (len(ROWS), len(task.classes)))
    changed[FOLDS[0][0]] = 1 - changed[FOLDS[0][0]]
    other = tuned(mode, model, windows, changed, task, folds=FOLDS[:1]).predictions
    assert not np.array_equal(other, found, equal_nan=True)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_training_learns_what_holds_for_people_it_has_not_seen(mode, model, windows) -> None:
    found = tuned(mode, model, windows, folds=FOLDS[:1], epochs=24, rate=3e-3 if mode == "lora" else 1e-3).predictions
    tested = FOLDS[0][1]
    assert (found[tested].argmax(1) == Y[tested]).mean() > 0.8


def test_a_quantity_is_predicted_in_its_unit(model, windows) -> None:
    y = 50.0 + 10 * (ROWS // EACH // 2) + 80 * Y
    found = tuned("full", model, windows, y, NUMBER, folds=FOLDS[:1], epochs=12, rate=3e-3).predictions
    tested = FOLDS[0][1]
    assert np.abs(found[tested] - y[tested]).mean() < 0.6 * np.abs(y.mean() - y[tested]).mean()


def test_scratch_knows_nothing_of_the_model_and_the_others_do(model, windows, tiny) -> None:
    other = masked.build(tiny(), seed=6).eval()
    for mode in MODES:
        a, b = (tuned(mode, net, windows).predictions for net in (model, other))
        assert np.array_equal(a, b, equal_nan=True) == (mode == "scratch")


def test_parameters_are_counted_that_the_loss_reaches(model, windows, tiny) -> None:
    head = 2 * 64 + 2
    encoder = sum(p.numel() for p in model.encoder.parameters())
    assert tuned("full", model, windows).parameters == tuned("scratch", model, windows).parameters == encoder + head
    assert tuned("lora", model, windows, rank=5).parameters == 2 * 5 * (64 + 96 + 64) + head
    deep = dataclasses.replace(OPTIONS, layer=-2)
    below = Tuner(model, deep, Schedule(1), ["full"], CPU).run("full", windows, Y, BINARY, FOLDS, seed=0, progress=silent())
    unused = sum(p.numel() for part in (model.encoder.blocks[-1], model.encoder.norm) for p in part.parameters())
    assert below.parameters == encoder - unused + head


@pytest.mark.parametrize(
    ("layer", "shares"), [(-1, {"embed": 0.75**3, "0": 0.75**2, "1": 0.75}), (-2, {"embed": 0.75**2, "0": 0.75})]
)
def test_the_rate_falls_layer_by_layer(layer, shares, model, windows) -> None:
    net = Tuned(model, dataclasses.replace(OPTIONS, layer=layer), 2)
    torch.nn.init.normal_(net.head.weight)  # a head of zeros passes no gradient on
    net(windows, windows.of[:4]).square().sum().backward()
    factor = {p: group["factor"] for group in optimizer_of(net, 0.75).param_groups for p in group["params"]}
    decays = {p: group["weight_decay"] for group in optimizer_of(net, 0.75).param_groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        if parameter.grad is None:
            assert parameter not in factor
            continue
        place = name.split(".")[3] if ".blocks." in name else "embed" if ".embed_" in name else "head"
        assert factor[parameter] == pytest.approx(shares.get(place, 1.0)), name
        assert (decays[parameter] > 0) == (parameter.ndim > 1)
    net.zero_grad()
    assert {place for place in shares if any(f == pytest.approx(shares[place]) for f in factor.values())} == set(shares)


def test_classes_and_labels_weigh_alike_however_rare() -> None:
    """With equal outputs for all rows the gradients of a balanced loss cancel."""
    y = np.array([0] * 9 + [1] * 3 + [2])
    rows = np.arange(len(y))
    several = np.stack([y == 0, y == 1, y == 2], 1).astype(int)
    for labels, task in ((y, Task("multiclass", "t", ("a", "b", "c"))), (several, Task("multilabel", "t", ("a", "b", "c")))):
        out = torch.zeros(len(y), 3, requires_grad=True)
        aim = target(labels, rows, task, CPU)
        aim.loss(out, rows).backward()
        torch.testing.assert_close(out.grad.sum(0), torch.zeros(3), rtol=0, atol=1e-6)
        assert out.grad[-1].abs().max() > 2 * out.grad[0].abs().max()
        np.testing.assert_allclose(aim.predict(torch.zeros(2, 3)), 1 / 3 if task.kind == "multiclass" else 0.5)
    number = target(np.array([2.0, 4.0, 90.0]), np.array([0, 1]), NUMBER, CPU)
    np.testing.assert_allclose(number.predict(torch.tensor([[-1.0], [0.0], [1.0]])), [2, 3, 4])


def test_the_rate_warms_up_and_comes_down() -> None:
    found = [share(step, 100) for step in range(100)]
    assert found[9] == 1 == max(found) and found[0] == pytest.approx(0.1) and found[-1] < 0.02
    assert all(a > b for a, b in itertools.pairwise(found[10:]))


@pytest.mark.parametrize(("rows", "steps"), [(3, 40), (34, 304), (90, 304), (720, 315), (20_000, 1250)])
def test_the_default_is_a_few_hundred_steps(rows, steps) -> None:
    assert Plan.of(rows, None).steps == steps
    assert Plan.of(rows, 2).steps == 2 * Plan.of(rows, 1).steps


def test_rows_that_cannot_be_read_are_predicted_without_windows_and_train_nothing(people, tiny, model, tmp_path) -> None:
    for index in range(PEOPLE):
        record(tmp_path, f"s{index}", ("I", "II"), 4.2, seed=index)
    items = inputs.gather([str(tmp_path)]).items
    rows = whole(items, [(0, 2), (2, 4)])
    (tmp_path / "s0.dat").unlink()
    found = Windows(rows, {str(i.path): i for i in items}, tiny(), OPTIONS, silent())
    assert [len(of) for of in found.of] == [0, 0] + [1] * 10
    assert [Path(f.path).name for f in rows.failures] == ["s0.hea"]
    y = np.arange(12) % 2
    folds = [(np.arange(6, 12), np.arange(6)), (np.arange(6), np.arange(6, 12))]
    tuner = Tuner(model, OPTIONS, Schedule(1), ["full"], CPU)
    assert np.isfinite(tuner.run("full", found, y, BINARY, folds, seed=0, progress=silent()).predictions).all()
    with pytest.raises(ToolkitError, match="Fold 1 of 1 has no training row"):
        tuner.run("full", found, y, BINARY, [(np.arange(2), np.arange(2, 12))], seed=0, progress=silent())


def test_long_intervals_train_on_some_of_their_windows_and_are_predicted_by_all(model, people, tiny, monkeypatch) -> None:
    short = dataclasses.replace(OPTIONS, window=0.5)
    rows = whole(people, [(0, 8)])
    found = Windows(rows, {str(i.path): i for i in people}, tiny(), short, silent())
    assert {len(of) for of in found.of} == {16}
    taken: list[int] = []
    read = found.groups
    monkeypatch.setattr(found, "groups", lambda numbers, device: taken.append(len(numbers)) or read(numbers, device))
    net = Tuned(model, short, 2)
    aim = target(np.arange(6) % 2, np.arange(6), BINARY, CPU)
    train(net, found, aim, np.arange(6), Plan(1, 6), rate=1e-4, decay=1.0, seed=0, said=lambda _: None)
    assert taken == [8] * 6
    taken.clear()
    net.outputs(found, found.of)
    assert sum(taken) == 6 * 16


def test_a_convnet_is_trained_whole_and_has_no_adapters(people) -> None:
    recipe = recipes.resolve("spark", domain="cardiac", size="tiny", flags={"data.window_s": 2.0})
    net = masked.build(recipe).eval()
    with pytest.raises(UsageError, match="convnet"):
        Tuner(net, OPTIONS, Schedule(1), ["lora", "full"], CPU)
    options = dataclasses.replace(OPTIONS, window=recipe.data.window)
    found = Windows(whole(people, [(2, 4)]), {str(i.path): i for i in people}, recipe, options, silent())
    folds = [(np.arange(4), np.arange(4, 6))]
    done = Tuner(net, options, Schedule(1), ["full"], CPU).run(
        "full", found, np.arange(6) % 2, BINARY, folds, seed=0, progress=silent()
    )
    assert np.isfinite(done.predictions[4:]).all()
    assert done.parameters == sum(p.numel() for p in net.encoder.parameters()) + 2 * 2 * recipe.encoder.width + 2


def test_a_rank_that_no_matrix_has_is_refused(model) -> None:
    with pytest.raises(UsageError, match="33 .* at most 32"):
        Tuner(model, OPTIONS, Schedule(rank=33), ["lora"], CPU)


def test_a_loss_that_explodes_is_named(model, windows) -> None:
    with pytest.raises(ToolkitError, match="step 2.*--learning-rate"):
        tuned("full", model, windows, epochs=2, rate=1e30)


def test_pretrained_batch_statistics_stay_and_those_of_random_weights_are_found(tmp_path) -> None:
    recipe = small("point-cmae", tokenizer__norm="batch", **{"encoder.class_token": True})
    items = inputs.gather([str(make("point-cmae", tmp_path))]).items
    net, options = masked.build(recipe).eval(), Options("window", recipe.data.window, recipe.data.window, -1, "mean")
    found = Windows(whole(items, [(0, 300)]), {str(i.path): i for i in items}, recipe, options, silent())
    rows = np.arange(len(items))
    moved = {}
    for mode in MODES:
        tuned_net = Tuner(net, options, Schedule(1), [mode], CPU)._start(mode, found, 2, rows)
        before = {name: value.clone() for name, value in tuned_net.named_buffers() if "running_" in name}
        assert before
        train(tuned_net, found, target(rows % 2, rows, BINARY, CPU), rows, Plan(1, 1), rate=1e-4, decay=1.0, seed=0, said=print)
        after = dict(tuned_net.named_buffers())
        moved[mode] = any(not torch.equal(after[name], value) for name, value in before.items())
    assert moved == {"lora": False, "full": False, "scratch": True}
