"""Masks that are found from annotated ones, on pictures whose objects are known by construction."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.config.treat import TreatConfig
from modeldoctor.data import ImageSet, Sample, open_data
from modeldoctor.data.found_masks import PropagatedMasks, annotated_batches, packed, plain_batches
from modeldoctor.data.transforms import fitted, unfitted
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.object_finder import GRID, ObjectFinder, Quality, expected_iou, overlap, to_learn_from
from modeldoctor.results import run_directory
from modeldoctor.runtime.interrupts import StopRequest
from modeldoctor.runtime.progress import silent
from modeldoctor.treatment.arm import TrialContext
from modeldoctor.treatment.batches import training_batches
from modeldoctor.treatment.propagation import with_propagated, write_overlays
from modeldoctor.treatment.subsets import Splits, Subset


@pytest.mark.parametrize("mode", ["shortest", "squash", "pad"])
@pytest.mark.parametrize(("size", "crop_pct"), [((90, 60), 1.0), ((60, 90), 0.875), ((200, 40), 0.9), ((20, 20), 0.8)])
def test_a_mask_of_the_input_lands_where_the_picture_shows_it(
    mode: str, size: tuple[int, int], crop_pct: float
) -> None:
    """Back on the network's input, by the transform that pictures take, it is the mask it was."""
    preprocessing = Preprocessing(
        input_size=(3, 56, 56), mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode=mode, crop_pct=crop_pct
    )
    bright = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    half, (x, y) = min(size) // 4, (size[0] // 2 - min(size) // 10, size[1] // 2 + min(size) // 8)
    bright[y - half : y + half, x - half : x + half] = 255
    shown, _ = fitted(Image.fromarray(bright), None, preprocessing)
    mask = torch.from_numpy(np.asarray(shown)[:, :, 0] > 200)
    of_picture = unfitted(mask, size, preprocessing)
    assert of_picture.shape == (size[1], size[0])
    _, again = fitted(Image.fromarray(bright), of_picture, preprocessing)
    assert again is not None
    assert overlap(again[None], mask[None])[0] > 0.7
    assert overlap(of_picture[None], torch.from_numpy(bright[:, :, 0] > 0)[None])[0] > 0.55


def test_overlap_and_its_expectation_are_what_loops_count() -> None:
    rng = np.random.default_rng(0)
    chance = torch.from_numpy(rng.random((1, 6, 5)))
    draws = torch.from_numpy(rng.random((4000, 6, 5))) < chance
    found = (chance > 0.5).expand_as(draws)
    inside = (found & draws).sum((1, 2)).double().mean() / (found | draws).sum((1, 2)).double().mean()
    assert expected_iou(chance)[0] == pytest.approx(float(inside), abs=0.01)
    a, b = draws[0].numpy(), draws[1].numpy()
    both = sum(bool(x and y) for x, y in zip(a.flat, b.flat, strict=True))
    either = sum(bool(x or y) for x, y in zip(a.flat, b.flat, strict=True))
    assert overlap(draws[:1], draws[1:2])[0] == pytest.approx(both / either)


