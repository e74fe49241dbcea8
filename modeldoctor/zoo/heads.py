"""Heads that people put in the place of a network's own: one linear layer anywhere, or the layers that --head names.

Shapes: D features, N classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from modeldoctor.checkpoint.names import AVERAGED, BESIDE, HEAD
from modeldoctor.errors import UsageError
from modeldoctor.zoo.libraries import AUXILIARY, Built

LINEAR, NORMS = "Linear", ("BatchNorm1d", "LayerNorm")
LAYERS: Mapping[str, Callable[[], nn.Module]] = {
    name: getattr(nn, name)
    for name in (
        "Dropout", "Flatten", "Identity", "ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish",
        "Hardswish", "Hardtanh", "Softplus", "Tanh", "Sigmoid",
    )
}  # fmt: skip
"""Layers without weights that a head may have, by their names in torch.nn."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class HeadLayer:
    """A layer with weights in the file: where, of which kind, and its widths; a norm has one."""

    path: str
    kind: str
    inputs: int
    outputs: int
    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        """Such as "fc.0 Linear 1024 → 512"."""
        widths = f"{self.inputs} → {self.outputs}" if self.kind == LINEAR else f"{self.inputs}"
        return f"{self.path} {self.kind} {widths}"

    def made(self) -> nn.Module:
        """The layer, its weights not yet filled in."""
        if self.kind == LINEAR:
            return nn.Linear(self.inputs, self.outputs, bias="bias" in self.parts)
        return nn.BatchNorm1d(self.inputs) if self.kind == NORMS[0] else nn.LayerNorm(self.inputs)


@dataclass(frozen=True, kw_only=True)
class Head:
    """What stands in the file where the network has its head.

    Attributes:
        names: the network's name → the file's, of the head's tensors.
        classes: N; None where the file has no head that is understood.
        place: the module that `layers` replace; None where the network's own head takes the tensors.
        layers: in order.
        bias: whether the one linear layer has one.
        unnamed: layers that only --head can put in order; also where what it says is not what the file has.
        option: what --head may be for these.
        refused: what --head said, where the file has something else.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    classes: int | None = None
    place: str | None = None
    layers: tuple[tuple[str, HeadLayer | None], ...] = ()
    bias: bool = True
    unnamed: tuple[HeadLayer, ...] = ()
    option: str = ""
    refused: tuple[str, ...] = ()

    def put_into(self, built: Built) -> Built:
        """The network with this head."""
        if self.place is None:
            own = built.module.get_submodule(built.head) if built.head and not self.bias else None
            if isinstance(own, nn.Linear | nn.Conv2d):
                own.bias = None
            return built
        with torch.device(next(built.module.parameters()).device):
            made = [layer.made() if layer else _without_weights(name) for name, layer in self.layers]
        last = max(at for at, (name, _) in enumerate(self.layers) if name == LINEAR)
        built.module.set_submodule(self.place, nn.Sequential(*made))
        return replace(built, head=f"{self.place}.{last}")


def parse_head(text: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The layers that --head names: "Linear,ReLU,Linear".

    Raises:
        UsageError: one of them is not known, or none is linear.
    """
    if text is None:
        return None
    known = {name.lower(): name for name in (LINEAR, *NORMS, *LAYERS)}
    parts = [part.strip() for part in (text.split(",") if isinstance(text, str) else text)]
    if parts and parts[-1].lower() in ("softmax", "logsoftmax"):  # logits are what stands before it
        parts = parts[:-1]
    wrong = [part for part in parts if part.lower() not in known]
    names = tuple(known[part.lower()] for part in parts if part not in wrong)
    if wrong or LINEAR not in names:
        raise UsageError(
            f"no layer of a head: {wrong[0]!r}" if wrong else "a head without a linear layer",
            where=f"--head {','.join(parts)}",
            expected=f"layers of torch.nn, separated by commas: {', '.join(known.values())}",
            hint="such as --head Linear,ReLU,Linear; widths are read off the weights",
        )
    return names


