"""Gradient checkpointing changes no figure; other ways of running a part again are refused."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from modeldoctor.errors import GraphError
from modeldoctor.graph import HookedNetwork, open_network


class Own(nn.Module):
    """Holds `checkpoint` under a name of its own; its two forms, and the sequential one."""

    def __init__(self, form: str | None):
        super().__init__()
        self.form = form
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = {
            None: self.body,
            "reentrant": partial(checkpoint, self.body, use_reentrant=True),
            "not reentrant": partial(checkpoint, self.body, use_reentrant=False),
            "sequential": partial(checkpoint_sequential, self.body, 2, use_reentrant=False),
            "by hand": partial(_ByHand.apply, self.body),
        }[self.form](x)
        return self.head(x.mean((2, 3)))


class _ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, part, x):
        ctx.part = part
        ctx.save_for_backward(x)
        return part(x)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return None, *torch.autograd.grad(ctx.part(x), x, gradient)


def of_timm(name: str, checkpointing: bool) -> nn.Module:
    network = timm.create_model(name, num_classes=4)
    network.set_grad_checkpointing(checkpointing)
    return network


def own(form: str, checkpointing: bool) -> nn.Module:
    return Own(form if checkpointing else None)


def densenet(checkpointing: bool) -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 2), 16, num_classes=4, memory_efficient=checkpointing)


MAKERS = {
    "timm resnet": partial(of_timm, "test_resnet"),
    "timm vit": partial(of_timm, "test_vit"),
    "torchvision densenet": densenet,
    **{form: partial(own, form) for form in ("reentrant", "not reentrant", "sequential")},
}


def derivatives(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Of the sum of logits by every layer's maps with noise on them, through hooks."""
    hooked, found = HookedNetwork(network, images), {}
    for cut in hooked.cuts(images, hooked.layers):
        noisy = (cut.maps + 0.1 * torch.randn(cut.maps.shape, generator=torch.Generator().manual_seed(1))).detach()
        noisy.requires_grad_()
        with torch.enable_grad():
            cut.head(noisy).sum().backward()
        assert noisy.grad is not None
        found[cut.layer.name] = noisy.grad
    return found


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_checkpointing_changes_no_derivative(make) -> None:
    images = torch.randn(2, 3, 160, 160) if "vit" in str(make) else torch.randn(2, 3, 32, 32)
    plain, checkpointed = make(False).eval(), make(True).eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # timm begins with zeros, behind which nothing has a derivative
    checkpointed.load_state_dict(plain.state_dict())
    wanted, found = derivatives(plain, images), derivatives(checkpointed, images)
    assert wanted.keys() == found.keys()
    for name, derivative in wanted.items():
        assert derivative.abs().max() > 0
        torch.testing.assert_close(found[name], derivative, rtol=1e-4, atol=1e-6 * float(derivative.abs().max()))


@pytest.mark.parametrize("form", ["reentrant", "not reentrant"])
def test_a_checkpointed_network_can_be_cut(form: str) -> None:
    network, images = Own(form).eval(), torch.randn(2, 3, 32, 32)
    opened = open_network(network, images)
    torch.testing.assert_close(opened.logits(images), Own.forward(network, images))
    assert not isinstance(opened, HookedNetwork)


def test_what_runs_again_by_other_means_is_refused() -> None:
    with pytest.raises(GraphError, match="a second time during the backward pass"):
        HookedNetwork(Own("by hand").eval(), torch.randn(2, 3, 16, 16))


def test_checkpointing_is_as_it_was_afterwards() -> None:
    network, images = Own("not reentrant").eval(), torch.randn(2, 3, 32, 32)
    HookedNetwork(network, images)
    calls = []
    network.body[0].register_forward_hook(lambda *_: calls.append(1))
    network(images).sum().backward()
    assert len(calls) == 2  # once forward, once more for the backward pass
