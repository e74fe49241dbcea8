"""Run directories written by hand, for the tests of the report: no network, no images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from conftest import make_diagnosis

from modeldoctor.evaluate import HeldOut, Predictions, build_trial
from modeldoctor.results.altered import Altered
from modeldoctor.results.diagnosis import Adversarial, Diagnosis, LayerDiagnosis, Misdiagnosis, Samples, Verdict
from modeldoctor.results.hdf5 import write_diagnosis
from modeldoctor.results.maps import TrialMaps, write_maps
from modeldoctor.results.pictures import Pictures, Shown
from modeldoctor.results.trial import Trial, write_trial

HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)> 'q' & |pipe| `tick` [a](b) *b* _u_",
    "🐈‍⬛ naïve \x1b[31m\u202eright-to-left " + "very long " * 60,
)


def with_pictures(diagnosis: Diagnosis) -> Diagnosis:
    """The hand-made diagnosis with pictures of its wrong images, maps of two, and three adversarial images."""
    rng = np.random.default_rng(0)
    maps = rng.random((3, 2, 3, 3)).astype(np.float32)
    maps[2, 0] = 0  # a Grad-CAM that says nothing
    shown = Shown(
        layer="body.1#2", sample=np.array([5, 6]), thumbnail=rng.integers(0, 256, (2, 20, 16, 3)).astype(np.uint8),
        derivative=maps[0], contribution=maps[1], grad_cam=maps[2],
    )  # fmt: skip
    altered = Altered(
        sample=np.array([5, 5]), change=np.array([0, 1]), predicted=np.array([1, 0]),
        confidence=np.array([0.875, 0.625]), picture=rng.integers(0, 256, (2, 20, 16, 3)).astype(np.uint8),
    )  # fmt: skip
    pictures = Pictures(sample=np.array([5, 6, 8, 9]), thumbnail=rng.integers(0, 256, (4, 10, 8, 3)).astype(np.uint8))
    adversarial = Adversarial(
        epsilon=2 / 255, attacked=4, sample=np.array([4, 7, 4]), predicted=np.array([1, 0, 2]),
        stability=np.array([[0.5, 0.25], [1.0, 0.5], [0.0, 0.0]]), fallback=np.array([[0.5, 0.75], [0, 0.5], [1, 1]]),
    )  # fmt: skip
    return replace(
        diagnosis, shown=shown, pictures=pictures, altered=altered, adversarial=adversarial,
        command="modeldoctor diagnose 'a b.pt'", explaining_s=41.5,
    )  # fmt: skip


def hostile_diagnosis() -> Diagnosis:
    """With names that would break a careless page; the images' paths and the settings bear them too."""
    found = with_pictures(make_diagnosis(classes=HOSTILE))
    paths = np.array([f"val/{HOSTILE[i % 3]}/{i}.png".encode() for i in range(10)], dtype=object)
    config = found.config.model_copy(update={"layers": HOSTILE[0]})
    return replace(
        found, samples=replace(found.samples, path=paths), arch=HOSTILE[0], warnings=HOSTILE, config=config,
        broken=((HOSTILE[1], HOSTILE[0]),), command=HOSTILE[0],
    )  # fmt: skip


def make_trial(classes: tuple[str, ...], gain: float, images: int = 120, groups: bool = False) -> Trial:
    """The original is right on 60%; `treat` by `gain` more (or less); `continue` like the original."""
    labels = np.arange(images) % len(classes)
    shares = np.linspace(0, 1, images, endpoint=False)
    rng = np.random.default_rng(0)

    def answers(right: float, seeds: int) -> Any:
        order = [rng.permutation(images) if seed else np.arange(images) for seed in range(seeds)]
        return np.stack([np.where(shares[one] < right, labels, (labels + 1) % len(classes)) for one in order])

    arms = [
        Predictions(arm="original", seeds=(0,), predicted=answers(0.6, 1)),
        Predictions(arm="treat", seeds=(0, 1), predicted=answers(0.6 + gain, 2)),
        Predictions(arm="continue", seeds=(0, 1), predicted=answers(0.6, 2)),
    ]
    held_out = HeldOut(
        labels=labels, classes=classes, groups=np.where(labels == 0, "on <b>water</b>", "on land") if groups else None
    )
    provenance = {"arch": "timm/test_resnet", "checkpoint_sha256": "ab" * 32, "config": {}, "versions": {"torch": "2"}}
    return build_trial(arms, held_out, resamples=200, provenance=provenance)


