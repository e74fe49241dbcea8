"""The evidence's page holds what its JSON holds, and its figures are those of formulas by hand."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from conftest import Clinic
from PIL import Image
from typer.testing import CliRunner

from modeldoctor.config.diagnose import DiagnoseConfig, Preprocessing
from modeldoctor.config.treat import SpaceConfig, TreatConfig
from modeldoctor.data import make_loader, open_data
from modeldoctor.diagnosis import diagnose
from modeldoctor.treatment.penalty import Penalty
from modeldoctor.treatment.subsets import split_subsets
from modeldoctor.zoo import load_model

REPRODUCE = Path(__file__).parent.parent / "scripts" / "reproduce"
sys.path.insert(0, str(REPRODUCE))

import discovery  # noqa: E402
import evidence  # noqa: E402
import measures  # noqa: E402
import parts  # noqa: E402
import pieces  # noqa: E402
import place as places  # noqa: E402
import practitioners  # noqa: E402
import run  # noqa: E402
import store  # noqa: E402
import variants  # noqa: E402
import write  # noqa: E402


def numbers(content: Any) -> list[float]:
    """Every number of a JSON value."""
    if isinstance(content, dict | list):
        return [
            number
            for entry in (content.values() if isinstance(content, dict) else content)
            for number in numbers(entry)
        ]
    return [float(content)] if isinstance(content, int | float) else []


def test_the_page_is_the_one_that_its_json_gives() -> None:
    assert (REPRODUCE / "RESULTS.md").read_text(encoding="utf-8") == write.results(store.kept())


def test_every_figure_of_the_tables_is_in_the_json() -> None:
    known = np.array(numbers([content["figures"] for content in store.kept().values()]))
    text = (REPRODUCE / "RESULTS.md").read_text(encoding="utf-8")
    cells = [cell for line in text.splitlines() if line.startswith("|") for cell in line.split("|")[2:]]
    for cell in cells:
        for number in re.findall(r"(?<![\w±-] )(?<![\w.])-?\d+\.?\d*", cell):
            value, digits = float(number), len(number.partition(".")[2])
            near = 0.51 * 10**-digits
            assert any((abs(scale * known - value) <= near).any() for scale in (1, 100)), cell


def test_what_is_kept_can_be_read_and_says_how_it_was_made(tmp_path: Path) -> None:
    store.keep("a-piece", {"value": 1 / 3, "none": float("nan"), "rows": [(1, "x")]}, seconds=90, folder=tmp_path)
    content = store.kept(tmp_path)["a-piece"]
    assert content["figures"] == {"value": 0.333333, "none": None, "rows": [[1, "x"]]}
    assert content["command"] == "scripts/reproduce/run.py a-piece --data DATA"
    assert content["minutes"] == 1.5
    assert {"torch", "modeldoctor"} <= content["versions"].keys()


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 5, 20).astype(float), rng.integers(0, 4, 30).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(positive, negative)]
    assert measures.roc_area(positive, negative) == pytest.approx(np.mean(pairs))
    assert np.isnan(measures.roc_area(positive, negative[:0]))


def test_images_are_like_their_class_by_correlation_and_by_the_kernels_above_the_threshold() -> None:
    """By numpy, image by image: its class's mean leaves it out, another class's does not hold it."""
    rng = np.random.default_rng(0)
    classes, values = np.repeat([0, 1, 2], 4), rng.random((12, 6))
    classes[-4:] = [2, 2, 0, 1]
    found = discovery.agreement(values, classes, 3, 0.2)
    own, other, jaccard = [], [], []
    for row, (label, image) in enumerate(zip(classes, values, strict=True)):
        rest = np.delete(values, row, 0)[np.delete(classes, row) == label].mean(0)
        own.append(np.corrcoef(image, rest)[0, 1])
        other.append(np.corrcoef(image, values[classes == (label + 1) % 3].mean(0))[0, 1])
        used = [{k for k in range(6) if part[k] >= part.min() + 0.2 * np.ptp(part)} for part in (image, rest)]
        jaccard.append(len(used[0] & used[1]) / len(used[0] | used[1]))
    assert found["pearson"] == pytest.approx(np.mean(own))
    assert found["pearson_other"] == pytest.approx(np.mean(other))
    assert found["jaccard"] == pytest.approx(np.mean(jaccard))
    assert np.isnan(discovery.profiles(values, classes, 4)[3]).all()


def test_correlations_are_derivatives_of_the_true_class_at_right_images(clinic: Clinic) -> None:
    network = load_model(clinic.checkpoint)
    images = open_data(clinic.data, preprocessing=network.preprocessing)["val"]
    layers, classes = discovery.correlations(network, images)
    taken = []
    for index in np.random.default_rng(0).permutation(len(images)):
        sample = images[int(index)]
        if int(network.module(sample.image[None]).argmax()) == sample.label:
            taken.append(sample)
    assert sorted(classes.tolist()) == sorted(sample.label for sample in taken)
    name, (_, values) = list(layers.items())[-2]  # the last is where features are pooled
    maps: list[Any] = []
    network.module.get_submodule(name).register_forward_hook(lambda _, __, output: maps.append(output))
    sums = []
    for sample in taken:
        logit = network.module(sample.image[None])[0, sample.label]
        sums.append(torch.autograd.grad(logit, maps[-1])[0].abs().sum((0, 2, 3)).numpy())
    order = np.lexsort(np.array(sums).T)
    assert values[np.lexsort(values.T)] == pytest.approx(np.array(sums)[order], rel=1e-4, abs=1e-5)


def test_evidence_outside_the_object_is_that_of_autograd_and_of_blocks_of_the_mask(clinic: Clinic) -> None:
    """The prediction's logit, differentiated by torch alone in the maps that the head pools."""
    network = load_model(clinic.checkpoint)
    images = open_data(clinic.data, preprocessing=network.preprocessing, masks=clinic.masks)["val"]
    found = evidence.measure(network, images, network.module.state_dict())
    module, maps = clinic.network(), []
    module.get_submodule("global_pool").register_forward_pre_hook(lambda _, given: maps.append(given[0]))
    paths, pictures, labels = clinic.images("val")
    for row, (path, picture) in enumerate(zip(paths, pictures, strict=True)):
        logits = module(picture[None])[0]
        (gradient,) = torch.autograd.grad(logits.max(), maps[-1])
        height, width = gradient.shape[2:]
        with Image.open(clinic.masks / path) as mask:
            blocks = (np.asarray(mask.convert("L")) == 0).reshape(height, mask.height // height, width, -1)
        outside = blocks.mean((1, 3))
        assert found["right"][row] == (logits.argmax() == labels[row])
        assert found["confidence"][row] == pytest.approx(float(logits.softmax(0).max().detach()), rel=1e-4)
        for name, values in {"area": 1, "derivative": gradient, "contribution": gradient * maps[-1]}.items():
            share = torch.as_tensor(values).abs().expand_as(gradient).sum((0, 1)).double().detach().numpy()
            assert found[name][row] == pytest.approx((share * outside).sum() / share.sum(), rel=1e-4)
    whole = evidence.by_confidence(found)
    assert sum(part["number"] for part in whole) == len(paths)


def test_gains_of_classes_are_of_the_arm_that_validation_chose() -> None:
    """Its own formula: the covariance over both deviations."""
    by_class = {
        "original": [0.9, 0.5, 0.2],
        "balanced": [0.9, 0.6, 0.5],
        "other": [0, 0, 0],
        "continue": [0.8, 0.6, 0.2],
    }
    arms = [{"arm": arm, "classes": {str(n): x for n, x in enumerate(each)}} for arm, each in by_class.items()]
    found = measures.gain_by_class({"reason": "balanced, worst_class: better", "arms": arms})
    assert (found["remedy"], found["over_continue"]) == ("balanced", pytest.approx([0.1, 0.0, 0.3]))
    x, y = np.array(by_class["original"]), np.array([0.0, 0.1, 0.3])
    expected = ((x - x.mean()) * (y - y.mean())).mean() / (x.std() * y.std())
    assert found["correlation_gain"] == pytest.approx(expected)


def test_a_part_that_is_there_is_not_measured_again(tmp_path: Path) -> None:
    place, calls = places.Place(tmp_path, tmp_path), []
    for _ in range(2):
        assert place.once("part", lambda: calls.append(1) or {"value": 0.5}) == {"value": 0.5}
    assert calls == [1]


def test_a_part_of_the_images_shares_none_with_validation(tmp_path: Path) -> None:
    for name in "abc":
        for split, number in (("train", 300), ("test", 3)):
            (tmp_path / "cifar10" / split / name).mkdir(parents=True)
            for image in range(number):
                (tmp_path / "cifar10" / split / name / f"{image:04d}.png").touch()
    for _ in range(2):  # the second finds the links of the first
        folder = parts.part_of(places.Place(tmp_path, tmp_path / "work"), "cifar10", "part", (200, 20, 2))
        train, val = (
            {name: {path.name for path in (folder / split / name).iterdir()} for name in "abc"}
            for split in ("train", "val")
        )
        assert [len(train[name]) for name in "abc"] == [200, 20, 2]
        assert all(len(val[name]) == 100 and not val[name] & train[name] for name in "abc")
        assert len([*(folder / "test").rglob("*.png")]) == 9


def test_the_boxes_of_tiny_imagenet_become_masks_of_its_training_images(tmp_path: Path) -> None:
    """The published layout; a box names its first and last pixels."""
    data = tmp_path / "tiny-imagenet-200"
    for number, label in enumerate(("n01", "n02")):
        (data / "train" / label / "images").mkdir(parents=True)
        for image in range(103):
            picture = Image.new("RGB", (64, 64), (image, number, 0))
            picture.save(data / "train" / label / "images" / f"{label}_{image:03d}.JPEG")
        boxes = [f"{label}_{image:03d}.JPEG\t2\t4\t31\t63\n" for image in range(103)]
        (data / "train" / label / f"{label}_boxes.txt").write_text("".join(boxes))
    (data / "val" / "images").mkdir(parents=True)
    for name in ("val_0", "val_1", "val_2"):
        Image.new("RGB", (64, 64)).save(data / "val" / "images" / f"{name}.JPEG")
    (data / "val" / "val_annotations.txt").write_text(
        "".join(f"val_{n}.JPEG\t{label}\t0\t0\t9\t9\n" for n, label in enumerate(("n02", "n77", "n01")))
    )
    folder, boxes_of = parts.tiny_imagenet(places.Place(tmp_path, tmp_path / "work"), "tiny", (5, 5))
    preprocessing = Preprocessing(input_size=(3, 64, 64), mean=(0.5,) * 3, std=(0.5,) * 3)
    splits = open_data(folder, preprocessing=preprocessing, masks=boxes_of)
    assert [len(splits[split]) for split in ("train", "val", "test")] == [6, 200, 2]
    (batch,) = make_loader(splits["train"], np.arange(6), batch_size=6, workers=0)
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[4:64, 2:32] = True
    assert batch.masks is not None
    assert all(mask is not None and (mask == expected).all() for mask in batch.masks)


def test_the_arms_of_other_numbers_of_draws_are_treat_but_for_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "ARMS", dict(variants.ARMS))
    monkeypatch.setattr(variants, "MAKERS", dict(variants.MAKERS))
    variants.register()
    config = TreatConfig(checkpoint=Path("a.pt"), data={"path": "b", "masks": "c"}, noise_draws=1)

    def penalty(change: Any) -> Penalty:
        return Penalty(config, (), (), {}, {}, expand_px=0, rows={})

    run: Any = SimpleNamespace(config=config, annotated=np.arange(3), by_hand=3, make_penalty=penalty)
    for number in (0, 2, 10):
        remedy = variants.MAKERS[f"draws-{number}"](run)
        assert remedy.penalty is not None
        assert remedy.penalty.config.model_dump() == config.model_dump() | {"noise_draws": number}
        assert (remedy.drawn.tolist(), remedy.annotations) == ([0, 1, 2], 3)
        assert variants.ARMS[f"draws-{number}"].control == "hard-examples"


