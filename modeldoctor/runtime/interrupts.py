"""Ending at a good moment: a first Ctrl-C or SIGTERM is a request, a second one ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the user, or the job's scheduler, asked to stop."""

    requested = False


@contextmanager
def graceful_stop(*, patient: bool = False) -> Iterator[StopRequest]:
    """While this lasts, SIGINT and SIGTERM set `requested` once; the next one does what it did before.

    A patient process takes no notice of the next one: a launcher passes on what the terminal has sent already, and
    kills after half a minute.

    Outside the main thread signals cannot be caught and nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.requested and not patient:
            previous = before[number]
            if callable(previous):
                previous(number, frame)
            raise KeyboardInterrupt
        request.requested = True

    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, handle)
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
