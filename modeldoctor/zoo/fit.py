"""Do the file's tensors fit a network, and if they don't, why?"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from modeldoctor.checkpoint import Checkpoint, CheckpointMetadata, is_weight
from modeldoctor.checkpoint.names import AVERAGED, BESIDE, locate
from modeldoctor.errors import ArchitectureError, CheckpointError, ModelDoctorWarning, shortened
from modeldoctor.zoo.heads import Head, find_head
from modeldoctor.zoo.libraries import AUXILIARY, CODE, Built, Plan, build
from modeldoctor.zoo.options import (
    POSITIONS,
    guess_image_sizes,
    has_auxiliary,
    read_channels,
    read_structure,
)

DENSE_PREDICTION = re.compile(r"(rpn|roi_heads|backbone\.body|decode_head|aux_classifier|anchor|bbox|mask_head)")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The user's options; None leaves it to the file."""

    num_classes: int | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None
    head: tuple[str, ...] | None = None
    """Of `parse_head`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the constructor."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The file's tensors against the network's; names that don't matter for the logits are left out."""

    built: Built
    tensors: Mapping[str, Tensor]
    """By the network's names."""
    expected: Mapping[str, Tensor]
    missing: tuple[str, ...]
    """The network has it, the file has not."""
    unexpected: tuple[str, ...]
    """The file has it, the network has not."""
    misshapen: tuple[str, ...]
    """Both have it, in other shapes or not as floating-point numbers."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The file's name of each of `tensors`."""
    prefix: str = ""
    """What stands before the network's names in the file."""
    outside: Mapping[str, Tensor] = field(default_factory=dict)
    """What the file has beside the network, by its own names."""
    head: Head = field(default_factory=Head)

    @property
    def problems(self) -> int:
        """How many names do not fit; 0 is a perfect fit."""
        return len(self.missing) + len(self.unexpected) + len(self.misshapen) + len(self.head.unnamed)

    @property
    def rank(self) -> tuple[int, int]:
        """The lowest is the best fit; of two that are perfect, the one whose own head's name the file has."""
        return self.problems, len(self.head.names)

    @property
    def problems_in_body(self) -> int:
        """The same without the head, which people take off or replace."""
        names = (*self.missing, *self.unexpected, *self.misshapen)
        return sum(not _in(name, self.built.head) for name in names)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found elsewhere than the network has it, and what was left out, as sentences."""
        said = []
        if self.head.names:
            places = list(dict.fromkeys(self.names[name].rpartition(".")[0] for name in self.head.names))
            layers = ", ".join(name for name, _ in self.head.layers) or "one linear layer"
            said.append(f"the head is {layers}, from {', '.join(places)} of the file")
        if self.outside:
            which = f"{len(self.outside)} tensors" if len(self.outside) > 1 else "1 tensor"
            said.append(f"left out, as no part of the network: {which} of the file ({shortened(self.outside)})")
        return tuple(said)

    @property
    def doubtful(self) -> tuple[str, ...]:
        """Weights of layers beside the network that nothing explains: the logits may have passed through them."""
        return tuple(
            name
            for name, tensor in self.outside.items()
            if tensor.ndim > 1
            and name.endswith("weight")
            and not AUXILIARY.match(name)
            and not BESIDE.match(name)
            and not AVERAGED.search(name)
        )


def fitted(
    plan: Plan, tensors: Mapping[str, Tensor], metadata: CheckpointMetadata, wanted: Wanted, *, meta: bool = False
) -> Fit:
    """Build by the options, with what they leave open read from the tensors' shapes, and compare.

    Args:
        plan: which architecture.
        tensors: of the file, by its own names.
        metadata: of the file; used where the tensors leave it open.
        wanted: takes precedence over both.
        meta: build shapes alone.

    Raises:
        ArchitectureError: the library refuses these options.
    """
    size = wanted.size or (metadata.input_size[-2:] if metadata.input_size else None)
    arguments = {**plan.model_args, **metadata.model_args}
    plan = replace(plan, image_size=size, auxiliary=True, model_args=arguments, options=wanted.options)
    draft = build(plan, meta=True)
    children = [name for name, _ in draft.module.named_children()]
    located = locate(draft.module.state_dict(), tensors, children)
    own = located.tensors
    structure = read_structure(draft, own)
    if structure:
        plan = replace(plan, model_args={**plan.model_args, **structure})
        draft = build(plan, meta=True)
    classes = wanted.num_classes or metadata.num_classes
    head = find_head(draft, own, located.outside, wanted.head, classes)
    one_logit = head.classes == 1 and wanted.num_classes == 2  # which it will be
    plan = replace(
        plan,
        num_classes=(wanted.num_classes if not one_logit else 1) or head.classes or metadata.num_classes,
        channels=wanted.channels or read_channels(draft, own, 3) or metadata.in_chans,
        image_size=wanted.size or _fitting_size(plan, draft, own) or size,
        auxiliary=has_auxiliary(draft, own),
    )
    names = _with_head(located.names, head)
    fit = compare(head.put_into(build(plan, meta=meta)), {name: tensors[held] for name, held in names.items()})
    used = set(names.values())
    outside = {name: tensor for name, tensor in located.outside.items() if name not in used}
    return replace(fit, names=names, prefix=located.prefix, outside=outside, head=head)


def _with_head(names: Mapping[str, str], head: Head) -> dict[str, str]:
    """The network's name → the file's, with the head's tensors where the network looks for them."""
    moved = {name: names.get(place, place) for name, place in head.names.items()}
    return {**{name: held for name, held in names.items() if name not in head.names.values()}, **moved}


