"""Ways from tokens to features that no library has.

Shapes: B images, T tokens, P of them before the patches, D wide.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

CLASS_AND_MEAN = "class_and_mean"
"""DINOv2's in transformers, as the value of timm's `global_pool`."""


class ClassAndMean(nn.Module):
    """(B,T,D) → (B,2D): the class token beside the mean of the patches.

    Args:
        prefix: P, the class token and the registers.
    """

    def __init__(self, prefix: int):
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        return torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(1)], dim=1)


def pool_class_and_mean(network: VisionTransformer, classes: int) -> None:
    """Let a vision transformer of timm, built without pooling, classify both; its head becomes twice as wide."""
    network.fc_norm = ClassAndMean(network.num_prefix_tokens)
    network.head = nn.Linear(2 * network.embed_dim, classes)
