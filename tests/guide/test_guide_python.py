"""The guide's page on Python, line by line as it stands, on a small checkpoint and its images."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import pytest
from conftest import Clinic

from modeldoctor.guide import read_page
from modeldoctor.results.diagnosis import Diagnosis

mpl.use("Agg")
BLOCKS = re.findall(r"```python\n(.*?)```", read_page("python"), flags=re.S)


@pytest.mark.filterwarnings("ignore:.*images predicted right with confidence")
def test_the_lines_of_the_page_run(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt.pt").symlink_to(clinic.checkpoint)
    (tmp_path / "photos").symlink_to(clinic.data)
    names: dict[str, object] = {"module": clinic.network()}
    assert len(BLOCKS) == 2
    exec(BLOCKS[0], names)
    assert {path.name for path in tmp_path.iterdir()} >= {"out.h5", "kernels.png", "wrong.png"}
    exec(BLOCKS[1].replace('("cat", "dog")', repr(("amber", "birch", "coral", "denim"))), names)
    assert isinstance(names["diagnosis"], Diagnosis)
