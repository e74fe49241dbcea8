"""A trial from end to end on drawn images: what it writes, that it goes on after an interruption, that it is honest."""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat import TreatConfig
from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.data import ImageSet, make_loader, open_data
from modeldoctor.demo import DemoPlan, prepare_demo
from modeldoctor.demo.drawing import ImageSetPlan
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import (
    ConfigError,
    DataError,
    InterruptedRunError,
    MemoryLimitError,
    ModelDoctorWarning,
    StoreError,
    UsageError,
)
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.maps import read_maps
from modeldoctor.results.trial import read_trial
from modeldoctor.treatment import treat
from modeldoctor.treatment.arm import Arm
from modeldoctor.treatment.shown import choose_to_show
from modeldoctor.treatment.subsets import split_subsets
from modeldoctor.zoo import Classifier, load_model


@dataclass(frozen=True)
class Case:
    folder: Path
    network: Classifier
    diagnosis: Diagnosis

    def config(self, output: Path, **changes: object) -> TreatConfig:
        values = {
            "checkpoint": self.folder / "checkpoint.pt",
            "data": {"path": str(self.folder / "data"), "masks": self.folder / "data-masks"},
            "output": output,
            "seeds": (0,),
            "noise_draws": 2,
            "channel": {"weight": 0.1},
            "space": {"weight": 1.0, "annotated_per_class": 4},
            "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01},
        }
        return TreatConfig(**(values | changes))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("treatment") / "demo"
    plan = DemoPlan(images=ImageSetPlan(edge=48, train=16, val=8, test=8), input_edge=64, epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)  # so few images cannot be predicted well
        prepare_demo(folder, plan=plan)
        network = load_model(folder / "checkpoint.pt")
        config = DiagnoseConfig(
            scan="all", layers="last,features", min_confidence=0.1, samples_per_class=8, max_explained=0, noise_draws=1
        )
        return Case(folder, network, diagnose(network, folder / "data", config=config))


ORDER = ("treat", "continue", "hard-examples", "random-mask", "shuffled-channels")
"""Of the arms in a trial's file."""


