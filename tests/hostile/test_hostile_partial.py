"""States of interrupted diagnoses (`.partial`) that are damaged or hostile: refused, and nothing is executed."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kept_states import EXECUTED, Hostile, changed

from modeldoctor.diagnosis.kept import Expected, load_state
from modeldoctor.diagnosis.state import Draws, KeptChunks, Looks, Predictions, RunState
from modeldoctor.errors import StoreError
from modeldoctor.method.correlation import empty_state
from modeldoctor.results.diagnosis import Kernel

EXPECTED = Expected(
    fingerprint="f", data={"names": "n"}, splits={"train": 5, "val": 4}, classes=2, channels={"layer": 3}, ranges=2
)


def state() -> RunState:
    """With something in every field."""
    rows = np.array([[3.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.5, math.nan]])  # a scan reads in an order of its own
    seen = Looks(*(np.zeros(2, np.int64) for _ in range(2)), *(np.zeros((2, 2), np.float32) for _ in range(5)))
    kernel = Kernel(channel=1, size=0.5, normalised=1.0, own_class=0.1, own_class_normalised=0.1, predicted_class=0.2)
    return RunState(
        fingerprint="f",
        data={"names": "n"},
        predictions={"train": Predictions(2, [rows], [("a.png", "empty")])},
        scanned={"train": 3},
        scales={"layer": 1.0},
        wanted=[1, 2],
        draws={"layer": Draws(2, math.nan, 0.5)},
        positions={"correlate": 1},
        correlations={"layer": empty_state(2, 3)},
        evidence=[
            {
                "sample": 1, "label": 0, "predicted": 1, "confidence": 0.5, "stability": [1.0, 0.5],
                "fallback": [0.0, 0.5], "background_share": math.nan, "foreign_share": 0.1, "resembles": -1,
                "resemblance": math.nan, "kernels": [asdict(kernel)], "without_object": 0.1,
                "stays_without_object": 0.2, "other_backgrounds": 0.3,
                "misleads_others": 0.4, "own_backgrounds": 0.5,
            }
        ],
        attacked=1,
        adversarial=[[1, 0, [0.5, 0.5], [0.1, 0.1]]],
        looks={"look at train": [seen._replace(altered=seen.altered[:, :0])], "compare val": [seen]},
        alternatives={"mean": (1, 0, 4)},
        chunks=KeptChunks(4, None, 2, {"layer": 8}),
    )  # fmt: skip


def flipped(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[whole.index(np.float64(0.5).tobytes()) + 3] ^= 0x10
    path.write_bytes(whole)


def itself(content: dict[str, Any]) -> None:
    content["evidence"] = [content]


FILES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("state"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a byte that flipped": flipped,
    "a plain pickle": lambda path: path.write_bytes(pickle.dumps(Hostile())),
    "code": changed(lambda content: content.update(attacked=Hostile())),
    "code in the old format": lambda path: torch.save([Hostile()], path, _use_new_zipfile_serialization=False),
    "the old format": lambda path: torch.save(
        torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False
    ),
    "a list": lambda path: torch.save([1, 2], path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "a checkpoint": lambda path: torch.save({"state_dict": {"weight": torch.zeros(3)}}, path),
    "itself within": changed(itself),
    "another format": changed(lambda content: content.update(format=3)),
    "without evidence": changed(lambda content: content.pop("evidence")),
    "with more": changed(lambda content: content.update(more=1)),
    "a fingerprint of numbers": changed(lambda content: content.update(fingerprint=3)),
    "data of another kind": changed(lambda content: content.update(data=[3])),
    "predictions of a list": changed(lambda content: content.update(predictions=[])),
    "another split": changed(lambda content: content["predictions"].update(new=content["predictions"]["train"])),
    "rows of another shape": changed(lambda content: content["predictions"]["train"].update(rows=torch.zeros(3, 2))),
    "rows on no device": changed(
        lambda content: content["predictions"]["train"].update(rows=torch.zeros(4, 2, device="meta"))
    ),
    "an image that is not there": changed(lambda content: content["predictions"]["train"]["rows"][0].fill_(7)),
    "an image twice": changed(lambda content: content["predictions"]["train"]["rows"][0].fill_(1)),
    "a class that is not there": changed(lambda content: content["predictions"]["train"]["rows"][2].fill_(2)),
    "a position that is negative": changed(lambda content: content["positions"].update(correlate=-1)),
    "a position of text": changed(lambda content: content["positions"].update(correlate="1")),
    "sums of other classes": changed(lambda content: content["correlations"].update(layer=list(empty_state(3, 3)))),
    "sums of another layer": changed(lambda content: content["correlations"].update(x=list(empty_state(2, 3)))),
    "fewer sums": changed(lambda content: content["correlations"]["layer"].pop()),
    "no sums": changed(lambda content: content["correlations"].update(layer=[])),
    "evidence of another kind": changed(lambda content: content["evidence"][0].pop("sample")),
    "evidence on another image": changed(lambda content: content["evidence"][0].update(sample=9)),
    "evidence of text": changed(lambda content: content["evidence"][0].update(confidence="high")),
    "kernels of numbers": changed(lambda content: content["evidence"][0].update(kernels=[{"index": "x"}])),
    "stability of other ranges": changed(lambda content: content["evidence"][0].update(stability=[0.5])),
    "an attack of another kind": changed(lambda content: content["adversarial"].append([1])),
    "fewer looks": changed(lambda content: content["looks"]["look at train"].pop()),
    "no looks at copies": changed(
        lambda content: content["looks"].update({"compare val": content["looks"]["look at train"]})
    ),
    "looks of numbers": changed(lambda content: content["looks"].update({"look at train": [torch.tensor(3)] * 7})),
    "chunks of nothing": changed(lambda content: content.update(chunks=(4, None, 0, {"layer": 8}))),
    "chunks of other layers": changed(lambda content: content.update(chunks=(4, None, 2, {"x": 8}))),
    "samples of other classes": changed(lambda content: content.update(wanted=[1])),
}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "d.h5.partial"
    state().save(path)
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_no_such_run_wrote_is_refused(name: str, kept: Path) -> None:
    FILES[name](kept)
    with pytest.raises(StoreError, match=r"the interrupted run cannot be read|the data has changed") as caught:
        load_state(kept, EXPECTED)
    assert (caught.value.exit_code, caught.value.where) == (3, str(kept))
    assert caught.value.hint == "run without --resume to start anew"
    assert not EXECUTED


def test_what_is_read_is_what_was_written(kept: Path) -> None:
    assert repr(load_state(kept, EXPECTED)) == repr(state())  # NaN prints the same


@pytest.mark.parametrize("field", ["fingerprint", "data"])
def test_the_state_of_another_run_is_refused(kept: Path, field: str) -> None:
    other = {"fingerprint": "g", "data": {"names": "m"}}[field]
    with pytest.raises(StoreError, match=r"another checkpoint or other settings|the data has changed"):
        load_state(kept, replace(EXPECTED, **{field: other}))
