"""Image classifiers of Hugging Face transformers under timm's names: ViT, DeiT, Swin, ConvNeXt (V2) and ResNet.

The networks are the same, their names are not: parts are renamed, query, key and value become one tensor, and what the
configuration says of widths, depths and heads goes to timm's constructor. Names of transformers 4, which are those of
every folder that it saves, and of transformers 5 in memory are both known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Size, Tensor, nn

from modeldoctor.checkpoint import Checkpoint
from modeldoctor.errors import ArchitectureError

Options = dict[str, Any]
Config = Mapping[str, Any]
# Parts of an attention block: transformers' name → timm's, with the place of query, key and value in one tensor.
_BLOCK = {
    **{f"attention.{before}{name}": f"attn.qkv#{at}"
       for at, names in enumerate((("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")))
       for name in names for before in ("attention.", "self.", "")},
    "attention.output.dense": "attn.proj", "attention.o_proj": "attn.proj",
    "attention.self": "attn", "attention.relative_position_bias": "attn",
    "intermediate.dense": "mlp.fc1", "mlp.fc1": "mlp.fc1", "output.dense": "mlp.fc2", "mlp.fc2": "mlp.fc2",
    "layernorm_before": "norm1", "layernorm_after": "norm2",
}  # fmt: skip
_VIT = {
    "embeddings": "", "embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm",
    "classifier": "head", "cls_classifier": "head", "distillation_classifier": "head_dist",
}  # fmt: skip
_SWIN = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj", "embeddings.norm": "patch_embed.norm",
    "layernorm": "norm", "classifier": "head.fc",
}  # fmt: skip
_CONVNEXT = {
    "embeddings.patch_embeddings": "stem.0", "embeddings.layernorm": "stem.1", "layernorm": "head.norm",
    "classifier": "head.fc",
}  # fmt: skip
_CONVNEXT_BLOCK = {
    "": "", "dwconv": "conv_dw", "layernorm": "norm", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2", "grn": "mlp.grn",
}  # fmt: skip
_RESNET = {
    "embedder.embedder.convolution": "conv1", "embedder.embedder.normalization": "bn1", "classifier.1": "fc",
}  # fmt: skip
_PARAMETERS = {
    "cls_token": "cls_token", "position_embeddings": "pos_embed", "distillation_token": "reg_token",
    "relative_position_bias_table": "relative_position_bias_table", "layer_scale_parameter": "gamma",
}  # fmt: skip
# Of other tasks, or computed anew.
_WITHOUT_EFFECT = re.compile(r"(.*\.)?(pooler\..*|mask_token|relative_position_index|position_ids)")
_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "swish": "silu"}


def _vit(name: str) -> str | None:
    if block := re.fullmatch(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)", name):
        return _joined(f"blocks.{block[1]}", _BLOCK.get(block[2]))
    return _VIT.get(name)


def _swin(name: str) -> str | None:
    if block := re.fullmatch(r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)", name):
        return _joined(f"layers.{block[1]}.blocks.{block[2]}", _BLOCK.get(block[3]))
    if down := re.fullmatch(r"encoder\.layers\.(\d+)\.downsample\.(norm|reduction)", name):
        return f"layers.{int(down[1]) + 1}.downsample.{down[2]}"  # timm's stages begin with it
    return _SWIN.get(name)


def _convnext(name: str) -> str | None:
    if block := re.fullmatch(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.?(.*)", name):
        return _joined(f"stages.{block[1]}.blocks.{block[2]}", _CONVNEXT_BLOCK.get(block[3]))
    if down := re.fullmatch(r"encoder\.stages\.(\d+)\.downsampling_layer\.(\d)", name):
        return f"stages.{down[1]}.downsample.{down[2]}"
    return _CONVNEXT.get(name)


def _resnet(name: str) -> str | None:
    kinds = {"convolution": ("conv", "0"), "normalization": ("bn", "1")}
    if layer := re.fullmatch(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d)\.(convolution|normalization)", name):
        return f"layer{int(layer[1]) + 1}.{layer[2]}.{kinds[layer[4]][0]}{int(layer[3]) + 1}"
    if around := re.fullmatch(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(convolution|normalization)", name):
        return f"layer{int(around[1]) + 1}.{around[2]}.downsample.{kinds[around[3]][1]}"
    return _RESNET.get(name)


def _joined(before: str, part: str | None) -> str | None:
    return None if part is None else f"{before}.{part}".rstrip(".")


def _vit_options(config: Config) -> Options:
    hidden, inner = config.get("hidden_size"), config.get("intermediate_size")
    ratio = {"mlp_ratio": inner / hidden} if isinstance(hidden, int) and isinstance(inner, int) and hidden else {}
    return ratio | _picked(
        config, patch_size="patch_size", embed_dim="hidden_size", depth="num_hidden_layers",
        num_heads="num_attention_heads", qkv_bias="qkv_bias",
    )  # fmt: skip


def _swin_options(config: Config) -> Options:
    return _picked(
        config, patch_size="patch_size", embed_dim="embed_dim", depths="depths", num_heads="num_heads",
        window_size="window_size", mlp_ratio="mlp_ratio", qkv_bias="qkv_bias",
    )  # fmt: skip


def _convnext_options(config: Config) -> Options:
    # timm's smaller ones have convolutions in the place of linear layers.
    return {"conv_mlp": False} | _picked(config, patch_size="patch_size", depths="depths", dims="hidden_sizes")


def _resnet_options(config: Config) -> Options:
    options = _picked(config, layers="depths", channels="hidden_sizes")
    if "channels" in options and config.get("layer_type") != "basic":
        options["channels"] = [width // 4 for width in options["channels"] if isinstance(width, int)]
    return options


def _picked(config: Config, **names: str) -> Options:
    return {ours: config[theirs] for ours, theirs in names.items() if config.get(theirs) is not None}


@dataclass(frozen=True)
class _Family:
    """One kind of network: how it is told, its names, its options, and where its epsilon counts."""

    mark: re.Pattern[str]
    rename: Callable[[str], str | None]
    options: Callable[[Config], Options]
    base: str
    eps: float | None
    normed: re.Pattern[str]


_EVERYWHERE, _LAST = re.compile(""), re.compile(r"head\.norm$")
FAMILIES = (
    _Family(re.compile(r"(.*\.)?(vit|deit)\.embeddings\.patch_embeddings\.projection\.weight"), _vit, _vit_options,
            "timm/vit_base_patch16_224", 1e-12, _EVERYWHERE),
    _Family(re.compile(r"(.*\.)?(swin)\.embeddings\.patch_embeddings\.projection\.weight"), _swin, _swin_options,
            "timm/swin_tiny_patch4_window7_224", 1e-5, _EVERYWHERE),
    _Family(re.compile(r"(.*\.)?(convnext)\.embeddings\.patch_embeddings\.weight"), _convnext, _convnext_options,
            "timm/convnext_tiny", 1e-12, _LAST),
    _Family(re.compile(r"(.*\.)?(convnextv2)\.embeddings\.patch_embeddings\.weight"), _convnext, _convnext_options,
            "timm/convnextv2_tiny", 1e-12, _LAST),
    _Family(re.compile(r"(.*\.)?(resnet)\.embedder\.embedder\.convolution\.weight"), _resnet, _resnet_options,
            "timm/resnet50", None, _LAST),
)  # fmt: skip


@dataclass(frozen=True)
class _Piece:
    """A tensor of transformers: where it goes, as which third of query, key and value if it is one, and its shape."""

    target: str
    third: int | None
    shape: Size


def translated(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint under timm's names, if it is of transformers; else as it is.

    Without a configuration, heads and the like are those of the known network that has the same tensors.

    Raises:
        ArchitectureError: it is of transformers, but of no kind that timm has in the same form.
    """
    tensors = checkpoint.under_file_names()
    marks = ((family, mark) for family in FAMILIES for name in tensors if (mark := family.mark.fullmatch(name)))
    family, mark = next(marks, (None, None))
    config = checkpoint.metadata.transformers
    if family is None or mark is None:
        if config and checkpoint.metadata.arch is None:
            raise _refusal(checkpoint, f"a network of transformers of the kind {config.get('model_type')!r}")
        return checkpoint
    _refuse_other_forms(checkpoint, config)
    before, word = mark[1] or "", mark[2]
    pieces = {name: piece for name, t in tensors.items() if (piece := _piece(family, name, before, word, t))}
    if "head_dist.weight" in {piece.target for piece in pieces.values()}:
        pieces = {name: replace(p, target=p.target.replace("reg_token", "dist_token")) for name, p in pieces.items()}
    by_place = {(piece.target, piece.third): name for name, piece in pieces.items()}
    rest = {n: t for n, t in tensors.items() if n not in pieces and not _WITHOUT_EFFECT.fullmatch(n)}
    options = family.options(config) | _of_tensors(family, pieces, config)
    basic = family.rename is _resnet and not any(piece.target.endswith("conv3.weight") for piece in pieces.values())
    distilled = any(piece.target == "dist_token" for piece in pieces.values())
    base = "timm/deit_base_distilled_patch16_224" if distilled else "timm/resnet18" if basic else family.base
    metadata = replace(checkpoint.metadata, arch=None, model_args={**options, **checkpoint.metadata.model_args})
    eps = config.get("layer_norm_eps", family.eps)

    def to_file(network: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return checkpoint.to_file(_taken_apart(network, pieces))

    def finish(module: nn.Module) -> None:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.LayerNorm) and family.normed.search(name) and isinstance(eps, float):
                layer.eps = eps

    return replace(
        checkpoint,
        tensors={**_put_together(tensors, by_place), **rest}, prefix="", metadata=metadata, to_file=to_file,
        base=base if config else None, finish=finish,
    )  # fmt: skip


