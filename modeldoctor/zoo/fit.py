"""Do the file's tensors fit a network? Which options do their shapes imply, and if they don't fit, why?"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from modeldoctor.checkpoint import Checkpoint
from modeldoctor.errors import CheckpointError, ModelDoctorWarning
from modeldoctor.zoo.libraries import AUXILIARY, Built

SHOWN = 4
POSITIONS = ("pos_embed", "pos_embedding")
DENSE_PREDICTION = re.compile(r"(rpn|roi_heads|backbone\.body|decode_head|aux_classifier|anchor|bbox|mask_head)")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The file's tensors against the network's; names that don't matter for the logits are left out."""

    built: Built
    tensors: Mapping[str, Tensor]
    expected: Mapping[str, Tensor]
    missing: tuple[str, ...]
    """The network has it, the file has not."""
    unexpected: tuple[str, ...]
    """The file has it, the network has not."""
    misshapen: tuple[str, ...]
    """Both have it, in other shapes or not as floating-point numbers."""

    @property
    def problems(self) -> int:
        """How many names do not fit; 0 is a perfect fit."""
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)


def compare(built: Built, tensors: Mapping[str, Tensor]) -> Fit:
    """Compare names, shapes and kinds. BatchNorm's counters, auxiliary heads and recomputed buffers may differ."""
    expected = built.module.state_dict()
    recomputed = {name for name, _ in built.module.named_buffers()} - expected.keys()
    common = [name for name in expected if name in tensors]
    return Fit(
        built=built,
        tensors=tensors,
        expected=expected,
        missing=tuple(name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")),
        unexpected=tuple(
            name for name in tensors if name not in expected and name not in recomputed and not AUXILIARY.match(name)
        ),
        misshapen=tuple(name for name in common if not _alike(tensors[name], expected[name])),
    )


def fill(fit: Fit, checkpoint: Checkpoint) -> None:
    """Copy the tensors into the network as float32; weights that are not finite are named in a warning.

    Raises:
        CheckpointError: the tensors do not fit.
    """
    if fit.problems:
        raise _misfit(fit, checkpoint)
    # The network's own state keeps each module's format version, which some refuse to load without.
    state = fit.built.module.state_dict()
    state.update({name: tensor for name, tensor in fit.tensors.items() if name in state})
    fit.built.module.load_state_dict(state)
    warn_not_finite(fit.built.module.state_dict(), checkpoint)


def warn_not_finite(tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Warn of weights that are NaN or infinite, by name."""
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        warnings.warn(
            f"{checkpoint.path}: {len(bad)} tensors hold NaN or infinite values: {_some(bad)}; "
            "the network's answers will be meaningless. Take a checkpoint from before training diverged.",
            ModelDoctorWarning,
            stacklevel=2,
        )


def read_classes(built: Built, tensors: Mapping[str, Tensor]) -> int | None:
    """The number of logits that the file's head gives; None if the file has no such head."""
    head = tensors.get(f"{built.head}.weight")
    return head.shape[0] if head is not None and head.ndim in (2, 4) else None


def read_channels(built: Built, tensors: Mapping[str, Tensor], channels: int) -> int | None:
    """Input channels of the file's first layer, where `built` reads `channels`; layers may fold pixels into them."""
    name = f"{built.stem}.weight"
    stem, reference = tensors.get(name), built.module.state_dict().get(name)
    if stem is None or reference is None or stem.ndim < 2 or reference.ndim < 2:
        return None
    read, rest = divmod(stem.shape[1] * channels, reference.shape[1])
    return read if read and not rest else None


def read_image_size(built: Built, tensors: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """The (square) image size for which the file has position embeddings; None where it has none of the usual form."""
    state, size = built.module.state_dict(), built.fixed_size
    name = next((n for n in state if n.endswith(POSITIONS)), None)
    stem = state.get(f"{built.stem}.weight")
    if name is None or stem is None or size is None or stem.ndim != 4:
        return None
    found, reference, (rows, columns) = tensors.get(name), state[name], stem.shape[2:]
    if found is None or found.ndim != 3 or reference.ndim != 3:
        return None
    extra = reference.shape[1] - (size[0] // rows) * (size[1] // columns)
    edge = isqrt(max(found.shape[1] - extra, 0))
    return (edge * rows, edge * columns) if extra >= 0 and edge and edge**2 == found.shape[1] - extra else None


def has_auxiliary(built_with: Built, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the file has every weight of the auxiliary heads that the library would build."""
    state = built_with.module.state_dict()
    names = [n for n in state if AUXILIARY.match(n) and not n.endswith("num_batches_tracked")]
    return bool(names) and all(n in tensors for n in names)


def _alike(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and found.is_floating_point() == expected.is_floating_point()


def _misfit(fit: Fit, checkpoint: Checkpoint) -> CheckpointError:
    shapes = [f"{n} {_shape(fit.tensors[n])} instead of {_shape(fit.expected[n])}" for n in fit.misshapen]
    groups = (("missing", fit.missing), ("unexpected", fit.unexpected), ("of another shape or kind", shapes))
    counts = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in groups if names)
    cause = next(text for text in (explain(fit) for explain in CAUSES) if text)
    return CheckpointError(
        f"the tensors do not fit {fit.built.plan.arch}: {counts}",
        where=str(checkpoint.path),
        expected=f"the {len(fit.expected)} tensors of {fit.built.plan.arch}; {_common(fit)} of the file's "
        f"{len(fit.tensors)} fit",
        hint=cause,
    )


def _common(fit: Fit) -> int:
    return sum(name in fit.expected for name in fit.tensors) - len(fit.misshapen)


def _some(names: Collection[str]) -> str:
    return ", ".join(list(names)[:SHOWN]) + ", ..." * (len(names) > SHOWN)


def _shape(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}" + " of integers" * (not tensor.is_floating_point())


def _integers(fit: Fit) -> str | None:
    quantized = any(fit.tensors[name].shape == fit.expected[name].shape for name in fit.misshapen)
    return "save the weights as floating-point numbers: the file's are quantized or packed" if quantized else None


def _dense(fit: Fit) -> str | None:
    found = any(DENSE_PREDICTION.match(name) for name in fit.unexpected)
    return "this looks like a detection or segmentation network; pass an image classifier" if found else None


def _prefix(fit: Fit) -> str | None:
    if not fit.missing:
        return None
    last = fit.missing[0]
    prefixes = {name.removesuffix(last) for name in fit.unexpected if name.endswith(f".{last}")}
    prefix = next(
        (p for p in prefixes if 2 * sum(f"{p}{n}" in fit.tensors for n in fit.missing) > len(fit.missing)), None
    )
    return f"save the tensors without the prefix {prefix!r}" if prefix else None


def _headless(fit: Fit) -> str | None:
    without = fit.missing and not fit.misshapen and all(_in(name, fit.built.head) for name in fit.missing)
    if without and fit.unexpected:
        return "the head was replaced by other layers; give the network the library's own head and save it again"
    return "the file has no classification head: pass a classifier, not a feature extractor" if without else None


def _other_network(fit: Fit) -> str | None:
    elsewhere = 2 * _common(fit) < len(fit.expected)
    return "the file probably holds another architecture: pass the right one with --arch" if elsewhere else None


def _only(part: Callable[[Fit, str], bool], text: str) -> Callable[[Fit], str | None]:
    def explain(fit: Fit) -> str | None:
        alone = fit.misshapen and not fit.missing and not fit.unexpected
        return text if alone and all(part(fit, name) for name in fit.misshapen) else None

    return explain


def _in(name: str, layer: str | None) -> bool:
    return layer is not None and name.startswith(f"{layer}.")


# The likeliest cause of a misfit and what to do: the first that recognises it speaks.
CAUSES: tuple[Callable[[Fit], str | None], ...] = (
    _integers,
    _only(
        lambda fit, name: _in(name, fit.built.head),
        "the head's size is not the number of classes: check --num-classes, or leave it out to take the file's",
    ),
    _only(
        lambda fit, name: _in(name, fit.built.stem),
        "the network was trained on images of other channels: check --channels, or leave it out to take the file's",
    ),
    _only(
        lambda fit, name: name.endswith(POSITIONS),
        "the position embedding is for another image size: pass the size it was trained at with --input-size",
    ),
    _dense,
    _prefix,
    _headless,
    _other_network,
    lambda fit: (
        "the network was changed, or is of another variant or version: check --arch; a changed one needs its "
        "own code and a whole saved module (--trust-pickle, only for files that you trust)"
    ),
)
