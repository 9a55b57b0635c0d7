"""Every recipe made very small on every domain, and batches of the domains without a file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from readers.schema import Channel
from toolkit import recipe as recipes
from toolkit.corpus.batches import Batch
from toolkit.model import masked, tokenizers
from toolkit.model.tokens import TokenSet
from toolkit.objective.image_teacher import ImageTeacher
from toolkit.objective.masks import Mask, MaskSampler
from toolkit.objective.objective import Objective
from toolkit.objective.scale import step_generator
from toolkit.recipe import Recipe

CPU = torch.device("cpu")
DOMAINS = tuple(recipes.SYSTEMS)
ROWS = [(name, domain) for name in recipes.names() for domain in recipes.domains_of(name)]
SUBJECTS = ("a", "b", "c", "d")
BLOCKS: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "head_width": 16, "mlp": 64}
DECODER: dict[str, Any] = BLOCKS | {"depth": 1}
BACKBONES: dict[str, dict[str, Any]] = {
    "convnet": {"width": 32, "blocks": 1},
    "pyramid": {"widths": (16, 24, 32), "depths": (1, 1, 1), "steps": (2, 2), "neighbours": (4, 4), "heads": 2},
}
CUT: dict[str, dict[str, Any]] = {
    "signal": {"data.rate_hz": 100.0, "data.window_s": 1.2, "tokenizer.patch": 10, "tokenizer.stride": 0},
    "spectrogram": {"data.rate_hz": 8000.0, "data.window_s": 0.5, "tokenizer.mels": 64},
    "volume": {"data.spacing_mm": 4.0, "data.window_mm": 48.0, "tokenizer.patch": 4},
    "points": {"data.points": 128, "tokenizer.centres": 16, "tokenizer.neighbours": 8},
    "voxels": {"data.points": 128, "tokenizer.side": 12, "tokenizer.patch": 4},
}


def small(name: str, domain: str, **changes: Any) -> Recipe:
    """A recipe made very small; keywords override a table's key: small("mae", "eeg", training__steps=3)."""
    whole = recipes.resolve(name, size="tiny", domain=domain)
    flags: dict[str, Any] = {f"decoder.{key}": value for key, value in DECODER.items()} | CUT[whole.tokenizer.kind]
    flags |= {f"encoder.{key}": value for key, value in BACKBONES.get(whole.encoder.kind, BLOCKS).items()}
    flags |= {"mask.neighbourhoods": 4} if whole.mask.neighbourhoods else {}
    if whole.tokenizer.kind == "points" and any(one.fill != ("drop",) for one in whole.passes):
        flags["tokenizer.norm"] = "layer"  # norms over the batch mix whatever enters, by their nature
    flags |= {f"terms.{k}.depth": min(2, term.depth) for k, term in enumerate(whole.terms) if term.depth}
    flags |= {f"terms.{k}.codes": 16 for k, term in enumerate(whole.terms) if term.codes}
    flags |= {"training.steps": 80, "training.batch_size": 8, "training.seed": 3, "optimizer.learning_rate": 3e-3}
    flags |= {key.replace("__", "."): value for key, value in changes.items()}
    return recipes.resolve(name, size="tiny", domain=domain, flags=flags)


def synthetic(recipe: Recipe, seed: int = 0, size: int = 8, channels: int = 3) -> Batch:
    """A batch of what the recipe takes, its samples of four subjects, with a second window of each."""
    first, second = (_batch(recipe, np.random.default_rng([seed, view]), size, channels) for view in (0, 1))
    return replace(first, other=second)


def _batch(recipe: Recipe, rng: np.random.Generator, size: int, channels: int) -> Batch:
    values, about = MAKERS[recipe.data.axes](recipe, rng, size, channels)
    subjects = tuple(SUBJECTS[k % len(SUBJECTS)] for k in range(size))
    sources = tuple(f"record-{k}" for k in range(size))
    return Batch(values.astype(np.float32), np.ones(values.shape, bool), (about,) * size, sources, subjects)


def channel(name: str, kind: str, position: tuple[float, float, float] | None = None) -> Channel:
    """A channel of that name."""
    return Channel(name, name, kind, None, None, None, position)


Made = tuple[NDArray[np.float64], tuple[Channel, ...]]


