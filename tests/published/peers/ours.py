"""Our side of the comparison: a recording of a peer (peers/*.py) beside what our model makes of the same weights and inputs.

Each function yields (what is compared, ours, theirs), for every case of the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from readers.schema import Channel
from tests.published.peers import fabricate
from toolkit.corpus.batches import Batch
from toolkit.model import masked, tokenizers
from toolkit.model.masked import MaskedModel
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokenizers.spectrogram import SpectrogramPatches
from toolkit.model.tokens import TokenSet
from toolkit.published import bm_mae, point_mae, read, reve
from toolkit.published.base import Release
from toolkit.recipe import SpectrogramTokens

Compared = Iterator[tuple[str, Tensor, Tensor]]


def state_of(about: dict, **given: np.ndarray) -> dict[str, Tensor]:
    """The state dict that a recording was made with: fabricated, but for tables that are ``given`` by the end of their names."""
    made = fabricate.weights(about["shapes"])
    for end, value in given.items():
        made |= {name: value for name in made if name.endswith(end)}
    return {name: torch.from_numpy(np.asarray(value)) for name, value in made.items()}


def imported(state: dict[str, Tensor], release: Release) -> MaskedModel:
    """Our model with the weights of a released state dict."""
    converted = read.convert_state(state, release)
    model = masked.build(converted.recipe, seed=1)
    model.load_state_dict(converted.tensors)
    return model.eval()


def tokenized(model: MaskedModel, values: np.ndarray, channels: tuple[Channel, ...]) -> TokenSet:
    return tokenizers.build(model.recipe).tokenize(Batch(values, np.ones(values.shape, bool), (channels,) * len(values)))


def electrode(number: int, place: np.ndarray) -> Channel:
    x, y, z = place.tolist()
    return Channel(f"E{number}", f"E{number}", "eeg", "V", 1.0, 200.0, (x, y, z))


def contrast(name: str) -> Channel:
    return Channel(name, name, name, None, None, None)


def in_groups(near: np.ndarray, centres: np.ndarray) -> TokenSet:
    """Tokens of groups (B, n, k, 3) around centres (B, n, 3)."""
    size, count = centres.shape[:2]
    places = torch.cat([torch.from_numpy(centres), torch.zeros(size, count, 1)], dim=2)
    none = torch.zeros(size, count, dtype=torch.int64)
    codes, valid = torch.zeros(size, count, DESCRIPTOR), torch.ones(size, count, dtype=torch.bool)
    return TokenSet(torch.from_numpy(near).flatten(2), places, none, codes, valid, none, (1, count))


def indices(chosen: np.ndarray) -> Tensor:
    """bool (B, N), as many in each row -> int64 (B, n)."""
    return torch.stack([torch.from_numpy(np.flatnonzero(row)) for row in chosen])


def tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values))


@torch.no_grad()
def compare_reve(path: Path) -> Compared:
    about, cases = fabricate.read(path)
    model = imported(state_of(about), reve.RELEASE)
    pool = model.branches["global"].pool.attention
    for number, case in enumerate(cases):
        eeg = fabricate.numbers(f"eeg {number}", *case["shape"])
        tokens = tokenized(model, eeg, tuple(electrode(i, place) for i, place in enumerate(case["places"])))
        states = model.features(tokens)
        shape = f"REVE, {'x'.join(map(str, case['shape']))}"
        yield f"{shape}, embedding", states.layers[0], tensor(case["first"])
        yield f"{shape}, states", states.last, tensor(case["states"]).flatten(1, 2)
        yield f"{shape}, pooled", pool(states.last, tokens.valid), tensor(case["pooled"])


@torch.no_grad()
def compare_reve_mae(path: Path) -> Compared:
    about, cases = fabricate.read(path)
    model = imported(state_of(about), reve.RELEASE)
    for number, case in enumerate(cases):
        eeg = fabricate.numbers(f"eeg {number}", *case["shape"])
        tokens = tokenized(model, eeg, tuple(electrode(i, place) for i, place in enumerate(case["places"])))
        seen, hidden = (tensor(case[part]).expand(len(eeg), -1) for part in ("seen", "hidden"))
        look = model.look(0, tokens, seen, hidden)
        patches, spread = model.predictions([look], [hidden, hidden])
        shape = f"REVE's autoencoder, {'x'.join(map(str, case['shape']))}"
        yield f"{shape}, patches", patches.values, tensor(case["patches"])
        yield f"{shape}, one vector", model.branches["global"].pool(look.memory()), tensor(case["vector"])
        yield f"{shape}, patches from one vector", spread.values, tensor(case["spread"])


@torch.no_grad()
def compare_point_mae(path: Path) -> Compared:
    about, cases = fabricate.read(path)
    model = imported(state_of(about), point_mae.POINT_MAE)
    neighbours = model.recipe.tokenizer.neighbours
    for number, case in enumerate(cases):
        tokens = in_groups(*fabricate.groups(number, *case["size"], neighbours))
        seen, hidden = indices(~case["hidden"]), indices(case["hidden"])
        shape = f"Point-MAE, {'x'.join(map(str, case['size']))}"
        yield f"{shape}, states", model.features(tokens).last, tensor(case["every"])
        yield f"{shape}, states where some are hidden", model.encoder(tokens, seen).last, tensor(case["seen"])
        yield f"{shape}, points", model(tokens, seen, hidden), tensor(case["points"])


@torch.no_grad()
def compare_point_cmae(path: Path) -> Compared:
    about, cases = fabricate.read(path)
    model = imported(state_of(about), point_mae.POINT_CMAE)
    neighbours = model.recipe.tokenizer.neighbours
    for number, case in enumerate(cases):
        size, count = case["size"].tolist()
        tokens = in_groups(*fabricate.groups(number, size, count, neighbours))
        order = torch.arange(count).expand(size, -1)
        seen, hidden = order[:, : count // 2], order[:, count // 2 :]
        whole = model.features(tokens)
        shape = f"Point-CMAE, {size}x{count}"
        yield f"{shape}, states", torch.cat([whole.class_state()[:, None], whole.last], dim=1), tensor(case["every"])
        looks = [model.look(number, tokens, seen, hidden) for number in (0, 1)]
        first, second, _ = model.predictions(looks, [hidden, hidden, hidden])
        yield f"{shape}, points of the first decoder", first.values, tensor(case["first"])
        yield f"{shape}, points of the second decoder", second.values, tensor(case["second"])


@torch.no_grad()
def compare_bm_mae(path: Path) -> Compared:
    about, cases = fabricate.read(path)
    tables = {".position_embeddings": cases[0]["table_encoder"], "decoder.position_embeddings": cases[0]["table_decoder"]}
    model = imported(state_of(about, **tables), bm_mae.RELEASE)
    side = round(model.recipe.data.window_mm)
    for number, case in enumerate(cases):
        names, size = case["names"].tolist(), int(case["size"])
        volumes = np.concatenate([fabricate.numbers(f"{n} {number}", size, 1, *[side] * 3) for n in names], axis=1)
        tokens = tokenized(model, volumes, tuple(contrast(bm_mae.CONTRASTS[n]) for n in names))
        shape = f"BM-MAE, {size}x{len(names)}x{side}^3"
        seen = tensor(case["seen"]) if "seen" in case else None
        states = model.encoder(tokens, seen)
        yield f"{shape}, states", states.last, tensor(case["states"])
        yield f"{shape}, class token", states.class_state(), tensor(case["class"])
        if seen is not None:
            hidden = indices(~tokens.shown(seen).numpy())
            voxels = model(tokens, seen, hidden)
            for sample, places in enumerate(hidden):
                kept = places % 8 == 0  # theirs holds every eighth token, and every eighth voxel of it
                theirs = tensor(case["voxels"])[sample, places[kept] // 8]
                yield f"{shape}, voxels of sample {sample}", voxels[sample, kept, ::8], theirs


def compare_filterbank(path: Path) -> Compared:
    _, cases = fabricate.read(path)
    for number, case in enumerate(cases):
        rate, seconds, bands = int(case["rate"]), float(case["seconds"]), case["frames"].shape[1]
        table = SpectrogramTokens(kind="spectrogram", patch=8, mels=bands, mean=0.0, deviation=1.0)
        ours = SpectrogramPatches(table, rate).log_mel(torch.from_numpy(fabricate.wave(number, rate, seconds)))
        assert len(ours) == case["count"]
        step = -(-len(ours) // len(case["frames"]))
        yield f"filterbank, {rate} Hz, {len(ours)} frames, {bands} bands", ours[::step], tensor(case["frames"])


COMPARE: dict[str, Callable[[Path], Compared]] = {
    "reve": compare_reve,
    "reve_mae": compare_reve_mae,
    "point_mae": compare_point_mae,
    "point_cmae": compare_point_cmae,
    "bm_mae": compare_bm_mae,
    "filterbank": compare_filterbank,
}
# The largest difference that is none: of states of about unit size (seen: 1e-5, with other orders of sums); of logarithms of
# energies (seen: 3e-4).
BOUND = dict.fromkeys(COMPARE, 5e-5) | {"filterbank": 5e-3}
