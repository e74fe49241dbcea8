"""An interrupted diagnosis goes on to the same bits; the network is left as it was; what is refused at once."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Clinic
from diagnosed import LAYERS, NOISY, PLAIN, QUICK, assert_close, assert_equal_bits
from torch import nn

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.diagnosis import diagnose, list_layers
from modeldoctor.errors import (
    InterruptedRunError,
    ModelDoctorWarning,
    StoreError,
    UsageError,
)
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.runtime.session import resolve_device
from modeldoctor.zoo import Classifier, load_model


def stop_at(stage: str, batch: int) -> Callable[[str, int, int | None], None]:
    """Ctrl-C while the k-th batch of a stage is told."""
    told = 0

    def progress(name: str, done: int, total: int | None) -> None:
        nonlocal told
        here = name.partition(" · ")[0] == stage
        told += here
        if here and told == batch:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.mark.parametrize(
    ("stage", "batch"),
    [
        ("predict train", 1),
        ("predict val", 2),
        ("scale", 2),
        ("correlate", 1),
        ("correlate", 6),
        ("explain", 2),
        ("attack", 1),
        ("attack", 2),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    clinic: Clinic, network: Classifier, noisy: Diagnosis, tmp_path: Path, stage: str, batch: int
) -> None:
    output = tmp_path / "d.h5"
    run: dict[str, Any] = {"config": DiagnoseConfig(**NOISY), "masks": clinic.masks, "output": output}
    with pytest.raises(InterruptedRunError, match=stage) as caught:
        diagnose(network, clinic.data, **run, progress=stop_at(stage, batch))
    assert caught.value.exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["d.h5.partial"]
    stages: list[str] = []
    resumed = diagnose(
        network, clinic.data, **run, resume=True, progress=lambda name, *_: stages.append(name.partition(" · ")[0])
    )
    assert [path.name for path in tmp_path.iterdir()] == ["d.h5"]
    assert_equal_bits(resumed, noisy)
    assert_equal_bits(read_diagnosis(output), read_written(noisy, tmp_path))
    order = [
        "predict val",
        "predict train",
        "scale",
        "correlate",
        "explain",
        "look at train",
        "compare val",
        "preprocessing",
        "attack",
        "show",
    ]
    assert set(stages) <= set(order[order.index(stage) :]), "a finished stage was done again"


def test_a_resumed_run_counts_broken_images_as_read(clinic: Clinic, network: Classifier, tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out" / "d.h5"
    shutil.copytree(clinic.data, data)
    (data / "train" / "amber" / "00-broken.png").touch()
    run: dict[str, Any] = {"config": DiagnoseConfig(**(QUICK | {"batch_size": 7})), "output": output}
    with pytest.warns(ModelDoctorWarning, match="train: 1 image cannot be read"):
        whole = diagnose(network, data, **run)
    with pytest.raises(InterruptedRunError):
        diagnose(network, data, **run, progress=stop_at("predict train", 2))
    with pytest.warns(ModelDoctorWarning, match="train: 1 image cannot be read"):
        resumed = diagnose(network, data, **run, resume=True)
    assert_equal_bits(resumed, whole)


def read_written(diagnosis: Diagnosis, folder: Path) -> Diagnosis:
    """As the file holds it: float32."""
    from modeldoctor.results.hdf5 import write_diagnosis

    write_diagnosis(diagnosis, folder / "expected.h5")
    return read_diagnosis(folder / "expected.h5")


@pytest.fixture
def interrupted(clinic: Clinic, network: Classifier, tmp_path: Path) -> Path:
    """The output of a run that was interrupted while it correlated."""
    output = tmp_path / "d.h5"
    with pytest.raises(InterruptedRunError):
        diagnose(
            network, clinic.data, config=DiagnoseConfig(**NOISY, hooks=True), masks=clinic.masks, output=output,
            progress=stop_at("correlate", 2),
        )  # fmt: skip
    return output


def test_a_run_with_other_settings_is_not_continued(clinic: Clinic, network: Classifier, interrupted: Path) -> None:
    partial = interrupted.with_name("d.h5.partial")
    before = partial.read_bytes()
    others: list[tuple[Classifier, dict[str, Any], Path | None]] = [
        (network, {"seed": 1}, clinic.masks),
        (network, {"noise_draws": 3}, clinic.masks),
        (network, {"layers": LAYERS[0]}, clinic.masks),
        (network, {"examine": "train"}, clinic.masks),
        (network, {}, None),
        (dataclasses.replace(network, checkpoint_sha256="0" * 64), {}, clinic.masks),
    ]
    for other, options, masks in others:
        with pytest.raises(StoreError, match=r"another checkpoint or other settings|the data has changed") as caught:
            diagnose(
                other, clinic.data, config=DiagnoseConfig(**(NOISY | {"hooks": True} | options)), masks=masks,
                output=interrupted, resume=True,
            )  # fmt: skip
        assert caught.value.exit_code == 3
    assert partial.read_bytes() == before
    assert not interrupted.exists()


def test_a_damaged_state_is_said_and_a_fresh_run_removes_it(
    clinic: Clinic, network: Classifier, noisy: Diagnosis, interrupted: Path
) -> None:
    partial = interrupted.with_name("d.h5.partial")
    whole = partial.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        partial.write_bytes(content)
        with pytest.raises(StoreError, match="cannot be read"):
            diagnose(network, clinic.data, config=DiagnoseConfig(**NOISY, hooks=True), output=interrupted, resume=True)
    again = diagnose(
        network, clinic.data, config=DiagnoseConfig(**NOISY, hooks=True), masks=clinic.masks, output=interrupted
    )
    assert_close(again, noisy)
    assert not partial.exists()


def test_resuming_with_nothing_to_resume_is_a_run(clinic: Clinic, network: Classifier, tmp_path: Path) -> None:
    config = DiagnoseConfig(**(QUICK | {"layers": LAYERS[0]}))
    diagnose(network, clinic.data, config=config, output=tmp_path / "d.h5", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["d.h5"]


def test_an_interrupt_without_an_output_says_that_nothing_is_kept(clinic: Clinic, network: Classifier) -> None:
    with pytest.raises(InterruptedRunError, match="nothing was kept"):
        diagnose(network, clinic.data, config=DiagnoseConfig(**QUICK), progress=stop_at("predict train", 1))


def hooks_of(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(one, kind)) for one in module.modules() for kind in kinds)


@pytest.fixture
def untouched(clinic: Clinic) -> Iterator[Classifier]:
    """A network with mixed modes, flags and gradients that must be the same afterwards."""
    network = load_model(clinic.checkpoint)
    module = network.module.train()
    module.get_submodule("layer1").eval()
    for parameter in list(module.parameters())[::2]:
        parameter.requires_grad_(False)
    handle = module.register_forward_hook(lambda *_: None)
    torch.manual_seed(5)
    before = state_of(module)
    yield network
    after = state_of(module)
    for key in before:
        assert after[key] == before[key], key
    handle.remove()


def state_of(module: nn.Module) -> dict[str, Any]:
    return {
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()},
        "requires_grad": [parameter.requires_grad for parameter in module.parameters()],
        "gradients": [parameter.grad is None for parameter in module.parameters()],
        "modes": {name: one.training for name, one in module.named_modules()},
        "hooks": hooks_of(module),
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "warnings": (list(warnings.filters), warnings.showwarning),
        "grad": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("hooks", [False, True], ids=["cut", "hooks"])
def test_a_diagnosis_leaves_the_network_as_it_was(clinic: Clinic, untouched: Classifier, hooks: bool) -> None:
    diagnose(untouched, clinic.data, config=DiagnoseConfig(**NOISY, hooks=hooks))


def test_a_network_in_training_mode_is_diagnosed_in_eval_mode(
    clinic: Clinic, untouched: Classifier, plain: Diagnosis
) -> None:
    found = diagnose(untouched, clinic.data, config=DiagnoseConfig(**PLAIN), masks=clinic.masks)
    assert_equal_bits(found, plain)


@pytest.mark.parametrize("stage", ["predict train", "correlate", "explain"])
def test_an_exception_leaves_the_network_as_it_was(clinic: Clinic, untouched: Classifier, stage: str) -> None:
    def fail(name: str, done: int, total: int | None) -> None:
        if name.startswith(stage):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        diagnose(untouched, clinic.data, config=DiagnoseConfig(**NOISY, hooks=True), progress=fail)


def test_listing_layers_leaves_the_network_as_it_was(untouched: Classifier) -> None:
    found = list_layers(untouched, DiagnoseConfig(**PLAIN))
    assert [(layer.name, layer.channels, layer.height) for layer in found] == [(LAYERS[0], 48, 4), (LAYERS[1], 192, 2)]


def test_an_output_that_cannot_be_written_is_said_first(clinic: Clinic, network: Classifier, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def fail(*_: object) -> None:
        raise AssertionError("images were read")

    for output in (tmp_path, tmp_path / "file" / "d.h5"):
        with pytest.raises(UsageError, match="cannot write"):
            diagnose(network, clinic.data, config=DiagnoseConfig(**PLAIN), output=output, progress=fail)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "quantum"])
def test_a_device_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be used") as caught:
        resolve_device(name)
    assert caught.value.where == "--device"


def test_a_layer_that_is_not_there_is_said(clinic: Clinic, network: Classifier) -> None:
    with pytest.raises(UsageError, match="no layer is called 'layer9'"):
        diagnose(network, clinic.data, config=DiagnoseConfig(**(PLAIN | {"layers": "layer9"})))


def test_a_network_that_was_built_otherwise_is_not_continued(clinic: Clinic, tmp_path: Path) -> None:
    """The weights are the same, what is computed with them is not."""
    code = tmp_path / "own.py"
    source = (
        "import timm\n\n\ndef own(slope=0.0):\n    network = timm.create_model('test_resnet', num_classes=4)\n"
        "    network.slope = slope\n    return network\n"
    )
    run: dict[str, Any] = {"config": DiagnoseConfig(**(QUICK | {"layers": "last"})), "output": tmp_path / "d.h5"}

    def load(slope: float) -> Classifier:
        preprocessing = load_model(clinic.checkpoint).preprocessing
        return load_model(
            clinic.checkpoint, arch=f"{code}:own", model_options={"slope": slope}, preprocessing=preprocessing
        )

    code.write_text(source)
    with pytest.raises(InterruptedRunError):
        diagnose(load(0.0), clinic.data, **run, progress=stop_at("correlate", 1))
    with pytest.raises(StoreError, match="another checkpoint or other settings"):
        diagnose(load(0.5), clinic.data, **run, resume=True)
    diagnose(load(0.0), clinic.data, **run, resume=True)
