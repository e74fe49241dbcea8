"""The channel and space constraints, Eq. 5 and 6, as pure functions of a layer's maps and the network behind it.

Each gives one value an image; the caller averages over the images that it applies to, so that a weight means the same
at every batch size. All are differentiable in the maps and in the suffix's weights (double backward).

Shapes: B images, J noise draws, K channels, H x W positions, N classes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeldoctor.graph import Cut


class Attribution(StrEnum):
    """What is constrained: the derivative itself, or its product with the activation.

    Behind BatchNorm-ReLU-pooling-linear |∂y/∂m| gives the activations no gradient; |∂y/∂m · m| does.
    """

    GRADIENT = "gradient"
    GRADIENT_X_ACTIVATION = "gradient_x_activation"


class Derivatives(NamedTuple):
    """∂y_n/∂(m + σ_j) for S classes n of each image, with a graph for the second backward.

    Attributes:
        batch: B.
        maps: m + σ_j, (J*B,K,H,W), copy-major.
        slopes: (J*B,K,H,W) for each class; in the closed form one, without the head's weights, for all.
        factors: (S,B,K,1,1), those weights; None without a closed form.
    """

    batch: int
    maps: Tensor
    slopes: tuple[Tensor, ...]
    factors: Tensor | None

    def attribution(self, kind: Attribution, classes: int | None = None) -> Tensor:
        """1/J Σ_j |∂y_n/∂(m + σ_j)|, or its product with the activation, (S,B,K,H,W).

        Args:
            kind: which of the two.
            classes: of the first so many classes; of all by default.
        """
        found = torch.stack([self._over_draws(one, kind) for one in self.slopes[:classes]])
        return found if self.factors is None else found * self.factors[:classes].abs()

    def _over_draws(self, slope: Tensor, kind: Attribution) -> Tensor:
        values = slope * self.maps if kind is Attribution.GRADIENT_X_ACTIVATION else slope
        return values.abs().unflatten(0, (-1, self.batch)).mean(0)  # type: ignore[no-any-return]


def differentiate(cut: Cut, classes: Tensor, noise: Tensor | None) -> Derivatives:
    """Differentiate logits behind a cut at noisy maps; all classes share one forward pass.

    Args:
        cut: maps (B,K,H,W) and the suffix, both with their graph.
        classes: (S,B).
        noise: σ, (J*B,K,H,W), copy-major; None for J = 0.
    """
    batch = len(cut.maps)
    maps = cut.maps.clone() if noise is None else (cut.maps + noise.unflatten(0, (-1, batch))).flatten(0, 1)
    if not maps.requires_grad:
        maps = maps.detach().requires_grad_(True)
    # Fused attention has no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        if cut.pooled:
            slopes = torch.autograd.grad(cut.pooled.pointwise(maps).sum(), maps, create_graph=True)
            return Derivatives(batch, maps, slopes, cut.pooled.factor(classes, maps))
        logits = cut.head(maps)
        picked = [logits.gather(1, one.repeat(len(maps) // batch)[:, None]).sum() for one in classes]
        slopes = tuple(torch.autograd.grad(one, maps, create_graph=True)[0] for one in picked)
        return Derivatives(batch, maps, slopes, None)


def attribute(cut: Cut, classes: Tensor, noise: Tensor | None, attribution: Attribution) -> Tensor:
    """One attribution of `differentiate`.

    Args:
        cut, noise: as there.
        classes: (B,) or (S,B).
        attribution: which of the two.

    Returns:
        (B,K,H,W), or (S,B,K,H,W).
    """
    found = differentiate(cut, classes.view(-1, len(cut.maps)), noise).attribution(attribution)
    return found if classes.ndim > 1 else found[0]


def channel_constraint(of_label: Tensor, of_runner_up: Tensor, correlated: Tensor) -> Tensor:
    """Eq. 5 for each image: Σ_k 1[Â[n,k] < v] a_n,k + Σ_k a_s,k.

    Args:
        of_label: (B,K,H,W), attribution of the label's logit.
        of_runner_up: (B,K,H,W), of the best other class's.
        correlated: (B,K) bool, whether Â[n,k] >= v for the image's label n.

    Returns:
        (B,).
    """
    own = of_label.sum((2, 3))
    return torch.where(correlated, 0, own).sum(1) + of_runner_up.sum((1, 2, 3))


def space_constraint(of_label: Tensor, background: Tensor, attribution: Attribution) -> Tensor:
    """Eq. 6 for each image: Σ_k Σ_hw bg · attribution; as a share of its total for gradient × activation.

    Args:
        of_label: (B,K,H,W), attribution of the label's logit.
        background: (B,H,W), 1 where a cell is background, 0 on the object and its surroundings.
        attribution: the paper's sum for `gradient`, a share in [0,1] for `gradient_x_activation`.

    Returns:
        (B,).
    """
    evidence = of_label.sum(1)
    outside = (evidence * background).sum((1, 2))
    if attribution is Attribution.GRADIENT:
        return outside
    return outside / evidence.sum((1, 2)).clamp_min(torch.finfo(evidence.dtype).tiny)


def runner_up(logits: Tensor, labels: Tensor) -> Tensor:
    """The best class other than the label, (B,) from logits (B,N) and labels (B,)."""
    return logits.detach().scatter(1, labels[:, None], -torch.inf).argmax(1)


def background_cells(masks: Tensor, expand_px: int, size: tuple[int, int]) -> Tensor:
    """Which cells of a feature map are background: those of which every pixel is, once the object is grown.

    Args:
        masks: (B,H0,W0) bool, True on the object, at the input's size.
        expand_px: pixels of the input by which the object grows in every direction (a square neighbourhood).
        size: (H,W) of the feature map.

    Returns:
        (B,H,W) float, 1 on background.
    """
    grown = masks[:, None].float()
    if expand_px:
        # A square neighbourhood is one of rows and one of columns.
        for kernel, padding in (((2 * expand_px + 1, 1), (expand_px, 0)), ((1, 2 * expand_px + 1), (0, expand_px))):
            grown = F.max_pool2d(grown, kernel, stride=1, padding=padding)
    return 1 - F.adaptive_max_pool2d(grown, size)[:, 0]
