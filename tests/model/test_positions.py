import math

import numpy as np
import pytest
import torch

from toolkit.model.positions import AXES, FourierPositions, Rotary, periods, rotate
from toolkit.model.transformer import Attention, SelfBlock
from toolkit.recipe import PositionTable, TransformerTable

LONGEST, SHORTEST = (4.0, 5.0, 6.0, 20.0), (1.0, 0.5, 0.25, 0.2)
POSITION = PositionTable(bands=4, longest=LONGEST, shortest=SHORTEST)
BLOCK = TransformerTable(width=32, depth=1, heads=4, head_width=8, mlp=48)


def rotary(*axes, head_width=8):
    return Rotary(PositionTable(bands=4, longest=LONGEST, shortest=SHORTEST, rotary=axes), head_width)


def places(size=2, count=15, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, count, 4, generator=generator) * torch.tensor([1.0, 1.0, 1.0, 10.0])


def states(*shape, seed=2):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def turned(coords, heads, axes, pairs):
    """Complex numbers in float64, each turned by the coordinate and the period that are its own."""
    waves = [
        coords[:, None, :, AXES.index(axis), None] / np.geomspace(2 * LONGEST[AXES.index(axis)], SHORTEST[AXES.index(axis)], n)
        for axis, n in zip(axes, pairs, strict=True)
    ]
    half = heads.shape[-1] // 2
    return (heads[..., :half] + 1j * heads[..., half:]) * np.exp(2j * math.pi * np.concatenate(waves, axis=-1))


@pytest.mark.parametrize(
    ("axes", "head_width", "pairs"),
    [
        ("t", 8, (4,)),
        ("xyz", 12, (2, 2, 2)),
        ("xyzt", 20, (3, 3, 2, 2)),
        ("zt", 14, (4, 3)),
        ("yx", 4, (1, 1)),
    ],
)
def test_rotation_turns_complex_numbers_shared_out_among_the_axes(axes, head_width, pairs):
    coords, heads = places(), states(2, 3, 15, head_width)
    got = rotate(heads, rotary(*axes, head_width=head_width)(coords)).double().numpy()
    expected = turned(coords.double().numpy(), heads.double().numpy(), axes, pairs)
    half = head_width // 2
    np.testing.assert_allclose(got[..., :half] + 1j * got[..., half:], expected, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(got, axis=-1), np.linalg.norm(heads.numpy(), axis=-1), rtol=1e-5)


def test_rotation_by_time_alone_is_exactly_that_of_one_frequency_a_pair():
    coords = places()
    phase = coords[:, None, :, 3, None] * (2 * math.pi * (1 / periods(2 * LONGEST[3], SHORTEST[3], 4)))
    cos, sin = rotary("t")(coords)
    assert torch.equal(cos, phase.cos()) and torch.equal(sin, phase.sin())


@torch.inference_mode()
@pytest.mark.parametrize("axes", ["t", "xyz", "xyzt", "yt"])
def test_attention_sees_coordinate_differences_along_its_axes_and_nothing_else(axes):
    turn, attention, x, memory = rotary(*axes), Attention(BLOCK, 32), states(2, 15, 32), states(2, 9, 32, seed=3)

    def attend(of_queries, of_keys):
        return attention(x, memory, turn(places() + of_queries), turn(places(count=9, seed=4) + of_keys), None)

    still = attend(torch.zeros(4), torch.zeros(4))
    together = torch.tensor([0.7, -0.4, 1.1, 7.3])
    torch.testing.assert_close(attend(together, together), still, atol=1e-5, rtol=1e-5)
    for axis, name in enumerate(AXES):
        apart = (attend(torch.eye(4)[axis] * 0.3, torch.zeros(4)) - still).abs().max()
        assert apart > 1e-3 if name in axes else apart == 0


def test_more_axes_than_pairs_are_refused():
    with pytest.raises(ValueError, match="head_width: 4 holds 2 pairs"):
        rotary("x", "y", "z", head_width=4)


@torch.inference_mode()
def test_keys_carry_their_phases_along():
    block, x, turn = SelfBlock(BLOCK).eval(), states(2, 15, 32), rotary("x", "t")
    keys = torch.stack([torch.tensor([3, 0, 14, 7]), torch.tensor([1, 2, 9, 4])])
    seen = torch.zeros(2, 15, dtype=torch.bool).scatter(1, keys, True)
    phases = turn(places())
    torch.testing.assert_close(block(x, phases, None, keys), block(x, phases, seen), atol=1e-5, rtol=1e-5)
    assert (block(x, phases, None, keys) - block(x, None, None, keys)).abs().max() > 1e-3


def test_fourier_positions_are_sines_and_cosines_of_every_axis():
    positions, coords = FourierPositions(POSITION, 16), places()
    np.testing.assert_allclose(periods(20.0, 0.2, 4), np.geomspace(20, 0.2, 4), rtol=1e-5)
    features, place = [], coords.numpy().astype(np.float64)
    for wave in (np.sin, np.cos):
        for axis, (long, short) in enumerate(zip(LONGEST, SHORTEST, strict=True)):
            features += [wave(2 * math.pi * place[..., axis] / period) for period in np.geomspace(long, short, 4)]
    weight, bias = positions.project.weight.detach().numpy(), positions.project.bias.detach().numpy()
    np.testing.assert_allclose(positions(coords).detach(), np.stack(features, -1) @ weight.T + bias, atol=1e-3)
