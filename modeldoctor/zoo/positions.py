"""Position embeddings that transformers fits to the image's size in each pass, as its DINOv2 does.

Shapes: T = P + h·w positions, P of them before the patches', D wide; h and w are the grid of patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_POSITIONS, _CLASS, _REGISTERS, _STEM = "pos_embed", "cls_token", "reg_token", "patch_embed.proj.weight"


@dataclass(frozen=True)
class Positions:
    """The file's position embedding, and what a network for one size of image has in its place.

    With registers timm's network has no position of the class token: it is added to the token.
    """

    held: Tensor
    """(1,1+h·w,D) of the file."""
    grid: tuple[int, int]
    """Of the images."""
    folded: bool
    """Whether there are registers; transformers smooths these networks' embedding when it shrinks it."""

    @classmethod
    def of(cls, network: Mapping[str, Tensor], size: tuple[int, int] | None) -> Positions | None:
        """From timm's names, and the height and width of the images; None where there is nothing to fit."""
        held, stem = network.get(_POSITIONS), network.get(_STEM)
        if held is None or stem is None or held.ndim != 3 or stem.ndim != 4:
            return None
        edge = isqrt(held.shape[1] - 1)
        if edge * edge != held.shape[1] - 1:
            return None
        grid = (size[0] // stem.shape[2], size[1] // stem.shape[3]) if size else (edge, edge)
        return cls(held, grid if min(grid) else (edge, edge), _REGISTERS in network)

    @property
    def edge(self) -> int:
        """Of the file's grid, which is a square."""
        return isqrt(self.held.shape[1] - 1)

    @property
    def fits(self) -> bool:
        """Whether the file's are for images of this size."""
        return self.grid == (self.edge, self.edge)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done, as sentences."""
        if self.fits:
            return ()
        return (
            f"the file's position embedding is for {self.edge}x{self.edge} patches: interpolated to "
            f"{self.grid[0]}x{self.grid[1]}, as transformers does in each pass; a treatment leaves it as it is",
        )

    def fitted(self, network: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's tensors with the embedding for this size."""
        first, patches = self.held[:, :1], self.held[:, 1:]
        if not self.fits:
            square = patches.float().reshape(1, self.edge, self.edge, -1).permute(0, 3, 1, 2)
            resized = F.interpolate(square, size=self.grid, mode="bicubic", antialias=self.folded)
            patches = resized.permute(0, 2, 3, 1).reshape(1, -1, patches.shape[2]).to(patches.dtype)
        if self.folded:
            return {**network, _POSITIONS: patches, _CLASS: network[_CLASS] + first}
        return {**network, _POSITIONS: torch.cat([first, patches], dim=1)}

    def unfitted(self, treated: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Treated tensors as the file has them."""
        found = dict(treated)
        first = self.held[:, :1]
        if self.folded and _CLASS in found:
            found[_CLASS] = found[_CLASS] - first.to(found[_CLASS])
        if not self.fits:
            found[_POSITIONS] = self.held
        elif self.folded and _POSITIONS in found:
            found[_POSITIONS] = torch.cat([first.to(found[_POSITIONS]), found[_POSITIONS]], dim=1)
        return found

    def fix(self, network: nn.Module) -> None:
        """Keep a training from changing what has no place in the file."""
        if not self.fits:
            network.get_parameter(_POSITIONS).requires_grad_(False)
