"""Every metric that we tell Ray of, and what it is called where Prometheus finds it; the one list of them.

infra/grafana-dashboard.json shows them, and a test compares the two. Ray puts a prefix before each, and
labels of its own beside ours: NodeAddress, WorkerId and so on. The name of a counter ends in _total, or Ray
adds that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "ray_"
"""Ray's, for every metric of an application."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a process counts or measures."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    unit: str
    """Of its value."""
    description: str

    @property
    def exported(self) -> str:
        """The name that Prometheus has."""
        return PREFIX + self.name


METRICS = (
    Metric(
        "splitfire_tracks_total", "counter", ("status",), "tracks", "Tracks settled: done, failed, skipped"
    ),
    Metric("splitfire_audio_seconds_total", "counter", (), "seconds", "Audio of the tracks that are done"),
    Metric(
        "splitfire_stage_seconds_total", "counter", ("stage",), "seconds", "Time that tracks spent in a stage"
    ),
    Metric(
        "splitfire_device_busy_ratio",
        "gauge",
        (),
        "ratio",
        "Part of the last interval the device computed in",
    ),
    Metric("splitfire_queue_bytes", "gauge", ("queue",), "bytes", "Audio that waits between two stages"),
    Metric(
        "splitfire_failures_total", "counter", ("code",), "tracks", "Failed tracks by the code of their row"
    ),
)
