"""The kinds of networks that both Hugging Face transformers and timm have: their names in one and in the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeldoctor.zoo.networks.pooling import CLASS_AND_MEAN

Options = dict[str, Any]
Config = Mapping[str, Any]
Parts = Mapping[str, Sequence[int]]
"""timm's names of what the file has, and the shapes there; of a tensor in pieces, the whole's."""
# Parts of a block: transformers' name → timm's; "#0/3" is the first third of a tensor that timm has in one piece.
_BLOCK = {
    **{f"attention.{before}{name}": f"attn.qkv#{at}/3"
       for at, names in enumerate((("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")))
       for name in names for before in ("attention.", "self.", "")},
    "attention.output.dense": "attn.proj", "attention.o_proj": "attn.proj",
    **{f"{before}relative_position_bias": "attn" for before in ("attention.attention.", "attention.", "")},
    "attention.self": "attn",
    **{f"attention.self.continuous_position_bias_mlp.{at}": f"attn.cpb_mlp.{at}" for at in (0, 2)},
    "intermediate.dense": "mlp.fc1", "mlp.fc1": "mlp.fc1", "output.dense": "mlp.fc2", "mlp.fc2": "mlp.fc2",
    "layernorm_before": "norm1", "layernorm_after": "norm2", "": "",
}  # fmt: skip
_DINO_BLOCK = _BLOCK | {
    "norm1": "norm1", "norm2": "norm2", "layer_scale1": "ls1", "layer_scale2": "ls2", "mlp.weights_in": "mlp.fc1",
    "mlp.gate_proj": "mlp.fc1#0/2", "mlp.up_proj": "mlp.fc1#1/2", "mlp.weights_out": "mlp.fc2",
    "mlp.down_proj": "mlp.fc2",
}  # fmt: skip
_VIT = {
    "embeddings": "", "embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm",
    "classifier": "head", "cls_classifier": "head", "distillation_classifier": "head_dist",
}  # fmt: skip
_BEIT = {
    "embeddings": "", "embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm",
    "encoder.relative_position_bias": "rel_pos_bias", "relative_position_bias": "rel_pos_bias",
    "pooler.layernorm": "fc_norm", "classifier": "head",
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
    "logit_scale": "logit_scale", "lambda_1": "gamma_1", "lambda_2": "gamma_2", "lambda1": "gamma",
    "register_tokens": "reg_token",
}  # fmt: skip
WITHOUT_EFFECT = re.compile(
    r"(.*\.)?(pooler\..*|mask_token|relative_position_index|relative_coords_table|position_ids)"
)
"""Of other tasks, or computed anew, where no kind has a name for it."""


_OF_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.?(.*)")


def _vit(name: str) -> str | None:
    if block := _OF_BLOCK.fullmatch(name):
        return _joined(f"blocks.{block[1]}", _BLOCK.get(block[2]))
    return _VIT.get(name)


def _beit(name: str) -> str | None:
    return _vit(name) if _OF_BLOCK.fullmatch(name) else _BEIT.get(name)


def _dino(name: str) -> str | None:
    if block := _OF_BLOCK.fullmatch(name):
        return _joined(f"blocks.{block[1]}", _DINO_BLOCK.get(block[2]))
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


def _vit_options(config: Config, parts: Parts) -> Options:
    hidden, inner = config.get("hidden_size"), config.get("intermediate_size")
    ratio = {"mlp_ratio": inner / hidden} if isinstance(hidden, int) and isinstance(inner, int) and hidden else {}
    return ratio | _picked(
        config, patch_size="patch_size", embed_dim="hidden_size", depth="num_hidden_layers",
        num_heads="num_attention_heads", qkv_bias="qkv_bias",
    )  # fmt: skip


def _swin_options(config: Config, parts: Parts) -> Options:
    return _picked(
        config, patch_size="patch_size", embed_dim="embed_dim", depths="depths", num_heads="num_heads",
        window_size="window_size", mlp_ratio="mlp_ratio", qkv_bias="qkv_bias",
    )  # fmt: skip


def _swinv2_options(config: Config, parts: Parts) -> Options:
    return _swin_options(config, parts) | _picked(config, pretrained_window_sizes="pretrained_window_sizes")


def _beit_options(config: Config, parts: Parts) -> Options:
    return _vit_options(config, parts) | {
        "init_values": 0.1 if any(part.endswith("gamma_1") for part in parts) else 0.0,  # None would be no statement
        "use_abs_pos_emb": "pos_embed" in parts,
        "use_rel_pos_bias": any(part.endswith("attn.relative_position_bias_table") for part in parts),
        "use_shared_rel_pos_bias": "rel_pos_bias.relative_position_bias_table" in parts,
        "global_pool": "avg" if "fc_norm.weight" in parts else "token",
    }


def _dino_options(config: Config, parts: Parts) -> Options:
    """transformers classifies the class token beside the mean of the patches; its MLP may be gated."""
    options = _vit_options(config, parts) | {"global_pool": CLASS_AND_MEAN, "init_values": 1.0}
    hidden, inner = parts.get("norm.weight"), parts.get("blocks.0.mlp.fc1.weight")
    if hidden and inner:
        options["mlp_ratio"] = inner[0] / hidden[0]
    if registers := parts.get("reg_token"):
        options |= {"reg_tokens": registers[1], "no_embed_class": True}
    return options


def _convnext_options(config: Config, parts: Parts) -> Options:
    # timm's smaller ones have convolutions in the place of linear layers.
    return {"conv_mlp": False} | _picked(config, patch_size="patch_size", depths="depths", dims="hidden_sizes")


def _resnet_options(config: Config, parts: Parts) -> Options:
    options = _picked(config, layers="depths", channels="hidden_sizes")
    if "channels" in options and config.get("layer_type") != "basic":
        options["channels"] = [width // 4 for width in options["channels"] if isinstance(width, int)]
    return options


def _picked(config: Config, **names: str) -> Options:
    return {ours: config[theirs] for ours, theirs in names.items() if config.get(theirs) is not None}


@dataclass(frozen=True)
class Family:
    """One kind of network.

    Attributes:
        mark: tells it by a name: what stands before transformers' names, and its word for the kind.
        rename: from a layer's path to timm's; None for one that it does not know.
        options: for timm's constructor.
        base: timm's network that these options make into the file's.
        eps: its own epsilon, where the configuration is silent; None where no layer has one.
        normed: the layers whose epsilon it is.
        own_biases: whether query and value have biases beside a tensor that holds the weights of all three.
        interpolates: whether the position embedding is fitted to the image's size in each pass.
    """

    mark: re.Pattern[str]
    rename: Callable[[str], str | None]
    options: Callable[[Config, Parts], Options]
    base: str
    eps: float | None
    normed: re.Pattern[str]
    own_biases: bool = False
    interpolates: bool = False

    def parameter(self, path: str, leaf: str) -> tuple[str, tuple[int, int] | None] | None:
        """timm's name of a parameter, and which of how many pieces of it this is; None where it is not known."""
        target = self.rename(path)
        if target is None or leaf == "mask_token":
            return None
        target, mark, piece = target.partition("#")
        if self.own_biases and mark and leaf == "bias":
            own = {"0/3": "q_bias", "2/3": "v_bias"}.get(piece)
            return None if own is None else (f"{target.rpartition('.')[0]}.{own}", None)
        at, _, count = piece.partition("/")
        return f"{target}.{_PARAMETERS.get(leaf, leaf)}".lstrip("."), (int(at), int(count)) if mark else None


