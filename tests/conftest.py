"""One small trained checkpoint and its images, made once a session, and a diagnosis by hand.

Pictures are made and preprocessed with plain numpy and torch, so that they can serve as oracles for the data code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.demo.training import fit_classifier
from modeldoctor.results.diagnosis import Diagnosis, Kernel, LayerDiagnosis, Limits, Misdiagnosis, Samples, Verdict

pytest_plugins = ("diagnosed", "command_line")
"""Fixtures of their own rooms' tests."""

CLASSES = ("amber", "birch", "coral", "denim")
EDGE = 32
ARCH = "test_resnet"
_MEAN, _STD = 0.5, 0.5
_COLOURS = np.array([(230, 180, 40), (210, 215, 200), (240, 90, 80), (40, 70, 150)], dtype=float)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process is left with one at the end."""
    longest = ("test_trial.py", "test_treatment.py", "test_cut.py", "test_distributed.py")
    places = {name: place for place, name in enumerate(longest)}
    items.sort(key=lambda item: places.get(item.path.name, len(longest)))


def picture(number: int, rng: np.random.Generator, blend: int | None = None, share: float = 0.0) -> NDArray[np.uint8]:
    """Stripes whose direction and colour say the class; `blend` mixes in another class's."""

    def pure(one: int) -> NDArray[np.float64]:
        y, x = np.mgrid[0:EDGE, 0:EDGE] + rng.uniform(0, 8)
        wave = np.sin(2 * np.pi * (x * np.cos(one * np.pi / 4) + y * np.sin(one * np.pi / 4)) / 8)
        return np.asarray((0.6 + 0.4 * wave)[:, :, None] * _COLOURS[one])

    mixed = pure(number) if blend is None else (1 - share) * pure(number) + share * pure(blend)
    return (mixed + rng.normal(0, 25, mixed.shape)).clip(0, 255).astype(np.uint8)


