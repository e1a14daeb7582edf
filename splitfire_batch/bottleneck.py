"""What keeps a run from being faster, in one sentence, and the setting to try."""

from __future__ import annotations

from dataclasses import asdict

from splitfire_batch.records import DeviceSeconds

BUSY_ENOUGH = 0.9
"""A device that is busy for this part of the time is itself the bottleneck."""

_CORES = "raise open_tracks if cores are idle, else lower workers to give each more cores"
_ADVICE = {
    "fetch": "raise open_tracks to fetch more tracks at the same time",
    "decode": _CORES,
    "blend": _CORES,
    "measure": 'raise open_tracks if cores are idle, else set measure = "basic" or "none"',
    "encode": _CORES,
    "store": "raise open_tracks to store more tracks at the same time",
    "memory": "raise audio_mb to have more tracks in hand",
}


def bottleneck(device: DeviceSeconds, worker_s: float) -> str:
    """Names the device if it was hardly ever idle, else what the open tracks were most busy with meanwhile.

    Where idle seconds have no cause, since no track was open, there is nothing to advise.

    Args:
        device: of all workers together.
        worker_s: their time.
    """
    busy = min(1.0, device.busy / worker_s) if worker_s > 0 else 0.0
    idle_s = {cause: seconds for cause, seconds in asdict(device).items() if cause != "busy"}
    cause = max(idle_s, key=lambda name: idle_s[name])
    if busy >= BUSY_ENOUGH or not idle_s[cause] > 0:
        return f"device {100 * busy:.0f} % busy"
    return f"{cause}-bound: the device was busy {100 * busy:.0f} %; {_ADVICE[cause]}"
