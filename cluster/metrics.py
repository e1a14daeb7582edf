"""What Prometheus can scrape of a run: told to Ray by each worker's process as tracks settle.

Counts are those of one process and vanish with it; the manifest is the truth. `metric_names` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ray.util.metrics import Counter, Gauge

from cluster.metric_names import METRICS
from splitfire_batch.records import Committed, PoolEvent, Quarantined, ShardDone

_KINDS: Mapping[str, Any] = {"counter": Counter, "gauge": Gauge}


class Metrics:
    """The metrics of this process; Ray must be connected."""

    def __init__(self) -> None:
        self._told = {m.name: _KINDS[m.kind](m.name, m.description, tag_keys=m.labels) for m in METRICS}

    def note(self, event: PoolEvent) -> None:
        """Count what an event tells."""
        if isinstance(event, Committed):
            for outcome in event.outcomes:
                self._settle(outcome.status, outcome.code)
                if outcome.status == "done":
                    self._add("splitfire_audio_seconds_total", outcome.audio_s)
        elif isinstance(event, Quarantined):
            self._settle("failed", event.code)
        elif isinstance(event, ShardDone):
            for stage, seconds in asdict(event.seconds).items():
                self._add("splitfire_stage_seconds_total", seconds, stage=stage)
            if event.wall_s > 0:
                busy = min(event.device.busy / event.wall_s, 1.0)
                self._told["splitfire_device_busy_ratio"].set(busy)

    def hold(self, queues: Mapping[str, int]) -> None:
        """Say how many bytes of audio wait where."""
        for queue, n_bytes in queues.items():
            self._told["splitfire_queue_bytes"].set(n_bytes, {"queue": queue})

    def _settle(self, status: str, code: str | None) -> None:
        self._add("splitfire_tracks_total", 1, status=status)
        if status == "failed":
            self._add("splitfire_failures_total", 1, code=code or "")

    def _add(self, name: str, value: float, **labels: str) -> None:
        if value > 0:  # Ray refuses to add nothing
            self._told[name].inc(value, labels)
