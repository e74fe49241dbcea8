"""Where in a file the network lies: below which prefix, with which wrappers' words, and what stands beside it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

# What DataParallel, torch.compile, FSDP, DeepSpeed and activation checkpointing put into names, anywhere.
WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"))
# First parts of names that training code keeps beside a network; what has another name may be a part of it.
BESIDE = re.compile(
    r"(.*criter|.*loss|.*metric|.*ema(_|$)|.*averaged|avg_|swa|.*teacher|.*normali[sz]|.*preprocess"
    r"|(train|val|valid|validation|test)_?\w*(acc|f1|auroc|auc|precision|recall|confmat|score|step)"
    r"|(acc|accuracy|f1|auroc|confmat|average_precision)(_|$)|(class_|pos_)?weights?$|(pixel_|image_)?(mean|std)$)",
    re.IGNORECASE,
)
AVERAGED = re.compile(r"(^|[._])(ema|averaged|avg|swa|shadow|teacher|momentum)([._]|$)|ema_|_ema", re.IGNORECASE)
HEAD = re.compile(r"(^|\.)(fc|head|heads|classifier|linear|out\w*|logits?)\d*(\.|$)")
# The parts of ResNets, of torchvision's other convnets, of timm's EfficientNets and ConvNeXts, in their order.
CHILDREN = (
    ("conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4", "", "fc"),
    ("features", "", "classifier"),
    ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "", "classifier"),
    ("stem", "stages", "norm_pre", "head"),
)
# A second block that has this share of the network's names is a copy of it.
_TWIN = 0.9
# Parts that a prefix has at most.
_DEEPEST = 16


@dataclass(frozen=True, kw_only=True)
class Located:
    """The network's part of a file.

    Attributes:
        tensors: of that part, by the network's names; a name that the network does not have is as in the file, without
            the prefix.
        names: for each of these the name in the file.
        prefix: what stands before them in the file.
        outside: the rest, by the file's names.
    """

    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    prefix: str
    outside: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Names:
    """The names that are looked for, without wrappers' words."""

    expected: Collection[str]
    numbered: tuple[str, ...] = ()

    @cached_property
    def own(self) -> dict[str, str]:
        """Without the words → the network's own name, which may hold one of them."""
        return {without_wrappers(self._as_numbered(name)): name for name in self.expected}

    def _as_numbered(self, name: str) -> str:
        first, dot, rest = name.partition(".")
        return f"{self.numbered.index(first)}{dot}{rest}" if first in self.numbered else name

    @cached_property
    def roots(self) -> frozenset[str]:
        return frozenset(name.partition(".")[0] for name in self.own)


def locate(expected: Collection[str], tensors: Mapping[str, Tensor], children: Sequence[str] = ()) -> Located:
    """Find the block of a file's names that is a network; whatever lies elsewhere does not matter.

    Of several blocks the one with most of the names is taken, then the one that is no average of weights.

    Args:
        expected: the network's names.
        tensors: of the file, by its own names.
        children: the network's parts in their order; `Sequential(*network.children())` has their numbers for names.
    """
    names = _Names(expected)
    plain = {name: without_wrappers(name) for name in tensors}
    votes = _votes(plain.values(), names)
    if children and 2 * max(votes.values(), default=0) < len(names.own):
        numbered = _Names(expected, tuple(children))
        if (others := _votes(plain.values(), numbered)) and max(others.values()) > max(votes.values(), default=0):
            names, votes = numbered, others
    prefix = max(votes, key=lambda p: (votes[p], not AVERAGED.search(p), -len(p)), default="")
    twins = tuple(p for p, count in votes.items() if count >= _TWIN * votes[prefix] and not prefix.startswith(p))
    held: dict[str, str] = {}
    for name, short in plain.items():
        rest = short.removeprefix(prefix)
        if short.startswith(prefix) and not short.startswith(twins) and not _beside(rest, names):
            held.setdefault(names.own.get(rest, rest), name)
    return Located(
        tensors={name: tensors[place] for name, place in held.items()},
        names=held,
        prefix=_as_written(prefix, held),
        outside={name: tensor for name, tensor in tensors.items() if name not in set(held.values())},
    )


def copies(expected: Collection[str], held: Collection[str]) -> Iterator[dict[str, str]]:
    """Every block of a file's names in which some of the expected ones stand: expected name → the file's."""
    names = _Names(expected)
    plain = {without_wrappers(name): name for name in held}
    for prefix in _votes(plain, names):
        yield {own: plain[prefix + name] for name, own in names.own.items() if prefix + name in plain}


def without_wrappers(name: str) -> str:
    """A name without the words that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS) or name


def blocks(names: Collection[str], share: float, limit: int) -> list[str]:
    """Dotted beginnings that at least a share of the names have; the commonest first, averages of weights last."""
    votes = Counter(before for name in names for before, _ in _splits(name) if before)
    common = [before for before, count in votes.items() if count >= share * len(names)]
    return sorted(common, key=lambda p: (bool(AVERAGED.search(p)), -votes[p], len(p)))[:limit]


def _votes(plain: Iterable[str], names: _Names) -> Counter[str]:
    """Below each prefix, how many of the expected names there are."""
    return Counter(before for name in plain for before, rest in _splits(name) if rest in names.own)


def unnumbered(names: Collection[str]) -> Iterator[dict[str, str]]:
    """Where names begin with numbers: the same with the parts' names that well-known networks have.

    The head may have another number, or none: who takes the last part off puts layers of their own in its place.
    """
    firsts = {name: name.partition(".")[0] for name in names}
    if names and any(first.isdigit() for first in firsts.values()):
        for parts in CHILDREN:
            numbers = {str(at): part for at, part in enumerate(parts) if part}
            body = set(numbers) - {str(len(parts) - 1)}
            if body <= set(firsts.values()):
                yield {name: numbers.get(first, first) + name[len(first) :] for name, first in firsts.items()}


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Every way to take a beginning off a dotted name: ("", "a.b.c"), ("a.", "b.c"), ("a.b.", "c")."""
    at = 0
    for _ in range(_DEEPEST):
        yield name[:at], name[at:]
        at = name.find(".", at) + 1
        if not at:
            return


def _beside(name: str, names: _Names) -> bool:
    first = name.partition(".")[0]
    if ".aux_bn." in name:  # timm's split BatchNorm: statistics of augmented images, used in training alone
        return True
    return first not in names.roots and BESIDE.match(first) is not None


def _as_written(prefix: str, held: Mapping[str, str]) -> str:
    """The prefix with the wrappers' words that the file has before every name."""
    for name, place in held.items():
        if place.endswith(name):
            return place.removesuffix(name)
    return prefix
