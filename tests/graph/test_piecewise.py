"""Activations of straight pieces against PyTorch's own, twice differentiated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modeldoctor.graph.capture import capture
from modeldoctor.graph.rewrites.piecewise import without_second_derivatives

ACTIVATIONS = [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.25), nn.LeakyReLU(0.2), nn.LeakyReLU(-0.2), nn.LeakyReLU(0.0)]
EDGES = torch.tensor([-7.0, -3.0, -0.5, 0.0, 0.1, 0.25, 3.0, 6.0, 9.0], dtype=torch.float64)


def replaced(activation: nn.Module):
    """What stands for it in a suffix."""
    network = nn.Sequential(nn.Flatten(), activation, nn.Linear(12, 2))
    nodes = capture(network.eval(), torch.randn(2, 3, 2, 2)).graph.nodes
    (operation,) = without_second_derivatives(nodes).values()
    return lambda x: operation.function(x, *operation.args[1:], **operation.kwargs)


def derivatives(activation, x: Tensor, weight: Tensor) -> list[Tensor | None]:
    """∂/∂x of the sum of an activation's squares where it is read linearly, and that one's own derivatives."""
    x, weight = x.clone().requires_grad_(True), weight.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad((activation(x * weight) * weight).sum(), x, create_graph=True)
    return [slope, *torch.autograd.grad(slope.square().sum(), (x, weight), allow_unused=True)]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_values_and_both_derivatives_are_the_own_ones(activation: nn.Module) -> None:
    mine = replaced(activation)
    values = torch.cat([EDGES, torch.tensor([torch.inf, -torch.inf, torch.nan])])
    torch.testing.assert_close(mine(values), activation(values), equal_nan=True, rtol=0, atol=0)
    weight = 2.0 ** torch.arange(-4, 5)[: len(EDGES)].double()
    x = EDGES / weight  # powers of two, so that the edges are met
    slope, in_x, in_weight = derivatives(mine, x, weight)
    wanted, own_in_x, own_in_weight = derivatives(activation, x, weight)
    torch.testing.assert_close(slope, wanted, rtol=0, atol=0)
    torch.testing.assert_close(in_weight, own_in_weight, rtol=0, atol=0)
    assert own_in_x.count_nonzero() == 0
    assert in_x is None or in_x.count_nonzero() == 0


def test_the_second_backward_does_not_enter_the_forward_pass() -> None:
    first, second = torch.randn(4, 3, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    bias, x = torch.zeros(3, requires_grad=True), torch.randn(5, 4, requires_grad=True)

    def in_bias(activation) -> Tensor | None:
        (slope,) = torch.autograd.grad((activation(x @ first + bias) @ second).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.sum(), bias, allow_unused=True)[0]

    assert torch.equal(in_bias(torch.relu), torch.zeros(3))  # PyTorch's own: a zero that was carried here
    assert in_bias(replaced(nn.ReLU())) is None
