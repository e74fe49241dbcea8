"""Naming the architecture of a file from its tensors alone: looked up in the index, then built and compared."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor

from modeldoctor.checkpoint import Checkpoint
from modeldoctor.checkpoint.names import blocks, unnumbered, without_wrappers
from modeldoctor.errors import ArchitectureError, shortened
from modeldoctor.zoo.fit import Fit, Wanted, fitted
from modeldoctor.zoo.hub import read_named
from modeldoctor.zoo.huggingface import translated
from modeldoctor.zoo.index import Match, describe_all, installed_versions, preference, shipped_index
from modeldoctor.zoo.libraries import LIBRARIES, Plan, architectures, plan_of
from modeldoctor.zoo.options import read_channels, read_classes

# Distinct sets of tensors that are built and compared where the first does not fit, and listed in any case.
_COMPARED, _LISTED, _TIES = 3, 4, 4
# Below this share of its parameters a network is no likeness.
_LIKENESS = 0.5
# A prefix that fewer names have is not tried, nor more prefixes than this.
_BLOCK, _BLOCKS = 0.2, 8
_NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One architecture compared with the file.

    Attributes:
        arch: such as "timm/resnet50".
        found, wanted: how many of its parameters the file has in the right shape, and how many there are; without
            the head, and with sizes left open.
        fit: the full comparison, where it was built; ties share that of the first.
    """

    arch: str
    found: int
    wanted: int
    fit: Fit | None

    @property
    def plan(self) -> Plan:
        """What to build, by its defaults."""
        return plan_of(self.arch)


@dataclass(frozen=True, kw_only=True)
class Identification:
    """What a file's tensors are.

    Attributes:
        candidates: best first; those that share the best one's tensors follow it at once.
        tied: names of all architectures that have exactly the best one's tensors, itself among them.
        notes: what else there is to say.
    """

    candidates: tuple[Candidate, ...]
    tied: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        """The architecture chosen, by `index.preference` among ties."""
        return self.candidates[0]

    @property
    def fit(self) -> Fit:
        """The best candidate against the file."""
        assert self.best.fit is not None
        return self.best.fit

    @property
    def reason(self) -> str:
        """Why this name, as one sentence for a note."""
        if not self.best.wanted:
            return f"no known network has these tensors: built as {self.best.arch} with the sizes in config.json"
        others = [name for name in self.tied if name != self.best.arch]
        if not others:
            return f"the architecture was named from the weights: {self.best.arch}"
        return (
            f"the architecture was named from the weights: {self.best.arch}; {shortened(others)} would have the same "
            "tensors (another stride, activation, size or preprocessing), and the plainest name was taken: "
            "--arch decides"
        )


def identify(checkpoint: Checkpoint, wanted: Wanted | None = None) -> Identification:
    """Name the architecture of a file's tensors: every known classifier, best first.

    Args:
        checkpoint: its metadata's word on the architecture is not asked.
        wanted: options that take precedence over what the tensors say.

    Raises:
        ArchitectureError: no known network resembles it.
    """
    wanted, tensors = wanted or Wanted(), checkpoint.tensors
    matches = _matches(tensors)
    for below in _variants(tensors):
        if matches[0].whole:
            break
        others = _matches(below)
        if others[0].lacking < matches[0].lacking:
            matches, tensors = others, below
    matches, notes = _with_unindexed(matches, tensors)
    matches = [match for match in matches if match.found >= _LIKENESS * match.wanted]
    if not matches and checkpoint.base:
        matches = [Match(checkpoint.base, 0, 0, 0, 0)]
    if not matches:
        versions = ", ".join(f"{name} {number}" for name, number in installed_versions().items())
        raise ArchitectureError(
            f"the {len(tensors)} tensors are of no architecture that is known",
            where=str(checkpoint.path),
            expected=f"a classifier of {versions}",
            hint="pass the folder, whose config.json says how the network is built"
            if checkpoint.finish
            else "pass --arch if it is one of theirs; your own network needs your code: --arch CODE.py:FUNCTION",
        )
    groups = [list(group) for _, group in groupby(matches, key=lambda match: match.score)][:_LISTED]
    compared = _compared(groups, checkpoint, wanted)
    # What was not compared comes last, in its order.
    order = sorted(
        range(len(groups)), key=lambda at: found.problems_in_body if (found := compared[at]) else sys.maxsize
    )
    candidates = tuple(
        Candidate(arch=match.arch, found=match.found, wanted=match.wanted, fit=compared[at])
        for at in order
        for match in groups[at]
    )
    return Identification(candidates=candidates, tied=tuple(match.arch for match in groups[order[0]]), notes=notes)


