"""Folders of Hugging Face transformers: timm's network under transformers' names, which are written here by hand.

The names, shapes and logits of all kinds were compared with transformers 5.24 itself when this was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoints import logits, randomised
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modeldoctor.checkpoint.write import write_checkpoint
from modeldoctor.errors import ArchitectureError, CheckpointError
from modeldoctor.zoo import identify_file, load_model

State = dict[str, Tensor]
Rules = list[tuple[str, str]]
NAMES = {0: "ant", 1: "bee", 2: "cat", 3: "dog", 4: "elk"}

VIT: Rules = [
    (r"^cls_token", "vit.embeddings.cls_token"),
    (r"^(reg|dist)_token", "vit.embeddings.distillation_token"),
    (r"^pos_embed", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
    (r"^blocks\.(\d+)\.norm1", r"vit.encoder.layer.\1.layernorm_before"),
    (r"^blocks\.(\d+)\.norm2", r"vit.encoder.layer.\1.layernorm_after"),
    (r"^blocks\.(\d+)\.attn\.proj", r"vit.encoder.layer.\1.attention.output.dense"),
    (r"^blocks\.(\d+)\.attn\.(query|key|value)", r"vit.encoder.layer.\1.attention.attention.\2"),
    (r"^blocks\.(\d+)\.mlp\.fc1", r"vit.encoder.layer.\1.intermediate.dense"),
    (r"^blocks\.(\d+)\.mlp\.fc2", r"vit.encoder.layer.\1.output.dense"),
    (r"^norm\.", "vit.layernorm."),
    (r"^head\.", "classifier."),
]
VIT_IN_MEMORY: Rules = [
    (r"encoder\.layer\.", "layers."),
    (r"attention\.attention\.query", "attention.q_proj"),
    (r"attention\.attention\.key", "attention.k_proj"),
    (r"attention\.attention\.value", "attention.v_proj"),
    (r"attention\.output\.dense", "attention.o_proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
]
TEACHER: Rules = [
    (r"^vit\.", "deit."),
    (r"^classifier", "cls_classifier"),
    (r"^head_dist\.", "distillation_classifier."),
]
SWIN: Rules = [
    (r"^patch_embed\.proj", "swin.embeddings.patch_embeddings.projection"),
    (r"^patch_embed\.norm", "swin.embeddings.norm"),
    (r"^layers\.1\.downsample", "swin.encoder.layers.0.downsample"),
    (r"^(layers\.\d+\.blocks\.\d+)\.norm1", r"swin.encoder.\1.layernorm_before"),
    (r"^(layers\.\d+\.blocks\.\d+)\.norm2", r"swin.encoder.\1.layernorm_after"),
    (r"^(layers\.\d+\.blocks\.\d+)\.attn\.proj", r"swin.encoder.\1.attention.output.dense"),
    (r"^(layers\.\d+\.blocks\.\d+)\.attn\.(\w+)", r"swin.encoder.\1.attention.self.\2"),
    (r"^(layers\.\d+\.blocks\.\d+)\.mlp\.fc1", r"swin.encoder.\1.intermediate.dense"),
    (r"^(layers\.\d+\.blocks\.\d+)\.mlp\.fc2", r"swin.encoder.\1.output.dense"),
    (r"^norm\.", "swin.layernorm."),
    (r"^head\.fc\.", "classifier."),
]
SWINV2: Rules = [
    (r"^swin\.", "swinv2."),
    (r"\.attention\.self\.q_bias", ".attention.self.query.bias"),
    (r"\.attention\.self\.v_bias", ".attention.self.value.bias"),
    (r"\.cpb_mlp", ".continuous_position_bias_mlp"),
]
BEIT: Rules = [
    (r"^blocks\.(\d+)\.attn\.q_bias", r"beit.encoder.layer.\1.attention.attention.query.bias"),
    (r"^blocks\.(\d+)\.attn\.v_bias", r"beit.encoder.layer.\1.attention.attention.value.bias"),
    (r"^blocks\.(\d+)\.attn\.rel", r"beit.encoder.layer.\1.attention.attention.relative_position_bias.rel"),
    (r"^blocks\.(\d+)\.gamma_", r"beit.encoder.layer.\1.lambda_"),
    (r"^rel_pos_bias\.", "beit.encoder.relative_position_bias."),
    (r"^fc_norm\.", "beit.pooler.layernorm."),
    *VIT,
    (r"^vit\.", "beit."),
]
CONVNEXT: Rules = [
    (r"^stem\.0", "convnext.embeddings.patch_embeddings"),
    (r"^stem\.1", "convnext.embeddings.layernorm"),
    (r"^stages\.(\d+)\.downsample\.", r"convnext.encoder.stages.\1.downsampling_layer."),
    (r"^stages\.(\d+)\.blocks\.", r"convnext.encoder.stages.\1.layers."),
    (r"\.gamma$", ".layer_scale_parameter"),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.norm\.", ".layernorm."),
    (r"\.mlp\.fc(\d)", r".pwconv\1"),
    (r"\.mlp\.grn", ".grn"),
    (r"^head\.layernorm", "convnext.layernorm"),
    (r"^head\.fc", "classifier"),
]
RESNET: Rules = [
    (r"^conv1", "resnet.embedder.embedder.convolution"),
    (r"^bn1", "resnet.embedder.embedder.normalization"),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),  # type: ignore[list-item]
    (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),  # type: ignore[list-item]
    (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),  # type: ignore[list-item]
    (r"\.downsample\.0", ".shortcut.convolution"),
    (r"\.downsample\.1", ".shortcut.normalization"),
    (r"^fc\.", "classifier.1."),
]


def as_transformers(state: State, *tables: Rules) -> State:
    found: State = {}
    for name, tensor in state.items():
        parts = {name: tensor}
        if ".qkv." in name:
            parts = {
                name.replace("qkv", part): third.clone()
                for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            }
        if ".grn." in name:
            parts = {name: tensor[None, None, None]}
        for one, held in parts.items():
            for pattern, new in (rule for table in tables for rule in table):
                one = re.sub(pattern, new, one)
            found[one] = held
    return found


SMALL_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 4}
VIT_CONFIG: dict[str, Any] = {
    "model_type": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "qkv_bias": True,
    "num_attention_heads": 4, "intermediate_size": 96, "hidden_act": "gelu", "layer_norm_eps": 0.01, "num_channels": 3,
}  # fmt: skip
CONV: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
CONV_CONFIG: dict[str, Any] = {
    "image_size": 32, "depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32], "patch_size": 4, "layer_norm_eps": 0.01,
}  # fmt: skip
# SwinEmbeddings.norm and SwinPatchMerging.norm are made without the configuration's epsilon.
SWIN_NORMED = r"^norm$|blocks\.\d+\.norm\d$"
CASES: dict[str, tuple[str, dict[str, Any], list[Rules], dict[str, Any], str]] = {
    "vit": ("vit_tiny_patch16_224", SMALL_VIT, [VIT], VIT_CONFIG, ""),
    "vit in memory": ("vit_tiny_patch16_224", SMALL_VIT, [VIT, VIT_IN_MEMORY], VIT_CONFIG, ""),
    "deit": (
        "vit_tiny_patch16_224",
        {**SMALL_VIT, "reg_tokens": 1},
        [VIT, TEACHER[:1]],
        {**VIT_CONFIG, "model_type": "deit"},
        "",
    ),
    "deit, teacher": ("deit_tiny_distilled_patch16_224", SMALL_VIT, [VIT, TEACHER], VIT_CONFIG, ""),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4},
        [SWIN],
        {
            "model_type": "swin", "image_size": 32, "patch_size": 4, "embed_dim": 24, "depths": [2, 2], "mlp_ratio": 4,
            "num_heads": [2, 4], "window_size": 4, "layer_norm_eps": 0.01, "qkv_bias": True, "hidden_act": "gelu",
        },
        SWIN_NORMED,
    ),
    "swinv2": (
        "swinv2_tiny_window8_256",
        {"img_size": 32, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4,
         "pretrained_window_sizes": (2, 2)},
        [SWIN, SWINV2],
        {
            "model_type": "swinv2", "image_size": 32, "patch_size": 4, "embed_dim": 24, "depths": [2, 2],
            "mlp_ratio": 4.0, "num_heads": [2, 4], "window_size": 4, "layer_norm_eps": 0.01, "qkv_bias": True,
            "pretrained_window_sizes": [2, 2],
        },
        SWIN_NORMED,
    ),
    "beit": (
        "beit_base_patch16_224",
        {**SMALL_VIT, "use_rel_pos_bias": True},
        [BEIT],
        {**VIT_CONFIG, "model_type": "beit", "use_relative_position_bias": True, "use_mean_pooling": True},
        "",
    ),
    "beit, one bias for all blocks, no scales": (
        "beit_base_patch16_224",
        {**SMALL_VIT, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "init_values": 0.0},
        [BEIT],
        {**VIT_CONFIG, "model_type": "beit", "use_shared_relative_position_bias": True, "layer_scale_init_value": 0.0},
        "",
    ),
    "data2vec, positions, class token": (
        "beit_base_patch16_224",
        {**SMALL_VIT, "use_rel_pos_bias": False, "use_abs_pos_emb": True, "global_pool": "token"},
        [BEIT, [(r"^beit\.", "data2vec_vision.")]],
        {**VIT_CONFIG, "model_type": "data2vec-vision", "use_mean_pooling": False},
        "",
    ),
    "convnext": ("convnext_tiny", CONV, [CONVNEXT], {"model_type": "convnext", **CONV_CONFIG}, r"head\.norm"),
    "convnextv2": (
        "convnextv2_tiny",
        CONV,
        [CONVNEXT, [(r"^convnext\.", "convnextv2.")]],
        {"model_type": "convnextv2", **CONV_CONFIG},
        r"head\.norm",
    ),
    "resnet, basic": (
        "resnet18",
        {"layers": (1, 2, 1, 1), "channels": (8, 16, 24, 32)},
        [RESNET],
        {"model_type": "resnet", "layer_type": "basic", "depths": [1, 2, 1, 1], "hidden_sizes": [8, 16, 24, 32]},
        "none",
    ),
    "resnet, bottleneck": (
        "resnet50",
        {"layers": (1, 2, 1, 1), "channels": (8, 16, 24, 32)},
        [RESNET],
        {
            "model_type": "resnet", "layer_type": "bottleneck", "depths": [1, 2, 1, 1], "hidden_act": "relu",
            "hidden_sizes": [32, 64, 96, 128], "downsample_in_bottleneck": False,
        },
        "none",
    ),
}  # fmt: skip


def made(folder: Path, case: str) -> nn.Module:
    """The folder that transformers would save, and timm's network with its epsilon."""
    arch, options, tables, config, normed = CASES[case]
    source = randomised(timm.create_model(arch, num_classes=5, **options))
    for name, layer in source.named_modules():
        if isinstance(layer, nn.LayerNorm) and re.search(normed, name):
            layer.eps = 0.01
    folder.mkdir()
    state = as_transformers(dict(source.state_dict()), *tables)
    save_file({n: t.contiguous() for n, t in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"architectures": ["X"], "id2label": NAMES, **config}))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "size": {"height": 32, "width": 32}, "resample": 3}
        )
    )
    return source


