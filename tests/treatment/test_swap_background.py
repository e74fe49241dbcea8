"""Objects before other backgrounds, by pictures whose pixels say what they are, and the loss by its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from modeldoctor.treatment.batches import OWN, REMOVED, SWAPPED, TrainingBatch
from modeldoctor.treatment.remedies.swap_background import intervention_loss, tapered, with_versions

EDGE = 24


def batch_of(number: int = 4, annotated: tuple[int, ...] = (0, 2)) -> TrainingBatch:
    """Image i has the background i + 1 and, if annotated, an object of 10 + i in the middle."""
    images = torch.arange(1.0, number + 1)[:, None, None, None].repeat(1, 1, EDGE, EDGE)
    masks = torch.zeros(number, EDGE, EDGE, dtype=torch.bool)
    for row in annotated:
        masks[row, 8:16, 8:16] = True
        images[row, 0][masks[row]] = 10.0 + row
    own = torch.arange(number)
    return TrainingBatch(
        images=images, labels=own % 3, other_labels=own % 3, share=torch.ones(number), masks=masks,
        annotated=torch.isin(own, torch.tensor(annotated)), trust=torch.ones(number), weight=torch.ones(number),
        version=torch.full_like(own, OWN), origin=own, keys=tuple(range(100, 100 + number)), whole=number,
    )  # fmt: skip


def test_each_annotated_image_comes_before_another_background_and_without_its_object() -> None:
    seen = set()
    for seed in range(40):
        batch = with_versions(batch_of(), seed)
        assert batch.version.tolist() == [OWN] * 4 + [SWAPPED] * 2 + [REMOVED] * 2
        assert batch.origin.tolist() == [0, 1, 2, 3, 0, 2, 0, 2]
        assert batch.labels.tolist() == [0, 1, 2, 0, 0, 2, 0, 2]
        assert batch.keys == (100, 101, 102, 103, 100, 102, 100, 102)
        for row in (4, 5):
            origin = int(batch.origin[row])
            assert (batch.images[row, 0][batch.masks[row]] == 10 + origin).all()
            corner = float(batch.images[row, 0, 0, 0])
            assert corner != origin + 1
            seen.add((origin, corner))
        for row in (6, 7):
            # Nothing is left of the object, and nothing of its outline: the background is of one value here.
            torch.testing.assert_close(
                batch.images[row, 0], torch.full((EDGE, EDGE), float(batch.origin[row]) + 1), atol=1e-5, rtol=0
            )
        assert batch.annotated.tolist() == [True, False, True, False, True, True, False, False]
    assert len(seen) == 6  # three other backgrounds for each of two objects


def test_another_images_background_comes_without_its_object() -> None:
    batch = with_versions(batch_of(2, (0, 1)), 0)
    for row, other in ((2, 2.0), (3, 1.0)):
        beside = batch.images[row, 0][~batch.masks[row] & (tapered(batch.masks)[row] == 0)]
        torch.testing.assert_close(beside, torch.full_like(beside, other))


def test_the_edge_is_tapered_around_the_object() -> None:
    masks = batch_of().masks
    alpha = tapered(masks)
    assert (alpha[0][masks[0]] == 1).all()
    rim = alpha[0][~masks[0]]
    assert ((rim > 0) & (rim < 1)).any()
    assert (alpha[0, :4] == 0).all()
    assert (alpha[1] == 0).all()


def test_an_annotated_image_counts_as_much_as_any_other_and_a_background_alone_not_at_all() -> None:
    plain, batch = batch_of(), with_versions(batch_of(), 0)
    logits = torch.randn(8, 3)
    losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    expected = (losses[1] + losses[3] + (losses[0] + losses[4]) / 2 + (losses[2] + losses[5]) / 2) / 4
    torch.testing.assert_close(batch.loss(logits, 0.0), expected)
    torch.testing.assert_close(plain.loss(logits[:4], 0.0), losses[:4].mean())


def test_the_loss_of_the_interventions_by_scipy() -> None:
    from scipy.special import rel_entr, softmax

    batch, prior = with_versions(batch_of(), 0), torch.tensor([0.5, 0.3, 0.2])
    logits = torch.randn(8, 3, dtype=torch.float32)
    p = softmax(logits.double().numpy(), axis=1)

    def divergence(a: Tensor | np.ndarray, b: np.ndarray) -> float:
        return float(rel_entr(np.asarray(a, dtype=np.float64), b).sum())

    consistency = sum((divergence(p[a], p[b]) + divergence(p[b], p[a])) / 2 for a, b in ((0, 4), (2, 5)))
    to_prior = divergence(prior, p[6]) + divergence(prior, p[7])
    found = float(intervention_loss(logits, batch, prior))
    assert abs(found - (consistency + to_prior) / 4) < 1e-5


def test_what_rests_on_a_found_mask_counts_by_its_trust() -> None:
    batch = with_versions(replace(batch_of(), trust=torch.tensor([1.0, 1, 0.6, 1])), 0)
    logits, prior = torch.randn(8, 3), torch.tensor([0.5, 0.3, 0.2])
    losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    expected = (losses[1] + losses[3] + (losses[0] + losses[4]) / 2 + 0.7 * losses[2] + 0.3 * losses[5]) / 4
    torch.testing.assert_close(batch.loss(logits, 0.0), expected)
    whole = replace(batch, trust=torch.ones(8))
    first = replace(batch, trust=torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 0]))
    full, one = (float(intervention_loss(logits, given, prior)) for given in (whole, first))
    assert abs(float(intervention_loss(logits, batch, prior)) - (one + 0.6 * (full - one))) < 1e-5


def test_a_batch_without_annotated_images_stays_as_it_is() -> None:
    batch = batch_of(3, ())
    assert with_versions(batch, 0) is batch
    assert float(intervention_loss(torch.randn(3, 3), batch, torch.ones(3) / 3)) == 0
