"""A treatment's configuration: its YAML, its defaults, what it refuses, and that each key has an effect."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Clinic
from pydantic import BaseModel

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat import TreatConfig
from modeldoctor.config.treat_file import commented_yaml, load_treat_config, written_yaml
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import ConfigError, ModelDoctorWarning
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.treatment import treat
from modeldoctor.zoo import Classifier, load_model

NEEDED = {"checkpoint": "a.pt", "data": {"path": "images", "masks": "masks"}}


def keys(model: type[BaseModel] = TreatConfig, prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_printed_configuration_is_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "treat.yaml"
    file.write_text(commented_yaml(), encoding="utf-8")
    loaded = load_treat_config(file, ["checkpoint=a.pt", "data.path=images", "data.masks=masks"])
    assert loaded == TreatConfig(**NEEDED)


def test_every_key_is_printed_under_a_comment() -> None:
    lines = commented_yaml().splitlines()
    for key in keys():
        name = key.rpartition(".")[2]
        places = [number for number, line in enumerate(lines) if line.strip().startswith(f"{name}:")]
        said = [(lines[number - 2].strip(), lines[number - 1].strip()) for number in places]  # a comment may have two
        assert any(last[0] == "#" and len(last) + len(first) * first.startswith("#") > 8 for first, last in said), key


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent.parent / "configs").glob("*.yaml")), ids=lambda p: p.name
)
def test_the_examples_are_configurations(path: Path) -> None:
    assert load_treat_config(path).arms


def test_a_resolved_configuration_can_be_given_again(tmp_path: Path) -> None:
    config = TreatConfig(**NEEDED, metric="worst_class", seeds=(3,), output=tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text("# a comment\n" + yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    assert load_treat_config(file) == config


def test_a_kept_configuration_means_the_same_files_from_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "images").mkdir(parents=True)
    for name in ("net.pt", "net.py", "run/diagnosis.h5"):
        (tmp_path / "here" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "here" / name).write_text("")
    monkeypatch.chdir(tmp_path / "here")
    config = TreatConfig(
        checkpoint="net.pt", network={"arch": "net.py:make"}, data={"path": "images", "root": tmp_path / "images.csv"},
        diagnosis="run/diagnosis.h5", output="run",
    )  # fmt: skip
    kept = Path("run/config.yaml")
    kept.write_text(written_yaml(config), encoding="utf-8")
    assert load_treat_config(kept) == config
    assert written_yaml(load_treat_config(kept)) == kept.read_text(encoding="utf-8")
    (tmp_path / "here").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    moved = load_treat_config(Path("moved/run/config.yaml"))
    assert (moved.checkpoint, moved.network.arch, moved.data.path) == (
        Path("moved/net.pt"), "moved/net.py:make", "moved/images"
    )  # fmt: skip
    assert (moved.diagnosis, moved.output) == (Path("moved/run/diagnosis.h5"), Path("moved/run"))
    assert moved.data.root == tmp_path / "images.csv"
    assert written_yaml(moved) == (tmp_path / "moved/run/config.yaml").read_text(encoding="utf-8")


def test_values_replace_changes_and_changes_replace_the_file(tmp_path: Path) -> None:
    file = tmp_path / "treat.yaml"
    file.write_text(yaml.safe_dump({**NEEDED, "training": {"epochs": 1, "batch_size": 4}}), encoding="utf-8")
    config = load_treat_config(file, ["training.epochs=2", "checkpoint=b.pt"], checkpoint=Path("c.pt"), output=None)
    assert (config.training.epochs, config.training.batch_size, config.checkpoint) == (2, 4, Path("c.pt"))
    assert config.output == Path("treatment")


@pytest.mark.parametrize(
    ("data", "given", "weights"),
    [
        ({"path": "a", "masks": "b"}, {}, (0.0, 1.0)),
        ({"path": "a"}, {}, (0.1, 0.0)),
        ({"path": "a"}, {"channel": {"weight": 0.3}}, (0.3, 0.0)),
        ({"path": "a"}, {"channel": {"layers": "last:2"}}, (0.1, 0.0)),
        ({"path": "a", "masks": "b"}, {"channel": {"weight": "auto"}}, ("auto", 1.0)),
    ],
)
def test_without_masks_the_channel_constraint_is_what_is_left(data: Any, given: Any, weights: Any) -> None:
    config = TreatConfig(checkpoint="a.pt", data=data, **given)
    assert (config.channel.weight, config.space.weight) == weights


@pytest.mark.parametrize("text", ["", "- a list", "checkpoint: [", "\x00", "checkpoint: !!python/object:os.system x"])
def test_what_is_no_configuration_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "treat.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_treat_config(file)
    with pytest.raises(ConfigError, match="no readable YAML"):
        load_treat_config(tmp_path / "absent.yaml")


# --- each key has an effect -------------------------------------------------------------------------------------

LAYER, OTHER = "layer2.0.conv2", "layer3.0.conv3"
BASE: dict[str, Any] = {
    "arms": ("treat", "hard-examples", "continue"), "seeds": (0,), "noise_draws": 1,
    "channel": {"weight": 0.5, "layers": LAYER},
    "space": {"annotated_per_class": 3, "layers": LAYER, "expand_px": 0.0, "attribution": "gradient_x_activation"},
    "training": {
        "epochs": 1, "batch_size": 16, "learning_rate": 0.05, "optimizer": "sgd", "weight_decay": 0.001,
        "momentum": 0.5, "label_smoothing": 0.0,
    },
}  # fmt: skip
CHANGES: dict[str, Any] = {
    "channel.weight": 1.0, "channel.layers": OTHER, "channel.attribution": "gradient_x_activation",
    "channel.exclude_background": True, "space.weight": 3.0, "space.layers": OTHER,
    "space.attribution": "gradient", "space.expand_px": 100.0, "space.keep": 10.0, "space.annotated_per_class": 1,
    "space.annotated_share": 0.5, "noise_draws": 2, "delta": 0.5, "training.epochs": 2, "training.batch_size": 8,
    "training.accumulate": 2, "training.optimizer": "adamw", "training.learning_rate": 0.01,
    "training.schedule": "none", "training.warmup_epochs": 1, "training.weight_decay": 0.1, "training.momentum": 0.0,
    "training.label_smoothing": 0.2, "training.clip_norm": 0.1, "training.ema": 0.9,
    "training.augmentation.shift": 0.2, "training.augmentation.flip": False, "training.augmentation.scale": 0.5,
    "training.augmentation.color_jitter": 0.5, "training.augmentation.erase": 1.0, "seeds": (1,),
}  # fmt: skip
# Keys whose effect other tests show, or that change no weights.
ELSEWHERE = {
    "checkpoint": "test_treatment.py", "data.path": "test_treatment.py", "data.masks": "test_treatment.py",
    "data.root": "test_pipeline.py", "data.download": "test_pipeline.py", "data.groups": "test_treatment.py",
    "data.group_column": "test_treatment.py", "diagnosis": "test_pipeline.py", "output": "test_treatment.py",
    "network.arch": "test_pipeline.py", "network.num_classes": "test_pipeline.py",
    "network.channels": "test_pipeline.py", "network.input_size": "test_pipeline.py",
    "network.mean": "test_pipeline.py", "network.head": "test_zoo_heads.py",
    "network.download": "test_zoo_hub.py",
    "network.std": "test_pipeline.py", "network.interpolation": "test_pipeline.py",
    "network.crop_pct": "test_pipeline.py",
    "network.resize_mode": "test_pipeline.py",
    "network.class_order": "test_pipeline.py",
    "network.model_options": "test_pipeline.py",
    "space.most_repeats": "test_batches.py", "space.propagated_per_class": "test_propagation.py",
    "training.batch_norm": "test_batch_statistics.py",
    "training.mixup": "test_batches.py", "training.amp": "test_trainable.py",
    "pilot.ladder": "test_pilot.py", "pilot.epochs": "test_pilot.py", "arms": "test_treatment.py",
    "budget": "test_budget.py", "rounds": "test_budget.py",
    "metric": "test_treatment.py", "log": "test_loggers.py", "workers": "test_batches.py",
    "device": "test_cuda.py", "memory": "test_memory.py", "expect_accuracy": "test_cli_network.py",
}  # fmt: skip


def test_the_effect_of_every_key_is_tested() -> None:
    assert set(CHANGES) | set(ELSEWHERE) == set(keys())
    assert not set(CHANGES) & set(ELSEWHERE)


@pytest.fixture(scope="module")
def patient(clinic: Clinic) -> tuple[Classifier, Diagnosis]:
    network = load_model(clinic.checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)
        config = DiagnoseConfig(
            scan="all", layers=f"{LAYER},{OTHER}", max_explained=0, noise_draws=1, samples_per_class=5, hooks=True
        )
        return network, diagnose(network, clinic.data, config=config)


class _LeftError(Exception):
    pass


def leave_after_treat(stage: str, done: int, total: int | None) -> None:
    if stage.startswith(("hard-examples", "continue")):
        raise _LeftError


def treated(clinic: Clinic, patient: tuple[Classifier, Diagnosis], output: Path, **changes: Any) -> dict[str, Any]:
    """The state of the arm `treat` of a trial, which is left as soon as this is trained."""
    content: dict[str, Any] = {
        **copy.deepcopy(BASE),
        "checkpoint": clinic.checkpoint, "output": output,
        # The clinic's test split is broken on purpose; validation is split in two instead.
        "data": {"path": str(clinic.data.parent / "treatable"), "masks": clinic.masks},
    }  # fmt: skip
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)
        with pytest.raises(_LeftError):
            treat(TreatConfig(**content), *patient, progress=leave_after_treat)
    (path,) = (output / "arms").glob("treat-*.pt")
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


@pytest.fixture(scope="module")
def usual(clinic: Clinic, patient: tuple[Classifier, Diagnosis], tmp_path_factory: pytest.TempPathFactory) -> Any:
    images = clinic.data.parent / "treatable"
    images.mkdir()
    for split in ("train", "val"):
        (images / split).symlink_to(clinic.data / split)
    return treated(clinic, patient, tmp_path_factory.mktemp("usual") / "run")


@pytest.mark.parametrize("key", CHANGES)
def test_a_key_has_an_effect(
    clinic: Clinic, patient: tuple[Classifier, Diagnosis], usual: dict[str, Any], tmp_path: Path, key: str
) -> None:
    state = treated(clinic, patient, tmp_path / "run", **{key: CHANGES[key]})
    which = "best" if key == "training.ema" else "network"
    assert any(not torch.equal(state[which][name], usual[which][name]) for name in usual[which])


def test_the_same_configuration_gives_the_same_weights(
    clinic: Clinic, patient: tuple[Classifier, Diagnosis], usual: dict[str, Any], tmp_path: Path
) -> None:
    state = treated(clinic, patient, tmp_path / "run")
    assert all(torch.equal(state["network"][name], usual["network"][name]) for name in usual["network"])
