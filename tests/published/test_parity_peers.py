"""The same numbers as other people's code from the same weights, by recordings of it in fixtures/ (how: peers/*.py).

fixtures/reve.npz, reve_mae.npz: braindecode 1.8.1; point_mae.npz, point_cmae.npz: torch-pointcloud 0.0.18; bm_mae.npz:
monai 1.3.0; filterbank.npz: kaldi-native-fbank 1.22.5; all with torch 2.13. To make one anew, in an environment with its
peer: python tests/published/peers/NAME.py tests/published/fixtures/NAME.npz. test_parity_live.py does that, and compares.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.published.peers import ours

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("peer", ours.COMPARE)
def test_same_numbers_as_recorded(peer: str) -> None:
    cases = list(ours.COMPARE[peer](FIXTURES / f"{peer}.npz"))
    assert len({what.split(",")[1] for what, *_ in cases}) >= 3  # shapes
    for what, mine, theirs in cases:
        assert mine.shape == theirs.shape, what
        assert 0.3 < theirs.std() < 30, what  # neither nothing nor so large that rounding alone differs by more
        assert (mine - theirs).abs().max() <= ours.BOUND[peer], what


def test_a_wrong_weight_is_seen() -> None:
    """The comparison can fail: one number of one tensor changed, and states differ by far more than the bound."""
    about, cases = ours.fabricate.read(FIXTURES / "reve.npz")
    eeg = ours.fabricate.numbers("eeg 0", *cases[0]["shape"])
    state = ours.state_of(about)
    found = []
    for changed in (None, "mlp4d.0.weight", "transformer.layers.1.1.net.1.weight", "ln.bias"):
        mine = dict(state) if changed is None else state | {changed: state[changed] + 0.01}
        model = ours.imported(mine, ours.reve.RELEASE)
        tokens = ours.tokenized(model, eeg, tuple(ours.electrode(i, p) for i, p in enumerate(cases[0]["places"])))
        with torch.no_grad():
            found.append((model.features(tokens).last - ours.tensor(cases[0]["states"]).flatten(1, 2)).abs().max().item())
    assert found[0] <= ours.BOUND["reve"]
    assert min(found[1:]) > 1e-3
