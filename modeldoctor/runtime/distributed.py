"""Several processes of one job, as `torchrun` starts them: who am I, who else is there, and what the others have.

Every method is a collective: all processes must call it, in the same order. In a job of one it does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modeldoctor.errors import JobError, ModelDoctorError

Value = TypeVar("Value")

_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Team:
    """The processes of a job.

    Attributes:
        rank: of this process; the primary one (0) writes and prints.
        world_size: number of processes.
        local_rank: its number among those on this machine, which is its GPU's.
        local_world_size: number of processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_primary(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.all_gather(None)

    def all_gather(self, value: Value) -> list[Value]:
        """Everyone's value, by rank, for everyone."""
        if self.world_size == 1:
            return [value]
        found: list[Value] = [value] * self.world_size
        with _others_alive():
            dist.all_gather_object(found, value)
        return found

    def gather(self, value: Value) -> list[Value]:
        """Everyone's value, by rank, for the first process; nothing for the others."""
        if self.world_size == 1:
            return [value]
        found: list[Value] | None = [value] * self.world_size if self.is_primary else None
        with _others_alive():
            dist.gather_object(value, found)
        return found or []

    def broadcast(self, value: Value) -> Value:
        """The first process's value, for everyone."""
        if self.world_size == 1:
            return value
        shared = [value]
        with _others_alive():
            dist.broadcast_object_list(shared)
        return shared[0]

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum of everyone's tensors, without a graph."""
        if self.world_size == 1:
            return values.detach()
        values = values.detach().clone()
        with _others_alive():
            dist.all_reduce(values)
        return values

    def differentiable_all_reduce(self, values: Tensor) -> Tensor:
        """The sum of everyone's tensors; its derivative is the sum of everyone's derivatives."""
        if self.world_size == 1:
            return values
        with _others_alive():
            summed: Tensor = _Sum.apply(values)
        return summed

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give each parameter the sum of everyone's gradients; the same ones must have a gradient everywhere."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.world_size == 1 or not gradients:
            return
        summed = self.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, summed.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def shard(self, number: int) -> slice:
        """Which of so many rows are this process's: all are dealt out, in order, as evenly as can be."""
        return slice(number * self.rank // self.world_size, number * (self.rank + 1) // self.world_size)


class _Sum(torch.autograd.Function):
    """Sum over processes; everyone's loss depends on it, so its derivative is summed over them, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.detach().clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, derivative: Tensor) -> Tensor:
        summed = derivative.clone()
        with _others_alive():
            dist.all_reduce(summed)
        return summed


@contextmanager
def job() -> Iterator[Team]:
    """Join the job that `torchrun` describes in the environment; a team of one without it.

    An error is marked as said if another process has failed before, so that it is printed once.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team()
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), local, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    except ModelDoctorError as error:
        error.said = not _is_first_failure()
        raise
    finally:
        dist.destroy_process_group()


def _is_first_failure() -> bool:
    """Whether no other process has failed before; the store is the launcher's and outlives each process."""
    try:
        return bool(dist.distributed_c10d._get_default_store().add("modeldoctor/failures", 1) == 1)
    except RuntimeError:  # the launcher is gone, too
        return True


@contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise JobError(
            f"another process of this job has ended ({str(error).splitlines()[0][:120]})",
            expected=f"all {dist.get_world_size()} processes to go on to the end",
            hint="see its own message, or whether the system killed it; the same command with --resume goes on from "
            "what was kept",
        ) from error
