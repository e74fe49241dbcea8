"""Where a network lies in a file: prefixes, wrappers' words, what stands beside it; logits are the plain network's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import logits, timm_network
from torch import Tensor, nn

from modeldoctor.checkpoint.names import locate
from modeldoctor.checkpoint.write import write_checkpoint
from modeldoctor.errors import CheckpointError, ModelDoctorWarning
from modeldoctor.zoo import identify_file, load_model

ARCH = "test_resnet"
State = dict[str, Tensor]


def below(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def renamed(words: dict[str, str], state: State) -> State:
    for old, new in words.items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    return state


def numbered(state: State) -> State:
    children = [f"{name}." for name, _ in timm_network(ARCH).named_children()]
    return {
        f"{children.index(first + dot)}.{rest}": tensor
        for name, tensor in state.items()
        for first, dot, rest in [name.partition(".")]
    }


def without_fc(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def fc_as(name: str, state: State) -> State:
    return {f"{name}.{part}": state[f"fc.{part}"] for part in ("weight", "bias")}


def twin(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


FILES: dict[str, Callable[[State], dict[str, Any]]] = {
    "unknown prefix": lambda s: below("timm_model.", s),
    "Sequential behind a normaliser": lambda s: below("0.model.", s),
    "criterion": lambda s: {**below("model.", s), "criterion.weight": torch.ones(5)},
    "bare, criterion": lambda s: {**s, "criterion.weight": torch.ones(5)},
    "metrics": lambda s: {**below("net.", s), "val_acc.correct": torch.ones(5), "train_loss.mean_value": torch.ones(1)},
    "EMA twin": lambda s: {**below("ema_model.module.", twin(s)), **below("model.", s)},
    "bare, EMA twin": lambda s: {**s, **below("model_ema.module.", twin(s))},
    "student, teacher": lambda s: {**below("teacher.", twin(s)), **below("student.", s)},
    "LitEma": lambda s: {**below("model.", s), **{f"model_ema.{n.replace('.', '')}": t for n, t in twin(s).items()}},
    "words anywhere": lambda s: renamed({"layer1.": "layer1.module.", "fc.": "fc._orig_mod."}, s),
    "FSDP": lambda s: below("_fsdp_wrapped_module.", renamed({"layer1.0.": "layer1.0._checkpoint_wrapped_module."}, s)),
    "backbone, head.fc": lambda s: {**below("backbone.", without_fc(s)), **fc_as("head.fc", s)},
    "encoder, classifier": lambda s: {**below("encoder.", without_fc(s)), **fc_as("classifier", s)},
    "encoder, classifier.1": lambda s: {**below("module.encoder.", without_fc(s)), **fc_as("module.classifier.1", s)},
    "Sequential of its children, classifier": lambda s: {
        **below("body.", numbered(without_fc(s))), **fc_as("classifier", s)
    },
    "Sequential of its children and a head": lambda s: {**numbered(without_fc(s)), **fc_as("11", s)},
    "under any key": lambda s: {"epoch": 3, "best_one": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "under keys": lambda s: {"run": {"final": {"weights_of_student": below("module.", s)}}, "loss": torch.ones(1)},
}  # fmt: skip


@pytest.mark.parametrize("arch", [None, f"timm/{ARCH}"])
@pytest.mark.parametrize("case", FILES)
def test_the_network_is_found(tmp_path: Path, case: str, arch: str | None) -> None:
    source = timm_network(ARCH)
    torch.save(FILES[case](dict(source.state_dict())), tmp_path / "ckpt.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelDoctorWarning)
        loaded = load_model(tmp_path / "ckpt.pt", arch=arch)
    assert loaded.arch == f"timm/{ARCH}"
    assert torch.equal(logits(loaded.module), logits(source))
    found = identify_file(tmp_path / "ckpt.pt")
    assert (found["arch"], found["fits"], found["num_classes"]) == (f"timm/{ARCH}", True, 5)
    assert [note for note in loaded.notes if note in found["notes"]] == found["notes"]


@pytest.mark.parametrize("case", FILES)
def test_treated_weights_go_back_to_their_places(tmp_path: Path, case: str) -> None:
    source = timm_network(ARCH)
    torch.save(FILES[case](dict(source.state_dict())), tmp_path / "ckpt.pt")
    loaded = load_model(tmp_path / "ckpt.pt")
    assert loaded.source is not None
    treated = timm_network(ARCH, seed=1)
    write_checkpoint(loaded.source, treated.state_dict(), tmp_path / "treated.pt")
    written, before = (torch.load(tmp_path / name, weights_only=True) for name in ("treated.pt", "ckpt.pt"))
    assert written.keys() == before.keys()
    assert torch.equal(logits(load_model(tmp_path / "treated.pt").module), logits(treated))
    for name in ("criterion.weight", "val_acc.correct"):
        assert torch.equal(written.get(name, torch.ones(0)), before.get(name, torch.ones(0)))


class Trainer:
    """As a library's own object holds the network that it trained."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.opt = model, "adam"


def test_a_network_in_an_object_of_another_library(tmp_path: Path) -> None:
    source = timm_network(ARCH)
    torch.save(Trainer(source), tmp_path / "export.pkl")
    loaded = load_model(tmp_path / "export.pkl")
    assert torch.equal(logits(loaded.module), logits(source))


