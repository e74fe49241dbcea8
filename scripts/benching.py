"""What the benchmarks share: networks, clocks, counted operations and the rate that products reach by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median

import timm
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modeldoctor.graph import CutNetwork, Layer
from modeldoctor.graph.capture import CONV2D, Captured, concrete, node_macs, suffix_nodes

NETWORKS = (
    "torchvision/resnet50",
    "torchvision/densenet121",
    "torchvision/vgg16",
    "torchvision/mobilenet_v2",
    "torchvision/efficientnet_v2_s",
    "timm/vit_small_patch16_224",
)
_PRODUCTS = (*CONV2D, torch.ops.aten.linear.default)


def build(arch: str, **options: int) -> nn.Module:
    """A network with random weights, in eval mode, from `timm/NAME` or `torchvision/NAME`."""
    library, _, name = arch.partition("/")
    make = timm.create_model if library == "timm" else torchvision.models.get_model
    network: nn.Module = make(name, **options)
    return network.eval()


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call, waiting for the GPU."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def medians(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each call; they take turns, after one of each that is not counted."""
    rounds = [[seconds(call) for call in calls] for _ in range(repeats + 1)][1:]
    return [median(column) for column in zip(*rounds, strict=True)]


def title(text: str, device: str) -> str:
    """A table's title with what the figures depend on."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"
    return f"{text}, {name}, torch {torch.__version__}"


def show(heading: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; the first column holds names."""
    table = Table(title=heading, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)


def counted_flop(cut: CutNetwork, layers: Sequence[Layer], images: int, draws: int) -> float:
    """Floating point operations of products: one prefix for all, J suffixes forward and backward for each layer."""
    return 2.0 * images * (whole_macs(cut.captured) + 2 * max(draws, 1) * sum(layer.macs_after for layer in layers))


def hooked_flop(network: nn.Module, layers: Sequence[Layer], images: Tensor, draws: int) -> float:
    """The same through hooks: for each layer J times the whole network forward, and backward to the layer."""
    backward = 2.0 * len(images) * sum(layer.macs_after for layer in layers)
    return max(draws, 1) * (len(layers) * forward_flop(network, images) + backward)


def forward_flop(network: nn.Module, images: Tensor) -> float:
    """Of the network's own forward pass."""
    # What fused attention does on a CPU is not counted.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(images)
    return float(counter.get_total_flops())


def whole_macs(captured: Captured) -> int:
    """Multiply-accumulates of one image's forward pass through the graph."""
    return sum(node_macs(node, captured.batch) for node in captured.graph.nodes)


def products_alone(cut: CutNetwork, layers: Sequence[Layer], images: Tensor, draws: int, rows: int) -> float:
    """Seconds that the counted products take by themselves, each measured apart from everything else.

    Args:
        cut: the network.
        layers: that are measured.
        images: (B,C,H,W).
        draws: J.
        rows: copies at once behind a layer.
    """
    captured = cut.captured
    places = {place.name: place.node for place in captured.layer_nodes}
    suffixes = [set(suffix_nodes(captured.graph, places[layer.name], captured.logits)) for layer in layers]
    total, known = 0.0, dict[tuple[object, ...], float]()
    for node in captured.graph.nodes:
        if node.target not in _PRODUCTS or not isinstance(node.args[1], fx.Node) or node.args[1] not in captured.state:
            continue
        total += _product_seconds(cut, node, len(images), images, False, known)
        behind = sum(node in suffix for suffix in suffixes)
        if behind:
            copies = len(images) * max(draws, 1) / rows
            total += behind * copies * _product_seconds(cut, node, rows, images, True, known)
    return total


def _product_seconds(
    cut: CutNetwork, node: fx.Node, rows: int, like: Tensor, backward: bool, known: dict[tuple[object, ...], float]
) -> float:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    shape = concrete(source.meta["val"].shape, cut.captured.batch, rows)
    weight = cut.captured.state[node.args[1]]  # type: ignore[index]
    rest = node.args[3:]
    key = (shape, tuple(weight.shape), str(rest), backward)
    if key not in known:
        known[key] = _time_product(node, torch.randn(shape).to(like), weight, rest, backward)
    return known[key]


def _time_product(node: fx.Node, x: Tensor, weight: Tensor, rest: tuple[object, ...], backward: bool) -> float:
    if x.ndim == 4:
        x, weight = (one.contiguous(memory_format=torch.channels_last) for one in (x, weight))

    def product() -> None:
        with torch.set_grad_enabled(backward):
            y = node.target(x.requires_grad_(backward), weight, None, *rest)  # type: ignore[operator]
            if backward:
                torch.autograd.grad(y, x, torch.ones_like(y))

    return medians([product], 2)[0]
