"""Heads on frozen tokens: what they compute, what they find that a pooled vector loses, and what must not matter to them."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from readers import open_recording
from tests.ecg import record
from toolkit.embedding.encoder import Options, RecordingEncoder
from toolkit.model.folder import LoadedModel
from toolkit.probing.folds import make_folds
from toolkit.probing.heads import Effort
from toolkit.probing.protocol import ProbeResult, run_probe
from toolkit.probing.task import Task
from toolkit.probing.token_heads import (
    PROTOTYPES,
    TOKEN_HEADS,
    Attentive,
    Prototypes,
    Tokens,
    asymmetric,
    attentive,
    prototypes,
)

THREE = Task("multiclass", "species", ("a", "b", "c"))
NUMBER = Task("regression", "hr", ())
WIDTH, LENGTH = 64, 40
BIRDS = Task("multilabel", "species", ("a", "b", "c", "d"))


def calls(labels: np.ndarray, seed: int, *, loud: float = 5.0) -> Tokens:
    """Noise tokens with a large common offset; each species of a row (N, K) calls in one token, which others may share."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(99).normal(size=(WIDTH, labels.shape[1])))[0].T
    rows = []
    for present in labels:
        tokens = rng.normal(size=(LENGTH - int(rng.integers(0, 8)), WIDTH)) + 20
        for k in np.flatnonzero(present):
            tokens[rng.integers(0, len(tokens))] += loud * directions[k]
        rows.append(tokens.astype(np.float32))
    return Tokens(rows)


def probed(features: dict, y: np.ndarray, task: Task, head: str) -> ProbeResult:
    groups = np.arange(len(y)) % 12
    folds, _ = make_folds(groups, y, task, folds=3)
    return run_probe(features, y, task, groups, folds, head=head, bootstrap=0)


def row_of(result: ProbeResult, metric: str) -> dict:
    return next(row for row in result.rows if row["name"] == "m" and row["metric"] == metric)


def test_prototypes_beat_linear_probing_on_localised_calls(capsys: pytest.CaptureFixture[str]) -> None:
    """One call among 48 tokens decides: the mean hardly moves, some token does. Same frozen tokens, whole groups held out."""
    y = np.arange(180) % 3
    tokens = calls(np.eye(3, dtype=int)[y], seed=0, loud=7.0)
    found = {
        head: row_of(probed({"m": x}, y, THREE, head), "balanced_accuracy")
        for head, x in (("linear", tokens.pooled()), ("prototypes", tokens), ("attentive", tokens))
    }
    for head, row in found.items():
        with capsys.disabled():
            print(f"\n{head:10} balanced accuracy {row['value']:.3f}, {row['parameters']} trainable parameters", end="")
    assert found["prototypes"]["value"] > 0.8
    assert found["prototypes"]["value"] > found["linear"]["value"] + 0.2
    assert found["linear"]["parameters"] == 3 * (WIDTH + 1)
    assert found["prototypes"]["parameters"] == PROTOTYPES * 3 * WIDTH + PROTOTYPES * 3 + 3


def test_mean_average_precision_of_overlapping_species() -> None:
    """Up to four species call at once, some in the same token; the metric against scikit-learn's."""
    y = (np.random.default_rng(3).random((180, 4)) < [0.5, 0.35, 0.25, 0.15]).astype(int)
    assert (y.sum(axis=1) > 1).mean() > 0.3 and (y.sum(axis=1) == 0).any()
    tokens = calls(y, seed=1, loud=7.0)
    result = probed({"m": tokens}, y, BIRDS, "prototypes")
    value = row_of(result, "map")["value"]
    assert value == pytest.approx(average_precision_score(y, result.predictions["m"], average="macro"))
    linear = row_of(probed({"m": tokens.pooled()}, y, BIRDS, "linear"), "map")["value"]
    assert value > 0.8 and value > linear + 0.3


def test_logits_of_prototypes_by_plain_loops() -> None:
    head = Prototypes(5, 2, torch.Generator().manual_seed(0))
    head.weight.data = torch.randn(2, PROTOTYPES, generator=torch.Generator().manual_seed(1))
    tokens = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(2))
    logits = head(tokens, torch.tensor([[True, True, True, False]]))[0]
    for k in range(2):
        total = -2.0
        for j in range(PROTOTYPES):
            p = head.prototypes[k, j].detach().numpy()
            cosines = [float(z @ p / np.linalg.norm(z) / np.linalg.norm(p)) for z in tokens[0, :3].numpy()]
            total += max(float(head.weight[k, j]), 0) * max(max(cosines), 0) / 1.01
        assert float(logits[k]) == pytest.approx(total, abs=1e-5)


def test_the_orthogonality_penalty_is_a_mean_square() -> None:
    head = Prototypes(32, 2, torch.Generator().manual_seed(0))
    head.prototypes.data = torch.eye(32)[:PROTOTYPES].repeat(2, 1, 1)
    assert float(head.penalty()) == pytest.approx(0, abs=1e-12)
    head.prototypes.data = torch.ones_like(head.prototypes)
    assert float(head.penalty()) == pytest.approx((PROTOTYPES - 1) / PROTOTYPES, rel=1e-5)


