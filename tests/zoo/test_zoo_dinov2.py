"""DINOv2 of transformers: the class token beside the mean of the patches, positions fitted to the image, registers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoints import logits
from networks import randomised
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modeldoctor.checkpoint.write import write_checkpoint
from modeldoctor.zoo import load_model

CONFIG: dict[str, Any] = {
    "model_type": "dinov2", "image_size": 56, "patch_size": 14, "hidden_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 3, "mlp_ratio": 4, "qkv_bias": True, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
}  # fmt: skip
PATCHES = "embeddings.patch_embeddings.projection"
PARTS = {
    "attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "norm1": "norm1",
    "norm2": "norm2",
}  # fmt: skip


class Source(nn.Module):
    """transformers' formula around timm's blocks."""

    def __init__(self, arch: str, image_size: int, **options: Any):
        super().__init__()
        self.body: Any = timm.create_model(
            arch, num_classes=0, global_pool="", img_size=image_size, embed_dim=24, depth=2, num_heads=3, **options
        )
        self.classifier = nn.Linear(48, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.body.forward_features(images)
        return self.classifier(torch.cat([tokens[:, 0], tokens[:, self.body.num_prefix_tokens :].mean(1)], 1))  # type: ignore[no-any-return]


def as_transformers(source: Source, word: str, gated: bool) -> dict[str, Tensor]:
    """A state dict with the names of transformers 4."""
    found: dict[str, Tensor] = {}
    at = f"{word}.encoder.layer"
    for name, tensor in source.body.state_dict().items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            part, leaf = rest.rsplit(".", 1)
            if part == "attn.qkv":
                for third, values in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    found[f"{at}.{number}.attention.attention.{third}.{leaf}"] = values.clone()
            elif part in ("ls1", "ls2"):
                found[f"{at}.{number}.layer_scale{part[-1]}.lambda1"] = tensor
            elif gated and part.startswith("mlp."):
                found[f"{at}.{number}.mlp.weights_{ {'fc1': 'in', 'fc2': 'out'}[part[4:]] }.{leaf}"] = tensor
            else:
                found[f"{at}.{number}.{PARTS[part]}.{leaf}"] = tensor
    body = source.body
    found |= {f"{word}.layernorm.{n}": t for n, t in body.norm.state_dict().items()}
    found |= {
        f"{word}.embeddings.patch_embeddings.projection.{n}": t for n, t in body.patch_embed.proj.state_dict().items()
    }
    found |= {f"classifier.{n}": t for n, t in source.classifier.state_dict().items()}
    found |= {f"{word}.embeddings.cls_token": body.cls_token, f"{word}.embeddings.position_embeddings": body.pos_embed}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def saved(folder: Path, state: dict[str, Tensor], size: int, **config: Any) -> Path:
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    images = {"size": {"height": size, "width": size}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


@pytest.mark.parametrize("gated", [False, True])
def test_the_class_token_and_the_mean_of_the_patches_are_classified(tmp_path: Path, gated: bool) -> None:
    source = randomised(Source("vit_giant_patch14_dinov2" if gated else "vit_small_patch14_dinov2", 56))
    assert isinstance(source, Source)
    state = as_transformers(source, "dinov2", gated)
    loaded = load_model(saved(tmp_path / "model", state, 56, use_swiglu_ffn=gated))
    torch.testing.assert_close(logits(loaded.module, 56), logits(source, 56))
    assert loaded.source is not None
    treated = randomised(loaded.module, seed=1).state_dict()
    after = load_file(write_checkpoint(loaded.source, treated, tmp_path / "treated") / "model.safetensors")
    assert after.keys() == state.keys()
    assert torch.equal(after["classifier.weight"], treated["head.weight"])
    assert torch.equal(
        after["dinov2.encoder.layer.1.attention.attention.key.bias"], treated["blocks.1.attn.qkv.bias"][24:48]
    )


def test_registers_have_no_positions_and_the_class_token_s_is_added_to_it(tmp_path: Path) -> None:
    source = randomised(Source("vit_small_patch14_reg4_dinov2", 56))
    assert isinstance(source, Source)
    word = "dinov2_with_registers"
    state, first = as_transformers(source, word, gated=False), torch.randn(1, 1, 24)
    state[f"{word}.embeddings.cls_token"] -= first
    state[f"{word}.embeddings.position_embeddings"] = torch.cat([first, source.body.pos_embed.detach()], 1)
    state[f"{word}.embeddings.register_tokens"] = source.body.reg_token.detach().clone()
    loaded = load_model(saved(tmp_path / "model", state, 56, model_type="dinov2-with-registers", num_register_tokens=4))
    torch.testing.assert_close(logits(loaded.module, 56), logits(source, 56), rtol=1e-4, atol=1e-5)
    assert loaded.source is not None
    written = write_checkpoint(loaded.source, loaded.module.state_dict(), tmp_path / "treated")
    after = load_file(written / "model.safetensors")
    for name, tensor in state.items():
        torch.testing.assert_close(after[name], tensor)


def test_positions_of_another_size_are_interpolated_and_stay_as_they_are(tmp_path: Path) -> None:
    source = randomised(Source("vit_small_patch14_dinov2", 28))
    assert isinstance(source, Source)
    with torch.no_grad():  # the same everywhere: whatever interpolates it, it stays so
        source.body.pos_embed[:, 1:] = source.body.pos_embed[:, 1:2]
    state = as_transformers(source, "dinov2", gated=False)
    positions = state["dinov2.embeddings.position_embeddings"]
    held = torch.cat([positions[:, :1], positions[:, 1:2].expand(1, 16, 24)], 1).contiguous()
    state["dinov2.embeddings.position_embeddings"] = held  # of 56 px
    loaded = load_model(saved(tmp_path / "model", state, 28))
    assert loaded.preprocessing.input_size == (3, 28, 28)
    assert any("4x4 patches: interpolated to 2x2" in note for note in loaded.notes)
    torch.testing.assert_close(logits(loaded.module, 28), logits(source, 28))
    assert [name for name, p in loaded.module.named_parameters() if not p.requires_grad] == ["pos_embed"]
    assert loaded.source is not None
    written = write_checkpoint(loaded.source, loaded.module.state_dict(), tmp_path / "treated")
    assert torch.equal(load_file(written / "model.safetensors")["dinov2.embeddings.position_embeddings"], held)
    assert load_model(tmp_path / "model", input_size=56).preprocessing.input_size == (3, 56, 56)
