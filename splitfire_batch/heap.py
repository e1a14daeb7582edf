"""The C library's heap, kept from growing: audio comes and goes in many threads, in blocks of megabytes.

glibc gives each thread an arena of its own, and keeps what was freed in it. Where there is no glibc, nothing
is done: other allocators give memory back by themselves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_M_ARENA_MAX = -8
_N_ARENAS = 2


def share_arenas() -> None:
    """Let all threads share two arenas; call it before there are many threads."""
    call = _function("mallopt")
    if call:
        call(_M_ARENA_MAX, _N_ARENAS)


def give_back() -> None:
    """Return the pages that were freed, in every arena, to the system; takes milliseconds."""
    call = _function("malloc_trim")
    if call:
        call(0)


def _function(name: str) -> Callable[..., int] | None:
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return function
