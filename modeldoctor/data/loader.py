"""Batches of an image set, in the order asked for, whatever the number of workers.

Shape letters: B images, C channels, H and W the network's input height and width, M images with a mask.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from modeldoctor.data.augmentation import Augmentation
from modeldoctor.data.imageset import Broken, ImageSet, Sample
from modeldoctor.data.masks import Masks
from modeldoctor.data.streams import StreamSet
from modeldoctor.errors import MaskError, ModelDoctorWarning, UsageError

_MOST_READERS = 8
_said_by_worker: list[str] = []
"""Warnings that a worker process has yet to hand on; in the parent there are none."""


class Batch(NamedTuple):
    """Some images; those that cannot be read are left out of the tensors."""

    images: Tensor
    """(B,C,H,W) float32; B is 0 where all are broken."""
    labels: Tensor
    """(B,) int64."""
    indices: Tensor
    """(B,) int64 positions in the image set."""
    masks: list[Tensor | None] | None
    """B masks (H,W) bool, None where an image has none; None where the image set has no masks."""
    broken: list[Broken]


class _Packed(NamedTuple):
    """A batch on its way between processes: every tensor costs a file descriptor, so masks travel as one."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    masks: Tensor
    """(M,H,W) bool."""
    has_mask: list[bool]
    broken: list[Broken]
    warnings: list[str]
    """What a worker process said meanwhile."""


class _Guarded(Dataset[Sample | Broken | MaskError]):
    """Hands an error on as a value; the worker's traceback would bury its message."""

    def __init__(self, image_set: ImageSet, augmentation: Augmentation | None):
        self.image_set, self.augmentation = image_set, augmentation

    def __getitem__(self, place: tuple[int, int]) -> Sample | Broken | MaskError:
        index, seed = place
        try:
            if self.augmentation is None:
                return self.image_set[index]
            return self.image_set.load(index, partial(self.augmentation, seed=seed))
        except MaskError as error:
            return error


class _Collate:
    def __init__(self, input_size: tuple[int, int, int]):
        self.input_size = input_size

    def __call__(self, items: Sequence[Sample | Broken | MaskError]) -> _Packed | MaskError:
        for item in items:
            if isinstance(item, MaskError):
                return item
        samples = [item for item in items if isinstance(item, Sample)]
        masks = [sample.mask for sample in samples if sample.mask is not None]
        return _Packed(
            torch.stack([sample.image for sample in samples]) if samples else torch.empty(0, *self.input_size),
            torch.tensor([sample.label for sample in samples], dtype=torch.int64),
            torch.tensor([sample.index for sample in samples], dtype=torch.int64),
            torch.stack(masks) if masks else torch.empty(0, *self.input_size[1:], dtype=torch.bool),
            [sample.mask is not None for sample in samples],
            [item for item in items if isinstance(item, Broken)],
            [_said_by_worker.pop(0) for _ in list(_said_by_worker)],
        )


class _Batches:
    """An iterable that may be run through more than once; its workers end with each pass."""

    def __init__(self, packed: Iterable[_Packed | MaskError], masks: Masks | None):
        self._packed, self._masks = packed, masks

    def __iter__(self) -> Iterator[Batch]:
        iterator = iter(self._packed)
        try:
            yield from self._unpacked(iterator)
        finally:
            # Not when it is collected: that may be in a worker of the next pass, which has a copy of it, and would end
            # the queues that the two share.
            if end := getattr(iterator, "_shutdown_workers", None):
                end()

    def _unpacked(self, iterator: Iterator[_Packed | MaskError]) -> Iterator[Batch]:
        for packed in iterator:
            if isinstance(packed, MaskError):
                raise packed
            for text in packed.warnings:
                assert self._masks is not None
                self._masks.warn(text)
            masks = iter(packed.masks)
            unpacked = [next(masks) if has_mask else None for has_mask in packed.has_mask]
            yield Batch(*packed[:3], unpacked if self._masks else None, packed.broken)


class _StreamBatches:
    def __init__(self, stream: StreamSet, indices: NDArray[np.int64] | None, batch_size: int):
        self._stream, self._indices, self._batch_size = stream, indices, batch_size
        self._collate = _Collate(stream.preprocessing.input_size)

    def __iter__(self) -> Iterator[_Packed | MaskError]:
        samples = self._stream.iterate(self._indices)
        while items := list(islice(samples, self._batch_size)):
            yield self._collate(items)


def make_loader(
    image_set: ImageSet | StreamSet,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    batch_size: int,
    workers: int | None = None,
    device: torch.device | str | None = None,
    augmentation: Augmentation | None = None,
    seeds: NDArray[np.unsignedinteger] | None = None,
) -> Iterable[Batch]:
    """Iterate over images in the order given, the same for any number of workers, which end with each pass.

    PyTorch's global random state is not touched.

    Args:
        image_set: the images; a stream is read in this process, whatever the number of workers.
        indices: which images, in which order; all by default. Ascending for a stream.
        batch_size: images per batch, broken ones included; the last batch may be smaller.
        workers: processes that read images; 0 reads in this one. By default as many as keep up with the device.
        device: where the batches will go; pins memory for CUDA.
        augmentation: changes each image at random; not for a stream.
        seeds: all that the augmentation of each of `indices` depends on; needed for one.

    Raises:
        UsageError: an index is out of range.
        MaskError: (while iterating) an image has a mask that cannot be used.
    """
    order = None if indices is None else np.asarray(indices, dtype=np.int64)
    if isinstance(image_set, StreamSet):
        return _Batches(_StreamBatches(image_set, order, batch_size), None)
    order = np.arange(len(image_set), dtype=np.int64) if order is None else order
    if len(order) and not (order.min() >= 0 and order.max() < len(image_set)):
        raise UsageError(
            f"indices from {order.min()} to {order.max()}",
            where=f"split {image_set.split}",
            expected=f"0 to {len(image_set) - 1}",
            hint="use the indices of this image set",
        )
    seeds = np.zeros(len(order), np.uint32) if seeds is None else seeds
    loader = DataLoader(
        _Guarded(image_set, augmentation),
        sampler=list(zip(order.tolist(), seeds.tolist(), strict=True)),
        batch_size=batch_size,
        num_workers=_readers(device) if workers is None else workers,
        collate_fn=_Collate(image_set.preprocessing.input_size),
        pin_memory=_is_gpu(device),
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
    )
    return _Batches(loader, image_set.masks)


def _is_gpu(device: torch.device | str | None) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _readers(device: torch.device | str | None) -> int:
    """A GPU would wait for its images; on a CPU, readers would take cores from the network."""
    if not _is_gpu(device):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_READERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _start_worker(_: int) -> None:
    # Ctrl-C reaches every process of the terminal; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # Warnings of ours are those about masks, and travel with the batch; the parent's filters hold for them.
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", ModelDoctorWarning)
    warnings.showwarning = lambda message, *_, **__: _said_by_worker.append(str(message))