@pytest.fixture(scope="module")
def whole(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial that nothing interrupted, with every arm."""
    output = tmp_path_factory.mktemp("whole") / "run"
    arms = ("treat", "hard-examples", "continue", "shuffled-channels", "random-mask")
    treat(case.config(output, arms=arms), case.network, case.diagnosis)
    return output


def test_a_trial_leaves_its_files_and_every_arm_in_them(whole: Path) -> None:
    files = {"arms", "config.yaml", "history.csv", "maps.h5", "treated.pt", "trial.json"}
    assert {path.name for path in whole.iterdir()} == files
    trial = read_trial(whole / "trial.json")
    assert [arm.arm for arm in trial.arms] == [
        "original",
        "treat",
        "continue",
        "hard-examples",
        "random-mask",
        "shuffled-channels",
    ]
    with (whole / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 2
    of_arm = {row["arm"]: row for row in rows}
    assert np.isnan(float(of_arm["continue"]["space"]))
    assert float(of_arm["treat"]["space"]) > 0
    assert float(of_arm["treat"]["channel"]) > 0


def test_the_epoch_with_the_best_validation_is_kept(whole: Path) -> None:
    with (whole / "history.csv").open() as file:
        best = max(float(row["val_accuracy"]) for row in csv.DictReader(file) if row["arm"] == "treat")
    state = torch.load(whole / "arms" / "treat-0.pt", weights_only=True)
    assert state["best_score"] == best


def test_maps_are_of_wrong_validation_images_and_of_each_arm_s_own_weights(case: Case, whole: Path) -> None:
    maps = read_maps(whole / "maps.h5")
    assert maps.arms == ("original", "treat", "hard-examples", "continue", "shuffled-channels", "random-mask")
    assert maps.split == "val"
    images = open_data(case.folder / "data", preprocessing=case.network.preprocessing)["val"]
    places = [images.paths.index(path.decode()) for path in maps.path.tolist()]
    pixels = torch.stack([images[place].image for place in places])
    assert maps.label.tolist() == images.labels[places].tolist()
    assert (maps.predicted[0] != maps.label).all()
    for row, arm in enumerate(maps.arms):
        plain = load_model(case.folder / "checkpoint.pt").module.eval()
        if arm != "original":
            plain.load_state_dict(torch.load(whole / "arms" / f"{arm}-0.pt", weights_only=True)["best"])
        with torch.no_grad():
            confidence, predicted = plain(pixels).softmax(1).max(1)
        assert maps.predicted[row].tolist() == predicted.tolist()
        np.testing.assert_allclose(maps.confidence[row], confidence, rtol=1e-4)
    assert (maps.contribution[0] != maps.contribution[1]).any()
    assert ((maps.background_share > 0) & (maps.background_share < 1)).all()
    assert maps.outline.any(axis=(1, 2)).all()


def test_every_kind_of_confusion_is_shown_before_any_a_second_time() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    logits = torch.full((6, 3), 0.0)
    # taken for: 1 (sure), 1 (surer), 0 (right), 0 (doubtful), 1 (right), 0 (surest)
    for row, (predicted, strength) in enumerate([(1, 4), (1, 5), (0, 9), (0, 1), (1, 9), (0, 6)]):
        logits[row, predicted] = strength
    confidence, predicted = (part.numpy() for part in logits.softmax(1).max(1))
    assert choose_to_show(labels, predicted, confidence, 3).tolist() == [1, 3, 5]
    assert choose_to_show(labels, predicted, confidence, 4).tolist() == [0, 1, 3, 5]
    assert choose_to_show(labels[[2, 4]], predicted[[2, 4]], confidence[[2, 4]]).tolist() == []


def test_the_treated_checkpoint_drops_into_plain_timm_and_gives_the_trials_accuracy(case: Case, whole: Path) -> None:
    trial = read_trial(whole / "trial.json")
    stored = torch.load(whole / "treated.pt", weights_only=True)
    before = torch.load(case.folder / "checkpoint.pt", weights_only=True)
    assert stored.keys() == before.keys()
    assert list(stored["state_dict"]) == list(before["state_dict"])
    plain = timm.create_model(stored["arch"].removeprefix("timm/"), num_classes=stored["num_classes"])
    plain.load_state_dict(stored["state_dict"], strict=True)
    plain.eval()
    images = open_data(case.folder / "data", preprocessing=case.network.preprocessing)["test"]
    right = total = 0
    with torch.no_grad():
        for batch in make_loader(images, batch_size=7):
            right += int((plain(batch.images).argmax(1) == batch.labels).sum())
            total += len(batch.labels)
    assert trial[trial.handed_back].metrics["accuracy"].value == pytest.approx(right / total)


def test_a_treatment_that_is_not_better_hands_back_something_else(whole: Path) -> None:
    trial = read_trial(whole / "trial.json")  # two short epochs on a handful of images prove nothing
    assert trial.ruling.outcome != "improved"
    assert trial.handed_back in ("original", "continue", "hard-examples")


@pytest.mark.parametrize("after", [3, 12, "the second of the final test"])
def test_an_interrupted_trial_goes_on_to_the_same_weights_bit_for_bit(
    case: Case, whole: Path, tmp_path: Path, after: int | str
) -> None:
    arms: tuple[str, ...] = ("treat", "hard-examples", "continue")
    if after == 12:  # every arm, and figures that other processes read
        arms += ("shuffled-channels", "random-mask")
    config = case.config(tmp_path / "run", arms=arms)
    steps = 0

    def stop_once(stage: str, done: int, total: int | None) -> None:
        nonlocal steps
        steps += 1
        if after == steps or (isinstance(after, str) and (stage, done) == ("test", 1)):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        treat(config, case.network, case.diagnosis, progress=stop_once)
    with pytest.raises(UsageError, match="there is a trial already"):
        treat(config, case.network, case.diagnosis)
    again = config.model_copy(update={"workers": 1 if after == 12 else 0})
    treat(again, case.network, case.diagnosis, resume=True)
    for name in ("treat-0.pt", "continue-0.pt"):
        one, other = (torch.load(folder / "arms" / name, weights_only=True) for folder in (whole, tmp_path / "run"))
        assert all(torch.equal(one["network"][key], other["network"][key]) for key in one["network"])
        assert one["history"] == other["history"] or np.isnan(one["history"][0]["space"])
    trials = [json.loads((folder / "trial.json").read_text()) for folder in (whole, tmp_path / "run")]
    for arm in (arm for trial in trials for arm in trial["arms"]):
        assert arm["cost"].pop("seconds") > 0 or arm["arm"] == "original"
    assert [arm["arm"] for arm in trials[1]["arms"]] == ["original", *sorted(arms, key=ORDER.index)]
    assert [arm for arm in trials[0]["arms"] if arm["arm"] in ("original", *arms)] == trials[1]["arms"]


def test_resuming_with_other_settings_is_refused(case: Case, whole: Path) -> None:
    with pytest.raises(StoreError, match="other settings"):
        treat(case.config(whole, noise_draws=3), case.network, case.diagnosis, resume=True)


def test_resuming_with_another_network_of_the_same_weights_is_refused(
    case: Case, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other code of --arch makes: strides and dilations are in no weight."""
    first = next(module for module in case.network.module.modules() if isinstance(module, torch.nn.Conv2d))
    monkeypatch.setattr(first, "dilation", (2, 2))
    arms = ("treat", "hard-examples", "continue", "shuffled-channels", "random-mask")
    with pytest.raises(StoreError, match="other layers, or other code") as caught:
        treat(case.config(whole, arms=arms), case.network, case.diagnosis, resume=True)
    assert caught.value.where == str(whole / "config.yaml")


def test_the_network_has_its_own_weights_after_the_trial(case: Case, whole: Path) -> None:
    fresh = load_model(case.folder / "checkpoint.pt").module.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in case.network.module.state_dict().items())


