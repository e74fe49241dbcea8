"""What `import modeldoctor` gives, and the examples in docstrings."""

from __future__ import annotations

import doctest
import inspect
import shutil
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest
from conftest import Clinic

import modeldoctor
from modeldoctor.config.treat import TreatConfig
from modeldoctor.errors import ModelDoctorWarning
from modeldoctor.treatment.pipeline import load_and_treat

PACKAGE = Path(modeldoctor.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def workplace(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples find: ckpt.pt, photos/ without a test split, and a treatment/ with its diagnosis."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copy(clinic.checkpoint, folder / "ckpt.pt")
    for split in ("train", "val"):
        shutil.copytree(clinic.data / split, folder / "photos" / split)
    config = TreatConfig(
        checkpoint=folder / "ckpt.pt", data={"path": str(folder / "photos")}, output=folder / "treatment",
        arms=["continue", "last-layer"], training={"epochs": 1, "batch_size": 16}, seeds=(0,),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)
        load_and_treat(config)
    shutil.copy(folder / "treatment" / "diagnosis.h5", folder / "diagnosis.h5")
    return folder


def test_every_public_name_is_there() -> None:
    for name in modeldoctor.__all__:
        assert getattr(modeldoctor, name).__doc__, name
    assert modeldoctor.diagnose.__module__ == "modeldoctor.diagnosis"
    assert set(modeldoctor.__all__) <= set(dir(modeldoctor))


def test_an_unknown_name_is_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'cure'"):
        modeldoctor.cure  # noqa: B018


def test_importing_it_loads_no_torch() -> None:
    code = "import modeldoctor.results.hdf5, modeldoctor.results.summary, sys; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "False"


def test_every_public_function_has_an_example() -> None:
    functions = [name for name in modeldoctor.__all__ if inspect.isfunction(getattr(modeldoctor, name))]
    assert len(functions) == 9
    for name in functions:
        assert f"{name}(" in "".join(
            example.source for example in doctest.DocTestParser().get_examples(getattr(modeldoctor, name).__doc__)
        )


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_say_what_comes_out(
    name: str, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made in ("ckpt.pt", "photos", "diagnosis.h5", "treatment"):
        (tmp_path / made).symlink_to(workplace / made)
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(import_module(name), raise_on_error=False)
    assert found.attempted
    assert not found.failed
