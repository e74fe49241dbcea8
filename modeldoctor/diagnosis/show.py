"""The pass that makes maps and altered pictures of a few wrong images, for people to look at.

Shapes: P images shown, B images, h x w pixels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.altered import Alteration, alter, join
from modeldoctor.diagnosis.explain import Probe
from modeldoctor.diagnosis.interventions import Backgrounds
from modeldoctor.diagnosis.passes import Run
from modeldoctor.diagnosis.sharding import dealt
from modeldoctor.method.maps import ImageMaps, image_maps, thumbnails
from modeldoctor.method.noise import Noise
from modeldoctor.results.altered import Altered
from modeldoctor.results.diagnosis import Misdiagnosis
from modeldoctor.results.pictures import Pictures, Shown
from modeldoctor.results.verdicts import most_telling, telling_of_classes
from modeldoctor.runtime.distributed import Team

_PICTURES, _OF_CLASS, _EDGE = 1000, 20, 96
"""Small pictures of all classes and of one, at most, and pixels of their longer side: a page of them stays small."""
_FEW = 64  # images that no further process is started for


class _Found(NamedTuple):
    """What the pass has made so far, image by image."""

    samples: list[int]
    pictures: list[NDArray[np.uint8]]
    maps: list[ImageMaps]
    altered: list[Alteration]
    small_samples: list[int]
    small: list[NDArray[np.uint8]]


def show(
    run: Run,
    images: AnySet,
    explained: Sequence[Misdiagnosis],
    first_row: int,
    probe: Probe,
    backgrounds: Backgrounds | None,
) -> tuple[Shown | None, Pictures | None, Altered | None]:
    """Last pass: maps and interventions of the most telling wrong images, and small pictures of every class's.

    Args:
        images: the examined split.
        explained: its wrong images.
        first_row: of this split among all samples.
        probe: the layer, and the noise of its maps.
        backgrounds: that objects are put before.
    """
    chosen = most_telling(explained, run.config.shown)
    if not chosen:
        return None, None, None
    small = telling_of_classes(explained, _PICTURES, _OF_CLASS)
    wanted = sorted({image.sample: image for image in (*chosen, *small)}.values(), key=lambda image: image.sample)
    index = run.state.predictions[images.split].table()[0]
    places = index[[picked.sample - first_row for picked in wanted]]
    verdicts = dict(zip(places.tolist(), wanted, strict=True))
    mapped, of_classes = ({image.sample for image in part} for part in (chosen, small))
    layer = next(layer for layer in probe.layers if layer.name == probe.profile.name)
    noise = Noise(seed=probe.seed, delta=probe.delta)
    found = _Found([], [], [], [], [], [])
    workers = 0 if len(places) <= _FEW else run.config.workers
    # So few that every process makes them all.
    for batch in dealt(Team(), images, places, batch_size=run.chunks.batch, workers=workers, device=run.device):
        keys = batch.indices.tolist()
        if not keys:  # none of them can be read any more
            continue
        samples = [verdicts[key].sample for key in keys]
        colours = images.preprocessing.mean, images.preprocessing.std
        if kept := [i for i, sample in enumerate(samples) if sample in of_classes]:
            found.small.append(thumbnails(batch.images[kept], *colours, edge=_EDGE))
            found.small_samples.extend(samples[i] for i in kept)
        if kept := [i for i, sample in enumerate(samples) if sample in mapped]:
            pixels, chosen_keys = batch.images[kept].to(run.device), [keys[i] for i in kept]
            classes = torch.tensor([verdicts[key].predicted for key in chosen_keys]).to(run.device)
            (cut,) = run.network.cuts(pixels, [layer])
            rows = probe.rows[layer.name]
            found.maps.append(image_maps(cut, classes, chosen_keys, noise=noise, draws=probe.draws, rows=rows))
            found.pictures.append(thumbnails(batch.images[kept], *colours))
            found.samples.extend(samples[i] for i in kept)
            masks = batch.masks or [None] * len(keys)
            for i, image in zip(kept, pixels, strict=True):
                found.altered.extend(alter(run, images.preprocessing, image, masks[i], verdicts[keys[i]], backgrounds))
        run.after_batch("show", len({*found.samples, *found.small_samples}), len(places))
    return _shown(layer.name, found), _pictures(found), join(found.altered)


def _shown(layer: str, found: _Found) -> Shown | None:
    if not found.samples:
        return None
    whole = ImageMaps(*(torch.cat(parts).float() for parts in zip(*found.maps, strict=True)))
    return Shown(
        layer=layer,
        sample=np.array(found.samples, dtype=np.int32),
        thumbnail=np.concatenate(found.pictures),
        derivative=whole.derivative.numpy(),
        contribution=whole.contribution.numpy(),
        grad_cam=whole.grad_cam.numpy(),
    )


def _pictures(found: _Found) -> Pictures | None:
    if not found.small_samples:
        return None
    return Pictures(sample=np.array(found.small_samples, dtype=np.int32), thumbnail=np.concatenate(found.small))
