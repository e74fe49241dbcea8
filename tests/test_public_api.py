"""What `import modeldoctor` gives, and the lines that its docstring shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Clinic

import modeldoctor


def test_every_public_name_is_there() -> None:
    for name in modeldoctor.__all__:
        assert getattr(modeldoctor, name).__doc__, name
    assert modeldoctor.diagnose.__module__ == "modeldoctor.diagnosis"


def test_an_unknown_name_is_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'cure'"):
        modeldoctor.cure  # noqa: B018


def test_importing_it_loads_no_torch() -> None:
    code = "import modeldoctor.results.hdf5, modeldoctor.results.summary, sys; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "False"


def test_the_lines_of_the_docstring_work(clinic: Clinic, tmp_path: Path) -> None:
    network = modeldoctor.load_model(clinic.checkpoint)
    config = modeldoctor.DiagnoseConfig(noise_draws=1, layers="layer3.0.conv3", samples_per_class=4)
    diagnosis = modeldoctor.diagnose(network, clinic.data, config=config)
    assert diagnosis["layer3.0.conv3"].correlation.shape == (4, 192)
    modeldoctor.write_diagnosis(diagnosis, tmp_path / "d.h5")
    again = modeldoctor.read_diagnosis(tmp_path / "d.h5")
    np.testing.assert_array_equal(again["layer3.0.conv3"].correlation, diagnosis["layer3.0.conv3"].correlation)
    assert "layer3.0.conv3" in diagnosis._repr_html_()
    assert [layer.name for layer in modeldoctor.list_layers(network, config)] == ["layer3.0.conv3"]
