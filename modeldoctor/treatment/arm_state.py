"""Where a run of a trial stands after each whole epoch, and the file that keeps it: `arms/ARM-SEED.pt`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from modeldoctor.checkpoint.container import read_kept
from modeldoctor.errors import CheckpointError, StoreError
from modeldoctor.runtime.files import noted, written_aside


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """A row of `history.csv`, means over the epoch; NaN for a constraint that is not in the arm.

    `channel` and `space` are in units of their value when treatment began; `val_score` is the metric that chooses.
    """

    arm: str
    seed: int
    epoch: int
    learning_rate: float
    loss: float
    channel: float
    space: float
    val_accuracy: float
    val_score: float


@dataclass
class ArmState:
    """Where an arm stands after its last whole epoch; all that resuming needs, as draws depend on seed and epoch.

    Attributes:
        network, optimisation: their state dicts.
        best: the judged network's at the best epoch so far; None before the first.
        best_score: on validation.
        start: the constraints' values when treatment began.
        history: epochs done.
        ended: the loss became NaN.
        seconds: that its epochs took so far.
    """

    network: dict[str, Tensor]
    optimisation: dict[str, Any] | None = None
    best: dict[str, Tensor] | None = None
    best_score: float = -1.0
    start: dict[tuple[str, str], float] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)
    ended: bool = False
    seconds: float = 0.0

    def score_by(self, epochs: int) -> float:
        """The best on validation within so many epochs; -1 before the first."""
        return max((epoch.val_score for epoch in self.history[:epochs]), default=-1.0)


_HISTORY = TypeAdapter(list[Epoch])
_FIGURES = TypeAdapter(tuple[dict[tuple[str, str], float], float, bool, float])


def save_state(path: Path, state: ArmState) -> None:
    """Write the file, whole or not at all."""
    content = {**vars(state), "history": [asdict(epoch) for epoch in state.history]}
    with written_aside(path) as aside, noted(aside) as file:
        torch.save(content, file)


def load_state(path: Path, original: Mapping[str, Tensor]) -> ArmState:
    """Read the file; nothing in it is executed.

    Args:
        path: of a run that was begun.
        original: the network's weights before treatment, whose names, shapes and types those in the file must have.

    Raises:
        StoreError: it is damaged, or of another network.
    """
    try:
        content = read_kept(path)
    except CheckpointError as error:
        refuse_state(path, error.found, error)
    if not isinstance(content, dict) or content.keys() != {row.name for row in fields(ArmState)}:
        refuse_state(path, "it holds something else")
    try:
        history = _HISTORY.validate_python(content["history"])
        start, best_score, ended, seconds = _FIGURES.validate_python(
            tuple(content[name] for name in ("start", "best_score", "ended", "seconds"))
        )
    except ValidationError as error:
        refuse_state(path, f"its figures are none: {error.errors()[0]['msg']}", error)
    for name in ("network", "best"):
        if not (_alike(content[name], original) or (name == "best" and content[name] is None and not history)):
            refuse_state(path, f"its {name} holds other weights than the network's")
    if not isinstance(content["optimisation"], dict | None):
        refuse_state(path, "it holds no state of an optimizer")
    return ArmState(
        network=content["network"], optimisation=content["optimisation"], best=content["best"], best_score=best_score,
        start=start, history=history, ended=ended, seconds=seconds,
    )  # fmt: skip


def refuse_state(path: Path, why: str, error: Exception | None = None) -> NoReturn:
    """Raise the one error that a bad file gives."""
    raise StoreError(
        f"the state of an interrupted run cannot be used: {why}",
        where=str(path),
        expected="the file as `modeldoctor treat` wrote it",
        hint="delete it: with --resume this run is trained anew",
    ) from error


def _alike(weights: object, original: Mapping[str, Tensor]) -> bool:
    return (
        isinstance(weights, dict)
        and weights.keys() == original.keys()
        and all(
            isinstance(tensor, Tensor) and (tensor.shape, tensor.dtype) == (original[name].shape, original[name].dtype)
            for name, tensor in weights.items()
        )
    )
