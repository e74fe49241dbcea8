"""What a network of the user's own gives back: its logits are found in it, behind a last softmax or sigmoid.

Libraries' networks give a row of logits per image. One's own may give a mapping, an object or several values, one
number per image without a row, or probabilities, of which a correlation would be another figure than of logits.
"""

from __future__ import annotations

import dataclasses
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from modeldoctor.errors import ArchitectureError, shortened

LOGITS = ("logits", "logit", "out", "output", "outputs", "pred", "preds", "prediction", "predictions", "y", "y_hat")
_OF_TORCH = f"{os.sep}torch{os.sep}"
_EXPECTED = "logits (B,N): a row per image; a tensor, or part of a tuple, a mapping or an object"
_TO_PROBABILITIES: tuple[tuple[str, Callable[[Tensor], Tensor], tuple[Any, ...]], ...] = (
    ("softmax", lambda x: x.softmax(-1), (functional.softmax, torch.softmax, Tensor.softmax)),
    ("log_softmax", lambda x: x.log_softmax(-1), (functional.log_softmax, torch.log_softmax, Tensor.log_softmax)),
    ("sigmoid", torch.sigmoid, (functional.sigmoid, torch.sigmoid, Tensor.sigmoid, torch.special.expit)),
)


@dataclasses.dataclass(frozen=True)
class _Answer:
    """One value that a network gives back: where it lies, and as a row per image."""

    place: tuple[str | int, ...]
    logits: Tensor


class _Last(TorchFunctionMode):
    """Counts the calls of some functions; one of them is left out and gives back what it was given."""

    def __init__(self, functions: Sequence[Any], left_out: int | None = None) -> None:
        super().__init__()
        self.functions, self.left_out = functions, left_out
        self.given: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in self.functions:
            return func(*args, **kwargs)
        source = args[0] if args else kwargs["input"]
        given = source if len(self.given) == self.left_out else func(*args, **kwargs)
        self.given.append(given)
        return given


def settle_answer(
    module: nn.Module, example: Tensor, *, stated: int | None, likely: int | None
) -> tuple[int, tuple[str, ...]]:
    """Let a network in eval mode give its logits alone, if it does not already.

    Args:
        module: is changed where it gives something else; its names stay.
        example: images (B,C,H,W).
        stated: the number of logits, as far as it is said.
        likely: that of the layer that looks like the head.

    Returns:
        The number of logits, and what was done, as sentences.

    Raises:
        ArchitectureError: it cannot take the images, or nothing that it gives is a row of logits per image.
    """
    with torch.no_grad():
        output = _forward(module, example)
        answer = _pick(output, len(example), stated, likely)
        notes = [f"of what the network gives {_named(answer.place)} is taken as its logits"] if answer.place else []
        functions, left_out, note = _last_call(module, example, answer)
        try:
            single = _at(module(example[:1]), answer.place).ndim != 2  # squeeze() takes a single image's row
        except (RuntimeError, ValueError):  # BatchNorm without statistics: whoever measures it refuses it in words
            single = False
    first = output[0] if isinstance(output, list | tuple) and len(output) else output
    if first is not answer.logits or left_out is not None or single:
        _replace_forward(module, answer.place, functions, left_out)
    if answer.place == (0,):
        notes = []  # what is usual needs no word
    return answer.logits.shape[1], (*notes, *note)


def layer_of_logits(module: nn.Module, example: Tensor) -> str | None:
    """Which linear or convolutional layer of a network gives what the network gives; None for none.

    Args:
        module: in eval mode, after `settle_answer`.
        example: images (B,C,H,W).
    """
    given: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: Any, output: Tensor) -> None:
            given[name] = output

        return hook

    layers = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers]
    try:
        with torch.no_grad():
            output = module(example)
    finally:
        for handle in handles:
            handle.remove()
    logits = next(iter(output)) if isinstance(output, list | tuple) else output
    return next((name for name in reversed(given) if _same(given[name], logits)), None)


def _forward(module: nn.Module, example: Tensor) -> Any:
    try:
        return module(example)
    except Exception as error:
        lines = traceback.extract_tb(error.__traceback__)
        last = next((line for line in reversed(lines) if _OF_TORCH not in line.filename), lines[-1])
        raise ArchitectureError(
            f"the network's forward pass fails on images {tuple(example.shape)} ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]})",
            where=f"{type(module).__name__}.forward"
            if last.filename == __file__
            else f"{last.filename}, line {last.lineno}",
            expected="a network that takes one batch of images (B,C,H,W) of any size B, as float32",
            hint="check --input-size and --channels; give code whose forward needs nothing else",
        ) from error


