"""What a run will take, and what it took: what `splitfire plan` shows before, and the report after.

Device time is the seconds in which a device computes, summed over devices; a CPU worker's threads are one
device. Devices are held longer than that, from their worker's start to the end of the work, and are paid for
as long as they are held.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_SHORTEST, _LONGEST = -3, 13


@dataclass(frozen=True, slots=True)
class LengthClass:
    """Tracks of like length: device time per second of audio is another for one-shots and for albums."""

    number: int
    """Its tracks last from 2 ** number seconds to twice as long; the first class and the last are open."""
    n_tracks: int
    audio_s: float
    device_s: float = 0.0


def class_numbers(durations_s: np.ndarray) -> np.ndarray:
    """The number of each track's class."""
    numbers: np.ndarray = np.floor(np.log2(np.clip(durations_s, 2.0**_SHORTEST, 2.0**_LONGEST))).astype(int)
    return numbers


def in_classes(durations_s: np.ndarray, device_s: np.ndarray | None = None) -> tuple[LengthClass, ...]:
    """The classes that have tracks, by number.

    Args:
        durations_s: of each track.
        device_s: of each track; 0 for None.
    """
    numbers = class_numbers(durations_s)
    spent = np.zeros(len(numbers)) if device_s is None else device_s
    return tuple(
        LengthClass(int(n), int(mine.sum()), float(durations_s[mine].sum()), float(spent[mine].sum()))
        for n in np.unique(numbers)
        for mine in (numbers == n,)
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a plan will take."""

    n_tracks: int
    """To do, without those that are known to get no stems."""
    audio_s: float
    audio_error_s: float
    """`audio_s` is off by no more than this, in 95 of 100 cases, as far as a sample can tell."""
    durations: dict[str, int]
    """How many tracks' lengths are known by what."""
    n_bytes_in: int
    n_bytes_out: int
    device_s: float
    wall_s: float
    n_workers: int
    scratch_bytes: int
    """At most so many in the scratch folder of a machine at a time."""
    throughput: str
    """Where the device's speed is from, in words."""
    is_measured: bool
    """Whether it was measured on this installation."""
    gpu_hourly: float | None = None
    """Price of one device for an hour."""

    @property
    def held_s(self) -> float:
        """Seconds for which devices are held, summed over devices."""
        return self.wall_s * self.n_workers

    @property
    def cost(self) -> float | None:
        """Of the devices; None without a price."""
        return cost_of_devices(self.held_s, self.gpu_hourly)

    @property
    def cost_per_1000_tracks(self) -> float | None:
        """None without a price, or without tracks."""
        return per_1000(self.cost, self.n_tracks)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        derived = {
            "held_s": self.held_s,
            "cost": self.cost,
            "cost_per_1000_tracks": self.cost_per_1000_tracks,
        }
        return {**asdict(self), **derived}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run took of its devices."""

    n_workers: int = 0
    """At most, at the same time."""
    held_s: float = 0.0
    """Seconds from the run's begin to the end of the work, summed over the workers that there were."""
    working_s: float = 0.0
    """The same since the first track began."""
    start_s: float = 0.0
    """Until the first track began."""
    devices: tuple[str, ...] = ()
    """Their names, as rows have them."""
    threads: int | None = None
    """Of a CPU worker."""
    classes: tuple[LengthClass, ...] = ()
    """Tracks with stems, and their device time."""


def cost_of_devices(held_s: float, gpu_hourly: float | None) -> float | None:
    """The price of devices that are held for so long; None without a price."""
    return None if gpu_hourly is None else held_s / 3600 * gpu_hourly


def per_1000(cost: float | None, n_tracks: int) -> float | None:
    """Of so many tracks' cost what a thousand cost; None where that cannot be said."""
    return None if cost is None or not n_tracks else cost / n_tracks * 1000
