"""The versions that results name."""

from __future__ import annotations

import tomllib
from pathlib import Path

import torch

from modeldoctor.runtime.versions import DISTRIBUTION, own_version, used_versions


def test_versions_are_those_installed_and_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    assert own_version() == project["version"]
    assert used_versions()["torch"] == str(torch.__version__).partition("+")[0] or torch.__version__
