"""Gates on plain values that were written down by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from modeldoctor.errors import ExitCode, GateError, UsageError
from modeldoctor.report.gates import check_gates, numbers, parse_gates, require

CONTENT: dict[str, Any] = {
    "figures": {"accuracy": 0.9, "worst_class": 0.5, "isolated": None, "foreign_kernels": 0.25},
    "diagnosis": {
        "images": 10,
        "classes": [{"name": "a>b=c", "accuracy": 0.5}, {"name": "dog.x", "accuracy": 1.0}],
        "pairs": [{"one": "a", "sharing": 0.1}, {"one": "a", "sharing": 0.2}],
        "noise": [0.5, None],
        "ok": True,
    },
    "arms": [{"arm": "treat", "seed": 0, "n": 1}, {"arm": "treat", "seed": 1, "n": 2}],
}


def test_every_number_has_a_path_by_names_or_places() -> None:
    found = dict(numbers(CONTENT))
    assert found["diagnosis.classes.a>b=c.accuracy"] == 0.5
    assert found["diagnosis.pairs.1.sharing"] == 0.2
    assert found["arms.treat, 1.n"] == 2
    assert found["diagnosis.noise.0"] == 0.5
    assert math.isnan(found["diagnosis.noise.1"])
    assert not [path for path in found if "ok" in path or path.endswith("name")]


@pytest.mark.parametrize(
    ("under", "on", "met"),
    [
        (["accuracy=0.9"], [], True),
        (["accuracy=0.901"], [], False),
        (["worst-class=.5"], [], True),
        (["isolated=0"], [], False),  # not measured is not met
        ([], ["isolated>0.05"], False),
        ([], ["foreign-kernels>0.25"], True),
        ([], ["foreign_kernels >= 0.25"], False),
        ([], ["diagnosis.images<11"], False),
        ([], ["diagnosis.images==11"], True),
        ([], ["diagnosis.images!=10"], True),
        ([], ["diagnosis.classes.a>b=c.accuracy<=0.4"], True),
        (["diagnosis.classes.a>b=c.accuracy=0.6"], [], False),
        (["diagnosis.classes.dog.x.accuracy=1"], [], True),
    ],
)
def test_a_gate_holds_or_not(under: list[str], on: list[str], met: bool) -> None:
    (result,) = check_gates(parse_gates(under, on), CONTENT)
    assert result.met is met


@pytest.mark.parametrize(
    ("under", "on"),
    [(["accuracy"], []), (["accuracy=high"], []), (["=0.5"], []), (["accuracy=nan"], []), (["accuracy=inf"], []),
     ([], ["accuracy"]), ([], ["accuracy>"]), ([], [">0.5"]), ([], ["accuracy=0.5"]), ([], ["accuracy>x"])],
)  # fmt: skip
def test_what_is_no_gate_is_refused(under: list[str], on: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_gates(under, on)
    assert caught.value.where
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("acuracy", "accuracy"), ("worst_clas", "worst_class"), ("diagnosis.image", "diagnosis.images")],
)
def test_an_unknown_figure_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=rf"nearest is {nearest}$"):
        check_gates(parse_gates([f"{name}=1"], []), CONTENT)


def test_every_gate_that_is_not_met_is_listed_with_what_was_found_and_wanted() -> None:
    gates = parse_gates(["accuracy=0.95", "worst_class=0.4"], ["isolated>0.05"])
    with pytest.raises(GateError) as caught:
        require(check_gates(gates, CONTENT))
    assert caught.value.exit_code == ExitCode.GATE
    assert "figures.accuracy is 0.9, wanted >= 0.95" in caught.value.found
    assert "figures.isolated is not measured, wanted <= 0.05" in caught.value.found
    assert "worst_class" not in caught.value.found
    require(check_gates(parse_gates(["worst_class=0.4"], []), CONTENT))
    require(())