def _piece(family: _Family, name: str, before: str, word: str, tensor: Tensor) -> _Piece | None:
    if not name.startswith(before):
        return None
    path, _, leaf = name.removeprefix(before).removeprefix(f"{word}.").rpartition(".")
    target = family.rename(path)
    if target is None:
        return None
    target, mark, third = target.partition("#")
    full = f"{target}.{_PARAMETERS.get(leaf, leaf)}".lstrip(".")
    return _Piece(full, int(third) if mark else None, tensor.shape)


def _of_tensors(family: _Family, pieces: Mapping[str, _Piece], config: Config) -> Options:
    options: Options = {}
    if any(piece.target == "reg_token" for piece in pieces.values()):
        options["reg_tokens"] = 1  # DeiT's second token without its own head
    act, usual = config.get("hidden_act"), "relu" if family.rename is _resnet else "gelu"
    if isinstance(act, str) and act != usual:
        options["act_layer"] = _ACTIVATIONS.get(act, act)
    return options


def _put_together(tensors: Mapping[str, Tensor], by_place: Mapping[tuple[str, int | None], str]) -> dict[str, Tensor]:
    network: dict[str, Tensor] = {}
    for (target, third), name in by_place.items():
        thirds = [by_place.get((target, at)) for at in range(3)]
        if third is None:
            tensor = tensors[name]
            network[target] = tensor.flatten() if ".grn." in target else tensor
        elif third == 0 and None not in thirds:
            network[target] = torch.cat([tensors[part] for part in thirds if part is not None])
    return network


def _taken_apart(network: Mapping[str, Tensor], pieces: Mapping[str, _Piece]) -> dict[str, Tensor]:
    file = {name: tensor for name, tensor in network.items() if name not in {p.target for p in pieces.values()}}
    for name, piece in pieces.items():
        if piece.target in network:
            tensor = network[piece.target]
            part = tensor if piece.third is None else tensor.chunk(3)[piece.third]
            file[name] = part.reshape(piece.shape)
    return file


def _refuse_other_forms(checkpoint: Checkpoint, config: Config) -> None:
    for option in ("downsample_in_bottleneck", "downsample_in_first_stage", "use_absolute_embeddings"):
        if config.get(option) is True:
            raise _refusal(checkpoint, f"a network of transformers with {option}")


def _refusal(checkpoint: Checkpoint, what: str) -> ArchitectureError:
    return ArchitectureError(
        f"{what}, which timm does not have",
        where=str(checkpoint.path),
        expected="ViT, DeiT, Swin, ConvNeXt, ConvNeXt V2 or ResNet for image classification, or timm's own networks",
        hint="give your own code, --arch CODE.py:FUNCTION: a module that holds the network under the file's names and "
        "returns its `.logits`",
    )
