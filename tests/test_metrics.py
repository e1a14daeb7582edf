"""What a run tells Prometheus, by way of Ray."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from cluster import metrics as module
from cluster.metric_names import METRICS
from cluster.metrics import Metrics
from splitfire_batch.records import (
    Committed,
    DeviceSeconds,
    Outcome,
    Quarantined,
    ShardDone,
    StageSeconds,
    Started,
    Track,
)


class Told:
    """Stands where Ray's would, and keeps what it is told, as strict as Ray."""

    values: Counter[tuple[str, ...]]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description
        self.name, self.labels = name, tag_keys

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        assert set(tags) == set(self.labels)
        self.values[(self.name, *tags.values())] += value  # type: ignore[assignment]

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        assert set(tags or {}) == set(self.labels)
        self.values[(self.name, *(tags or {}).values())] = value  # type: ignore[assignment]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, ...]]:
    Told.values = Counter()
    monkeypatch.setattr(module, "_KINDS", {"counter": Told, "gauge": Told})
    return Told.values


def outcome(status: Any, code: str | None, audio_s: float) -> Outcome:
    return Outcome("t", "t.wav", status, code, None, audio_s, 1)


def test_events_become_counts(told: Counter[tuple[str, ...]]) -> None:
    metrics = Metrics()
    metrics.note(Started("s", "t"))
    outcomes = (
        outcome("done", None, 30.0),
        outcome("done", None, 12.5),
        outcome("skipped", "NO_VOCALS", 9.0),
    )
    metrics.note(Committed("s", (*outcomes, outcome("failed", "TRUNCATED", 0.0))))
    metrics.note(Quarantined(Track("t", "s", "u", "p", 1, "", ""), "died twice", "WORKER_CRASH"))
    metrics.note(ShardDone("s", 10.0, StageSeconds(fetch=1.5, device=4.0), DeviceSeconds(busy=4.0)))
    metrics.hold({"open tracks": 1000})
    assert told == {
        ("splitfire_tracks_total", "done"): 2,
        ("splitfire_tracks_total", "skipped"): 1,
        ("splitfire_tracks_total", "failed"): 2,
        ("splitfire_audio_seconds_total",): 42.5,
        ("splitfire_failures_total", "TRUNCATED"): 1,
        ("splitfire_failures_total", "WORKER_CRASH"): 1,
        ("splitfire_stage_seconds_total", "fetch"): 1.5,
        ("splitfire_stage_seconds_total", "device"): 4.0,
        ("splitfire_device_busy_ratio",): 0.4,
        ("splitfire_queue_bytes", "open tracks"): 1000,
    }
    assert {name for name, *_ in told} == {metric.name for metric in METRICS}
