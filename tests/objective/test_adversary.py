"""The adversary that tells subjects apart: what it does to gradients, and what is left of the subject afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.objective.makers import CPU, SUBJECTS, channel, engine, small, synthetic
from toolkit.corpus.batches import Batch
from toolkit.objective.objective import Objective
from toolkit.recipe import Recipe

DOMAINS = ("cardiac", "points")


def adversary(domain: str, scale: float | None) -> Recipe:
    """Only the term on the subject, with a gate of that scale or without one."""
    term = {"name": "subject", "predictor": "pool", "pool": "mean", "target": "subject", "loss": "ce"}
    gate = {} if scale is None else {"gate": "reverse", "gate_scale": scale}
    return small("iat", domain, terms=[term | gate])


def gradients(recipe: Recipe) -> tuple[Objective, float]:
    objective = engine(recipe)
    loss = objective(synthetic(recipe), 0, CPU).loss
    loss.backward()
    return objective, float(loss.detach())


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_encoder_s_gradient_is_turned_and_scaled_and_the_classifier_s_is_not(domain, scale):
    (plain, loss), (gated, same) = gradients(adversary(domain, None)), gradients(adversary(domain, scale))
    assert loss == same
    pairs = list(zip(plain.model.encoder.parameters(), gated.model.encoder.parameters(), strict=True))
    moved = [(a.grad, b.grad) for a, b in pairs if a.grad is not None]
    assert len(moved) == len(pairs) and any(a.abs().max() > 1e-4 for a, _ in moved)
    assert all(torch.equal(b, -scale * a) for a, b in moved)  # powers of two: exact in any order
    for a, b in zip(plain.targets[0].classify.parameters(), gated.targets[0].classify.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad) and a.grad.abs().max() > 1e-4


def test_a_gate_that_stops_leaves_the_encoder_alone():
    recipe = adversary("eeg", None)
    table = recipe.terms[0].model_copy(update={"gate": "stop"})
    objective, _ = gradients(recipe.model_copy(update={"terms": (table,)}))
    assert all(p.grad is None for p in objective.model.encoder.parameters())
    assert objective.targets[0].classify.weight.grad.abs().max() > 1e-4


def test_the_reconstruction_s_gradient_is_not_turned():
    """Both terms of the recipe: the sum of reconstruction's own gradient and the turned one, to rounding."""
    whole = small("iat", "cardiac")
    parts = [whole.model_copy(update={"terms": (term,)}) for term in whole.terms]
    both, alone = engine(whole), engine(parts[0])
    alone.model.encoder.load_state_dict(both.model.encoder.state_dict())
    alone.model.branches["reconstruction"].load_state_dict(both.model.branches["reconstruction"].state_dict())
    batch = synthetic(whole)
    scored = both(batch, 0, CPU)
    found = []
    for term in scored.terms.values():
        both.zero_grad()
        term.loss.backward(retain_graph=True)
        found.append([p.grad.clone() for p in both.model.encoder.parameters()])
    both.zero_grad()
    scored.loss.backward()
    alone(batch, 0, CPU).loss.backward()
    triples = zip(both.model.encoder.parameters(), *found, strict=True)
    assert all(torch.allclose(p.grad, first + second, atol=1e-6) for p, first, second in triples)
    plain = zip(alone.model.encoder.parameters(), found[0], strict=True)
    assert all(torch.allclose(p.grad, first, atol=1e-6) for p, first in plain)


# What is left of the subject, by a fresh probe on other sessions.


@dataclass(frozen=True)
class Sessions:
    """A batch of one session a sample, whose each is and what happens in it, int (B,)."""

    batch: Batch
    who: NDArray[np.int64]
    label: NDArray[np.int64]


