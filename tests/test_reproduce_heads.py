"""Methods on frozen features, on cases whose answer is known by hand or by scipy."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts" / "reproduce"))

import heads


def biased(size: int, seed: int, share: float) -> heads.Features:
    """Two classes; an object that is seen badly, and a background that is seen well and fits in this share."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    places = np.where(rng.random(size) < share, labels, 1 - labels)
    pooled = np.stack([2 * labels - 1 + rng.normal(0, 0.7, size), 2 * (2 * places - 1) + rng.normal(0, 0.2, size)], 1)
    return heads.Features(
        pooled=torch.from_numpy(pooled),
        labels=torch.from_numpy(labels),
        groups=torch.from_numpy(2 * labels + places),
        logits=torch.from_numpy(np.stack([-pooled[:, 1], pooled[:, 1]], 1)),  # it looks at the background alone
    )


def test_a_head_is_the_minimum_that_scipy_finds() -> None:
    images, rng, penalty = biased(60, 0, 0.8), np.random.default_rng(1), 0.01
    weights = rng.random(60)
    sign = 2 * images.labels.numpy() - 1

    def loss(values: np.ndarray) -> float:
        margin = sign * (images.pooled.numpy() @ values[:2] + values[2])
        # Two classes whose weights are opposite: w / 2 and -w / 2, so that their squares sum to half of w's.
        return float(weights @ np.logaddexp(0, -margin) / weights.sum() + penalty * (values[:2] ** 2).sum() / 2)

    best = minimize(loss, np.zeros(3), tol=1e-10).x
    logits = heads.fit_head(images, torch.from_numpy(weights), penalty)(images.pooled)
    expected = images.pooled.numpy() @ best[:2] + best[2]
    np.testing.assert_allclose((logits[:, 1] - logits[:, 0]).numpy(), expected, atol=1e-3)


def test_the_worst_group_decides() -> None:
    """Without features, 80% and 20% positives in two groups: no chance but 1/2 is best for the worse of the two."""
    labels = torch.tensor([1] * 80 + [0] * 20 + [1] * 2 + [0] * 8)
    images = heads.Features(
        pooled=torch.zeros(110, 1), labels=labels, groups=torch.tensor([0] * 100 + [1] * 10), logits=torch.zeros(110, 2)
    )
    of_all = heads.fit_head(images, torch.ones(110), 0.0)(images.pooled)[0]
    assert expit(float(of_all[1] - of_all[0])) == pytest.approx(82 / 110, abs=1e-3)
    fair = heads.fit_worst_group(images, 0.0)(images.pooled)[0]
    assert expit(float(fair[1] - fair[0])) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("name", "within"), [("DFR", 0.06), ("DFR, few groups", 0.15), ("GroupDRO", 0.06), ("AFR", 0.06), ("JTT", 0.06)]
)
def test_a_misleading_background_is_left_aside(name: str, within: float) -> None:
    train, val, test = biased(600, 0, 0.97), biased(400, 1, 0.5), biased(2000, 2, 0.5)
    plain = heads.worst_group(next(heads.choose("head refitted", train, val, [0])), test)
    # The object alone is right in P(normal(1, 0.7) > 0) = 92% of all images.
    found = heads.worst_group(next(heads.choose(name, train, val, [0])), test)
    assert found == pytest.approx(0.92, abs=within)
    assert found > plain