def identify_file(path: str | Path, *, download: bool = False, trust_pickle: bool = False) -> dict[str, Any]:
    """What network a checkpoint holds, in plain values: JSON, or a table.

    >>> from modeldoctor import identify_file
    >>> found = identify_file("ckpt.pt")
    >>> found["arch"], found["fits"]
    ('timm/test_resnet', True)

    Args:
        path: a checkpoint as for `load_model`.
        download: fetch the weights of a name that are not in the cache.
        trust_pickle: let a pickle EXECUTE code from the file; only for a trusted source.

    Returns:
        `arch`, whether it `fits`, `num_classes`, `channels`, `image_size` and `options` as read off the tensors (None
        or empty where they do not say), the layers of a `head` of several and what `--head` may be for them, `tied`
        names, `stated` by the file itself, the `prefix` of the network's names, what was `left_out`, `candidates` best
        first, and `notes`.

    Raises:
        CheckpointError: the file cannot be read.
        ArchitectureError: no known network resembles it.
    """
    checkpoint = translated(read_named(path, download=download, trust_pickle=trust_pickle)[0])
    found = identify(checkpoint)
    built, head = found.fit.built, found.fit.head
    options = {name: value for name, value in built.plan.model_args.items() if isinstance(value, int)}
    return {
        "checkpoint": str(path),
        "arch": found.best.arch,
        "fits": not found.fit.problems,
        "tensors": len(checkpoint.tensors),
        "num_classes": read_classes(built, found.fit.tensors),
        "head": {"layers": [layer.text for layer in head.unnamed], "option": head.option} if head.unnamed else None,
        "channels": read_channels(built, found.fit.tensors, built.plan.channels or 3),
        "image_size": list(built.fixed_size) if built.fixed_size else None,
        "options": options,
        "tied": list(found.tied),
        "stated": checkpoint.metadata.arch,
        "prefix": found.fit.prefix,
        "left_out": list(found.fit.outside),
        "candidates": [_as_values(candidate, found.tied) for candidate in found.candidates],
        "notes": [*found.notes, *found.fit.notes],
    }


def _as_values(candidate: Candidate, tied: tuple[str, ...]) -> dict[str, Any]:
    fit = candidate.fit
    misfits = {
        name: {"count": len(getattr(fit, name)), "first": list(getattr(fit, name)[:_NAMED])}
        for name in ("missing", "unexpected", "misshapen")
        if fit is not None
    }
    return {
        "arch": candidate.arch,
        "found": candidate.found,
        "wanted": candidate.wanted,
        "tied": candidate.arch in tied,
        "compared": fit is not None,
        **misfits,
    }


def _matches(tensors: Mapping[str, Tensor]) -> list[Match]:
    """Of the index, less what the installed libraries no longer have."""
    found = shipped_index().match(_shapes(tensors))
    return [match for match in found if LIBRARIES[match.arch.partition("/")[0]].has(match.arch.partition("/")[2])]


def _with_unindexed(matches: list[Match], tensors: Mapping[str, Tensor]) -> tuple[list[Match], tuple[str, ...]]:
    """Where nothing fits, the architectures that came after the index was made are built and matched too."""
    if matches and matches[0].whole:
        return matches, ()
    fresh = shipped_index().unknown(architectures())
    if not fresh:
        return matches, ()
    more = describe_all(fresh).match(_shapes(tensors))
    note = f"{len(more)} architectures that are newer than the index were built to compare them"
    return sorted([*matches, *more], key=lambda match: (match.score, preference(match.arch))), (note,)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _variants(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors without wrappers' words in their names, then those below each prefix that many have."""
    plain = {without_wrappers(name): tensor for name, tensor in tensors.items()}
    if plain.keys() != tensors.keys():
        yield plain
    for prefix in ("", *blocks(plain, _BLOCK, _BLOCKS)):
        below = {name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
        if prefix:
            yield below
        for renamed in unnumbered(below):
            yield {new: below[name] for name, new in renamed.items()}


def _compared(groups: list[list[Match]], checkpoint: Checkpoint, wanted: Wanted) -> list[Fit | None]:
    """The full comparison of the best of each group, which is put first, up to one that fits."""
    fits: list[Fit | None] = [None] * len(groups)
    tensors = checkpoint.under_file_names()
    for at, group in enumerate(groups[:_COMPARED]):
        fit = fitted(plan_of(group[0].arch), tensors, checkpoint.metadata, wanted, meta=True)
        for place, match in enumerate(group[1:_TIES] if any(fit.rank) else (), start=1):
            other = fitted(plan_of(match.arch), tensors, checkpoint.metadata, wanted, meta=True)
            if other.rank < fit.rank:  # the same body under another head's name
                fit = other
                group.insert(0, group.pop(place))
        fits[at] = fit
        if not fit.problems_in_body:
            break
    return fits
