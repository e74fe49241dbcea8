"""Which layers' inputs are looked at."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modeldoctor.diagnosis.looks import find_views


class WithTable(nn.Module):
    """As Swin V2: a layer early on reads a table of positions, another one reads windows of the images."""

    def __init__(self, parts: int):
        super().__init__()
        self.register_buffer("table", torch.ones(parts, 4))
        self.stem, self.biases, self.windows = nn.Linear(6, 4), nn.Linear(4, 1), nn.Linear(4, 4)
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.stem(images.flatten(1))
        rows = rows + self.biases(self.table).mean()
        rows = self.windows(rows.reshape(-1, 1, 4).repeat(2, 1, 1))[: len(rows), 0]
        return self.head(self.body(rows))  # type: ignore[no-any-return]


@pytest.mark.parametrize("parts", [1, 7])
def test_the_early_layer_has_a_row_for_each_image(parts: int) -> None:
    network = WithTable(parts).eval()
    views = find_views(network, torch.randn(2, 6, 1, 1))
    assert views is not None
    # Of stem, biases, windows, body and head, the second is a third down; of those that read images it is the body.
    assert views.early is network.body
    assert views.head is network.head
    assert views.linear


class Rows(nn.Module):
    """A convolution and a head that takes its maps as rows: by `view`, by `as_strided`, or by `flatten`."""

    def __init__(self, how: str):
        super().__init__()
        self.stem, self.head, self.how = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 3), how

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        rows = {
            "view": lambda: maps.view(len(maps), -1),
            "as_strided": lambda: maps.as_strided((len(maps), 64), (64, 1)),
            "flatten": lambda: maps.flatten(1),
        }
        return self.head(rows[self.how]())  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["view", "as_strided", "flatten"])
def test_images_lie_channels_last_where_the_code_of_the_network_allows_it(how: str) -> None:
    views = find_views(Rows(how).eval(), torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert views is not None
    assert views.memory_format == (torch.channels_last if how == "flatten" else torch.contiguous_format)
