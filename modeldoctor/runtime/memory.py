"""How much memory there is, how much a call takes, and going on with less at once where there was too little.

Shapes: B images, R copies of the batch.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modeldoctor.errors import MemoryLimitError, ModelDoctorWarning
from modeldoctor.runtime.control_group import memory_left, memory_limit

Item = TypeVar("Item")
Result = TypeVar("Result")

UNSEEN = 1.25
"""Libraries allocate inside an operation, too, unseen by `peak_meter`: what is measured is taken so many times."""
_SHARE = {"cpu": 0.25, "cuda": 0.5}


@dataclass
class BatchLimit:
    """How many rows R*B may run at once in one place; halved for good when memory runs out.

    Attributes:
        number: at least 1.
        place: what a warning calls it.
        hint: what to do where one copy is too much.
    """

    number: int
    place: str = "this layer"
    hint: str = "a smaller --batch-size, or a device with more memory"
    _said: bool = False

    def each(self, items: Sequence[Item], batch: int, call: Callable[[Sequence[Item]], Result]) -> Iterator[Result]:
        """What a call gives for part after part of some items, each of which is one copy of a batch.

        Args:
            items: such as noise draws; order is kept, and how they are split must not matter.
            batch: rows of one item.
            call: does one part.

        Raises:
            MemoryLimitError: there is not enough memory for one item.
        """
        done = 0
        while done < len(items):
            part = items[done : done + max(1, self.number // batch)]
            found, failed = _attempt(call, part)
            if failed:
                self._halve(len(part), batch)
                continue
            yield found  # type: ignore[misc]
            done += len(part)

    def whole(self, items: Sequence[Item], batch: int, call: Callable[[Sequence[Item]], Result]) -> Result | None:
        """What a call gives for all items at once; None where these are too many, for `each` to go on with."""
        if self.number < len(items) * batch:
            return None
        found, failed = _attempt(call, items)
        if failed:
            self._halve(len(items), batch)
        return found

    def _halve(self, copies: int, batch: int) -> None:
        if copies == 1:
            raise MemoryLimitError(
                f"out of memory with one copy of {batch} images",
                where=self.place,
                expected=f"memory for {batch} rows at once",
                hint=self.hint,
            )
        self.number = max(1, copies // 2) * batch
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._said:
            return
        self._said = True
        warnings.warn(
            f"out of memory at {self.place} with {copies * batch} rows at once; going on with {self.number} "
            f"or fewer, which changes no figure but by rounding. A smaller --memory avoids this",
            ModelDoctorWarning,
            stacklevel=4,
        )


def _attempt(call: Callable[[Sequence[Item]], Result], part: Sequence[Item]) -> tuple[Result | None, bool]:
    """A call's result, and whether memory ran out; the exception, which holds tensors, is gone on return."""
    try:
        return call(part), False
    except (MemoryError, RuntimeError) as error:
        if is_of_memory(error):
            return None, True
        raise


@contextmanager
def told_when_short(place: str, hint: str) -> Iterator[None]:
    """Say what to do where running out of memory cannot be helped here.

    Raises:
        MemoryLimitError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise MemoryLimitError(f"out of memory ({said[:120]})", where=place, hint=hint) from error


def is_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether an error says that there is not enough memory, on the CPU or a GPU."""
    said = str(error).lower()
    of_others = ("can't allocate memory", "out of memory", "alloc_failed")  # the CPU's allocator, CUDA, its libraries
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in said for text in of_others)


def default_budget(device: torch.device, processes: int = 1) -> int:
    """Bytes to plan for where nobody says: a quarter of what is free on a CPU, half of it on a GPU.

    Args:
        device: where the network is.
        processes: that share this machine's memory; each GPU serves one.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _SHARE["cuda"])
    return int(_free_memory() * _SHARE["cpu"] / processes)


def steady_budget(device: torch.device, processes: int = 1) -> int:
    """As `default_budget`, of all that there is: the same in every run on a machine, whatever else runs on it.

    Args:
        device, processes: as there.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1] * _SHARE["cuda"])
    everything, limit = psutil.virtual_memory().total, memory_limit()
    return int((everything if limit is None else min(everything, limit)) * _SHARE["cpu"] / processes)


def _free_memory() -> int:
    """Bytes that this process may still take, by the machine and by its control groups."""
    free, left = psutil.virtual_memory().available, memory_left()
    return int(free if left is None else min(free, left))


class PeakMeter(Protocol):
    """Bytes of tensors alive."""

    def now(self) -> float:
        """At this moment."""

    def peak(self) -> float:
        """The most since `restart`."""

    def restart(self) -> None:
        """Forget the peak so far."""


@contextmanager
def peak_meter(device: torch.device) -> Iterator[PeakMeter]:
    """While this lasts, a meter of the tensors that are made on a device."""
    if device.type == "cuda":
        yield _OfAllocator(device)
    else:
        with _OfOperations() as meter:
            yield meter


class _OfAllocator:
    """What the allocator of a GPU tells, less what was there before."""

    def __init__(self, device: torch.device):
        self._device = device
        self._before = torch.cuda.memory_allocated(device)
        self.restart()

    def now(self) -> float:
        return float(torch.cuda.memory_allocated(self._device) - self._before)

    def peak(self) -> float:
        return float(torch.cuda.max_memory_allocated(self._device) - self._before)

    def restart(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)


class _OfOperations(TorchDispatchMode):
    """Storages that operations make, counted while they live; a CPU's allocator tells nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._now = self._peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def now(self) -> float:
        return self._now

    def peak(self) -> float:
        return self._peak

    def restart(self) -> None:
        self._peak = self._now

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._known.add(tensor.untyped_storage())
        result = function(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, size: int) -> None:
        self._now += size
        self._peak = max(self._peak, self._now)


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))