def write_run(
    folder: Path, *, gain: float | None, diagnosis: Diagnosis | None = None, epochs: int = 2, groups: bool = False
) -> Path:
    """A run directory; without a gain one whose trial was interrupted in the control's first run."""
    diagnosis = diagnosis or with_pictures(make_diagnosis())
    folder.mkdir(parents=True)
    write_diagnosis(diagnosis, folder / "diagnosis.h5")
    (folder / "config.yaml").write_text(
        f"checkpoint_sha256: {'ab' * 32}\ncheckpoint: model.pt\ndiagnosis: null\narms: [treat, continue]\n"
        f"seeds: [0, 1]\ntraining: {{epochs: {epochs}}}\n"
    )
    runs = [("treat", 0, epochs), ("treat", 1, epochs), ("continue", 0, epochs), ("continue", 1, epochs)]
    runs = runs if gain is not None else [("treat", 0, epochs), ("continue", 0, 1)]
    lines = ["arm,seed,epoch,loss,channel,space,val_accuracy,val_score,best_so_far", "pilot 0.3,0,1,1,1,1,0.5,0.5,no"]
    for arm, seed, done in runs:
        space = "0.5" if arm == "treat" else "nan"
        lines += [
            f"{arm},{seed},{e + 1},{1 / (e + 1)},nan,{space},{0.5 + e / 100},{0.5 + e / 100},yes" for e in range(done)
        ]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    if gain is not None:
        write_trial(make_trial(diagnosis.classes, gain, groups=groups), folder / "trial.json")
        write_maps(make_maps(), folder / "maps.h5")
    return folder


def make_maps() -> TrialMaps:
    """Two images under three arms."""
    rng = np.random.default_rng(1)
    a, p = 3, 2
    maps = rng.random((3, a, p, 2, 2)).astype(np.float32)
    outline = np.zeros((p, 20, 16), dtype=np.bool_)
    outline[0, 5:12, 4:10] = True
    return TrialMaps(
        layer="body.1#2", split="val", seed=0, arms=("original", "treat", "continue"),
        path=np.array([b"val/\xff.png", b"val/1.png"], dtype=object), label=np.array([0, 1]),
        thumbnail=rng.integers(0, 256, (p, 20, 16, 3)).astype(np.uint8), outline=outline,
        predicted=np.array([[1, 2], [0, 1], [1, 2]]), confidence=np.full((a, p), 0.75),
        contribution=maps[0], derivative=maps[1], grad_cam=maps[2],
        background_share=np.array([[0.5, np.nan], [0.25, np.nan], [0.75, np.nan]]),
    )  # fmt: skip


def large_diagnosis(classes: int, layers: int, channels: int, seed: int = 0) -> Diagnosis:
    """Random figures of any size; layers are made when they are asked for."""
    rng = np.random.default_rng(seed)
    images = 4 * classes
    label = np.arange(images) % classes
    wrong = rng.random(images) < 0.2
    predicted = np.where(wrong, (label + rng.integers(1, 5, images)) % classes, label)
    stability = np.full((images, 3), np.nan)
    stability[:500] = rng.random((images, 3))[:500]
    samples = Samples(
        split=np.zeros(images, dtype=np.int32), splits=("val",),
        path=np.array([f"val/class {n}/{i}.jpg".encode() for i, n in enumerate(label)]), label=label,
        predicted=predicted, confidence=rng.random(images), used_in_diagnosis=~wrong, stability=stability,
        noise_ranges=np.array([0.1, 0.5, 1.0]),
    )  # fmt: skip
    names = tuple(f"class {n}" for n in range(classes))
    first = make_diagnosis().misdiagnosed[0]
    verdicts = list(Verdict)
    explained = tuple(
        Misdiagnosis(**{
            **vars(first), "sample": int(row), "label": int(label[row]), "predicted": int(predicted[row]),
            "verdict": verdicts[int(row) % 5], "strength": float(rng.random()),
        })
        for row in np.flatnonzero(wrong)[:1000]
    )  # fmt: skip
    made = {
        f"stage{i}.conv": LayerDiagnosis(
            name=f"stage{i}.conv", kind="conv", channels=channels, height=7, width=7, depth=(i + 1) / layers,
            macs_after=1, delta=0.1, activation_std=1.0, count=np.full(classes, 10, dtype=np.int32),
            **dict.fromkeys(("variance", "signed", "activation", "contribution", "correlation"), one),
        )
        for i in range(layers)
        for one in [rng.gamma(0.5, size=(classes, channels)).astype(np.float32)]
    }  # fmt: skip
    return make_diagnosis(
        classes=names, layers=made, samples=samples, misdiagnosed=explained, limits=None, wrong_count=int(wrong.sum()),
        examined="val",
    )  # fmt: skip