def _pick(output: Any, images: int, stated: int | None, likely: int | None) -> _Answer:
    """Of several values that of as many columns as is said, then that of a telling name, then as is likely."""
    answers = list(_answers(output, images, ()))
    if not answers:
        raise ArchitectureError(
            f"the network gives {_described(output)} for {images} images",
            where="the network's forward pass",
            expected=_EXPECTED,
            hint="give code whose forward returns the logits: --arch CODE.py:FUNCTION",
        )

    def rank(answer: _Answer) -> tuple[bool, int, bool]:
        word = str(answer.place[-1]).lower() if answer.place else ""
        columns = answer.logits.shape[1]
        return columns != stated, LOGITS.index(word) if word in LOGITS else len(LOGITS), columns != likely

    return min(answers, key=rank)


def _answers(value: Any, images: int, place: tuple[str | int, ...]) -> Iterator[_Answer]:
    if isinstance(value, Tensor):
        if (
            value.is_floating_point()
            and value.ndim
            and value.shape[0] == images
            and value[0].numel() == max(value.shape[1:], default=1)
        ):
            yield _Answer(place, value if value.ndim == 2 else value.reshape(images, -1))
        return
    for key, part in _parts(value) if len(place) < 2 else ():
        yield from _answers(part, images, (*place, key))


def _parts(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        return [(key, part) for key, part in value.items() if isinstance(key, str | int)]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return [(name, part) for name, part in getattr(value, "__dict__", {}).items() if not name.startswith("_")]


def _last_call(
    module: nn.Module, example: Tensor, answer: _Answer
) -> tuple[tuple[Any, ...], int | None, tuple[str, ...]]:
    """Which call of which functions made probabilities of the logits."""
    name = _kind_of(answer.logits)
    if name is None:
        return (), None, ()
    _, function, functions = next(row for row in _TO_PROBABILITIES if row[0] == name)
    with _Last(functions) as seen:
        again = _at(module(example), answer.place)
    for call in reversed([at for at, value in enumerate(seen.given) if _same(value, again)]):
        with _Last(functions, call):
            logits = _row(_at(module(example), answer.place), example)
        if _same(function(logits), answer.logits):
            return functions, call, (f"the network ends in a {name}, which is left out: its logits are measured",)
    if name == "sigmoid":  # values in [0, 1] by chance, or by a layer's nature
        return (), None, ()
    raise ArchitectureError(
        "the network gives probabilities, whose logits cannot be reached",
        where="the network's forward pass",
        expected=_EXPECTED,
        hint="give code whose forward returns what goes into the softmax: --arch CODE.py:FUNCTION",
    )


def _kind_of(values: Tensor) -> str | None:
    """Whether values (B,N) are probabilities, or their logarithms."""
    if not torch.isfinite(values).all():
        return None
    several = values.shape[1] > 1
    if several and (values <= 0).all() and _close(values.exp().sum(1), 1.0):
        return "log_softmax"
    if not ((values >= 0) & (values <= 1)).all():
        return None
    return "softmax" if several and _close(values.sum(1), 1.0) else "sigmoid"


def _close(values: Tensor, value: float) -> bool:
    return bool((values - value).abs().max() < 1e-3)


def _same(values: Tensor, others: Tensor) -> bool:
    return values.numel() == others.numel() and torch.allclose(values.flatten(), others.flatten(), atol=1e-5)


def _replace_forward(
    module: nn.Module, place: tuple[str | int, ...], functions: tuple[Any, ...], left_out: int | None
) -> None:
    """By a class of the same name, so that copies of the module have it, too."""
    own = type(module)

    def forward(self: nn.Module, images: Tensor) -> Tensor:
        if left_out is None:
            output = own.forward(self, images)
        else:
            with _Last(functions, left_out):
                output = own.forward(self, images)
        return _row(_at(output, place), images)

    words = {"forward": forward, "__module__": own.__module__, "__qualname__": own.__qualname__}
    module.__class__ = type(own.__name__, (own,), words)


def _at(output: Any, place: tuple[str | int, ...]) -> Any:
    for key in place:
        output = dict(_parts(output))[key] if not isinstance(output, Tensor) else output
    return output


def _row(values: Tensor, images: Tensor) -> Tensor:
    """Written so that a graph of it takes any batch: without len(), and whatever the shape was when it was traced."""
    return values.reshape(images.shape[0], -1)


def _named(place: tuple[str | int, ...]) -> str:
    return " → ".join(f"number {key + 1}" if isinstance(key, int) else repr(key) for key in place)


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    parts = [f"{key}: {_described(part)}" for key, part in _parts(output)]
    return f"{type(output).__name__} of {shortened(parts)}" if parts else f"a {type(output).__name__}"