def _mark(words: str, first: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({words})\.{first}\.weight")


_EVERYWHERE, _LAST = re.compile(""), re.compile(r"head\.norm$")
_BLOCKS_AND_LAST = re.compile(r"(^norm|\.norm[12])$")
"""Of Swin; in its embedding, and where patches are merged, transformers has torch's own epsilon."""
_PATCHES = r"embeddings\.patch_embeddings\.projection"
FAMILIES = (
    Family(_mark("vit|deit", _PATCHES), _vit, _vit_options, "timm/vit_base_patch16_224", 1e-12, _EVERYWHERE),
    Family(_mark("beit|data2vec_vision", _PATCHES), _beit, _beit_options, "timm/beit_base_patch16_224", 1e-12,
           _EVERYWHERE, own_biases=True),
    Family(_mark("dinov2|dinov2_with_registers", _PATCHES), _dino, _dino_options, "timm/vit_small_patch14_dinov2",
           1e-6, _EVERYWHERE, interpolates=True),
    Family(_mark("swin", _PATCHES), _swin, _swin_options, "timm/swin_tiny_patch4_window7_224", 1e-5,
           _BLOCKS_AND_LAST),
    Family(_mark("swinv2", _PATCHES), _swin, _swinv2_options, "timm/swinv2_tiny_window8_256", 1e-5,
           _BLOCKS_AND_LAST, own_biases=True),
    Family(_mark("convnext", r"embeddings\.patch_embeddings"), _convnext, _convnext_options, "timm/convnext_tiny",
           1e-12, _LAST),
    Family(_mark("convnextv2", r"embeddings\.patch_embeddings"), _convnext, _convnext_options, "timm/convnextv2_tiny",
           1e-12, _LAST),
    Family(_mark("resnet", r"embedder\.embedder\.convolution"), _resnet, _resnet_options, "timm/resnet50", None, _LAST),
)  # fmt: skip
BASIC, DISTILLED, GATED = "timm/resnet18", "timm/deit_base_distilled_patch16_224", "timm/vit_giant_patch14_dinov2"


def base_of(family: Family, parts: Parts) -> str:
    """timm's network that the options make into the file's."""
    if "dist_token" in parts:
        return DISTILLED
    if family.interpolates:
        fc1, fc2 = parts.get("blocks.0.mlp.fc1.weight", (0, 0)), parts.get("blocks.0.mlp.fc2.weight", (0, 0))
        return GATED if fc1[0] != fc2[1] else family.base
    basic = family.rename is _resnet and not any(part.endswith("conv3.weight") for part in parts)
    return BASIC if basic else family.base


_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "swish": "silu"}


def options_of(family: Family, config: Config, parts: Parts) -> Options:
    """What timm's constructor is to be told beside the sizes that it reads off the tensors."""
    options = family.options(config, parts)
    if not family.interpolates and "reg_token" in parts:
        options["reg_tokens"] = 1  # DeiT's second token without its own head
    act, usual = config.get("hidden_act"), "relu" if family.rename is _resnet else "gelu"
    if isinstance(act, str) and act != usual and base_of(family, parts) != GATED:
        options["act_layer"] = _ACTIVATIONS.get(act, act)
    return options