def _fitting_size(plan: Plan, draft: Built, tensors: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """The image size at which the fewest tensors are of another shape; None if no guess is better than the draft's."""
    best, least = None, len(compare(draft, tensors).misshapen)
    for size in guess_image_sizes(draft, tensors):
        try:
            left = len(compare(build(replace(plan, image_size=size), meta=True), tensors).misshapen)
        except ArchitectureError:
            continue
        if left < least:
            best, least = size, left
    return best


def compare(built: Built, tensors: Mapping[str, Tensor]) -> Fit:
    """Compare names, shapes and kinds. Auxiliary heads and buffers that are computed anew may differ."""
    expected = {name: value for name, value in built.module.state_dict().items() if isinstance(value, Tensor)}
    recomputed = {name for name, _ in built.module.named_buffers()} - expected.keys()
    common = [name for name in expected if name in tensors]
    return Fit(
        built=built,
        tensors=tensors,
        expected=expected,
        missing=tuple(name for name in expected if name not in tensors and is_weight(name, expected[name])),
        unexpected=tuple(
            name
            for name in tensors
            if name not in expected
            and name not in recomputed
            and not AUXILIARY.match(name)
            and is_weight(name, tensors[name])
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
    if fit.doubtful:
        warnings.warn(
            f"{checkpoint.path}: {len(fit.doubtful)} weights beside the network are left out: "
            f"{shortened(fit.doubtful)}; if its logits pass through them, the figures are of another network: "
            "give your own code, --arch CODE.py:FUNCTION",
            ModelDoctorWarning,
            stacklevel=2,
        )
    fit.built.module.float()  # the user's own code may have built it in half precision
    # The network's own state keeps each module's format version, which some refuse to load without.
    state = fit.built.module.state_dict()
    # An index that was cast to half precision may be rounded: the network's own is kept.
    kept = [name for name, value in state.items() if not isinstance(value, Tensor) or not value.is_floating_point()]
    state.update({n: t for n, t in fit.tensors.items() if n in state and not (n in kept and t.is_floating_point())})
    fit.built.module.load_state_dict(state)
    warn_not_finite(fit.built.module.state_dict(), checkpoint)


def warn_not_finite(tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Warn of weights that are NaN or infinite, by name."""
    bad = [name for name, value in tensors.items() if isinstance(value, Tensor) and not torch.isfinite(value).all()]
    if bad:
        warnings.warn(
            f"{checkpoint.path}: {len(bad)} tensors hold NaN or infinite values: {shortened(bad)}; "
            "the network's answers will be meaningless. Take a checkpoint from before training diverged.",
            ModelDoctorWarning,
            stacklevel=2,
        )


def _alike(found: Tensor, expected: Tensor) -> bool:
    # Counters and indices may have been cast along with the weights; weights that are integers are packed.
    return found.shape == expected.shape and found.is_floating_point() >= expected.is_floating_point()


def _misfit(fit: Fit, checkpoint: Checkpoint) -> CheckpointError:
    shapes = [f"{n} {_shape(fit.tensors[n])} instead of {_shape(fit.expected[n])}" for n in fit.misshapen]
    groups = (("missing", fit.missing), ("unexpected", fit.unexpected), ("of another shape or kind", shapes))
    counts = "; ".join(f"{len(names)} {what} ({shortened(names)})" for what, names in groups if names)
    cause = next(text for text in (explain(fit) for explain in CAUSES) if text)
    return CheckpointError(
        f"the tensors do not fit {fit.built.plan.arch}: {counts or 'there are more layers behind its head'}",
        where=str(checkpoint.path),
        expected=f"the {len(fit.expected)} tensors of {fit.built.plan.arch}; {_common(fit)} of the file's "
        f"{len(fit.tensors)} fit",
        hint=cause,
    )


def _common(fit: Fit) -> int:
    return sum(name in fit.expected for name in fit.tensors) - len(fit.misshapen)


def _shape(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}" + " of integers" * (not tensor.is_floating_point())


def _integers(fit: Fit) -> str | None:
    quantized = any(fit.tensors[name].shape == fit.expected[name].shape for name in fit.misshapen)
    return "save the weights as floating-point numbers: the file's are quantized or packed" if quantized else None


def _computed(fit: Fit) -> str | None:
    """Weights that the file holds in parts, from which the network computes them in each pass."""
    for ending, what, step in COMPUTED:
        if any(name.endswith(ending) for name in fit.unexpected):
            return f"the file holds parts from which {what} computes weights; before you save it, call {step}"
    if any(".parametrizations." in name for name in fit.unexpected):
        step = "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') for each of these layers"
        return f"the file holds parts from which a parametrization computes weights; before you save it, call {step}"
    return None


def _dense(fit: Fit) -> str | None:
    found = any(DENSE_PREDICTION.match(name) for name in fit.unexpected)
    return "this looks like a detection or segmentation network; pass an image classifier" if found else None


def _layered_head(fit: Fit) -> str | None:
    if not fit.head.unnamed:
        return None
    has = ", ".join(layer.text for layer in fit.head.unnamed)
    what = f"the head is not {','.join(fit.head.refused)}" if fit.head.refused else "the head was replaced"
    return f"{what}: the file has {has}; say its layers in order, such as --head {fit.head.option}"


def _code_without_classes(fit: Fit) -> str | None:
    head = fit.built.head
    alone = fit.built.plan.library == CODE and fit.misshapen and not fit.missing and not fit.unexpected
    if not alone or not all(_in(name, head) for name in fit.misshapen):
        return None
    classes = fit.tensors[fit.misshapen[0]].shape[0]
    return (
        f"the head of the file is of {classes} classes: the function takes the number as num_classes, or by its own "
        f"word for it: --model-option WORD={classes}"
    )


def _headless(fit: Fit) -> str | None:
    without = fit.missing and not fit.misshapen and all(_in(name, fit.built.head) for name in fit.missing)
    others = [
        name
        for name, tensor in fit.outside.items()
        if tensor.ndim == 2 and not (BESIDE.match(name) or AVERAGED.search(name))
    ]
    if without and (fit.unexpected or others):
        which = f" ({shortened(others)})" if others else ""
        return f"the head was replaced by other layers{which}: give your own code, --arch CODE.py:FUNCTION"
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


COMPUTED = (
    ("_mask", "pruning", "torch.nn.utils.prune.remove(layer, 'weight') for each of these layers"),
    ("weight_g", "weight_norm", "torch.nn.utils.remove_weight_norm(layer) for each of these layers"),
    ("weight_u", "spectral_norm", "torch.nn.utils.remove_spectral_norm(layer) for each of these layers"),
)
"""How such a part's name ends, who makes them, and how they become weights again."""

# The likeliest cause of a misfit and what to do: the first that recognises it gives the message.
CAUSES: tuple[Callable[[Fit], str | None], ...] = (
    _integers,
    _computed,
    _layered_head,
    _code_without_classes,
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
    _headless,
    _other_network,
    lambda fit: (
        "the network was changed, or is of another variant or version: check --arch; a changed one needs its "
        "own code: --arch CODE.py:FUNCTION"
    ),
)
