"""Options that say what the network is and how images are prepared: in every command, stored, and said again."""

from __future__ import annotations

import inspect
import json
import shlex
from pathlib import Path

import pytest
import scipy.stats
import timm
import torch
from command_line import Call
from conftest import CLASSES, EDGE, Clinic
from torchvision.transforms import v2

from modeldoctor.cli import commands, diagnosing
from modeldoctor.config.treat import NetworkConfig
from modeldoctor.data import open_data
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.zoo import load_model

QUICK = ("--layers", "layer3.0.conv3", "--noise-draws", "0", "--samples-per-class", "5", "--device", "cpu", "--hooks")
STATED = ("--mean", "0.4,0.5,0.6", "--std", "0.2,0.25,0.3", "--interpolation", "bilinear", "--crop-pct", "0.75")
STATED += ("--resize-mode", "squash")


def test_they_are_the_same_in_every_command_that_loads_a_network() -> None:
    names = set(NetworkConfig.model_fields) - {"download"}
    for command in (diagnosing.diagnose, diagnosing.annotate, commands.treat):
        assert names | {"expect_accuracy"} <= set(inspect.signature(command).parameters), command


def test_the_printed_command_gives_the_same_diagnosis(call: Call, clinic: Clinic) -> None:
    code, _, err = call("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, *STATED, "-o", "first.h5")
    assert code == 0, err
    first = read_diagnosis(Path("first.h5"))
    plain = call("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, "-o", "plain.h5")
    assert plain[0] == 0
    words = shlex.split(first.command)
    assert {*STATED} <= {*words}
    again = call(*words[1:-2], "-o", "again.h5")
    assert again[0] == 0, again[2]
    same, other = (read_diagnosis(Path(name)).samples.confidence for name in ("again.h5", "plain.h5"))
    assert same.tolist() == first.samples.confidence.tolist()
    assert other.tolist() != first.samples.confidence.tolist()


def test_a_network_is_built_as_the_options_say(call: Call, clinic: Clinic) -> None:
    """No weight shows the output stride: the maps of the last layer do, and so do the answers."""
    words = ("--model-option", "output_stride=8", "--model-option", "drop_rate=0.5")
    code, _, err = call("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, *words, "-o", "fine.h5")
    assert code == 0, err
    fine = read_diagnosis(Path("fine.h5"))
    assert call("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, "-o", "coarse.h5")[0] == 0
    coarse = read_diagnosis(Path("coarse.h5"))
    network = timm.create_model("test_resnet", num_classes=4, output_stride=8)
    network.load_state_dict(torch.load(clinic.checkpoint, weights_only=True)["state_dict"])
    with torch.no_grad():
        heights = network.eval().layer3(network.layer2(network.layer1(network.maxpool(network.act1(network.bn1(
            network.conv1(torch.zeros(1, 3, 32, 32)))))))).shape[2]  # fmt: skip
    assert (fine["layer3.0.conv3"].height, coarse["layer3.0.conv3"].height) == (heights, heights // 2)
    again = call(*shlex.split(fine.command)[1:-2], "-o", "again.h5")
    assert again[0] == 0, again[2]
    assert read_diagnosis(Path("again.h5")).samples.confidence.tolist() == fine.samples.confidence.tolist()


@pytest.mark.parametrize("text", ["output_stride", "=8", "output stride=8", "a=[", "output_strid=8"])
def test_an_option_that_no_network_has_is_refused(call: Call, clinic: Clinic, text: str) -> None:
    code, _, err = call("diagnose", clinic.checkpoint, "--data", clinic.data, "--model-option", text)
    assert code in (2, 3)
    assert "--model-option" in err
    assert not list(Path().iterdir())


def test_images_are_prepared_as_torchvision_does_it(clinic: Clinic) -> None:
    network = load_model(
        clinic.checkpoint, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), interpolation="bilinear", crop_pct=0.75
    )
    images = open_data(str(clinic.data), preprocessing=network.preprocessing)["val"]
    size = network.preprocessing.input_size[1]
    oracle = v2.Compose([
        v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]),
    ])  # fmt: skip
    resized = v2.Compose([v2.Resize(int(size / 0.75), v2.InterpolationMode.BILINEAR), v2.CenterCrop(size), oracle])
    picture = images.pictures.read(0, "RGB")
    assert torch.allclose(images[0].image, resized(picture), atol=1e-6)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--interpolation", "lanczos"), ("--crop-pct", "1.5"), ("--crop-pct", "0"), ("--resize-mode", "stretch")],
)
def test_what_no_preprocessing_has_is_refused(call: Call, clinic: Clinic, option: str, value: str) -> None:
    code, _, err = call("diagnose", clinic.checkpoint, "--data", clinic.data, option, value)
    assert code == 2
    assert option in err
    assert not list(Path.cwd().iterdir())


def test_an_accuracy_that_chance_does_not_explain_ends_with_3(call: Call, clinic: Clinic) -> None:
    code, out, _ = call("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, "--json")
    assert code == 0
    summary = json.loads(out)
    right = summary["images"] - summary["wrong"]
    near = scipy.stats.binom(summary["images"], summary["accuracy"]).interval(0.95)[0] / summary["images"]
    for expected in (summary["accuracy"], near):
        told = call("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, "--expect-accuracy", expected)
        assert told[0] == 0, told[2]
        assert f"agrees with the {expected:.1%} of --expect-accuracy" in told[2]
    far = call("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, "--expect-accuracy", "0.05")
    assert far[0] == 3
    assert f"{right / summary['images']:.1%}" in far[2]
    assert "--crop-pct" in far[2]
    assert "agrees" not in far[2]
    before = sorted(Path.cwd().iterdir())
    told = call("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, "--expect-accuracy", "79", "-o", "x.h5")
    assert told[0] == 2
    assert "such as 0.787" in told[2]
    assert sorted(Path.cwd().iterdir()) == before  # refused before any work


@pytest.mark.filterwarnings("always:.*have fewer than 100 images")
def test_an_accuracy_that_is_not_the_expected_one_ends_annotation_and_treatment_before_they_begin(
    call: Call, clinic: Clinic
) -> None:
    far = ("--data", clinic.data, "--expect-accuracy", "0.05")
    code, _, err = call("annotate", clinic.checkpoint, *far, "-o", "todo", "--per-class", "1")
    assert code == 3
    assert "--model-option" in err
    assert not list(Path.cwd().glob("todo/*"))
    brief = ("--set", "seeds=[0]", "--set", "channel.layers=layer3.0.conv3", "--set", "device=cpu")
    code, _, err = call("treat", clinic.checkpoint, *far, *brief, "-o", "run")
    assert code == 3
    assert "--expect-accuracy" in err
    assert sorted(path.name for path in Path("run").iterdir()) == ["diagnosis.h5"]
    said = call("treat", clinic.checkpoint, "--data", clinic.data, *brief, "-o", "run")
    assert said[0] == 2  # it is of a network that was prepared in another way
    assert "a new run directory" in said[2]


def test_where_an_accuracy_is_not_expected_what_was_assumed_stands_beside_it(
    call: Call, clinic: Clinic, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.pt"  # nothing but weights: what is not stated is assumed
    torch.save(torch.load(clinic.checkpoint, weights_only=True)["state_dict"], bare)
    arguments = (bare, "--data", clinic.data, "--mean", "0.4,0.5,0.6", "--input-size", EDGE)
    own = timm.get_pretrained_cfg("test_resnet").to_dict()

    def beside(text: str) -> str:
        text = " ".join(text.replace("&#95;", "_").split())
        return text[text.index("your own evaluation") :].partition("split:")[0]

    code, out, err = call("diagnose", *arguments, *QUICK)
    assert code == 0, err
    assert call("report", "diagnosis.h5")[0] == 0
    page, markdown = Path("report.html").read_text(), Path("report.md").read_text()
    chosen = call("annotate", *arguments, "-o", "todo", "--per-class", "1")[1]
    for text in (out, page, markdown, chosen):
        assert f"std {own['std']}, interpolation {own['interpolation']}" in beside(text)
        assert "mean (" not in beside(text)  # it was stated
    code, out, err = call(
        "diagnose", *arguments, *QUICK, "--expect-accuracy", read_diagnosis(Path("diagnosis.h5")).accuracy
    )
    assert code == 0, err
    assert call("report", "diagnosis.h5")[0] == 0
    for text in (out, Path("report.html").read_text(), Path("report.md").read_text()):
        assert "your own evaluation" not in text


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")  # of the order, and of the accuracy
def test_classes_are_counted_in_the_order_that_the_user_states(call: Call, clinic: Clinic) -> None:
    """The file's own order is another one: by the stated one most answers are wrong, exactly as counted by hand."""
    order = [*CLASSES[1:], CLASSES[0]]
    Path("order.txt").write_text("\n".join(order), encoding="utf-8")
    _, images, labels = clinic.images("val")
    stated = torch.tensor([order.index(CLASSES[int(label)]) for label in labels])
    with torch.no_grad():
        right = clinic.network()(images).argmax(1) == stated
    for text in (",".join(order), "order.txt"):
        words = ("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, "--class-order", text)
        code, _, err = call(*words, "-o", "stated.h5")
        assert code == 0, err
        found = read_diagnosis(Path("stated.h5"))
        assert found.classes == tuple(order)
        assert found.accuracy == pytest.approx(right.float().mean().item())
        assert f"--class-order {text}" in found.command


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b", "2 class names, but the network has 4 outputs"), ("a,a,b,c", "'a' is named twice"),
        ("alphabetical", "no order and no file"), ("a,,b,c", "an empty class name"), (".", "no order and no file"),
    ],
)  # fmt: skip
def test_an_order_that_says_nothing_is_refused(call: Call, clinic: Clinic, text: str, said: str) -> None:
    code, _, err = call("diagnose", clinic.checkpoint, "--data", clinic.data, "--class-order", text)
    assert code == 2
    assert said in err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("command", ["diagnose", "annotate", "treat"])
def test_an_output_of_a_name_too_long_is_refused(call: Call, clinic: Clinic, command: str) -> None:
    code, _, err = call(command, clinic.checkpoint, "--data", clinic.data, "-o", "x" * 300)
    assert code == 2
    assert "too long" in err or "a name of 300 bytes" in err
    assert not list(Path().iterdir())
