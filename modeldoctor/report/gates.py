"""Gates: bounds that a CI job puts on any number of a report, by its path in the JSON or its short name."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from modeldoctor.errors import GateError, UsageError
from modeldoctor.report.model import GateResult, KeyFigures

_SIGNS = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt
}  # fmt: skip
_OPPOSITE = {">=": "<", "<=": ">", "==": "!=", "!=": "==", ">": "<=", "<": ">="}
_SHARES = {f"figures.{name}" for name in KeyFigures.model_fields} - {
    "figures.broken", "figures.classes_without_samples"
}  # fmt: skip
# What may name an item of a list: a class, a layer, a run, a cell, an image.
_NAMES = (("name",), ("arm",), ("arm", "seed"), ("label",), ("group",), ("label", "group"), ("path",))


@dataclass(frozen=True)
class Gate:
    """A bound that a figure has to keep.

    Attributes:
        text: as it was given.
        figure: path or short name.
        sign: what must hold between figure and bound.
        bound: the other side.
    """

    text: str
    figure: str
    sign: str
    bound: float


def parse_gates(fail_under: Sequence[str], fail_on: Sequence[str]) -> list[Gate]:
    """Gates from the texts `accuracy=0.9` (fails below) and `isolated>0.05` (fails where it holds).

    Raises:
        UsageError: a text is neither.
    """
    return [_under(text) for text in fail_under] + [_on(text) for text in fail_on]


def _under(text: str) -> Gate:
    name, sign, bound = text.rpartition("=")
    if not (sign and name.strip()):
        raise UsageError(f"{text!r} is no gate", where="--fail-under", expected="FIGURE=NUMBER, such as accuracy=0.9")
    return Gate(text, name.strip(), ">=", _number(bound, text, "--fail-under"))


def _on(text: str) -> Gate:
    # A class may be called "a>b": the sign is the one that a number follows.
    found = re.fullmatch(r"(.+?)\s*(>=|<=|==|!=|>|<)\s*([^<>=!]+)", text.strip())
    if not found:
        raise UsageError(
            f"{text!r} is no gate",
            where="--fail-on",
            expected="FIGURE>NUMBER, such as isolated>0.05 (or < >= <= == !=)",
        )
    name, sign, bound = found.groups()
    return Gate(text, name.strip(), _OPPOSITE[sign], _number(bound, text, "--fail-on"))


def _number(text: str, gate: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{text.strip()!r} is no number", where=f"{option} {gate}", expected="a number such as 0.9")
    return value


def check_gates(gates: Sequence[Gate], report: dict[str, Any]) -> tuple[GateResult, ...]:
    """Compare each gate with a report.

    Args:
        gates: from `parse_gates`.
        report: as plain JSON values.

    Raises:
        UsageError: the report has no number of that name.
    """
    found = dict(numbers(report)) if gates else {}
    return tuple(_check(gate, found) for gate in gates)


def _check(gate: Gate, found: dict[str, float]) -> GateResult:
    figure = _find(gate, found)
    if figure in _SHARES and abs(gate.bound) >= 2:
        raise UsageError(
            f"{gate.bound:g} as a bound of {gate.figure}, which is a share",
            where=gate.text,
            expected="a number between 0 and 1",
            hint=f"for {gate.bound:g}% write {gate.bound / 100:g}",
        )
    value = found[figure]
    return GateResult(
        gate=gate.text,
        figure=figure,
        wanted=f"{gate.sign} {gate.bound:g}",
        found=value,
        met=not math.isnan(value) and _SIGNS[gate.sign](value, gate.bound),
    )


def _find(gate: Gate, found: dict[str, float]) -> str:
    short = f"figures.{gate.figure.replace('-', '_')}"
    for name in (gate.figure, short):
        if name in found:
            return name
    names = [*KeyFigures.model_fields, *found]
    nearest = get_close_matches(gate.figure, names, n=1, cutoff=0.0)[0]
    raise UsageError(
        f"the report has no number called {gate.figure!r}",
        where=gate.text,
        expected=f"{', '.join(KeyFigures.model_fields)}, or the path of a number in report.json",
        hint=f"the nearest is {nearest}",
    )


def require(results: Sequence[GateResult]) -> None:
    """Raise for gates that are not met.

    Raises:
        GateError: lists each of them with what was found and wanted.
    """
    failed = [result for result in results if not result.met]
    if failed:
        raise GateError(
            "; ".join(map(outcome_of, failed)),
            where=", ".join(gate.gate for gate in failed),
            expected="the gate met" if len(results) == 1 else f"all {len(results)} gates met",
        )


def outcome_of(gate: GateResult) -> str:
    """What a gate found and wanted, in words."""
    found = "not measured" if math.isnan(gate.found) else f"{gate.found:.6g}"
    return f"{gate.figure} is {found}, wanted {gate.wanted}"


def numbers(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of plain JSON values with its path, parts joined by dots; null is NaN.

    Items of a list go by their name (class, layer, arm) where they have one of their own, else by their place from 0.
    """
    if isinstance(content, dict):
        for key, value in content.items():
            yield from numbers(value, f"{path}.{key}" if path else key)
    elif isinstance(content, list):
        for name, value in zip(_names_of(content), content, strict=True):
            yield from numbers(value, f"{path}.{name}")
    elif content is None or (isinstance(content, int | float) and not isinstance(content, bool)):
        yield path, math.nan if content is None else float(content)


def _names_of(items: list[Any]) -> list[str]:
    for keys in _NAMES if all(isinstance(item, dict) for item in items) else ():
        parts = [[item.get(key) for key in keys] for item in items]
        names = [", ".join(map(str, part)) for part in parts]
        if all(None not in part for part in parts) and len(names) == len(set(names)):
            return names
    return [str(place) for place in range(len(items))]