def preprocessed(pixels: NDArray[np.uint8]) -> Tensor:
    """(S,H,W,3) as the network takes it."""
    return ((torch.from_numpy(pixels).float() / 255 - _MEAN) / _STD).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Clinic:
    """A trained network as a file, and its images."""

    checkpoint: Path
    data: Path
    masks: Path

    def network(self) -> nn.Module:
        """The plain timm network, by timm and torch alone."""
        module = timm.create_model(ARCH, num_classes=len(CLASSES))
        module.load_state_dict(torch.load(self.checkpoint, weights_only=True)["state_dict"])
        return module.eval()

    def images(self, split: str) -> tuple[list[str], Tensor, Tensor]:
        """Relative paths in sorted order, images, labels; of the files that Pillow reads."""
        paths, arrays, labels = [], [], []
        for label, name in enumerate(CLASSES):
            for path in sorted((self.data / split / name).glob("*.png")):
                paths.append(path.relative_to(self.data).as_posix())
                arrays.append(np.asarray(Image.open(path)))
                labels.append(label)
        return paths, preprocessed(np.stack(arrays)), torch.tensor(labels)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    """Right with confidence on most images; wrong on the blends, which are mostly another class."""
    folder = tmp_path_factory.mktemp("clinic")
    rng = np.random.default_rng(0)
    for split, plain, blends in (("train", 10, 4), ("val", 6, 3)):
        for number, name in enumerate(CLASSES):
            here = folder / "images" / split / name
            masks = folder / "masks" / split / name
            here.mkdir(parents=True)
            masks.mkdir(parents=True)
            for index in range(plain + blends):
                blend = (number + 1 + index) % len(CLASSES) if index >= plain else None
                blend = (number + 1) % len(CLASSES) if blend == number else blend
                pixels = picture(number, rng, blend, 0.75)
                Image.fromarray(pixels).save(here / f"{index:02d}.png")
                mask = np.zeros((EDGE, EDGE), np.uint8)
                mask[:, : EDGE // 2] = 255
                Image.fromarray(mask).save(masks / f"{index:02d}.png")
        # A test split that nobody may read unasked: every file of it is broken.
        for name in CLASSES:
            poisoned = folder / "images" / "test" / name
            poisoned.mkdir(parents=True, exist_ok=True)
            (poisoned / "poison.png").write_bytes(b"no picture")
    labels = torch.arange(len(CLASSES)).repeat(24)
    images = preprocessed(np.stack([picture(int(label), rng) for label in labels]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(ARCH, num_classes=len(CLASSES))
    fit_classifier(
        network, images, labels, epochs=12, batch_size=16, learning_rate=0.1, weight_decay=1e-4, seed=0, shift=2,
        flip=False,
    )  # fmt: skip
    content = {
        "state_dict": network.state_dict(), "arch": ARCH, "num_classes": len(CLASSES), "class_names": list(CLASSES),
        "input_size": (3, EDGE, EDGE), "mean": (_MEAN,) * 3, "std": (_STD,) * 3, "interpolation": "bilinear",
        "crop_pct": 1.0,
    }  # fmt: skip
    torch.save(content, folder / "stripes.pt")
    return Clinic(folder / "stripes.pt", folder / "images", folder / "masks")


NAN = float("nan")


def _layer(name: str, correlation: list[list[float]], count: list[int], **changes: Any) -> LayerDiagnosis:
    values = np.array(correlation, dtype=np.float32)
    offsets = {"variance": 0.5, "signed": -1.0, "activation": 2.0, "contribution": 3.0}
    return LayerDiagnosis(
        name=name,
        **{
            "kind": "conv", "channels": values.shape[1], "height": 4, "width": 2, "depth": 0.5, "macs_after": 1200,
            "delta": 0.25, "activation_std": 2.5, **changes,
        },
        correlation=values,
        count=np.array(count, dtype=np.int32),
        **{key: values + np.float32(offset) for key, offset in offsets.items()},
    )  # fmt: skip


def _kernel(channel: int, size: float) -> Kernel:
    return Kernel(
        channel=channel, size=size, normalised=1.0, own_class=0.25, own_class_normalised=0.125, predicted_class=4.0
    )


def _image(sample: int, label: int, predicted: int, **changes: Any) -> Misdiagnosis:
    figures: dict[str, Any] = {
        "confidence": 0.75, "verdict": Verdict.UNCLEAR, "strength": 0.0, "stability": 0.5, "fallback": 0.25,
        "background_share": NAN, "foreign_share": 0.5, "resembles": -1, "resemblance": NAN, "kernels": (),
    }  # fmt: skip
    return Misdiagnosis(sample=sample, label=label, predicted=predicted, **(figures | changes))


def make_diagnosis(**changes: Any) -> Diagnosis:
    """A diagnosis by hand: 3 classes with awkward names, 2 layers, 4 training and 6 validation images; every number
    is exact in float32. The validation images are right for 1 of 3, 1 of 2 and 0 of 1 images of the classes."""
    samples = Samples(
        split=np.array([0] * 4 + [1] * 6),
        splits=("train", "val"),
        path=np.array([b"train/\xff%d.png" % i for i in range(4)] + [b"val/%d.png" % i for i in range(6)]),
        label=np.array([0, 0, 1, 1, 0, 0, 0, 1, 1, 2]),
        predicted=np.array([0, 0, 1, 0, 0, 1, 2, 1, 0, 1]),
        confidence=np.array([1.0, 0.9375, 1.0, 0.5, 1.0, 0.75, 0.5, 1.0, 0.5, 0.25]),
        used_in_diagnosis=np.array([True, True, True] + [False] * 7),
        stability=np.array([[NAN, NAN]] * 5 + [[1.0, 0.5]] * 5),
        noise_ranges=np.array([0.5, 1.0]),
    )
    fields: dict[str, Any] = {
        "arch": "timm/test_resnet",
        "checkpoint_sha256": "ab" * 32,
        "classes": ("cat 🐈", "a \"b\" 'c'", "<i>naïve</i>"),
        "layers": {
            # Â = [0,.5,1,.1], [0,.25,1,1]: kernels {1,2} and {1,2,3} of class 0 and 1; class 2 has no samples.
            "stem.conv": _layer("stem.conv", [[1, 6, 11, 2], [0, 1, 4, 4], [NAN] * 4], [2, 1, 0]),
            "body.1#2": _layer("body.1#2", [[0, 8], [8, 0], [NAN] * 2], [2, 1, 0], depth=1.0, macs_after=0),
        },
        "samples": samples,
        "misdiagnosed": (
            _image(5, 0, 1, verdict=Verdict.ISOLATED, strength=0.5, resembles=1, resemblance=0.25),
            _image(
                6, 0, 2, confidence=0.5, verdict=Verdict.FOREIGN_KERNELS, strength=1.0, faulty_kernel=3,
                without_kernel=0.625,
                kernels=(_kernel(3, 8.0), _kernel(0, 2.0)),
            ),
            _image(8, 1, 0, confidence=0.5, verdict=Verdict.ISOLATED, strength=0.25, kernels=(_kernel(2, 1.0),)),
            _image(9, 2, 1, confidence=0.25),
        ),
        "limits": Limits(
            layer="body.1#2", noise_range=0.5, stability=0.75, background_share=NAN, foreign_share=0.25,
            resemblance=-0.5, references=2,
        ),
        "wrong_count": 4,
        "examined": "val",
        "masked": {"val": 5},
        "broken": (("val/caf\udce9.png", "the file is empty (0 bytes)"), ("val/x.png", "not a picture")),
        "warnings": ("1 of 3 classes has no images", "«val»: look out"),
        "seed": 7,
        "config": DiagnoseConfig(noise_ranges=(0.5, 1.0), noise_draws=10),
        "created": "2025-01-02T03:04:05+00:00",
        "device": "cpu",
        "preprocessing": {"input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "resize_mode": "squash"},
        "assumed": ("interpolation bilinear, by the library's defaults",),
        "versions": {"modeldoctor": "0.1.0", "torch": "2.9.0"},
    }  # fmt: skip
    return Diagnosis(**(fields | changes))


@pytest.fixture
def handmade() -> Callable[..., Diagnosis]:
    """Makes `make_diagnosis`, with some fields changed."""
    return make_diagnosis