def sessions(seed: int, size: int = 64) -> Sessions:
    """Each subject's electrode has an offset of its own; the label is the pitch of a rhythm; a fast rhythm says nothing."""
    rng, time = np.random.default_rng(seed), np.arange(120) / 100
    who, label = np.arange(size) % len(SUBJECTS), rng.integers(0, 2, size)

    def rhythm(pitch: NDArray, low: float, high: float) -> NDArray:
        return rng.uniform(low, high, (size, 1)) * np.sin(2 * np.pi * (pitch[:, None] * time + rng.random((size, 1))))

    told = rhythm(np.where(label, 2.0, 8.0), 0.5, 1.5) + rhythm(rng.uniform(12, 20, size), 0.3, 1.7)
    offset = 0.2 * (who - 1.5)[:, None] + 0.05 * rng.normal(size=(size, 1))
    values = (told + offset + 0.1 * rng.normal(size=told.shape))[:, None].astype(np.float32)
    about = ((channel("Cz", "eeg", (0.0, 0.0, 0.1)),),) * size
    batch = Batch(values, np.ones(values.shape, bool), about, ("",) * size, tuple(SUBJECTS[k] for k in who))
    return Sessions(batch, who, label)


def decoded(objective: Objective) -> tuple[float, float]:
    """Accuracy on 256 sessions of a linear probe fitted on 256 others: of the subject (chance .25), of the label (.5)."""
    embeddings, parts = [], [[sessions(first + k) for k in range(4)] for first in (1000, 2000)]
    for part in parts:
        with torch.no_grad():
            tokens = [objective.tokenizer.tokenize(each.batch) for each in part]
            embeddings.append(torch.cat([objective.model.features(each).last.mean(1) for each in tokens]).numpy())
    scores = []
    for name in ("who", "label"):
        known, asked = (np.concatenate([getattr(each, name) for each in part]) for part in parts)
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(embeddings[0], known)
        scores.append(float(probe.score(embeddings[1], asked)))
    return scores[0], scores[1]


def trained(recipe: Recipe, steps: int = 160) -> Objective:
    """Training in which the adversary keeps up: its classifier takes three steps, at a higher rate, to the encoder's one."""
    objective, corpus = engine(recipe), [sessions(seed).batch for seed in range(64)]
    against = [p for target in objective.targets for p in target.parameters()]
    adam = torch.optim.AdamW(objective.model.parameters(), lr=3e-3, betas=(0.0, 0.95))
    quick = torch.optim.AdamW(against, lr=3e-2, betas=(0.0, 0.95)) if against else None
    for step in range(steps):
        for group, rate in [(adam, 3e-3)] + ([(quick, 3e-2)] if quick else []):
            group.param_groups[0]["lr"] = rate * (1 - step / steps)
        for inner in range(3 if quick else 0):
            objective(corpus[(7 * step + 3 * inner + 1) % 64], step, CPU).terms["subject"].loss.backward()
            quick.step()
            objective.zero_grad()
        objective(corpus[step % 64], step, CPU).loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        adam.step()
        if quick:
            quick.step()
        objective.zero_grad()
    return objective


PLAIN: dict[str, object] = {  # the blocks, places and steps that the thresholds below were seen with
    "data__scaling": "kind",
    "position": {"longest": (0.5, 0.5, 0.5, 20), "shortest": (0.03, 0.03, 0.03, 0.25), "rotary": ("t",)},
    "encoder__norm": "layer",
    "encoder__activation": "gelu",
    "encoder__bias": "all",
    "encoder__final_norm": True,
    "encoder__channels": "code",
    "encoder__init": "xavier",
    "decoder": {"width": 32, "depth": 1, "heads": 2, "head_width": 16, "mlp": 64},
    "optimizer": {"learning_rate": 3e-3, "betas": (0.92, 0.999), "weight_decay": 0.01},
    "embedding": {"layer": -2, "pool": "meanmax"},
    "mask": {"ratio": 0.55, "ways": {"spans": 1.0, "gaps": 0.3, "groups": 0.5}, "span_patches": (1, 6)},
}


def test_the_adversary_takes_the_subject_out_of_the_embedding_and_leaves_the_label():
    narrow = {"encoder__width": 8, "encoder__head_width": 4, "encoder__mlp": 16, "encoder__depth": 1}
    recipe = small("iat", "eeg", terms__0__target="patch_norm", terms__1__gate_scale=10.0, **narrow, **PLAIN)
    subject_before, label_before = decoded(engine(recipe))
    subject_without, _ = decoded(trained(recipe.model_copy(update={"terms": recipe.terms[:1]})))
    subject, label = decoded(trained(recipe))
    assert subject_before > 0.6  # chance is .25
    assert subject < subject_before - 0.2 and subject < subject_without - 0.1
    assert label > max(0.7, label_before - 0.05)