def find_head(
    built: Built,
    own: Mapping[str, Tensor],
    outside: Mapping[str, Tensor],
    spec: tuple[str, ...] | None,
    classes: int | None = None,
) -> Head:
    """Find the head's layers: under, above or beside the name of the network's own.

    Args:
        built: the network, with whatever number of classes.
        own: the file's tensors by the network's names, as `locate` gives them.
        outside: the file's tensors elsewhere.
        spec: of `parse_head`.
        classes: if known; it decides between several.
    """
    if built.head is None:
        return Head()
    state = built.module.state_dict()
    top = built.head.partition(".")[0]
    wanted = {layer.path: layer for layer in _layers(state, top)}
    found = [layer for layer in _layers(own, top) if not AUXILIARY.match(layer.path + ".")]
    changed = _changed(wanted, found, built.head)
    outputs = _outputs(found, built.head)
    if not changed and outputs and (behind := _beside(own, outside, state, outputs, classes)):
        layers = [*(layer for layer in found if layer.path == built.head), *behind]
        return _of(built.head, built.head, wanted, layers, spec, layers[0].inputs)
    if not changed and spec is None:
        return Head(classes=outputs)
    place = _place(built.head, changed)
    features = _features(wanted.values(), place)
    here = [layer for layer in found if _within(layer.path, place)]
    if here and (here[0].inputs == features or spec):
        return _of(built.head, place, wanted, here, spec, features)
    if found and not spec and any(layer.path == built.head for layer in found):
        return Head(classes=outputs)
    beside = _beside(own, outside, state, features, classes)
    return _of(built.head, place, wanted, beside, spec, features) if beside else Head()


def _of(
    head: str,
    place: str,
    wanted: Mapping[str, HeadLayer],
    layers: list[HeadLayer],
    spec: tuple[str, ...] | None,
    features: int | None,
) -> Head:
    alone = len(layers) == 1 and layers[0].kind == LINEAR
    if alone and spec in (None, (LINEAR,)) and layers[0].inputs == features:
        layer = layers[0]
        if [path for path in wanted if _within(path, place)] == [head]:  # the network's own layer takes it
            names = {f"{head}.{part}": f"{layer.path}.{part}" for part in layer.parts}
            return Head(names=names, classes=layer.outputs, bias="bias" in layer.parts)
        return _built_of(place, layers, ("Flatten", LINEAR))
    if spec is None:
        return Head(unnamed=tuple(layers), option=_option(layers))
    if not _agrees(spec, layers, features):
        return Head(unnamed=tuple(layers), option=_option(layers), refused=spec)
    return _built_of(place, layers, spec)


def _built_of(place: str, layers: list[HeadLayer], spec: tuple[str, ...]) -> Head:
    left = iter(layers)
    ordered = tuple((name, next(left) if name in (LINEAR, *NORMS) else None) for name in spec)
    names = {
        f"{place}.{at}.{part}": f"{layer.path}.{part}"
        for at, (_, layer) in enumerate(ordered)
        if layer is not None
        for part in layer.parts
    }
    return Head(names=names, classes=layers[-1].outputs, place=place, layers=ordered)


def _agrees(spec: tuple[str, ...], layers: list[HeadLayer], features: int | None) -> bool:
    """Whether --head is what the file has: kinds, their positions where names tell them, and the widths."""
    said = [at for at, name in enumerate(spec) if name in (LINEAR, *NORMS)]
    kinds = [spec[at] for at in said]
    widths = [features, *(layer.outputs for layer in layers)]
    chained = all(layer.inputs == width for layer, width in zip(layers, widths, strict=False) if width)
    numbers = _numbers(layers)
    if numbers and "." not in layers[0].path:  # the network's parts come before
        said = [at - said[0] for at in said]
    return kinds == [layer.kind for layer in layers] and chained and (not numbers or said == numbers)


def _option(layers: Sequence[HeadLayer]) -> str:
    """A head that has these layers at their places; what has no weights is a guess."""
    names: list[str] = []
    numbers = _numbers(layers)
    for at, layer in enumerate(layers):
        gap = numbers[at] - len(names) if numbers else int(at > 0 and layer.kind == LINEAR)
        between = ["ReLU", "Dropout"] if at else ["Flatten", "Dropout"][2 - min(gap, 2) :]
        names += [*(between + ["Identity"] * gap)[: max(gap, 0)], layer.kind]
    return ",".join(names)