def test_a_loss_that_becomes_infinite_ends_the_arm_with_a_warning(case: Case, tmp_path: Path) -> None:
    wild = {"epochs": 2, "batch_size": 16, "learning_rate": 1e30}
    with pytest.warns(ModelDoctorWarning, match="NaN or infinite"):
        treat(case.config(tmp_path / "run", training=wild), case.network, case.diagnosis)
    assert read_trial(tmp_path / "run" / "trial.json").handed_back == "original"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("of a GPU"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")])
def test_running_out_of_memory_says_what_takes_less(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    passes = iter(range(100))

    def short(self: TrainableNetwork, images: torch.Tensor, layers: object, **options: object) -> object:
        if torch.is_grad_enabled() and next(passes) == 14:  # those before training are not counted
            raise error
        return training_pass(self, images, layers, **options)

    training_pass = TrainableNetwork.training_pass
    monkeypatch.setattr(TrainableNetwork, "training_pass", short)
    with pytest.raises(MemoryLimitError, match=r"epoch 2 of treat, seed 0\n.*training\.batch_size"):
        treat(case.config(tmp_path / "run"), case.network, case.diagnosis)
    assert (tmp_path / "run" / "arms" / "treat-0.pt").exists()


# An untrained network, which is no better than chance and confident of few images.
@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
def test_a_trial_that_was_given_too_little_memory_goes_on_with_more(case: Case, tmp_path: Path) -> None:
    layer = "layer3.0.conv1"  # without a closed form
    brief = DiagnoseConfig(
        scan="all", layers=layer, min_confidence=0.1, samples_per_class=8, max_explained=0, noise_draws=0
    )
    diagnosis = diagnose(case.network, case.folder / "data", config=brief)

    def config(memory: int) -> TreatConfig:
        changes = {"channel": {"weight": 1.0, "layers": layer}, "space": {"weight": 0.0}, "memory": memory}
        return case.config(tmp_path / "run", training={"epochs": 1, "batch_size": 16}, **changes)

    with pytest.raises(MemoryLimitError, match=rf"2 MiB[\s\S]*one copy of 16 images behind {layer}[\s\S]*batch_size"):
        treat(config(2**21), case.network, diagnosis)
    trial = treat(config(2**30), case.network, diagnosis, resume=True)
    assert {arm.arm for arm in trial.arms} == {"original", "treat", "continue"}


def test_a_diagnosis_of_another_checkpoint_or_without_the_layer_is_refused(case: Case, tmp_path: Path) -> None:
    from dataclasses import replace

    other = replace(case.diagnosis, checkpoint_sha256="0" * 64)
    with pytest.raises(UsageError, match="another checkpoint"):
        treat(case.config(tmp_path / "a"), case.network, other)
    with pytest.raises(UsageError, match="has no layer"):
        treat(case.config(tmp_path / "b", channel={"weight": 1.0, "layers": "conv1*"}), case.network, case.diagnosis)


def test_a_space_constraint_without_any_mask_is_refused(case: Case, tmp_path: Path) -> None:
    empty = tmp_path / "masks"
    (empty / "val" / "disc").mkdir(parents=True)
    one = next((case.folder / "data-masks" / "val" / "disc").iterdir())
    (empty / "val" / "disc" / one.name).write_bytes(one.read_bytes())
    data = {"path": str(case.folder / "data"), "masks": empty}
    with pytest.raises(DataError, match="none of 96 training images has a mask"):
        treat(case.config(tmp_path / "run", data=data), case.network, case.diagnosis)


def test_a_mask_that_is_not_used_may_be_broken(case: Case, whole: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    shutil.copytree(case.folder / "data-masks", masks)
    for split in ("val", "test"):
        for file in (masks / split).rglob("*.png"):
            file.write_bytes(b"no picture")
    data = {"path": str(case.folder / "data"), "masks": masks}
    trial = treat(case.config(tmp_path / "run", data=data), case.network, case.diagnosis)
    sound = read_trial(whole / "trial.json")
    for arm in ("treat", "continue"):
        assert trial[arm].by_seed == sound[arm].by_seed
    assert (tmp_path / "run" / "maps.h5").exists()


def test_missing_splits_are_split_off_by_class_without_overlap(case: Case) -> None:
    opened = open_data(case.folder / "data", preprocessing=case.network.preprocessing)
    parts = split_subsets({"train": opened["train"]})
    indices = [part.indices for part in (parts.train, parts.val, parts.test)]
    assert sorted(np.concatenate(indices).tolist()) == list(range(len(opened["train"])))
    for part in (parts.train, parts.val, parts.test):
        counts = np.bincount(part.labels)
        assert counts.min() > 0
        assert counts.max() - counts.min() <= 1
    assert len(parts.val.indices) < len(parts.train.indices) / 3
    assert parts.split_off == ["val", "test"]
    assert split_subsets({"train": opened["train"], "val": opened["val"]}).split_off == []


def test_too_few_images_to_choose_or_prove_by_are_refused_before_training(case: Case) -> None:
    train = open_data(case.folder / "data", preprocessing=case.network.preprocessing)["train"]
    assert isinstance(train, ImageSet)
    few = copy.copy(train)
    kept = np.concatenate([np.flatnonzero(train.labels == number)[:1] for number in np.unique(train.labels)])
    few.labels, few.paths = train.labels[kept], [train.paths[index] for index in kept]
    with pytest.raises(DataError, match="0 validation images") as caught:
        split_subsets({"train": few})
    assert "11 images per class" in str(caught.value)


def test_the_last_update_of_an_epoch_is_the_mean_of_its_own_batches() -> None:
    """5 batches by twos: 2, 2 and 1."""
    arm = object.__new__(Arm)
    object.__setattr__(arm, "config", SimpleNamespace(training=SimpleNamespace(accumulate=2)))
    object.__setattr__(arm, "_steps", lambda: 5)
    assert [arm._batches_of_step(step) for step in range(5)] == [2, 2, 2, 2, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["training.epoch=3"], "nearest: epochs"),
        (["seed=3"], "nearest: seeds"),
        (["channel.weight=-1"], "channel.weight"),
        (["arms=[treat]"], "without a control"),
        (["space.weight=0"], "both weights are 0"),
        (["data.masks=null", "space.weight=1"], "needs data.masks"),
        (["data.masks=null", "channel.exclude_background=true"], "exclude_background needs data.masks"),
        (["metric=worst_group"], "needs data.groups"),
        (["metric=f1"], "metric"),
        (["training.mixup=0.2", "channel.weight=1"], "mixup has none to mix"),
        (["space.weight=automatic"], "space.weight"),
        (["training.augmentation.rotate=3"], "nearest: "),
        (["seeds=[1, 1]"], "twice"),
        (["training"], "no value"),
        (["checkpoint.a=1"], "holds no keys"),
    ],
)
def test_wrong_settings_are_named(changes: list[str], said: str) -> None:
    good = ["checkpoint=a.pt", "data.path=b", "data.masks=c"]
    assert load_treat_config(None, good).data.path == "b"
    with pytest.raises(ConfigError, match=said):
        load_treat_config(None, good + changes)
