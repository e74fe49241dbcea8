"""Tokens that nothing reads are not computed, and everything else is the network's own, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from networks import randomised
from torch import Tensor, fx, nn
from torchvision.models.vision_transformer import VisionTransformer

from modeldoctor.graph import CutNetwork, HookedNetwork, select_layers
from modeldoctor.graph.capture import CONV2D, capture
from modeldoctor.graph.rewrites.attention import attend
from modeldoctor.graph.trainable import TrainableNetwork

SIZE = 32


def tiny(name: str, **options: object) -> Callable[[], nn.Module]:
    return partial(timm.create_model, name, img_size=SIZE, depth=2, embed_dim=24, num_heads=2, num_classes=3, **options)


# Network, and how many queries its attentions have: with keys and values, and without.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[int], list[int]]] = {
    "class token": (tiny("vit_tiny_patch16_224", patch_size=8), [17], [1]),
    "class and distillation token": (tiny("deit_tiny_distilled_patch16_224", patch_size=8), [18], [2]),
    "class token before registers": (tiny("vit_small_patch14_reg4_dinov2", patch_size=8), [21], [1]),
    "layer scale": (tiny("deit3_small_patch16_224", patch_size=8), [17], [1]),
    "bias on attention": (
        tiny("beit_base_patch16_224", patch_size=8, use_abs_pos_emb=True, global_pool="token"), [17], [1],
    ),
    "no biases": (tiny("vit_tiny_patch16_224", patch_size=8, qkv_bias=False), [17], [1]),
    "own class attention": (tiny("cait_xxs24_224", patch_size=8, depth_token_only=2), [], [1, 1]),
    "learnt query": (tiny("vit_base_patch16_siglip_224", patch_size=8), [16, 16], [1]),
    "norms of queries and keys": (tiny("vit_tiny_patch16_224", patch_size=8, qk_norm=True), [17, 1], []),
    "mean of patches": (tiny("vit_tiny_patch16_224", patch_size=8, global_pool="avg", fc_norm=False), [17, 17], []),
    "torchvision": (
        partial(
            VisionTransformer, image_size=SIZE, patch_size=8, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48,
            num_classes=3,
        ),
        [17],  # it folds tokens and images into one dimension behind it
        [1],
    ),
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, *_ = NETWORKS[request.param]
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double()
    return randomised(make()).double(), images


@pytest.mark.parametrize("name", NETWORKS)
def test_attention_gives_the_tokens_that_are_read(name: str) -> None:
    make, *wanted = NETWORKS[name]
    captured = capture(randomised(make()), torch.randn(2, 3, SIZE, SIZE))
    targets = torch.ops.aten.scaled_dot_product_attention.default, attend
    queries = [[one.meta["val"].shape[2] for one in captured.graph.nodes if one.target is each] for each in targets]
    assert queries == wanted
    assert all(node.users for node in captured.graph.nodes if node.op == "call_function")
    captured.graph.lint()


def test_logits_and_derivatives_at_every_layer_are_the_networks(case: tuple[nn.Module, Tensor]) -> None:
    network, images = case
    cut, hooked = CutNetwork(capture(network, images)), HookedNetwork(network, images)
    torch.testing.assert_close(cut.logits(images), network(images).detach(), rtol=1e-12, atol=1e-12)
    assert [layer.name for layer in cut.layers] == [layer.name for layer in hooked.layers]
    for one, other in zip(cut.cuts(images, cut.layers), hooked.cuts(images, hooked.layers), strict=True):
        torch.testing.assert_close(one.maps, other.maps, rtol=1e-12, atol=1e-12)
        for copies in (1, 2):
            maps = other.maps.repeat(copies, 1, 1, 1)
            mine, theirs = (derivative(each.head, maps) for each in (one, other))
            assert theirs.any()
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12 * float(theirs.abs().max()))


def derivative(head: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """Of each logit of each row in the maps of that row, (N,R*B,K,H,W)."""
    return torch.autograd.functional.jacobian(lambda m: head(m).sum(0), maps)  # type: ignore[no-any-return]


def test_a_training_pass_gives_every_weight_its_gradient(case: tuple[nn.Module, Tensor]) -> None:
    network, images = case
    trainable = TrainableNetwork(network, images)
    logits, _ = trainable.training_pass(images, select_layers(trainable.layers, "last"))
    parameters = dict(network.named_parameters())
    mine, theirs = (
        torch.autograd.grad(out.square().sum(), list(parameters.values()), allow_unused=True)
        for out in (logits, network(images))
    )
    for name, one, other in zip(parameters, mine, theirs, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_cost_behind_the_last_layer_of_a_vit() -> None:
    network = randomised(tiny("vit_tiny_patch16_224", patch_size=8)())
    layer = CutNetwork(capture(network, torch.randn(2, 3, SIZE, SIZE))).layers[-1]
    tokens, features, heads = 17, 24, 2
    attention = 3 * features**2 + 2 * heads * tokens * features
    of_the_class_token = features**2 + 8 * features**2 + 3 * features
    assert layer.name == "blocks.0"
    assert layer.macs_after == attention + of_the_class_token


class Picks(nn.Module):
    """Tokens of a small image, of which a few are picked behind layers that act on each by itself."""

    def __init__(self, pick: Callable[[Tensor], Tensor], beside: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)
        self.mix, self.norm, self.fc = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)
        self.pick, self.beside = pick, beside

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        tokens = self.norm(tokens + torch.nn.functional.gelu(self.mix(tokens)))
        logits: Tensor = self.fc(self.pick(tokens))
        return logits if self.beside is None else logits + self.fc(self.beside(tokens))


@pytest.mark.parametrize(
    ("pick", "beside", "mixed"),
    [
        pytest.param(lambda t: t[:, 0], None, 1, id="first"),
        pytest.param(lambda t: t[:, -1], None, 1, id="last"),
        pytest.param(lambda t: t[:, 3:5].mean(1), None, 2, id="slice"),
        pytest.param(lambda t: t[:, -2:].mean(1), None, 2, id="slice from behind"),
        pytest.param(lambda t: t[:, 2], lambda t: t[:, 5], 4, id="two"),
        pytest.param(lambda t: t[:, 1:3].mean(1), lambda t: t[:, 2], 2, id="one within the other"),
        pytest.param(lambda t: t[:, 0], lambda t: t[:, 15], 16, id="far apart"),
        pytest.param(lambda t: t[:, 0], lambda t: t.mean(1), 16, id="beside all"),
        pytest.param(lambda t: t[:, ::8].mean(1), None, 16, id="with a step"),
        pytest.param(lambda t: t[:, 0, :2].repeat(1, 2), None, 1, id="features, too"),
    ],
)
def test_what_is_picked(
    pick: Callable[[Tensor], Tensor], beside: Callable[[Tensor], Tensor] | None, mixed: int
) -> None:
    network = randomised(Picks(pick, beside)).double()
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    captured = capture(network, images)
    (node,) = (one for one in captured.graph.nodes if one.target is torch.ops.aten.gelu.default)
    assert node.meta["val"].shape[1] == mixed
    captured.graph.lint()
    cut = CutNetwork(captured)
    torch.testing.assert_close(cut.logits(images), network(images).detach(), rtol=1e-12, atol=1e-12)
    hooked = HookedNetwork(network, images)
    (mine,), (theirs,) = (each.cuts(images, each.layers) for each in (cut, hooked))
    expected = derivative(theirs.head, theirs.maps)
    torch.testing.assert_close(derivative(mine.head, mine.maps), expected, rtol=1e-10, atol=1e-12)


def test_a_convolution_net_keeps_its_graph() -> None:
    captured = capture(randomised(timm.create_model("resnet18", num_classes=3)), torch.randn(2, 3, 32, 32))
    nodes: list[fx.Node] = list(captured.graph.nodes)
    assert sum(node.target in CONV2D for node in nodes) == 20
    assert not any(node.target is torch.ops.aten.slice.Tensor for node in nodes)
