"""How long ago something was, also for who slept in between."""

from __future__ import annotations

import time

_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def awake_or_asleep() -> float:
    """Seconds since some moment; unlike those of `time.monotonic`, they go on while Linux is suspended."""
    return time.clock_gettime(_ID)
