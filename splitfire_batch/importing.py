"""Imports without the garbage collector.

Modules make hundreds of thousands of objects that stay. Python's collector looks through them again and again
meanwhile, which is a quarter to a third of what importing torch, Ray and Prefect takes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """For a block that imports much: nothing is collected, and what it made is not looked through later.

    That holds for the first such block of a process; what the program makes between two is its own.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        if was_on:
            gc.enable()
