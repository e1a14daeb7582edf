"""Ctrl-C and SIGTERM: of a run the first asks for an orderly end, of a few files it ends them at once.

Where nothing has been begun that needs finishing, SIGTERM ends at once too, but with the exit code that tells
a scheduler to try again, and not as the system would end a process that has no answer to it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn

from splitfire_batch.errors import TransientError

EXIT_INTERRUPTED = 130

STOPPED_BY: list[int] = []
"""Signals that asked this process to stop, in order."""


class Terminated(BaseException):
    """SIGTERM came; no exception that is handled as an error, since imports may be going on."""


@contextmanager
def ending() -> Iterator[None]:
    """SIGTERM inside the block ends it, wherever it is, as something to be done again.

    Raises:
        TransientError: it came.
    """

    def on_signal(number: int, _: FrameType | None) -> NoReturn:
        raise Terminated(number)

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    except Terminated:
        raise TransientError("stopped by SIGTERM; run the same command again to go on") from None
    finally:
        signal.signal(signal.SIGTERM, before)


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


@contextmanager
def ending_at_once(aside: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Inside the block Ctrl-C ends this process, and nobody waits for its threads.

    Outside the main thread signals cannot be caught, and everything stays as it is.

    A thread that separates hours of audio could not be told otherwise. Nothing is lost that a kill would not
    lose: stems are put whole, codecs end with this process, the next one sweeps its scratch.

    Args:
        aside: clears the screen for what is printed inside it.
    """

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        with aside():
            print("interrupted; files without stems have to be separated again", file=sys.stderr)  # noqa: T201
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(EXIT_INTERRUPTED)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
