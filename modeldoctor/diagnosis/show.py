"""The pass that makes maps and altered pictures of a few wrong images, for people to look at.

Shapes: P images shown, B images, h x w pixels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.altered import Alteration, alter, join
from modeldoctor.diagnosis.explain import Probe
from modeldoctor.diagnosis.interventions import Backgrounds
from modeldoctor.diagnosis.passes import Run
from modeldoctor.diagnosis.sharding import dealt
from modeldoctor.method.maps import ImageMaps, image_maps, thumbnails
from modeldoctor.method.noise import Noise
from modeldoctor.results.altered import Altered
from modeldoctor.results.diagnosis import Misdiagnosis, Shown
from modeldoctor.results.verdicts import most_telling
from modeldoctor.runtime.distributed import Team


def show(
    run: Run,
    images: AnySet,
    explained: Sequence[Misdiagnosis],
    first_row: int,
    probe: Probe,
    backgrounds: Backgrounds | None,
) -> tuple[Shown | None, Altered | None]:
    """Last pass: thumbnails, maps and interventions of the most telling wrong images; so few that no state is kept.

    Args:
        images: the examined split.
        explained: its wrong images.
        first_row: of this split among all samples.
        probe: the layer, and the noise of its maps.
        backgrounds: that objects are put before.
    """
    chosen = sorted(most_telling(explained, run.config.shown), key=lambda image: image.sample)
    if not chosen:
        return None, None
    index = run.state.predictions[images.split].table()[0]
    places = index[[picked.sample - first_row for picked in chosen]]
    verdicts = dict(zip(places.tolist(), chosen, strict=True))
    layer = next(layer for layer in probe.layers if layer.name == probe.profile.name)
    noise = Noise(seed=probe.seed, delta=probe.delta)
    pictures, maps, seen, altered = [], [], list[int](), list[Alteration]()
    # So few that every process makes them all.
    for batch in dealt(Team(), images, places, batch_size=run.chunks.batch, workers=0, device=run.device):
        keys = batch.indices.tolist()
        if not keys:  # none of them can be read any more
            continue
        classes = torch.tensor([verdicts[key].predicted for key in keys]).to(run.device)
        pixels = batch.images.to(run.device)
        (cut,) = run.network.cuts(pixels, [layer])
        maps.append(image_maps(cut, classes, keys, noise=noise, draws=probe.draws, rows=probe.rows[layer.name]))
        pictures.append(thumbnails(batch.images, images.preprocessing.mean, images.preprocessing.std))
        for image, mask, key in zip(pixels, batch.masks or [None] * len(keys), keys, strict=True):
            altered += alter(run, images.preprocessing, image, mask, verdicts[key], backgrounds, key)
        seen += keys
        run.after_batch("show", len(seen), len(places))
    if not seen:
        return None, None
    whole = ImageMaps(*(torch.cat(parts).float() for parts in zip(*maps, strict=True)))
    shown = Shown(
        layer=layer.name,
        sample=np.array([verdicts[key].sample for key in seen], dtype=np.int32),
        thumbnail=np.concatenate(pictures),
        derivative=whole.derivative.numpy(),
        contribution=whole.contribution.numpy(),
        grad_cam=whole.grad_cam.numpy(),
    )
    return shown, join(altered)
