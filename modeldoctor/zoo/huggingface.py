"""Image classifiers of Hugging Face transformers under timm's names: `huggingface_families.FAMILIES`.

The networks are the same, their names are not: parts are renamed, query, key and value become one tensor, and what the
configuration says of widths, depths and heads goes to timm's constructor. Names of transformers 4, which are those of
every folder that it saves, and of transformers 5 in memory are both known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Size, Tensor, nn

from modeldoctor.checkpoint import Checkpoint
from modeldoctor.errors import ArchitectureError
from modeldoctor.zoo.huggingface_families import FAMILIES, WITHOUT_EFFECT, Config, Family, base_of, options_of
from modeldoctor.zoo.positions import Positions


@dataclass(frozen=True)
class _Piece:
    """A tensor of transformers: where it goes, as which of how many pieces of it, and its shape."""

    target: str
    part: tuple[int, int] | None
    shape: Size


def translated(checkpoint: Checkpoint, size: tuple[int, int] | None = None) -> Checkpoint:
    """The checkpoint under timm's names, if it is of transformers; else as it is.

    Without a configuration, heads and the like are those of the known network that has the same tensors.

    Args:
        checkpoint: as it was read.
        size: height and width of the images, where the user says it.

    Raises:
        ArchitectureError: it is of transformers, but of no kind that timm has in the same form.
    """
    tensors = checkpoint.under_file_names()
    marks = ((family, mark) for family in FAMILIES for name in tensors if (mark := family.mark.fullmatch(name)))
    family, mark = next(marks, (None, None))
    config = checkpoint.metadata.transformers
    if family is None or mark is None:
        if config and checkpoint.metadata.arch is None:
            kind = f"a network of transformers of the kind {config.get('model_type')!r}"
            raise _refusal(checkpoint, kind, why="whose names in timm are not known")
        return checkpoint
    _refuse_other_forms(checkpoint, config)
    stated = size or (checkpoint.metadata.input_size[-2:] if checkpoint.metadata.input_size else None)
    _refuse_cut_windows(checkpoint, config, stated)
    before, word = mark[1] or "", mark[2]
    pieces = {name: piece for name, t in tensors.items() if (piece := _piece(family, name, before, word, t))}
    if "head_dist.weight" in {piece.target for piece in pieces.values()}:
        pieces = {name: replace(p, target=p.target.replace("reg_token", "dist_token")) for name, p in pieces.items()}
    rest = {n: t for n, t in tensors.items() if n not in pieces and not WITHOUT_EFFECT.fullmatch(n)}
    network = _put_together(tensors, {(piece.target, piece.part): name for name, piece in pieces.items()})
    parts = {name: tuple(tensor.shape) for name, tensor in network.items()}
    options = options_of(family, config, parts)
    base = base_of(family, parts)
    positions = Positions.of(network, stated) if family.interpolates else None
    network = positions.fitted(network) if positions else network
    eps = config.get("layer_norm_eps", family.eps)

    def to_file(treated: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return checkpoint.to_file(_taken_apart(positions.unfitted(treated) if positions else treated, pieces))

    def finish(module: nn.Module) -> None:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.LayerNorm) and family.normed.search(name) and isinstance(eps, float):
                layer.eps = eps
        if positions:
            positions.fix(module)

    return replace(
        checkpoint,
        tensors={**network, **rest}, prefix="", to_file=to_file,
        metadata=replace(checkpoint.metadata, arch=None, model_args={**options, **checkpoint.metadata.model_args}),
        base=base if config else None, finish=finish, notes=positions.notes if positions else (),
    )  # fmt: skip


def _piece(family: Family, name: str, before: str, word: str, tensor: Tensor) -> _Piece | None:
    if not name.startswith(before):
        return None
    path, _, leaf = name.removeprefix(before).removeprefix(f"{word}.").rpartition(".")
    found = family.parameter(path, leaf)
    return None if found is None else _Piece(*found, tensor.shape)


def _put_together(
    tensors: Mapping[str, Tensor], by_place: Mapping[tuple[str, tuple[int, int] | None], str]
) -> dict[str, Tensor]:
    network: dict[str, Tensor] = {}
    for (target, part), name in by_place.items():
        if part is None:
            tensor = tensors[name]
            network[target] = tensor.flatten() if ".grn." in target else tensor
            continue
        at, count = part
        places = [by_place.get((target, (other, count))) for other in range(count)]
        if at == 0 and None not in places:
            network[target] = torch.cat([tensors[place] for place in places if place is not None])
    return network


def _taken_apart(network: Mapping[str, Tensor], pieces: Mapping[str, _Piece]) -> dict[str, Tensor]:
    file = {name: tensor for name, tensor in network.items() if name not in {p.target for p in pieces.values()}}
    for name, piece in pieces.items():
        if piece.target in network:
            tensor = network[piece.target]
            part = tensor if piece.part is None else tensor.chunk(piece.part[1])[piece.part[0]]
            file[name] = part.reshape(piece.shape)
    return file


def _refuse_other_forms(checkpoint: Checkpoint, config: Config) -> None:
    for option in ("downsample_in_bottleneck", "downsample_in_first_stage", "use_absolute_embeddings"):
        if config.get(option) is True:
            raise _refusal(checkpoint, f"a network of transformers with {option}")


def _refuse_cut_windows(checkpoint: Checkpoint, config: Config, size: tuple[int, int] | None) -> None:
    """Where windows do not divide a map, transformers pads it before it shifts them, timm after that."""
    window, patch, depths = (config.get(name) for name in ("window_size", "patch_size", "depths"))
    if not (isinstance(window, int) and isinstance(patch, int) and isinstance(depths, list) and size and window > 0):
        return
    for edge in size:
        cells = -(-edge // max(patch, 1))
        for depth in depths:
            if depth != 1 and cells > window and cells % window:
                raise _refusal(checkpoint, f"windows of {window}x{window} that do not divide a map of {cells} patches")
            cells = -(-cells // 2)


def _refusal(checkpoint: Checkpoint, what: str, why: str = "which timm does not have") -> ArchitectureError:
    return ArchitectureError(
        f"{what}, {why}",
        where=str(checkpoint.path),
        expected="ViT, DeiT, BEiT, DINOv2, Swin, Swin V2, ConvNeXt, ConvNeXt V2 or ResNet for image classification, or "
        "timm's own networks",
        hint="give your own code, --arch CODE.py:FUNCTION: a module that holds the network under the file's names and "
        "returns its `.logits`",
    )
