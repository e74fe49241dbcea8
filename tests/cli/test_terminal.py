"""Progress in a log: lines that a person can read later, and none but those."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from modeldoctor.cli import terminal
from modeldoctor.errors import InputError, ModelDoctorWarning, printable, shortened


def test_a_log_gets_a_line_for_each_stage_and_one_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said, clock = io.StringIO(), iter(range(0, 1000, 4))
    monkeypatch.setattr(terminal, "err", Console(file=said, width=40))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    with terminal.shown_progress() as show:
        for done in (*range(1, 4), 3):
            show("predict [train]", done, 3)
        show("explain", 0, 0)
        for done in range(1, 21):
            show(f"treat · loss {1 / done:.2f}", done, None)
    lines = said.getvalue().splitlines()
    assert lines[0] == "predict [train]: 3 of 3"
    assert [line.split(": ")[1] for line in lines[1:]] == ["8", "16"]
    assert lines[1].startswith("treat · loss 0.12")


def test_a_stage_with_markup_and_control_characters_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for interactive in (True, False):
        said = io.StringIO()
        monkeypatch.setattr(terminal, "err", Console(file=said, width=100, force_terminal=interactive))
        with terminal.shown_progress() as show:
            show("predict [/b]\x1b[5m\u202eval", 1, 1)
        assert r"predict [/b]\x1b[5m\u202eval" in said.getvalue()


def test_a_name_with_line_ends_is_no_message_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    said, name = io.StringIO(), "cat\r\nerror\nfound: nothing\n::error::x"
    monkeypatch.setattr(terminal, "err", Console(file=said, width=40))
    terminal.note(f"the class {name}")
    terminal.show_warning(ModelDoctorWarning(f"the class {name}"), ModelDoctorWarning)
    lines = said.getvalue().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["note", "warning"]
    assert len(str(InputError(f"the class {name}", where=shortened([name]), hint="rename it")).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\nc\td", r"a\x1b[31mb\nc\td"),
        ("x\u202egnp.exe\u2066", r"x\u202egnp.exe\u2066"),
        ("a\u2028b\x85c", r"a\u2028b\x85c"),
        ("épinard 猫 \u200d 🐈 קטע", "épinard 猫 \u200d 🐈 קטע"),
    ],
)
def test_what_terminals_obey_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