def _numbers(layers: Sequence[HeadLayer]) -> list[int]:
    """The layers' places in their sequence; from the first of them on, if it holds the network, too; else none."""
    above, tails = ({layer.path.rpartition(".")[part] for layer in layers} for part in (0, 2))
    if len(above) > 1 or not all(tail.isdigit() for tail in tails):
        return []
    first = 0 if above != {""} else int(layers[0].path)
    return [int(layer.path.rpartition(".")[2]) - first for layer in layers]


def _layers(tensors: Mapping[str, Tensor], top: str | None = None) -> list[HeadLayer]:
    """Every layer with a weight, in order; of one top module, or of all."""
    parts: dict[str, list[str]] = {}
    for name in tensors:
        if top is None or name.partition(".")[0] == top:
            path, _, part = name.rpartition(".")
            parts.setdefault(path, []).append(part)
    return [
        HeadLayer(
            path=path,
            kind=_kind(weight, held),
            inputs=weight.shape[1] if weight.ndim > 1 else weight.shape[0],
            outputs=weight.shape[0],
            parts=tuple(held),
        )
        for path, held in parts.items()
        if (weight := tensors.get(f"{path}.weight")) is not None and weight.ndim
    ]


def _kind(weight: Tensor, parts: Sequence[str]) -> str:
    if weight.ndim == 1:
        return NORMS["running_mean" not in parts]
    return LINEAR if weight.ndim == 2 or tuple(weight.shape[2:]) == (1, 1) else "other"


def _changed(wanted: Mapping[str, HeadLayer], found: Iterable[HeadLayer], head: str) -> list[str]:
    """Paths of the head's layers that the file has otherwise than the network, its number of classes apart."""
    held = {layer.path: layer for layer in found}
    same = {
        path
        for path, layer in held.items()
        if (own := wanted.get(path))
        and own.kind == layer.kind
        and own.inputs == layer.inputs
        and (own.outputs == layer.outputs or path == head)
        and set(own.parts) - set(BUFFERS) == set(layer.parts) - set(BUFFERS)
    }
    return [path for path in (*held, *(p for p in wanted if p not in held)) if path not in same]


def _place(head: str, changed: Sequence[str]) -> str:
    """The innermost module with the head that has all that is changed in it."""
    place = head
    while "." in place and not all(_within(path, place) for path in changed):
        place = place.rpartition(".")[0]
    return place


def _within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}.")


def _features(wanted: Iterable[HeadLayer], place: str) -> int | None:
    """D: what the first layer at the place reads."""
    return next((layer.inputs for layer in wanted if _within(layer.path, place)), None)


def _outputs(found: Iterable[HeadLayer], head: str) -> int | None:
    return next((layer.outputs for layer in found if layer.path == head), None)


def _beside(
    own: Mapping[str, Tensor],
    outside: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    features: int | None,
    classes: int | None,
) -> list[HeadLayer]:
    """The layers that are not the network's and read its features, if it is clear which are the head."""
    foreign = {name: tensor for name, tensor in own.items() if name not in state and not AUXILIARY.match(name)}
    foreign |= {name: tensor for name, tensor in outside.items() if name not in own}
    chains: list[list[HeadLayer]] = []
    for layer in _layers(foreign):
        if BESIDE.match(layer.path) or AVERAGED.search(layer.path) or layer.kind == "other":
            continue
        last = chains[-1][-1] if chains else None
        if last and last.outputs == layer.inputs and (chains[-1][0].inputs == features or _siblings(last, layer)):
            chains[-1].append(layer)
        else:
            chains.append([layer])
    # One that begins with another width is whole with that beginning, such as fastai's behind two kinds of pooling.
    chains = [chain for chain in chains if chain[0].inputs == features and chain[-1].kind == LINEAR]
    if len(chains) > 1:
        chains = [c for c in chains if c[-1].outputs == classes] or [c for c in chains if HEAD.search(c[-1].path)]
    return chains[0] if len(chains) == 1 else []


def _siblings(layer: HeadLayer, other: HeadLayer) -> bool:
    return layer.path.rpartition(".")[0] == other.path.rpartition(".")[0]


def _without_weights(name: str) -> nn.Module:
    return nn.Flatten(1) if name == "Flatten" else LAYERS[name]()
