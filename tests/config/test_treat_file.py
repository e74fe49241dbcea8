"""The YAML file as a user handles it: printed, filled in, moved, and repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modeldoctor.config.treat_file import commented_yaml, load_treat_config
from modeldoctor.errors import ConfigError


def filled(folder: Path, **lines: str) -> Path:
    """The printed file with its place holders filled in and other lines replaced."""
    text = commented_yaml().replace("checkpoint: ???", "checkpoint: net.pt").replace("path: ???", "path: photos")
    for key, value in lines.items():
        assert f"{key}: null" in text
        text = text.replace(f"{key}: null", f"{key}: {value}")
    (folder / "x.yaml").write_text(text)
    return folder / "x.yaml"


def test_the_printed_file_works_with_masks_and_without(tmp_path: Path) -> None:
    without = load_treat_config(filled(tmp_path))
    assert (without.channel.weight, without.space.weight) == (0.1, 0.0)
    with_masks = load_treat_config(filled(tmp_path, masks="masks"))
    assert (with_masks.channel.weight, with_masks.space.weight) == (0.0, 1.0)
    assert with_masks.arms == ("treat", "hard-examples", "continue")


def test_a_weight_that_is_given_is_kept(tmp_path: Path) -> None:
    path = filled(tmp_path)
    assert load_treat_config(path, ["channel.weight=2"]).channel.weight == 2
    with pytest.raises(ConfigError, match=r"the space constraint needs data\.masks"):
        load_treat_config(path, ["space.weight=1"])


@pytest.mark.parametrize(
    ("checkpoint", "path", "said"),
    [
        ("???", "???", r"checkpoint and data\.path are not filled in"),
        ("net.pt", "???", r"data\.path is not filled in"),
        ("???", "photos", "checkpoint is not filled in"),
    ],
)
def test_what_was_not_filled_in_is_named(tmp_path: Path, checkpoint: str, path: str, said: str) -> None:
    (tmp_path / "x.yaml").write_text(f"checkpoint: {checkpoint}\ndata:\n  path: {path}\n")
    with pytest.raises(ConfigError, match=said):
        load_treat_config(tmp_path / "x.yaml")


def test_an_option_fills_a_place_holder(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("checkpoint: ???\ndata: {path: photos}\n")
    assert load_treat_config(tmp_path / "x.yaml", checkpoint=Path("a.pt")).checkpoint == Path("a.pt")


def test_inputs_are_looked_for_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home / "photos", home / "masks", elsewhere / "photos"):
        folder.mkdir(parents=True)
    (home / "net.pt").touch()
    path = filled(home, masks="masks", groups="groups.csv")
    monkeypatch.chdir(elsewhere)
    found = load_treat_config(path)
    assert (found.checkpoint, found.data.path) == (home / "net.pt", str(home / "photos"))
    assert found.data.masks == home / "masks"
    assert found.data.groups == Path("groups.csv")  # in neither place: as it is written
    assert found.output == Path("treatment")  # where the command runs


def test_names_of_data_sets_stay_names(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.write_text(path.read_text().replace("path: photos", "path: torchvision:CIFAR10"))
    assert load_treat_config(path).data.path == "torchvision:CIFAR10"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "no checkpoint and no data given"),
        ({"checkpoint": Path("a.pt")}, "no data given"),
        ({"data__path": "photos"}, "no checkpoint given"),
        ({"checkpoint": Path("a.pt"), "data__masks": Path("masks")}, "no data given"),
    ],
)
def test_what_nobody_gave_is_named_with_the_command_that_takes_it(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_treat_config(None, **given)
    assert caught.value.found == said
    assert "treat CHECKPOINT --data DIR" in str(caught.value)


def test_code_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "net.py").touch()
    path = filled(tmp_path)
    for arch, meant in (("net.py:make", f"{tmp_path}/net.py:make"), ("net:make", "net:make"), ("x.py:f", "x.py:f")):
        path.write_text(f"checkpoint: net.pt\ndata: {{path: photos}}\nnetwork: {{arch: '{arch}'}}\n")
        assert load_treat_config(path).network.arch == meant


def test_a_path_may_begin_with_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = filled(tmp_path, masks="~/masks")
    config = load_treat_config(path, ["checkpoint=~/net.pt"])
    assert (config.data.masks, config.checkpoint) == (tmp_path / "home" / "masks", tmp_path / "home" / "net.pt")
    (tmp_path / "~" / "masks").mkdir(parents=True)
    assert load_treat_config(path).data.masks == tmp_path / "~" / "masks"
