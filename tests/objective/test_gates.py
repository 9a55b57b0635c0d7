import pytest
import torch
from torch import nn

from toolkit.objective.gates import reverse


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_states_pass_unchanged_and_their_gradient_comes_back_reversed_and_scaled(scale):
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = reverse(x, scale)
    assert torch.equal(out, x)
    (plain,) = torch.autograd.grad((x**3).sum(), x)
    (turned,) = torch.autograd.grad((out**3).sum(), x)
    assert torch.equal(turned, -scale * plain)


def test_the_head_behind_a_gate_learns_as_without_it_and_the_encoder_against_it():
    torch.manual_seed(0)
    encoder, head = nn.Linear(5, 4), nn.Linear(4, 3)
    x, label = torch.randn(7, 5), torch.randint(3, (7,))

    def gradients(gate):
        loss = nn.functional.cross_entropy(head(gate(encoder(x))), label)
        return torch.autograd.grad(loss, [encoder.weight, head.weight])

    (encoder_plain, head_plain), (encoder_turned, head_turned) = gradients(lambda s: s), gradients(lambda s: reverse(s, 2.0))
    assert torch.equal(head_turned, head_plain)
    torch.testing.assert_close(encoder_turned, -2.0 * encoder_plain)
