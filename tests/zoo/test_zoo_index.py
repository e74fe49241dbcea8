"""Signatures and the index, against shapes written by hand and against plain set arithmetic."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from modeldoctor.zoo.index import INDEX_FILE, Index, Match, describe_all, preference
from modeldoctor.zoo.libraries import plan_of
from modeldoctor.zoo.signature import ANY, Signature, describe, feature, features_of


def test_a_feature_is_the_checksum_of_name_and_shape() -> None:
    assert feature("fc.weight", (10, ANY)) == zlib.crc32(b"fc.weight 10,-1")
    assert features_of({"a": (2, 3)}) == {feature("a", s) for s in ((2, 3), (ANY, 3), (2, ANY), (ANY, ANY))}
    assert features_of({"a": ()}) == {feature("a", ())}
    assert features_of({"a": (1,) * 30}) == {feature("a", (1,) * 30)}


def test_what_follows_channels_and_classes_is_open() -> None:
    found = describe(plan_of("torchvision/resnet18"))
    assert feature("conv1.weight", (64, ANY, 7, 7)) in found.core
    assert feature("layer1.0.conv1.weight", (64, 64, 3, 3)) in found.core
    assert feature("bn1.bias", (64,)) in found.core
    assert feature("bn1.running_mean", (64,)) in found.detail
    heads = features_of({"fc.weight": (1000, 512), "fc.bias": (1000,)})
    assert not heads & (found.core | found.detail)
    # 20 convolutions, 20 BatchNorms of two parameters each.
    assert (len(found.core), len(found.detail)) == (60, 20)


def test_what_follows_image_patch_and_window_is_open_and_its_default_a_detail() -> None:
    vit = describe(plan_of("timm/vit_tiny_patch16_224"))
    assert feature("pos_embed", (1, ANY, 192)) in vit.core
    assert feature("patch_embed.proj.weight", (192, ANY, ANY, ANY)) in vit.core
    assert vit.detail == {
        feature("pos_embed", (1, 1 + 14 * 14, 192)), feature("patch_embed.proj.weight", (192, ANY, 16, 16))
    }  # fmt: skip
    swin = describe(plan_of("timm/swin_tiny_patch4_window7_224"))
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert feature(table, (ANY, 3)) in swin.core
    assert feature(table, (13 * 13, 3)) in swin.detail


@pytest.fixture
def small() -> tuple[Index, dict[str, Signature]]:
    rng = np.random.default_rng(0)
    signatures = {
        f"timm/net{i}": Signature(
            core=frozenset(rng.integers(0, 60, 20).tolist()), detail=frozenset(rng.integers(60, 80, i).tolist())
        )
        for i in range(7)
    }
    return Index.of({**signatures, "timm/none": None}, {"timm": "1"}), signatures


def test_counts_are_those_of_sets(small: tuple[Index, dict[str, Signature]], monkeypatch: pytest.MonkeyPatch) -> None:
    index, signatures = small
    there = set(range(0, 80, 3))
    monkeypatch.setattr("modeldoctor.zoo.index.features_of", lambda shapes: there)
    found = {match.arch: match for match in index.match({})}
    assert found == {
        arch: Match(
            arch, len(s.core & there), len(s.core), len(s.core - there) - len(s.core & there),
            len(s.detail - there) - len(s.detail & there),
        )
        for arch, s in signatures.items()
    }  # fmt: skip
    order = [match.score for match in index.match({})]
    assert order == sorted(order)


def test_written_and_read_again_it_is_the_same(small: tuple[Index, dict[str, Signature]], tmp_path: Path) -> None:
    index, _ = small
    index.write(tmp_path / "a")
    again = Index.read(tmp_path / "a")
    again.write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (again.names, again.refused, again.versions) == (index.names, ("timm/none",), {"timm": "1"})
    for mine, read in ((index.core, again.core), (index.detail, again.detail)):
        assert np.array_equal(mine.at, read.at)
        assert np.array_equal(mine.ends, read.ends)
    assert index.unknown(["timm/net1", "timm/none", "timm/new"]) == ["timm/new"]


def test_what_cannot_be_built_is_refused_not_raised() -> None:
    index = describe_all(["timm/there_is_no_such_network", "timm/test_vit"])
    assert (index.names, index.refused) == (("timm/test_vit",), ("timm/there_is_no_such_network",))


def test_the_plainest_name_is_preferred() -> None:
    names = ["torchvision/resnet50", "modeldoctor/resnet50_small", "timm/resnetaa50", "timm/resnet50"]
    assert sorted(names, key=preference) == [
        "timm/resnet50", "timm/resnetaa50", "torchvision/resnet50", "modeldoctor/resnet50_small"
    ]  # fmt: skip


def test_the_shipped_index_is_small() -> None:
    assert INDEX_FILE.stat().st_size < 1.5e6
