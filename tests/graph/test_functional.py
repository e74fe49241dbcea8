"""Operations that write into their input, exchanged: the same graph as PyTorch's own way gives, or none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
from networks import randomised, small_mobilenet
from torch import Tensor, nn

from modeldoctor.graph import CutNetwork
from modeldoctor.graph.capture import capture
from modeldoctor.graph.functional import make_functional

aten = torch.ops.aten
Body = Callable[[nn.Module, Tensor], Tensor]


class Written(nn.Module):
    """One convolution, BatchNorm and a head around a body that writes into tensors."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.fc = nn.Dropout(), nn.Linear(4, 3)
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.drop(self.norm(self.body(self, self.conv(images))).mean((2, 3))))


def again_by_its_old_name(network: nn.Module, maps: Tensor) -> Tensor:
    kept = maps.sigmoid()  # before anything is written
    written = maps.relu_()
    written.add_(kept)
    return maps + maps.sigmoid()  # what was written, twice


def with_a_norm_before(network: nn.Module, maps: Tensor) -> Tensor:
    before = network.norm(maps)
    return maps.relu_() + before


def through_a_view(network: nn.Module, maps: Tensor) -> Tensor:
    rows = maps.flatten(1)
    maps.relu_()
    return maps + rows.mean(1)[:, None, None, None]


def by_another_operation(network: nn.Module, maps: Tensor) -> Tensor:
    return maps.square_()


def exported(network: nn.Module, size: int) -> Any:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    dynamic = ({0: torch.export.Dim("batch", max=999)},)
    with torch.no_grad():
        return torch.export.export(randomised(network), (images,), dynamic_shapes=dynamic, strict=False)


def operations(graph: torch.fx.Graph) -> list[tuple[str, Any, Any]]:
    """Every operation with the modules it is of and the shape it gives; two names of flattening are one."""
    same = {aten.view.default: aten.flatten.using_ints}
    found = []
    for node in graph.nodes:
        nothing = node.target is aten.clone.default or "sym_size" in str(node.target)
        if node.op != "call_function" or nothing:
            continue
        value = node.meta["val"]
        shape = tuple(map(str, value.shape)) if isinstance(value, Tensor) else None
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        found.append((str(same.get(node.target, node.target)), stack, shape))
    return found


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (partial(timm.create_model, "test_resnet", num_classes=4), 32),
        (partial(timm.create_model, "test_efficientnet", num_classes=4), 32),
        (partial(small_mobilenet, 4), 32),
        (partial(Written, again_by_its_old_name), 8), (partial(Written, with_a_norm_before), 8),
    ],
    ids=["resnet", "efficientnet", "mobilenet", "old name", "norm before"],
)  # fmt: skip
def test_the_operations_are_those_of_pytorchs_own_way(make: Callable[[], nn.Module], size: int) -> None:
    program = exported(make(), size)
    wanted = operations(program.run_decompositions({}).graph)
    assert make_functional(program.graph)
    program.graph.lint()
    assert operations(program.graph) == wanted


@pytest.mark.parametrize("body", [again_by_its_old_name, with_a_norm_before, through_a_view, by_another_operation])
def test_what_was_written_is_read(body: Body) -> None:
    network = randomised(Written(body)).double()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(CutNetwork(capture(network, images)).logits(images), network(images).detach())


@pytest.mark.parametrize("body", [through_a_view, by_another_operation])
def test_a_graph_of_anything_else_stays_as_it_is(body: Body) -> None:
    graph = exported(Written(body), 8).graph
    before = str(graph)
    assert not make_functional(graph)
    assert str(graph) == before
