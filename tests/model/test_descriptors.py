import dataclasses

import numpy as np
import pytest
import torch

from readers.schema import Channel
from toolkit import recipe as recipes
from toolkit.corpus.batches import Batch
from toolkit.model import tokenizers
from toolkit.model.tokenizers.descriptors import DESCRIPTOR, descriptor

MONTAGE = """
    Fp1 Fpz Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 T7 C5 C3 C1 Cz C2 C4 C6 T8
    TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2
"""

# First numbers of some codes.
RECORDED = {
    ("T7", "eeg"): (-0.22518, 0.02716, -0.11655, 0.22518),
    ("V1", "ecg"): (0.22669, -0.28137, -0.08202, 0.02734),
    ("T1w", "T1w"): (-0.18547, -0.14091, -0.04456, 0.04456),
    ("xyz", "xyz"): (0.0, 0.13856, 0.09474, 0.08763),
}


def channel(name, kind="eeg", position=None):
    return Channel(name, name, kind, None, None, None, position)


def code(name, kind="eeg"):
    return descriptor([channel(name, kind)])[0]


def test_codes_are_those_of_every_process_and_machine():
    """Recorded once: a model that was trained elsewhere must find the same codes."""
    for (name, kind), values in RECORDED.items():
        np.testing.assert_allclose(code(name, kind)[:4], values, atol=1e-4)


def test_a_name_never_seen_has_a_unit_code_and_the_same_name_the_same():
    for name in ("", "T7", "my électrode 12", "x" * 300, "\udcff"):
        found = code(name)
        assert found.shape == (DESCRIPTOR,) and found.dtype == torch.float32
        assert float(found.norm()) == pytest.approx(1, abs=1e-6)
        assert torch.equal(found, code(name)) and torch.equal(found, descriptor([channel("Cz"), channel(name)])[1])
    assert descriptor([]).shape == (0, DESCRIPTOR)


def test_all_electrodes_of_a_montage_are_told_apart():
    codes = descriptor([channel(n) for n in MONTAGE.split()]).double()
    likeness = (codes @ codes.T).fill_diagonal_(0)
    assert likeness.max() < 0.85  # T7 and T8 too
    # A linear layer can give each its own vector.
    assert torch.linalg.matrix_rank(codes) == len(MONTAGE.split())


def test_close_names_are_closer_than_others_and_kinds_count():
    pairs = [("V1", "V2"), ("T7", "T8"), ("FC1", "FC2"), ("lead 1", "lead 2"), ("channel A", "channel B")]
    near = np.mean([float(code(a) @ code(b)) for a, b in pairs])
    far = np.mean([float(code(a) @ code(b)) for a, _ in pairs for _, b in pairs if (a, b) not in pairs])
    assert near > far + 0.1
    assert float(code("II", "ecg") @ code("II", "ppg")) < 0.85
    assert not torch.equal(code("cz"), code("Cz"))


def test_the_second_of_a_name_has_another_code_wherever_it_stands():
    codes = descriptor([channel(n) for n in ("X", "Cz", "X", "X")])
    assert torch.equal(codes[0], code("X")) and torch.equal(codes[1], code("Cz"))
    assert torch.equal(codes[2], descriptor([channel("X"), channel("X")])[1])
    assert len({tuple(row) for row in codes.tolist()}) == 4


def test_channels_with_a_place_share_a_code_where_places_are_identities():
    placed = [channel("Cz", "eeg", (0, 0, 0.1)), channel("E17", "eeg", (0.1, 0, 0))]
    codes = descriptor([*placed, channel("X"), channel("Cz", "eog", (0, 0, 0.1))], named=False)
    assert torch.equal(codes[0], codes[1]) and torch.equal(codes[2], code("X"))
    assert not torch.equal(codes[0], codes[3]) and not torch.equal(descriptor(placed)[0], descriptor(placed)[1])


def batch_for(name, size=2):
    rng = np.random.default_rng(0)
    recipe = recipes.resolve(name, size="tiny")
    names = {"csfm": ("I", "new", "V2"), "reve": ("Cz", "X"), "bm-mae": ("T1w", "T1w"), "bird-mae": ("audio",)}
    shape = {"csfm": (3, 500), "reve": (2, 400), "bm-mae": (2, 6, 6, 6), "bird-mae": (1, 16_000), "point-cmae": (3, 512)}[name]
    channels = tuple(channel(n, "ecg") for n in names.get(name, ("xyz",)))
    return recipe, Batch(rng.normal(size=(size, *shape)).astype(np.float32), np.ones((size, *shape), bool), (channels,) * size)


@pytest.mark.parametrize("name", ["csfm", "reve", "bm-mae", "bird-mae", "point-cmae"])
def test_every_token_carries_the_code_of_its_channel(name):
    recipe, given = batch_for(name)
    tokens = tokenizers.build(recipe).tokenize(given)
    channels = tokens.grid[0]
    each = tokens.descriptor.unflatten(1, (channels, -1))
    want = descriptor(given.channels[0])
    assert tokens.descriptor.shape == (*tokens.valid.shape, DESCRIPTOR) and len(want) == channels
    assert torch.equal(each, want[None, :, None].expand_as(each))
    assert tokens.descriptor.stride(0) == 0  # one row for the whole batch


def test_samples_of_different_channels_have_their_own_codes():
    recipe, given = batch_for("csfm")
    swapped = dataclasses.replace(given, channels=(given.channels[0], given.channels[0][::-1]))
    tokens = tokenizers.build(recipe).tokenize(swapped)
    each = tokens.descriptor.unflatten(1, (3, -1))[:, :, 0]
    assert torch.equal(each[0], each[1].flip(0)) and torch.equal(each[1, 0], code("V2", "ecg"))


def test_permuting_channels_permutes_tokens_with_their_codes():
    recipe, given = batch_for("csfm")
    order = [2, 0, 1]
    moved = dataclasses.replace(
        given, values=given.values[:, order], channels=tuple(tuple(c[i] for i in order) for c in given.channels)
    )
    first, second = (tokenizers.build(recipe).tokenize(b) for b in (given, moved))
    index = torch.arange(first.valid.shape[1]).view(3, -1)[order].flatten().expand(2, -1)
    for name in ("patches", "coords", "descriptor", "valid"):
        assert torch.equal(getattr(first.take(index), name), getattr(second, name)), name
