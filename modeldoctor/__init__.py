"""modeldoctor: find out why a trained image classifier is wrong (*Model Doctor*, AAAI 2022).

>>> import modeldoctor
>>> network = modeldoctor.load_model("ckpt.pt")
>>> diagnosis = modeldoctor.diagnose(network, "photos/")
>>> diagnosis["layer4.1.conv2"].correlation  # (N,K)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeldoctor.config import DiagnoseConfig
    from modeldoctor.diagnosis import diagnose, list_layers
    from modeldoctor.records import Diagnosis
    from modeldoctor.report import make_report
    from modeldoctor.store import read_diagnosis, write_diagnosis
    from modeldoctor.zoo import Network, identify_file, load_model

__all__ = [
    "DiagnoseConfig",
    "Diagnosis",
    "Network",
    "diagnose",
    "identify_file",
    "list_layers",
    "load_model",
    "make_report",
    "read_diagnosis",
    "write_diagnosis",
]

# Loaded on first use: torch takes seconds to import, and `modeldoctor --help` needs none of it.
_HOMES = {
    "DiagnoseConfig": "config",
    "Diagnosis": "records",
    "Network": "zoo",
    "diagnose": "diagnosis",
    "identify_file": "zoo",
    "list_layers": "diagnosis",
    "load_model": "zoo",
    "make_report": "report",
    "read_diagnosis": "store",
    "write_diagnosis": "store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"modeldoctor.{_HOMES[name]}"), name)
