import numpy as np
import pytest
import torch

from toolkit.embedding.pooling import POOLINGS, POOLS, pooled, pooled_width
from toolkit.model.states import States
from toolkit.recipe import EmbeddingTable

FORMULAS = {
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.max(0),
    "meanstd": lambda x: np.concatenate([x.mean(0), x.std(0)]),
    "meanmax": lambda x: np.concatenate([x.mean(0), x.max(0)]),
}


@pytest.mark.parametrize("pool", sorted(POOLS))
def test_a_pool_is_its_formula_over_the_tokens_that_count(pool):
    rng = np.random.default_rng(0)
    states, counts = rng.normal(size=(4, 9, 6)) - 5, rng.random((4, 9)) < 0.5
    states[~counts] = 1e6
    counts[3] = False
    got = POOLS[pool](torch.tensor(states), torch.from_numpy(counts)).numpy()
    assert got.shape == (4, pooled_width(pool, 6))
    for row in range(3):
        np.testing.assert_allclose(got[row], FORMULAS[pool](states[row][counts[row]]), rtol=1e-6, atol=1e-6)
    assert (got[3] == 0).all()


def test_pooling_by_the_class_token_takes_its_state_and_nothing_else():
    last, extra = torch.randn(4, 9, 6), torch.randn(4, 3, 6)  # a class token and two registers
    states, counts = States(last, (last,), extra), torch.zeros(4, 9, dtype=torch.bool)
    assert torch.equal(pooled("class", states, counts), extra[:, 0]) and pooled_width("class", 6) == 6
    assert torch.equal(pooled("mean", states, ~counts), POOLS["mean"](last, ~counts))


def test_every_pool_of_a_recipe_is_there():
    assert (
        set(POOLS) == set(FORMULAS) == set(POOLINGS) - {"class", "classmax", "attention"}
    )  # of the encoder and of the objective
    assert set(POOLINGS) == set(EmbeddingTable.model_fields["pool"].annotation.__args__)
