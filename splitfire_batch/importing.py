"""Imports without the garbage collector.

Modules make hundreds of thousands of objects that stay. Python's collector looks through them again and again
meanwhile: a tenth of what the driver's imports take, a fifth of those of a worker and of Prefect's server.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """For a block that imports much: nothing is collected inside it.

    What there is after the first such block of a process is not looked through later either. After further
    ones it is, since the program has then made garbage of its own.
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
