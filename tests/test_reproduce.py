"""The evidence's page holds what its JSON holds, and its figures are those of formulas by hand."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

REPRODUCE = Path(__file__).parent.parent / "scripts" / "reproduce"
sys.path.insert(0, str(REPRODUCE))

import pieces  # noqa: E402
import run  # noqa: E402
import store  # noqa: E402
import write  # noqa: E402


def numbers(content: Any) -> list[float]:
    """Every number of a JSON value."""
    if isinstance(content, dict | list):
        return [
            number
            for entry in (content.values() if isinstance(content, dict) else content)
            for number in numbers(entry)
        ]
    return [float(content)] if isinstance(content, int | float) else []


def test_the_page_is_the_one_that_its_json_gives() -> None:
    assert (REPRODUCE / "RESULTS.md").read_text(encoding="utf-8") == write.results(store.kept())


def test_every_figure_of_the_tables_is_in_the_json() -> None:
    known = np.array(numbers([content["figures"] for content in store.kept().values()]))
    text = (REPRODUCE / "RESULTS.md").read_text(encoding="utf-8")
    cells = [cell for line in text.splitlines() if line.startswith("|") for cell in line.split("|")[2:]]
    for cell in cells:
        for number in re.findall(r"(?<![\w±-] )(?<![\w.])-?\d+\.?\d*", cell):
            value, digits = float(number), len(number.partition(".")[2])
            near = 0.51 * 10**-digits
            assert any((abs(scale * known - value) <= near).any() for scale in (1, 100)), cell


def test_what_is_kept_can_be_read_and_says_how_it_was_made(tmp_path: Path) -> None:
    store.keep("a-piece", {"value": 1 / 3, "none": float("nan"), "rows": [(1, "x")]}, seconds=90, folder=tmp_path)
    content = store.kept(tmp_path)["a-piece"]
    assert content["figures"] == {"value": 0.333333, "none": None, "rows": [[1, "x"]]}
    assert content["command"] == "scripts/reproduce/run.py a-piece --data DATA"
    assert content["minutes"] == 1.5
    assert {"torch", "modeldoctor"} <= content["versions"].keys()


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 5, 20).astype(float), rng.integers(0, 4, 30).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(positive, negative)]
    assert pieces.roc_area(positive, negative) == pytest.approx(np.mean(pairs))
    assert np.isnan(pieces.roc_area(positive, negative[:0]))


def test_without_a_piece_the_list_is_printed(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(run.main)
    answer = CliRunner().invoke(app, ["--results", str(tmp_path)])
    assert answer.exit_code == 0
    assert [line.split()[0] for line in answer.stdout.splitlines()] == list(pieces.PIECES)
    assert CliRunner().invoke(app, ["--results", str(tmp_path), "nothing"]).exit_code == 2


def test_a_page_without_results_says_what_is_to_do(tmp_path: Path) -> None:
    page = write.results({})
    assert page.count("To do.") == len(pieces.PIECES)
    assert json.loads("{}") == store.kept(tmp_path)
