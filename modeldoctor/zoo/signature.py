"""What tells one architecture from another in a state dict: parameter names and shapes, free of what people change.

A feature is the CRC-32 of a parameter's name and shape, with ANY in each dimension that follows the number of classes,
of input channels, the image, patch or window size. Which dimensions do is not guessed from names: the network is built
again with other options, and what changes is masked.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from torch import nn

from modeldoctor.errors import ArchitectureError
from modeldoctor.zoo.libraries import AUXILIARY, Built, Plan, build
from modeldoctor.zoo.options import structure_options

ANY = -1
Shape = tuple[int, ...]
# Unlike any library's own numbers, so that a dimension that takes one of them is seen to.
_CLASSES, _CHANNELS = 1117, 5
# A name's features double with each dimension; no classifier has a parameter of more.
_MOST_DIMENSIONS = 6


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The features of one architecture.

    Attributes:
        core: of the parameters that must be there, whatever the options; heads are left out.
        detail: what tells architectures of equal core apart: parameters whose shape follows a size, as they are by
            default, and running statistics.
    """

    core: frozenset[int]
    detail: frozenset[int]


def feature(name: str, shape: Shape) -> int:
    """The CRC-32 of a name and a shape."""
    return zlib.crc32(f"{name} {','.join(map(str, shape))}".encode(errors="surrogatepass"))


def features_of(shapes: Mapping[str, Shape]) -> set[int]:
    """Every feature that a file's tensors may stand for: each dimension as it is, and as ANY."""
    return {feature(name, masked) for name, shape in shapes.items() for masked in _maskings(shape)}


def describe(plan: Plan) -> Signature:
    """Build an architecture on the meta device with its defaults and with other options, and compare.

    Raises:
        ArchitectureError: it cannot be built.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that no one would choose
        return _describe(build(plan, meta=True))


def _describe(built: Built) -> Signature:
    plan = built.plan
    base = _shapes(built.module)
    headed = _shapes(build(replace(plan, num_classes=_CLASSES, channels=_CHANNELS), meta=True).module)
    heads = {_layer(name) for name in base if _differs(base, headed, name, _CLASSES)}
    parameters = [
        name
        for name, _ in built.module.named_parameters()
        if _layer(name) not in heads and not AUXILIARY.match(name) and name in headed
    ]
    resized = _resized(built)
    core, detail = set(), set()
    for name in parameters:
        shape = _masked(base[name], headed[name])
        sized = _masked(shape, resized.get(name, shape))
        core.add(feature(name, sized))
        if sized != shape:
            detail.add(feature(name, shape))
    detail |= {feature(name, base[name]) for name in base if name.endswith("running_mean")}
    return Signature(core=frozenset(core), detail=frozenset(detail))


def _shapes(module: nn.Module) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _maskings(shape: Shape) -> Iterator[Shape]:
    if len(shape) > _MOST_DIMENSIONS:
        return iter([shape])
    return product(*((size, ANY) for size in shape))


def _masked(shape: Shape, other: Shape) -> Shape:
    """A shape with ANY where another one of the same rank differs."""
    if len(shape) != len(other):
        return (ANY,) * len(shape)
    return tuple(size if size == changed else ANY for size, changed in zip(shape, other, strict=True))


def _differs(base: Mapping[str, Shape], other: Mapping[str, Shape], name: str, to: int) -> bool:
    changed = other.get(name, base[name])
    return changed != base[name] and to in changed


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _resized(built: Built) -> dict[str, Shape]:
    """The shapes at twice the image size, half the patch and a wider window, as far as the network takes these."""
    options = structure_options(built.module)
    doubled = (2 * built.fixed_size[0], 2 * built.fixed_size[1]) if built.fixed_size else None
    changed = {name: value // 2 if name == "patch_size" else value + 1 for name, value in options.items()}
    plain = built.plan
    for model_args in _subsets(changed):
        if not (doubled or model_args):
            break
        try:
            plan = replace(plain, image_size=doubled, model_args={**plain.model_args, **model_args})
            return _shapes(build(plan, meta=True).module)
        except ArchitectureError:
            continue
    return {}


def _subsets(options: Mapping[str, int]) -> Iterable[dict[str, int]]:
    """All options, then each alone, then none."""
    return [dict(options), *({name: value} for name, value in options.items()), {}]
