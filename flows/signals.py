"""Ctrl-C and SIGTERM: the first asks for an orderly end, a second Ctrl-C ends at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED_BY: list[int] = []
"""Signals that asked this process to stop, in order."""


@contextmanager
def draining() -> Iterator[threading.Event]:
    """An event that is set by the first SIGINT or SIGTERM inside the block.

    Outside the main thread signals cannot be caught; then the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, _: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        STOPPED_BY.append(number)
        stop.set()
        print("stopping: tracks in flight are finished; Ctrl-C again ends at once", file=sys.stderr)  # noqa: T201

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