def test_attention_by_plain_loops_and_its_parameters() -> None:
    width = 128
    head = Attentive(width, 3, torch.Generator().manual_seed(0))
    head.query.data *= 50
    assert sum(p.numel() for p in head.parameters()) == 2 * width**2 + width + 2 * width + 3 * (width + 1)
    tokens = torch.randn(1, 5, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got = head(tokens, torch.tensor([[True] * 4 + [False]]))[0].numpy()
        z, key, value, query = (t.numpy() for t in (tokens[0, :4], head.key.weight, head.value.weight, head.query))
    pooled = []
    for h in range(2):
        part = slice(64 * h, 64 * h + 64)
        scores = (z @ key.T)[:, part] @ query[part] / 8
        share = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        pooled.append(share @ (z @ value.T)[:, part])
    read = np.concatenate(pooled)
    read = (read - read.mean()) / np.sqrt(read.var() + 1e-5)
    np.testing.assert_allclose(got, head.out.weight.detach().numpy() @ read, atol=1e-4)


def test_the_asymmetric_loss_by_its_formula() -> None:
    p = np.array([0.9, 0.03, 0.4])
    got = float(asymmetric(torch.tensor(np.log(p / (1 - p))), torch.tensor([1.0, 0.0, 0.0])))
    # A wrong guess of 3 % lies within the margin of 5 % and costs nothing.
    expected = -(0.1 * np.log(0.9) + 0 + 0.35**4 * np.log(0.65)) / 3
    assert got == pytest.approx(expected, rel=1e-6)


def fitted(head: str, x: Tokens, y: np.ndarray, test: Tokens, task: Task = THREE, seed: Sequence[int] = (0,)) -> np.ndarray:
    return TOKEN_HEADS[head](x, y, test, task, seed, Effort())


@pytest.mark.parametrize("head", sorted(TOKEN_HEADS))
def test_what_a_prediction_depends_on(head: str) -> None:
    """On the seed and the tokens of its own row, not on their order, on longer rows beside it, or on how large numbers are."""
    y = np.arange(30) % 3
    x = calls(np.eye(3, dtype=int)[y], seed=2)
    test = calls(np.eye(3, dtype=int)[:2], seed=3)
    plain = fitted(head, x, y, test)
    np.testing.assert_array_equal(fitted(head, x, y, test), plain)
    assert np.abs(fitted(head, x, y, test, seed=(1,)) - plain).max() > 1e-6
    turned = Tokens([row[::-1].copy() for row in test.rows])
    np.testing.assert_allclose(fitted(head, x, y, turned), plain, atol=1e-5)
    beside = Tokens([*test.rows, np.full((200, WIDTH), 1e3, np.float32)])
    np.testing.assert_allclose(fitted(head, x, y, beside)[:2], plain, atol=1e-5)
    scaled = [Tokens([row * 64 - 1000 for row in part.rows]) for part in (x, test)]
    np.testing.assert_allclose(fitted(head, scaled[0], y, scaled[1]), plain, atol=0.02)


@pytest.mark.parametrize("head", sorted(TOKEN_HEADS))
def test_absent_classes_and_rows_without_tokens(head: str) -> None:
    y = np.arange(24) % 2
    x = calls(np.eye(3, dtype=int)[y], seed=4)
    empty = np.zeros((0, WIDTH), np.float32)
    p = fitted(head, Tokens([*x.rows, empty]), np.append(y, 0), Tokens([x.rows[0], empty]))
    assert np.all(p[:, 2] == 0) and np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    many = np.column_stack([y, np.zeros(24, int), np.ones(24, int)])
    p = fitted(head, x, many, Tokens([x.rows[0], empty]), Task("multilabel", "species", ("a", "b", "c")))
    assert p.shape == (2, 3) and np.all(p[:, 1] == 0) and np.all(p[:, 2] == 1)


def test_prototypes_see_tokens_less_the_class_state_and_attention_does_not() -> None:
    y = np.arange(30) % 3
    x = calls(np.eye(3, dtype=int)[y], seed=5)
    shift = np.random.default_rng(0).integers(-8, 8, size=(30, WIDTH)).astype(np.float32)
    moved = Tokens([row + s for row, s in zip(x.rows, shift, strict=True)], shift)
    plain = prototypes(x, y, x.take(np.arange(3)), THREE, (0,), Effort())
    np.testing.assert_allclose(prototypes(moved, y, moved.take(np.arange(3)), THREE, (0,), Effort()), plain, atol=0.02)
    seen = attentive(moved, y, moved.take(np.arange(3)), THREE, (0,), Effort())
    assert np.abs(seen - attentive(x, y, x.take(np.arange(3)), THREE, (0,), Effort())).max() > 1e-4


def test_attention_predicts_numbers_in_their_unit() -> None:
    rng = np.random.default_rng(0)
    y = rng.uniform(60, 100, 80)
    rows = [np.append(rng.normal(size=(9, 8)), [[9, (each - 80) / 2, *np.zeros(6)]], axis=0).astype(np.float32) for each in y]
    guess = attentive(Tokens(rows), y, Tokens(rows), NUMBER, (0,), Effort())
    assert np.abs(guess - y).mean() < 4  # the mean is off by 10


def test_tokens_of_an_interval_are_those_that_its_vector_is_the_mean_of(loaded: LoadedModel, tmp_path) -> None:
    recording = open_recording(record(tmp_path, "r", ["I", "II"], seconds=7))
    spans = np.array([[0.0, 2.0], [3.1, 3.6], [1.0, 6.0], [30.0, 31.0]])
    encoder = RecordingEncoder(loaded.model, loaded.recipe, Options("window", 2.0, 2.0, -1, "mean"), torch.device("cpu"))
    rows, state = encoder.interval_tokens(recording, spans, 1000)
    assert state is None and [len(row) for row in rows] == [40, 10, 100, 0]
    vectors = encoder.intervals(recording, spans)
    for i in (0, 1):
        np.testing.assert_allclose(rows[i].mean(axis=0), vectors[i], atol=1e-5)
    some, _ = encoder.interval_tokens(recording, spans, 15)
    assert [len(row) for row in some] == [15, 10, 15, 0]
    assert all((rows[0] == token).all(axis=1).any() for token in some[0])