@pytest.fixture
def discs(tmp_path: Path) -> ImageSet:
    """Red discs anywhere on grey noise; the masks say where."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:56, :56]
    for number in range(40):
        centre, radius = rng.integers(12, 44, 2), rng.integers(8, 14)
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        picture = np.repeat(rng.integers(60, 160, (56, 56, 1)), 3, 2)
        picture[disc] = (220, 30, 30)
        for root, pixels in (("data", picture.astype(np.uint8)), ("masks", disc.astype(np.uint8) * 255)):
            (tmp_path / root / "train" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / root / "train" / "ab"[number % 2] / f"{number}.png")
    preprocessing = Preprocessing(input_size=(3, 56, 56), mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0)
    opened = open_data(
        str(tmp_path / "data"), preprocessing=preprocessing, root=None, download=False, masks=tmp_path / "masks"
    )
    images = opened["train"]
    assert isinstance(images, ImageSet)
    return images


def network() -> TrainableNetwork:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 2),
    ).eval()  # fmt: skip
    return TrainableNetwork(module, torch.randn(2, 3, 56, 56))


READING: Any = {"batch_size": 8, "workers": 0, "device": torch.device("cpu")}


def finder_of() -> ObjectFinder:
    trainable = network()
    return ObjectFinder(trainable.eval_cuts, trainable.layers, batch_size=8, device=torch.device("cpu"))


def test_so_many_images_are_learned_from_as_are_worth_it() -> None:
    assert to_learn_from(7).tolist() == list(range(7))
    some = to_learn_from(5000)
    assert len(set(some.tolist())) == 400
    assert sorted(some.tolist()) == some.tolist()


def test_discs_are_found_in_images_without_an_annotation(discs: ImageSet, tmp_path: Path) -> None:
    annotated, others = np.arange(0, 40, 2), np.arange(1, 40, 2)
    finder = finder_of()
    quality = finder.learn(annotated_batches(discs, annotated, **READING))
    assert quality.suffices
    assert quality.iou > 0.7 > quality.by_place + 0.2
    found = dict(finder.find(plain_batches(discs, others, **READING)))
    assert set(found) == set(others.tolist())
    assert discs.masks is not None
    bits = {discs.paths[index]: packed(mask) for index, mask in found.items()}
    images = discs.with_masks(PropagatedMasks(discs.masks, bits, discs.preprocessing))
    for index in range(40):
        mine, true = images[index], discs[index]
        assert isinstance(mine, Sample)
        assert isinstance(true, Sample)
        assert mine.mask is not None
        assert true.mask is not None
        agree = overlap(mine.mask[None], true.mask[None])[0]
        # A person's mask stays as it is.
        assert agree == 1 if index in annotated else agree > 0.6
    write_overlays(quality, discs, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (6 * 192, 192)


def test_where_the_object_cannot_be_seen_its_masks_are_not_used(discs: ImageSet) -> None:
    """The masks of other images: what is learned from them is no better than the usual place."""

    class Shuffled:
        def find(self, relative_path: str) -> Path | None:
            number = int(Path(relative_path).stem)
            other = (number * 7 + 4) % 40
            assert discs.masks is not None
            return discs.masks.find(f"train/{'ab'[other % 2]}/{other}.png")

        read = staticmethod(discs.masks.read)  # type: ignore[union-attr]
        warn = staticmethod(discs.masks.warn)  # type: ignore[union-attr]

    shuffled = annotated_batches(discs.with_masks(Shuffled()), np.arange(0, 40, 2), **READING)
    assert not finder_of().learn(shuffled).suffices


def test_a_trial_uses_found_masks_and_never_counts_them_as_annotations(discs: ImageSet, tmp_path: Path) -> None:
    trainable, part = network(), Subset(images=discs, indices=np.arange(38))  # two are validation's, say
    context = TrialContext(
        network=nn.Identity(), trainable=trainable, example=torch.empty(0), original={},
        splits=Splits(train=part, val=part, test=part), annotated=np.arange(0, 30, 2), by_hand=15,
        device=torch.device("cpu"), states=tmp_path, progress=silent, stop=StopRequest(),
    )  # fmt: skip
    samples = SimpleNamespace(
        splits=("train",), path=np.array([path.encode() for path in discs.paths], dtype=object),
        predicted=(discs.labels + (np.arange(40) % 3 == 0)) % 2, confidence=np.full(40, 0.9),
    )  # fmt: skip
    diagnosis: Any = SimpleNamespace(samples=samples, rows=lambda split: np.ones(40, dtype=np.bool_))

    def config(per_class: int) -> TreatConfig:
        space = {"propagated_per_class": per_class, "annotated_per_class": 10}
        return TreatConfig(
            checkpoint="a.pt", data={"path": "b", "masks": "c"}, output=tmp_path, space=space,
            training={"batch_size": 8},
        )  # fmt: skip

    assert with_propagated(context, diagnosis, config(0)) == (context, None)
    more, record = with_propagated(context, diagnosis, config(4))
    assert record is not None
    assert record["images"] == len(more.annotated) - 15
    # Of each class the wrong ones first: every third image is wrong.
    found = sorted(set(more.annotated.tolist()) - set(context.annotated.tolist()))
    free = [number for number in range(38) if number not in context.annotated]
    of_class = [[number for number in free if discs.labels[number] == label] for label in (0, 1)]
    wrong_first = [sorted(numbers, key=lambda number: number % 3 != 0)[:4] for numbers in of_class]
    assert found == sorted(wrong_first[0] + wrong_first[1])
    assert more.by_hand == 15
    # What rests on a found mask counts by the overlap that was measured, and on a person's by 1.
    batches = list(training_batches(more.splits.train, more.annotated, config(4), seed=0, epoch=0))
    trust = {key: value for batch in batches for key, value in zip(batch.keys, batch.trust.tolist(), strict=True)}
    assert {key for key, value in trust.items() if value != 1} == set(found) & set(trust) != set()
    assert {round(trust[key], 5) for key in set(found) & set(trust)} == {round(record["iou"], 5)}
    assert all(
        isinstance(sample := more.splits.train.images[index], Sample) and sample.mask is not None for index in found
    )
    assert (tmp_path / run_directory.PROPAGATED).exists()


def test_the_usual_place_must_be_beaten() -> None:
    def quality(iou: float, by_place: float) -> Quality:
        nothing = np.empty(0)
        return Quality(
            iou=iou, by_place=by_place, by_image=nothing, found=torch.empty(0, GRID, GRID),
            indices=nothing.astype(np.int64),
        )  # fmt: skip

    assert quality(0.55, 0.2).suffices
    assert not quality(0.55, 0.54).suffices
    assert not quality(0.45, 0.1).suffices


@pytest.mark.parametrize("height", range(40, 57))
def test_a_found_mask_on_a_padded_picture_is_no_pixel_off(height: int) -> None:
    """56 px wide, so that nothing is resized: the padding alone decides where the picture begins."""
    preprocessing = Preprocessing(input_size=(3, 56, 56), mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="pad")
    mask = torch.zeros(height, 56, dtype=torch.bool)
    mask[10:20, 5:30] = True
    _, shown = fitted(Image.new("RGB", (56, height)), mask, preprocessing)
    assert shown is not None
    assert torch.equal(unfitted(shown, (56, height), preprocessing), mask)