def test_what_lies_beside_is_listed(tmp_path: Path) -> None:
    state = {**below("model.", dict(timm_network(ARCH).state_dict())), "criterion.weight": torch.ones(5)}
    torch.save(state, tmp_path / "ckpt.pt")
    assert identify_file(tmp_path / "ckpt.pt")["left_out"] == ["criterion.weight"]
    assert any("left out" in note and "criterion.weight" in note for note in load_model(tmp_path / "ckpt.pt").notes)


def test_layers_beside_the_network_that_nothing_explains_are_warned_of(tmp_path: Path) -> None:
    state = {**below("backbone.", dict(timm_network(ARCH).state_dict())), "attention.proj.weight": torch.ones(5, 7)}
    torch.save(state, tmp_path / "ckpt.pt")
    with pytest.warns(ModelDoctorWarning, match=r"attention\.proj\.weight"):
        load_model(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("name", ["attention.weight", "layer1.0.se.weight", "neck.0.weight"])
def test_layers_that_were_added_to_the_network_refuse_the_file(tmp_path: Path, name: str) -> None:
    torch.save({**timm_network(ARCH).state_dict(), name: torch.ones(5, 7)}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=name):
        load_model(tmp_path / "ckpt.pt")


def test_a_normaliser_s_buffers_say_how_images_are_normalised(tmp_path: Path) -> None:
    state = below("1.", dict(timm_network(ARCH).state_dict()))
    mean, std = (0.25, 0.5, 0.75), (0.125, 0.25, 0.5)
    for scale in (1, 255):
        buffers = {f"0.{n}": scale * torch.tensor(v).view(1, 3, 1, 1) for n, v in (("mean", mean), ("std", std))}
        torch.save({**buffers, **state}, tmp_path / "ckpt.pt")
        loaded = load_model(tmp_path / "ckpt.pt")
        assert (loaded.preprocessing.mean, loaded.preprocessing.std) == (mean, std)
        assert any("normal" in note for note in loaded.notes)
    assert load_model(tmp_path / "ckpt.pt", mean=[0.5], std=[0.5]).preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("stated", ["my best net", "resnet-18 with dropout", "ResNet", "hf-hub:someone/model"])
def test_free_text_for_an_architecture_says_nothing(tmp_path: Path, stated: str) -> None:
    source = timm_network(ARCH)
    torch.save({"arch": stated, "state_dict": source.state_dict()}, tmp_path / "ckpt.pt")
    loaded = load_model(tmp_path / "ckpt.pt")
    assert (loaded.arch, identify_file(tmp_path / "ckpt.pt")["arch"]) == (f"timm/{ARCH}", f"timm/{ARCH}")
    assert any(repr(stated) in note for note in loaded.notes)
    assert torch.equal(logits(loaded.module), logits(source))


def test_a_stated_architecture_that_the_weights_contradict(tmp_path: Path) -> None:
    torch.save({"arch": "resnet50", "state_dict": timm_network(ARCH).state_dict()}, tmp_path / "ckpt.pt")
    loaded = load_model(tmp_path / "ckpt.pt")
    assert loaded.arch == identify_file(tmp_path / "ckpt.pt")["arch"] == f"timm/{ARCH}"
    assert any("'resnet50'" in note for note in loaded.notes)


def test_of_two_sets_under_unknown_keys_none_is_taken(tmp_path: Path) -> None:
    state = timm_network(ARCH).state_dict()
    torch.save({"first": state, "second": state}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"2 sets of weights, .*: first, second"):
        load_model(tmp_path / "ckpt.pt")


def test_own_code_may_use_the_wrappers_words(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.model = nn.ModuleDict({'module': nn.Conv2d(3, 4, 3), 'head': nn.Linear(4, 2)})\n"
        "    def forward(self, x):\n"
        "        return self.model['head'](self.model['module'](x).mean((2, 3)))\n"
    )
    for prefix in ("", "module.", "net."):
        state = {"model.module.weight": torch.ones(4, 3, 3, 3), "model.module.bias": torch.ones(4)}
        state |= {"model.head.weight": torch.ones(2, 4), "model.head.bias": torch.ones(2)}
        torch.save(below(prefix, state), tmp_path / "ckpt.pt")
        loaded = load_model(tmp_path / "ckpt.pt", arch=f"{tmp_path}/mine.py:Net")
        assert {n: t.tolist() for n, t in loaded.module.state_dict().items()} == {
            n: t.tolist() for n, t in state.items()
        }


def test_names_are_those_of_the_block_with_most_of_the_network() -> None:
    held = {name: torch.ones(1) for name in ("a.x", "a.module.y", "b.x", "y")}
    located = locate(["x", "y"], held)
    assert (located.prefix, dict(located.names)) == ("a.", {"x": "a.x", "y": "a.module.y"})
    assert set(located.outside) == {"b.x", "y"}
    assert not locate(["x"], {}).names


def test_hostile_names_take_no_time() -> None:
    held = {"a." * 50_000 + str(number): torch.ones(1) for number in range(200)} | {"": torch.ones(1)}
    assert not locate(["x", "y.z"], held, ["x", "y"]).names.keys() & {"x", "y.z"}
