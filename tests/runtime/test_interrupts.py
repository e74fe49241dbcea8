"""Real signals to this process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from modeldoctor.runtime.interrupts import StopRequest, graceful_stop

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in BOTH}
    yield
    assert {number: signal.getsignal(number) for number in BOTH} == before


@pytest.mark.parametrize("number", BOTH)
def test_a_first_signal_is_a_request(number: int) -> None:
    with graceful_stop() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert not StopRequest().requested


def twice(number: int) -> None:
    with graceful_stop() as stop:
        os.kill(os.getpid(), number)
        assert stop.requested
        os.kill(os.getpid(), number)
        raise AssertionError("the second signal was swallowed")


@pytest.mark.parametrize("number", BOTH)
def test_a_second_signal_ends_at_once(number: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        twice(number)


def test_a_second_signal_does_what_it_did_before() -> None:
    class EndedError(Exception):
        pass

    def end(number: int, frame: FrameType | None) -> None:
        raise EndedError

    before = signal.signal(signal.SIGINT, end)
    try:
        with pytest.raises(EndedError):
            twice(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is end
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_put_back_after_an_error() -> None:
    def fail() -> None:
        with graceful_stop():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
            raise ValueError

    with pytest.raises(ValueError):
        fail()


def test_outside_the_main_thread_nothing_changes() -> None:
    seen: list[object] = []

    def work() -> None:
        before = [signal.getsignal(number) for number in BOTH]
        with graceful_stop() as stop:
            seen.extend([stop.requested, [signal.getsignal(number) for number in BOTH] == before])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, True]
