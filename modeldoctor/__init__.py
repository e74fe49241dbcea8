"""modeldoctor: find out why a trained image classifier is wrong (*Model Doctor*, AAAI 2022).

>>> import modeldoctor
>>> network = modeldoctor.load_model("ckpt.pt")
>>> diagnosis = modeldoctor.diagnose(network, "photos/", output="out.h5")
>>> correlation = diagnosis["layer4.0.conv2"].correlation  # (N,K)
>>> made = modeldoctor.make_report("out.h5")

`help(modeldoctor.load_and_treat)` goes on with a treatment.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeldoctor.config.diagnose import DiagnoseConfig, Preprocessing
    from modeldoctor.config.treat import TreatConfig
    from modeldoctor.diagnosis import diagnose, list_layers
    from modeldoctor.report import make_report
    from modeldoctor.results.diagnosis import Diagnosis
    from modeldoctor.results.hdf5 import read_diagnosis, write_diagnosis
    from modeldoctor.results.trial import Trial, read_trial
    from modeldoctor.treatment.pipeline import load_and_treat
    from modeldoctor.zoo import Classifier, identify_file, load_model

__all__ = [
    "Classifier",
    "DiagnoseConfig",
    "Diagnosis",
    "Preprocessing",
    "TreatConfig",
    "Trial",
    "diagnose",
    "identify_file",
    "list_layers",
    "load_and_treat",
    "load_model",
    "make_report",
    "read_diagnosis",
    "read_trial",
    "write_diagnosis",
]

# Loaded on first use: torch takes seconds to import, and `modeldoctor --help` needs none of it.
_HOMES = {
    "DiagnoseConfig": "config.diagnose",
    "Diagnosis": "results.diagnosis",
    "Preprocessing": "config.diagnose",
    "Classifier": "zoo",
    "TreatConfig": "config.treat",
    "Trial": "results.trial",
    "diagnose": "diagnosis",
    "identify_file": "zoo",
    "list_layers": "diagnosis",
    "load_and_treat": "treatment.pipeline",
    "load_model": "zoo",
    "make_report": "report",
    "read_diagnosis": "results.hdf5",
    "read_trial": "results.trial",
    "write_diagnosis": "results.hdf5",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"modeldoctor.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The names that completion offers, also before they are loaded."""
    return sorted({*globals(), *__all__})