@pytest.mark.parametrize("case", CASES)
def test_the_logits_are_those_of_timm_s_network(tmp_path: Path, case: str) -> None:
    source = made(tmp_path / "model", case)
    loaded = load_model(tmp_path / "model")
    assert loaded.class_names == tuple(NAMES.values())
    assert (loaded.preprocessing.mean, loaded.preprocessing.interpolation) == ((0.1,) * 3, "bicubic")
    torch.testing.assert_close(logits(loaded.module, 32), logits(source, 32))
    assert loaded.preprocessing.resize_mode == "squash"  # transformers stretch to their size
    assert "resize mode squash, as the file says" in loaded.notes
    again = load_model(tmp_path / "model", arch=loaded.arch)  # as the command that a report repeats
    assert torch.equal(logits(again.module, 32), logits(loaded.module, 32))
    assert identify_file(tmp_path / "model")["fits"]


def test_windows_that_transformers_pads_otherwise_than_timm_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "model", "swin")
    changed(tmp_path / "model", "preprocessor_config.json", size={"height": 36, "width": 36})  # 9 patches, windows of 4
    with pytest.raises(ArchitectureError, match="4x4 that do not divide a map of 9 patches"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("case", CASES)
def test_treated_weights_go_back_under_transformers_names(tmp_path: Path, case: str) -> None:
    made(tmp_path / "model", case)
    loaded = load_model(tmp_path / "model")
    assert loaded.source is not None
    treated = randomised(loaded.module, seed=1).state_dict()
    written = write_checkpoint(loaded.source, treated, tmp_path / "treated")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", written))
    expected = as_transformers(dict(treated), *CASES[case][2])
    assert after.keys() == before.keys()
    for name in (name for name in before if not name.endswith("relative_position_index")):
        assert after[name].shape == before[name].shape
        assert torch.equal(after[name], expected[name])
    for name in ("config.json", "preprocessor_config.json"):
        assert (written / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_tensors_alone_are_enough_for_a_known_network(tmp_path: Path) -> None:
    source = randomised(timm.create_model("convnextv2_atto", num_classes=5, conv_mlp=False))
    state = as_transformers(dict(source.state_dict()), CONVNEXT, [(r"^convnext\.", "model.convnextv2.")])
    state = {name if name.startswith("model.") else f"model.{name}": tensor for name, tensor in state.items()}
    state |= {"model.pooler.dense.weight": torch.ones(4, 4)}
    torch.save({"state_dict": state}, tmp_path / "ckpt.pt")
    loaded = load_model(tmp_path / "ckpt.pt")
    assert loaded.arch == "timm/convnextv2_atto"
    torch.testing.assert_close(logits(loaded.module), logits(source), rtol=1e-4, atol=1e-4)
    for arch in ("timm/convnextv2_atto", "convnextv2_atto"):
        assert load_model(tmp_path / "ckpt.pt", arch=arch).num_classes == 5


def test_tensors_alone_of_an_unknown_size_ask_for_the_folder(tmp_path: Path) -> None:
    made(tmp_path / "model", "vit")
    with pytest.raises(ArchitectureError, match=r"config\.json"):
        load_model(tmp_path / "model" / "model.safetensors")


def test_sizes_that_no_known_network_has_are_said_to_be_the_folder_s(tmp_path: Path) -> None:
    made(tmp_path / "model", "vit")
    assert any("with the sizes in config.json" in note for note in load_model(tmp_path / "model").notes)


def changed(folder: Path, name: str, **values: Any) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | values))


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "multi-label": (lambda f: changed(f, "config.json", problem_type="multi_label_classification"), "multi-label"),
    "another stride": (lambda f: changed(f, "config.json", downsample_in_bottleneck=True), "downsample_in_bottleneck"),
    "not a network": (lambda f: changed(f, "config.json", depths="many"), "cannot build"),
    "too deep": (lambda f: changed(f, "config.json", depths=[10**9] * 4), "do not fit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_timm_does_not_have_is_refused(tmp_path: Path, case: str) -> None:
    change, said = REFUSED[case]
    made(tmp_path / "model", "resnet, bottleneck")
    change(tmp_path / "model")
    with pytest.raises((CheckpointError, ArchitectureError), match=said):
        load_model(tmp_path / "model")


def test_other_kinds_are_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_file({"levit.patch_embeddings.weight": torch.ones(1, 1, 4)}, tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "levit"}))
    with pytest.raises(ArchitectureError, match="'levit', whose names"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"size": 32}, {"input_size": (3, 32, 32), "crop_pct": 1.0}),
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True},
         {"crop_pct": 0.8}),
        ({"size": {"shortest_edge": 40}, "crop_size": 32, "do_center_crop": False}, {"input_size": (3, 40, 40)}),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}}, {"crop_pct": 0.875}),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}}, {"crop_pct": 1.0}),
        ({"resample": 2}, {"interpolation": "bilinear"}),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"image_mean": [127.5], "image_std": [51], "do_rescale": False}, {"mean": (0.5,) * 3, "std": (0.2,) * 3}),
        ({"image_mean": "x", "size": {"height": None}, "resample": [1]}, {"input_size": (3, 224, 224)}),
    ],
)  # fmt: skip
def test_preprocessing_as_transformers_writes_it(
    tmp_path: Path, said: dict[str, Any], expected: dict[str, Any]
) -> None:
    made(tmp_path / "model", "resnet, basic")
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(said))
    found = load_model(tmp_path / "model").preprocessing
    for name, value in expected.items():
        assert getattr(found, name) == (value if name == "interpolation" else pytest.approx(value))
