"""Which constructor options do the shapes of a file's tensors imply?"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import isqrt, sqrt
from typing import Any

from torch import Tensor, nn

from modeldoctor.zoo.libraries import AUXILIARY, Built

POSITIONS = ("pos_embed", "pos_embedding")
_GUESSES = 6
# Class, distillation and register tokens.
_OTHER_TOKENS = 6
# Tables of relative positions have 2w - 1 offsets along each edge of a window.
_WINDOWS = ("relative_position_bias_table", "relative_coords_table")


def structure_options(module: nn.Module) -> dict[str, int]:
    """The patch and window size that a network was built with, by the constructor's name, where it takes them."""
    found = {
        "patch_size": getattr(getattr(module, "patch_embed", None), "patch_size", None),
        "window_size": next(
            (submodule.window_size for submodule in module.modules() if hasattr(submodule, "window_size")), None
        ),
    }
    edges = {name: _edge(value) for name, value in found.items() if _takes(module, name)}
    return {name: edge for name, edge in edges.items() if edge and edge > 1}


def read_structure(built: Built, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The patch and window size of the file, where they are not the ones that `built` has."""
    default = structure_options(built.module)
    found = {"patch_size": _read_patch(built, tensors), "window_size": _read_window(tensors)}
    return {name: value for name, value in found.items() if name in default and value and value != default[name]}


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


def guess_image_sizes(built: Built, tensors: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """The (square) image sizes for which the file may have its tensors, the likeliest first; none if `built`'s fits.

    What follows the image size: position embeddings (its square, less class and register tokens, or its edges),
    layers that mix tokens (its square), and tables of relative positions in windows that are a share of the image.

    Args:
        built: with the file's patch and window size.
        tensors: of the file.
    """
    size, votes = built.fixed_size, Counter[int]()
    if size is None or size[0] != size[1]:
        return []
    for name, reference in built.module.state_dict().items():
        found = tensors.get(name)
        if found is None or found.ndim != reference.ndim or _is_of(name, built.head) or _is_of(name, built.stem):
            continue
        pairs = zip(found.shape, reference.shape, strict=True)
        edges = {round(size[0] * ratio, 3) for a, b in pairs if a != b for ratio in _ratios(a, b)}
        votes.update(round(edge) for edge in edges if edge >= 1 and edge == round(edge))
    return [(edge, edge) for edge, _ in votes.most_common(_GUESSES)]


def has_auxiliary(built_with: Built, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the file has every weight of the auxiliary heads that the library would build."""
    state = built_with.module.state_dict()
    names = [n for n in state if AUXILIARY.match(n) and not n.endswith("num_batches_tracked")]
    return bool(names) and all(n in tensors for n in names)


def _ratios(found: int, reference: int) -> Iterator[float]:
    """How many times as long the image's edge may be, from one dimension of the file's and of the network's."""
    for other in range(_OTHER_TOKENS):
        if found > other and reference > other:
            yield sqrt((found - other) / (reference - other))
    yield found / reference
    yield (found + 1) / (reference + 1)
    for special in (0, 3):  # a window's table may have three more rows, for the class token
        if found > special and reference > special:
            yield (isqrt(found - special) + 1) / (isqrt(reference - special) + 1)


def _is_of(name: str, layer: str | None) -> bool:
    return layer is not None and name.startswith(f"{layer}.")


def _takes(module: nn.Module, option: str) -> bool:
    return option in inspect.signature(type(module).__init__).parameters


def _edge(value: Any) -> int | None:
    edge = next(iter(value), None) if isinstance(value, Iterable) else value
    return edge if isinstance(edge, int) else None


def _read_patch(built: Built, tensors: Mapping[str, Tensor]) -> int | None:
    """Of a network whose first layer is one convolution over its patches."""
    name = f"{built.stem}.weight"
    stem, reference = tensors.get(name), built.module.state_dict().get(name)
    if stem is None or reference is None or stem.ndim != 4 or reference.ndim != 4:
        return None
    patch = structure_options(built.module).get("patch_size")
    return stem.shape[2] if reference.shape[2] == patch and stem.shape[2] == stem.shape[3] else None


def _read_window(tensors: Mapping[str, Tensor]) -> int | None:
    """The widest, as small maps have narrower windows: (2w - 1)² rows, or 2w - 1 along two edges."""
    windows = [0]
    for name, tensor in tensors.items():
        if name.endswith(_WINDOWS) and tensor.ndim in (2, 4):
            offsets = isqrt(tensor.shape[0]) if tensor.ndim == 2 else tensor.shape[1]
            windows.append((offsets + 1) // 2)
    return max(windows) or None
