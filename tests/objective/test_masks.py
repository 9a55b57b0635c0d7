import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from readers.schema import Channel
from toolkit.corpus.batches import Batch
from toolkit.model import tokenizers
from toolkit.objective.masks import MaskSampler, num_visible, split

LIMB = ("I", "II", "III", "aVR", "aVL", "aVF")
LEADS = (*LIMB, "V1", "V2", "V3", "V4", "V5", "V6")


def tokens(recipe, *, size=6, names=LEADS, steps=20, invalid=0.0):
    samples = steps * recipe.tokenizer.patch
    rng = np.random.default_rng(0)
    valid = (rng.random((size, len(names), steps)) >= invalid).repeat(recipe.tokenizer.patch, axis=2)
    channels = tuple(Channel(n, n, "ecg", "mV", 1e-3, 100.0) for n in names)
    values = rng.normal(size=(size, len(names), samples)).astype(np.float32)
    return tokenizers.build(recipe).tokenize(Batch(values, valid, (channels,) * size))


def only(tiny, way, **changes):
    """A recipe that hides in one way only."""
    odds = {f"mask__{w}": float(w == way) for w in ("spans", "gaps", "groups")}
    return tiny(**odds, **{"mask__ratio": 0.5, **changes})


def masked(recipe, given_tokens, seed=0):
    """(mask, hidden bool (B, C, T'))."""
    mask = MaskSampler(recipe.mask, recipe.tokenizer.channels).sample(given_tokens, torch.Generator().manual_seed(seed))
    hidden = torch.zeros_like(given_tokens.valid).scatter(1, mask.hidden, True)
    return mask, hidden.view(len(hidden), *given_tokens.grid)


@pytest.mark.parametrize("way", ["spans", "gaps", "groups"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 1.0])
def test_every_sample_hides_exactly_as_many_and_every_token_is_in_one_part(tiny, way, ratio):
    recipe = only(tiny, way, mask__ratio=ratio)
    given_tokens = tokens(recipe)
    mask, _ = masked(recipe, given_tokens)
    assert mask.visible.shape == (6, min(max(1, round(240 * (1 - ratio))), 239))
    together = torch.cat([mask.visible, mask.hidden], dim=1).sort(dim=1).values
    assert torch.equal(together, torch.arange(240).expand(6, -1))


@pytest.mark.parametrize(("count", "ratio", "expected"), [(100, 0.75, 25), (3, 0.99, 1), (3, 0.0, 2), (2, 0.5, 1), (1, 0.5, 1)])
def test_at_least_one_token_is_visible_and_one_hidden(count, ratio, expected):
    assert num_visible(count, ratio) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.floats(0, 1), st.integers(1, 30))
def test_the_visible_are_the_lowest_scores_among_the_valid(seed, count, share, visible):
    rng = np.random.default_rng(seed)
    score, valid = rng.permutation(count).astype(np.float32), rng.random(count) < share
    mask = split(torch.from_numpy(score)[None], torch.from_numpy(valid)[None], min(visible, count))
    order = sorted(range(count), key=lambda i: (not valid[i], score[i] if valid[i] else i))
    assert mask.visible[0].tolist() == order[:visible] and mask.hidden[0].tolist() == order[visible:]


@pytest.mark.parametrize("way", ["spans", "gaps", "groups"])
def test_tokens_that_are_not_valid_are_never_visible_while_there_are_enough_others(tiny, way):
    recipe = only(tiny, way, mask__ratio=0.75)
    given_tokens = tokens(recipe, invalid=0.5)
    mask, _ = masked(recipe, given_tokens)
    assert (~given_tokens.valid).any(1).all() and given_tokens.valid.gather(1, mask.visible).all()


def test_spans_are_runs_in_each_group_of_channels_on_its_own(tiny):
    recipe = only(tiny, "spans", mask__span_patches=(4, 4))
    _, hidden = masked(recipe, tokens(recipe, size=40))
    runs = (hidden[:, :, 1:] != hidden[:, :, :-1]).sum(-1).float().mean() + 1
    assert runs < 6  # 20 patches in runs of four; on their own they would change about ten times
    assert (hidden[:, 6] != hidden[:, 7]).any(-1).float().mean() > 0.9
    assert (limb_mixed(hidden) <= 1).all()


def test_gaps_hide_the_same_times_in_all_channels(tiny):
    recipe = only(tiny, "gaps")
    _, hidden = masked(recipe, tokens(recipe, size=40))
    assert (hidden.all(1) | ~hidden.any(1)).all()  # 120 of 240 tokens: 10 whole times of 20
    recipe = only(tiny, "gaps", mask__ratio=0.51)
    _, hidden = masked(recipe, tokens(recipe, size=40))
    assert ((hidden.any(1) & ~hidden.all(1)).sum(-1) <= 1).all()  # the last time is cut where the count asks it


def limb_mixed(hidden):
    """Times at which some limb leads are hidden and others not, (B,)."""
    limb = hidden[:, : len(LIMB)]
    return (limb.any(1) & ~limb.all(1)).sum(-1)


def test_limb_leads_are_hidden_together(tiny):
    recipe = only(tiny, "groups")
    _, hidden = masked(recipe, tokens(recipe, size=200))
    share = hidden[:, : len(LIMB)].float().mean((1, 2))
    assert (share == 1).any() and (share == 0).any()
    assert (limb_mixed(hidden) <= 1).all()


def test_groups_are_hidden_whole_but_where_two_scores_lie_near_each_other(tiny):
    recipe = only(tiny, "groups", mask__groups_of_channels=())
    _, hidden = masked(recipe, tokens(recipe, size=400))
    share = hidden.float().mean(-1)
    partly = ((share > 0) & (share < 1)).sum(1)
    assert (partly == 0).float().mean() > 0.8  # 6 of 12 channels fit the count


def test_every_token_is_hidden_as_often_as_the_ratio_says(tiny):
    for way in ("spans", "gaps", "groups"):
        recipe = only(tiny, way, mask__ratio=0.75)
        _, hidden = masked(recipe, tokens(recipe, size=1000, names=LEADS[6:9], steps=8), seed=1)
        np.testing.assert_allclose(hidden.float().mean(0), 0.75, atol=0.08)


def test_the_ways_are_mixed_by_their_odds(tiny):
    recipe = tiny(mask__spans=3.0, mask__gaps=1.0, mask__groups=0.0, mask__ratio=0.5)
    _, hidden = masked(recipe, tokens(recipe, size=1000, names=LEADS[6:10]))
    gaps = ((hidden.any(1) & ~hidden.all(1)).sum(-1) == 0).float().mean()
    assert abs(float(gaps) - 0.25) < 0.05


def test_a_mask_is_a_function_of_the_generator_and_the_layout(tiny):
    recipe = tiny()
    given_tokens = tokens(recipe)
    other_values = dataclasses.replace(given_tokens, patches=given_tokens.patches * 7)
    torch.manual_seed(1)
    first, _ = masked(recipe, given_tokens)
    torch.manual_seed(2)
    again, _ = masked(recipe, other_values)
    other, _ = masked(recipe, given_tokens, seed=1)
    assert torch.equal(first.visible, again.visible) and torch.equal(first.hidden, again.hidden)
    assert not torch.equal(first.hidden, other.hidden)


@pytest.mark.parametrize("names", [("II",), ("PPG",), ("X", "Y", "II"), ("I", "PPG")])
def test_any_channels_can_be_masked(tiny, names):
    for way in ("spans", "gaps", "groups"):
        recipe = only(tiny, way)
        mask, _ = masked(recipe, tokens(recipe, names=names))
        assert mask.visible.shape[1] == 10 * len(names)