def _signals(recipe: Recipe, rng: np.random.Generator, size: int, channels: int) -> Made:
    """Two rhythms a sample, which the channels share in their own amounts, on a little noise."""
    assert recipe.data.axes == "signal"
    kind, rate = recipe.data.kinds[0], recipe.data.rate_hz
    channels = 1 if recipe.data.downmix else channels
    time = np.arange(round(recipe.data.window_s * rate)) / rate
    highest = 0.1 * rate if recipe.tokenizer.kind == "spectrogram" else 12.0
    pitch = np.linspace(0.3, 1, 2) * highest * rng.uniform(0.8, 1.0, (size, 2))
    waves = np.sin(2 * np.pi * (pitch[..., None] * time + rng.random((size, 2, 1))))
    share = np.random.default_rng(0).uniform(-1, 1, (channels, 2))
    values = np.einsum("cw,bwt->bct", share, waves) + 0.1 * rng.normal(size=(size, channels, len(time)))
    angles = np.arange(channels) * 2.0
    places = [(0.1 * np.cos(a), 0.1 * np.sin(a), 0.02 * a) for a in angles]
    names = ("I", "V2", "V5", "Cz")
    level = 0.3 if recipe.tokenizer.kind == "spectrogram" else 1.0
    return level * values, tuple(channel(names[k], kind, places[k]) for k in range(channels))


def _volumes(recipe: Recipe, rng: np.random.Generator, size: int, channels: int) -> Made:
    """A bright ball in each, in two contrasts that differ in which of its halves is brighter."""
    assert recipe.data.axes == "volume"
    side = round(recipe.data.window_mm / recipe.data.spacing_mm)
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij"))
    middle = rng.uniform(-0.3, 0.3, (size, 3, 1, 1, 1))
    far = np.sqrt(((axes - middle) ** 2).sum(1))
    ball = 1 / (1 + np.exp(8 * (far - 0.8)))
    values = np.stack([ball * (1 + sign * axes[0]) for sign in (0.6, -0.6)], axis=1)
    about = tuple(channel(name, name) for name in recipe.data.kinds[:2])
    return values + 0.05 * rng.normal(size=values.shape), about


def _clouds(recipe: Recipe, rng: np.random.Generator, size: int, channels: int) -> Made:
    """Points on ellipsoids in the unit sphere."""
    assert recipe.data.axes == "points"
    points = rng.normal(size=(size, 3, recipe.data.points))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points * rng.uniform(0.3, 1, (size, 3, 1)), tuple(channel(axis, "xyz") for axis in "xyz")


MAKERS: dict[str, Callable[[Recipe, np.random.Generator, int, int], Made]] = {
    "signal": _signals,
    "volume": _volumes,
    "points": _clouds,
}


def engine(recipe: Recipe, batches: Sequence[Batch] = (), *, seed: int | None = None) -> Objective:
    """An objective over a fresh model, ready to score batches; a frozen teacher has random weights of its own."""
    frozen = masked.build(recipe, seed=99).encoder if recipe.teacher is not None and recipe.teacher.kind == "frozen" else None
    model, tokenizer = masked.build(recipe, seed), tokenizers.build(recipe)
    objective = Objective(recipe, model, tokenizer, SUBJECTS, frozen, pictures=pictures(recipe)).train()
    if objective.wants_batches:
        objective.fit(batches or [synthetic(recipe, seed=100 + k) for k in range(2)])
    return objective


class Strokes(nn.Module):
    """A model of pictures: how bright the quarters of a tile of 16 pixels are beside one another, in random mixtures."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(12, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight", weight - weight.mean((2, 3), keepdim=True))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        quarters = torch.nn.functional.avg_pool2d(pictures[:, :1], 8)
        maps = torch.nn.functional.conv2d(quarters, self.weight)
        return maps, maps.norm(dim=1)


def pictures(recipe: Recipe) -> ImageTeacher | None:
    """The teacher of pictures of a recipe that has one."""
    shown = recipe.teacher is not None and recipe.teacher.kind == "image"
    return ImageTeacher(Strokes(), width=12, side=32) if shown else None


def tokens_of(recipe: Recipe, batch: Batch) -> TokenSet:
    """The batch through the recipe's tokenizer."""
    return tokenizers.build(recipe).tokenize(batch)


def mask_of(recipe: Recipe, number: int, tokens: TokenSet, seed: int = 0) -> Mask:
    """A mask of a pass."""
    return MaskSampler(recipe.mask_of(number), recipe.tokenizer.channels).sample(tokens, step_generator(seed, 0))


def train(objective: Objective, batches: Sequence[Batch], steps: int, rate: float = 3e-3) -> list[dict[str, float]]:
    """Steps of AdamW over the batches in turn: the loss and that of each term, step by step."""
    adam = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=rate)
    found = []
    for step in range(steps):
        scored = objective(batches[step % len(batches)], step, CPU)
        adam.zero_grad(set_to_none=True)
        scored.loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        adam.step()
        objective.after_step(step)
        levels = {f"trivial {name}": float(term.trivial) for name, term in scored.terms.items()}
        found.append(
            {"loss": float(scored.loss.detach())} | {n: float(t.loss.detach()) for n, t in scored.terms.items()} | levels
        )
    return found


@functools.cache
def ready(name: str, domain: str) -> tuple[Recipe, Objective, Batch]:
    """A small recipe, its untrained objective and a batch; shared, not to be written to."""
    recipe = small(name, domain)
    batch = synthetic(recipe)
    return recipe, engine(recipe, [batch]), batch
