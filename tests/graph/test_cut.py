"""Prefix then suffix is the network, and Eq. 4 behind a cut is Eq. 4 through hooks, over real architectures."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torchvision
from networks import (
    Branched,
    DataDependent,
    Pooled,
    randomised,
    small_densenet,
    small_googlenet,
    small_mixer,
    small_mobilenet,
    small_shufflenet,
    small_swin,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from modeldoctor.errors import GraphError, ModelDoctorWarning
from modeldoctor.graph import CutNetwork, HookedNetwork, LayeredNetwork, open_network, select_layers
from modeldoctor.graph.capture import capture
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.memory import BatchLimit


def vision(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=7, **options)


def image_model(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, num_classes=7, **options)


# name: how to build it, pixels, the layer that `last` must name, and its kernels
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], int, str, int]] = {
    "torchvision resnet18": (vision("resnet18"), 64, "layer4.1.conv2", 512),
    "torchvision densenet": (partial(small_densenet, 7), 64, "features.denseblock4", 38),
    "torchvision googlenet": (partial(small_googlenet, 7, aux_logits=False), 64, "inception5b", 1024),
    "torchvision squeezenet": (vision("squeezenet1_1"), 64, "features.12", 512),
    "torchvision mobilenet_v2": (partial(small_mobilenet, 7), 64, "features.9.0", 1280),
    "torchvision shufflenet": (partial(small_shufflenet, 7), 64, "conv5.0", 1024),
    "torchvision swin": (partial(small_swin, 7), 64, "features.7.1", 192),
    "timm resnet10t": (image_model("resnet10t"), 64, "layer4.0.conv2", 512),
    "timm seresnet50": (image_model("seresnet50", layers=(1, 2, 2, 2)), 64, "layer4.1.conv3", 2048),
    "timm mobilenetv3": (image_model("mobilenetv3_small_050"), 64, "blocks.5.0.conv", 288),
    "timm convnext": (image_model("convnext_atto", depths=(1, 1, 2, 2)), 64, "stages.3.blocks.1", 320),
    # Fused and gated blocks and a padding that depends on the size, as EfficientNet-v2 has.
    "timm efficientnetv2": (image_model("test_efficientnet", pad_type="same"), 64, "conv_head", 256),
    "timm vit": (image_model("vit_tiny_patch16_224", img_size=64, depth=4), 64, "blocks.2", 192),
    "timm vit, registers": (image_model("vit_small_patch14_reg4_dinov2", img_size=56, depth=4), 56, "blocks.2", 384),
    "timm mixer": (partial(small_mixer, 7), 64, "blocks.2", 512),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, CutNetwork, str, int]:
    build, size, last, kernels = ARCHITECTURES[request.param]
    torch.manual_seed(0)
    # In float32 a rounding difference turns the sign of some activation near 0, and its derivative with it.
    network = randomised(build()).double()
    images = torch.randn(3, 3, size, size, dtype=torch.float64)
    cut = open_network(network, images[:2], "last")
    assert isinstance(cut, CutNetwork)
    return network, images, cut, last, kernels


def test_prefix_then_suffix_gives_the_networks_logits(architecture) -> None:
    network, images, cut, _, _ = architecture
    with torch.no_grad():
        wanted = network(images)
    assert wanted.std() > 1e-4
    torch.testing.assert_close(cut.logits(images), wanted)
    spread = [cut.layers[0], cut.layers[len(cut.layers) // 2], cut.layers[-1]]
    for one in cut.cuts(images, spread):
        with torch.no_grad():
            torch.testing.assert_close(one.head(one.maps), wanted)
            copies = one.head(one.maps.repeat(2, 1, 1, 1))
        torch.testing.assert_close(copies, wanted.repeat(2, 1))


def test_eq_4_behind_a_cut_equals_eq_4_through_hooks(architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch's derivative of a hard sigmoid holds 1/6 in float32, whatever the input's type.
    monkeypatch.setattr(nn.functional, "hardsigmoid", lambda x, inplace=False: (x + 3).clamp(0, 6) / 6)
    network, images, cut, last, _ = architecture
    hooked = HookedNetwork(network, images)
    labels = torch.tensor([0, 6, 2])
    common = [layer for layer in cut.layers if layer.name in {one.name for one in hooked.layers}]
    for name in dict.fromkeys([common[len(common) // 2].name, last]):
        results = [correlation_at(network_of, name, images, labels) for network_of in (cut, hooked)]
        scale = float(results[1].abs().max())
        assert scale > 0
        torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-10 * scale)


def correlation_at(network: LayeredNetwork, name: str, images: Tensor, labels: Tensor) -> Tensor:
    (one,) = network.cuts(images, [layer for layer in network.layers if layer.name == name])
    noise = Noise(seed=0, delta=0.1 * float(one.maps.std()))
    return correlate_samples(one, labels, [4, 5, 6], noise=noise, draws=2, rows=BatchLimit(6)).correlation


def test_last_is_the_layer_that_feeds_the_classifier(architecture) -> None:
    _, _, cut, last, kernels = architecture
    (chosen,) = select_layers(cut.layers, "last")
    assert (chosen.name, chosen.channels) == (last, kernels)


# Of layers that ARCHITECTURES have: squeezenet's classifier is a convolution, mobilenetv3's gates and head are, too.
NO_LAYERS = {"torchvision squeezenet": ("classifier.1",), "timm mobilenetv3": ("se.", "conv_head")}


def test_gates_and_classifiers_are_no_layers(architecture, request: pytest.FixtureRequest) -> None:
    network, _, cut, _, _ = architecture
    names = NO_LAYERS.get(request.node.callspec.params["architecture"], ())
    assert not [layer.name for layer in cut.layers for name in names if name in layer.name]
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert all(any(name in one for one in convolutions) for name in names)


def test_auxiliary_heads_are_no_layers() -> None:
    images = torch.randn(2, 3, 64, 64)
    auxiliary = CutNetwork(capture(small_googlenet(7, aux_logits=True).eval(), images))
    assert not [layer.name for layer in auxiliary.layers if layer.name.startswith("aux")]


def test_maps_are_those_before_an_in_place_activation() -> None:
    network = randomised(vision("squeezenet1_1")())
    images = torch.randn(2, 3, 64, 64)
    cut = CutNetwork(capture(network, images))
    one = next(cut.cuts(images, [layer for layer in cut.layers if layer.name == "features.0"]))
    with torch.no_grad():
        wanted = network.features[0](images)
    before = one.maps.clone()
    one.head(one.maps.repeat(2, 1, 1, 1).requires_grad_(True)).sum().backward()
    assert torch.equal(one.maps, before)
    torch.testing.assert_close(one.maps, wanted)
    assert (one.maps < 0).any()


class Overwriting(nn.Module):
    """Writes into part of a tensor behind its convolution, from another type; MViT adds positions to attention so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def suffix(self, maps: Tensor) -> Tensor:
        written = maps.sin()
        written[:, 1:, ::2] += maps[:, :1, ::2].square()
        written[:, 0, 0] = maps[:, 3].float().mean((1, 2))[:, None]
        return self.fc(written.mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.suffix(self.conv(images))


def test_what_is_written_into_part_of_a_tensor_has_derivatives() -> None:
    network, images = randomised(Overwriting()).double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    cut = CutNetwork(capture(network, images))
    (one,) = cut.cuts(images, [layer for layer in cut.layers if layer.name == "conv"])
    mine, wanted = (torch.autograd.functional.jacobian(head, one.maps) for head in (one.head, network.suffix))
    torch.testing.assert_close(mine, wanted)
    assert wanted.count_nonzero() > wanted[0].numel() / 2


class CountConvolutions(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[str]()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    """In float32; what is captured of it once is for all tests."""
    return randomised(vision("resnet18")())


def test_the_prefix_runs_once_for_all_layers_and_a_draw_runs_the_suffix_alone(resnet18: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    cut = open_network(resnet18, images)
    with CountConvolutions() as counted:
        for one in cut.cuts(images, cut.layers):
            assert one.maps.shape[0] == 2
    assert counted.calls["convolution"] == 20
    (last,) = cut.cuts(images, select_layers(cut.layers, "last"))
    with CountConvolutions() as counted, torch.no_grad():
        last.head(last.maps)
    assert counted.calls["convolution"] == 0


def test_cost_is_the_known_cost_of_resnet18() -> None:
    cut = CutNetwork(capture(torchvision.models.resnet18().eval(), torch.randn(2, 3, 224, 224)))
    stem = 64 * 112 * 112 * 3 * 7 * 7
    assert cut.layers[0].macs_after + stem == pytest.approx(1_814_073_344)  # as published: 1.814 GMACs
    assert cut.layers[-1].macs_after == 512 * 1000


def test_a_network_that_does_not_export_falls_back_to_hooks_with_a_warning() -> None:
    network = randomised(DataDependent())
    images = torch.randn(2, 3, 8, 8)
    with pytest.warns(ModelDoctorWarning, match="cannot be cut"):
        opened = open_network(network, images)
    assert isinstance(opened, HookedNetwork)
    (one,) = opened.cuts(images, opened.layers)
    with torch.no_grad():
        torch.testing.assert_close(one.maps, network.conv(images))
        torch.testing.assert_close(one.head(one.maps), network(images))


def test_a_cut_that_is_not_faithful_is_noticed() -> None:
    class BatchInside(nn.Module):
        """Keeps a value live across the cut in which the batch is the inner part of a merged dimension."""

        def __init__(self) -> None:
            super().__init__()
            self.early, self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            side = self.early(x).mean((2, 3)).t().reshape(-1)  # (4 B) with B inside
            pooled = self.conv(x).square().mean((2, 3))
            return self.fc((pooled.t().reshape(-1) + side).view(4, -1).t())

    network, images = randomised(BatchInside()), torch.randn(2, 3, 8, 8)
    cut = CutNetwork(capture(network, images))
    with pytest.raises(GraphError, match="changes the logits"):
        cut.verify(images, network(images).detach(), [layer for layer in cut.layers if layer.name == "conv"])
    with pytest.warns(ModelDoctorWarning, match="cannot be cut"):
        assert isinstance(open_network(network, images), HookedNetwork)


@pytest.mark.parametrize("kind", [Pooled, Branched, DataDependent])
@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(kind: type[nn.Module], fails: bool) -> None:
    network = randomised(kind())
    network.fc.weight.requires_grad_(False)
    before, state = flags(network), copy.deepcopy(network.state_dict())
    images = torch.randn(2, 3, 8, 8)
    random = torch.get_rng_state()
    hooked = HookedNetwork(network, images)
    for one in hooked.cuts(images, hooked.layers):
        maps = one.maps.clone().requires_grad_(True)
        if fails:
            with pytest.raises(RuntimeError):
                one.head(maps[:, :, :1, :1].expand(-1, 99, -1, -1))
        else:
            one.head(maps).sum().backward()
    assert flags(network) == before
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def flags(network: nn.Module) -> list[tuple[object, ...]]:
    modules = [(name, one.training, len(one._forward_hooks)) for name, one in network.named_modules()]
    return [*modules, *((name, one.requires_grad) for name, one in network.named_parameters())]


def test_new_weights_in_the_same_network_are_seen(resnet18: nn.Module) -> None:
    network, images = resnet18, torch.randn(2, 3, 64, 64)
    cut = open_network(network, images, "layer2.0.conv1")
    layers = select_layers(cut.layers, "layer2.0.conv1")
    for seed in (0, 1):
        network.load_state_dict(randomised(vision("resnet18")(), seed).state_dict())
        with torch.no_grad():
            wanted = network(images)
            torch.testing.assert_close(cut.logits(images), wanted, rtol=1e-3, atol=1e-4)
            (one,) = cut.cuts(images, layers)
            torch.testing.assert_close(one.head(one.maps), wanted, rtol=1e-3, atol=1e-4)


def test_training_mode_is_refused() -> None:
    with pytest.raises(GraphError, match="training mode"):
        capture(Pooled(), torch.randn(2, 3, 8, 8))