def test_the_variants_of_the_channel_constraint_allow_what_they_say(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One allows all kernels, so that the second term is left; one those that are active on the class, too."""
    monkeypatch.setattr(variants, "ARMS", dict(variants.ARMS))
    monkeypatch.setattr(variants, "MAKERS", dict(variants.MAKERS))
    variants.register()
    file = tmp_path / "diagnosis.h5"
    found = diagnose(
        load_model(clinic.checkpoint),
        clinic.data,
        config=DiagnoseConfig(layers="last", samples_per_class=5, max_explained=0),
        output=file,
    )
    config = TreatConfig(checkpoint=Path("a.pt"), data={"path": "b"}, diagnosis=file)
    (layer,) = found.layers.values()
    correlated = torch.from_numpy(layer.correlated(found.config.threshold))
    run: Any = SimpleNamespace(
        config=config, annotated=np.arange(3), by_hand=0, make_penalty=lambda change: change(correlated)
    )
    assert variants.MAKERS["second-term"](run).penalty.all()
    kept = variants.MAKERS["also-active"](run).penalty
    for label, activation in enumerate(layer.activation):
        bar = activation.min() + found.config.threshold * np.ptp(activation)
        assert kept[label].tolist() == (correlated[label].numpy() & (activation >= bar)).tolist()
    assert 0 < kept.sum() < correlated.sum()


def test_a_setting_is_varied_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings are ones that a treatment takes, and the page has a row for each value."""
    commands: dict[str, list[str]] = {}

    def trial(place: Any, name: str, *words: object, script: str | None = None) -> str:
        commands[name] = [str(word) for word in words]
        return name

    def figures(name: str) -> dict[str, Any]:
        metrics = {metric: [0.5, 0.4, 0.6] for metric in ("accuracy", "worst_group")}
        return {"arms": [{"arm": arm, "metrics": metrics} for arm in ("original", name)]}

    monkeypatch.setattr(places.Place, "trial", trial)
    monkeypatch.setattr(pieces, "trial_figures", figures)
    (tmp_path / "menagerie.pt").touch()
    place = places.Place(tmp_path, tmp_path)
    for piece, key, values in (
        (pieces.table_2, "annotated_per_class", (3, 10, 20, 60)),
        (pieces.table_3, "expand_px", (0, 8, 20, 40)),
        (pieces.figure_6, "layers", pieces._DEPTHS),
    ):
        commands.clear()
        found = piece(place)
        assert list(found["values"]) == [str(value) for value in values]
        common = set.intersection(*(set(words) for words in commands.values()))
        for (name, words), value in zip(commands.items(), values, strict=True):
            usual = value == getattr(SpaceConfig(), key)
            assert (name == "menagerie-space") == usual, name
            assert set(words) - common == (set() if usual else {"--set", f"space.{key}={value}"} - common), name
            assert getattr(SpaceConfig(**{key: value}), key) == value
        page = write.results({piece.__name__.replace("_", "-"): HOW | {"figures": found}})
        assert page.count("| 50.00 (40.00 to 60.00) |") == 2 * len(values)


HOW = {"command": "run", "date": "today", "machine": "any", "minutes": 1, "versions": {}}


def test_without_a_piece_the_list_is_printed(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(run.main)
    answer = CliRunner().invoke(app, ["--results", str(tmp_path)])
    assert answer.exit_code == 0
    assert [line.split()[0] for line in answer.stdout.splitlines()] == list(pieces.PIECES)
    assert CliRunner().invoke(app, ["--results", str(tmp_path), "nothing"]).exit_code == 2


def test_a_page_without_results_says_what_is_to_do(tmp_path: Path) -> None:
    page = write.results({})
    assert page.count("To do.") == len(pieces.PIECES)
    assert json.loads("{}") == store.kept(tmp_path)


def test_an_image_that_cannot_be_read_shifts_no_group(clinic: Clinic, tmp_path: Path) -> None:
    """Groups are beside the images by their places: one image less would give each behind it another's."""
    shutil.copytree(clinic.data, tmp_path / "data", ignore=shutil.ignore_patterns("test"))
    for path in (tmp_path / "data" / "val" / "amber").iterdir():
        path.write_bytes(b"broken")
    opened = open_data(tmp_path / "data", preprocessing=load_model(clinic.checkpoint).preprocessing)
    part = split_subsets(opened).val
    with pytest.raises(OSError, match=r"val/amber/\d+\.png: not a picture"):
        practitioners._pictures(part)
