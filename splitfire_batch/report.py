"""What an operator is told: progress while a run goes on, and a report at its end."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from splitfire_batch.forecast import Forecast, Usage, cost_of_devices, per_1000
from splitfire_batch.records import DeviceSeconds, Outcome, ShardDone, StageSeconds
from splitfire_batch.staff import WorkerState

MAX_FAILURES_SHOWN = 100
EXIT_TOO_MANY_FAILED = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """One track without stems, and why it failed."""

    path: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A run as it stands."""

    n_planned: int
    n_done: int
    n_failed: int
    audio_s: float
    """Seconds of audio separated so far."""
    planned_audio_s: float
    """Estimated seconds of audio of the whole plan."""
    wall_s: float
    n_skipped: int = 0
    working_s: float = 0.0
    """Seconds since the first track began; workers need some to start."""
    failures_by_code: dict[str, int] = field(default_factory=dict)
    workers: tuple[WorkerState, ...] = ()

    @property
    def n_settled(self) -> int:
        """Tracks with a row."""
        return self.n_done + self.n_skipped + self.n_failed

    @property
    def real_time_factor(self) -> float:
        """Seconds of audio per second of time since the first track began."""
        return self.audio_s / self.working_s if self.working_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Estimated seconds until the last track is settled, by the audio so far; None before any is."""
        if self.n_settled == self.n_planned:
            return 0.0
        if not self.audio_s or not self.planned_audio_s:
            return None
        left = max(self.planned_audio_s - self.audio_s, 0.0)
        # audio that is not what was planned, and tracks that fail, leave tracks when no audio is left
        by_tracks = self.working_s / self.n_settled * (self.n_planned - self.n_settled)
        return left / self.real_time_factor if left else by_tracks

    @property
    def percent(self) -> float:
        """Settled tracks of those planned, 0 to 100."""
        return 100.0 * self.n_settled / self.n_planned if self.n_planned else 100.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did; kept as run.json."""

    run_id: str
    source: str
    destination: str
    model: str
    settings_id: str
    n_listed: int
    ignored: dict[str, int]
    """Objects of the source that are no tracks, by reason."""
    n_done_before: int
    n_failed_before: int
    n_planned: int
    n_done: int
    n_failed: int
    failures_by_code: dict[str, int]
    failures: tuple[Failure, ...]
    """At most 100; failures.parquet has all."""
    audio_s: float
    n_bytes_out: int
    wall_s: float
    seconds: StageSeconds
    """Sums over all tracks; those that waited together waited each for itself."""
    worker_s: float
    """Seconds that workers had a shard, summed over shards."""
    device: DeviceSeconds
    """What the devices did meanwhile."""
    n_skipped: int = 0
    """Tracks that got no stems, as the settings wish; no failures."""
    n_skipped_before: int = 0
    stopped_by: str | None = None
    """Why the run was stopped, if more tracks failed than `max_failures` allows."""
    n_duplicates: int = 0
    """Of the done tracks, those that got the stems of another one with the same audio (`dedupe`)."""
    n_unchanged: int = 0
    """Of those that were done or skipped before: new by their etag, the same by their bytes (`checksum`)."""
    n_unseen: int = 0
    """Of those done before: their objects are missing or refused, so they were left as they are."""
    n_taken_back: int = 0
    """Tracks outside the plan whose stems were removed or written over: they are done no more."""
    forecast: Forecast | None = None
    """What the plan was expected to take."""
    usage: Usage = field(default_factory=Usage)
    """What it took of the devices."""
    gpu_hourly: float | None = None
    """Price of one device for an hour."""

    @property
    def device_s(self) -> float:
        """Seconds in which devices computed, summed over devices."""
        return self.seconds.device

    @property
    def cost(self) -> float | None:
        """Of the devices, for as long as they were held; None without a price."""
        return cost_of_devices(self.usage.held_s, self.gpu_hourly)

    @property
    def cost_per_1000_tracks(self) -> float | None:
        """Of tracks with stems; None without a price, or without such tracks."""
        return per_1000(self.cost, self.n_done)

    @property
    def n_unsettled(self) -> int:
        """Planned tracks without a row: the run was stopped; the next one does them."""
        return self.n_planned - self.n_done - self.n_skipped - self.n_failed

    @property
    def exit_code(self) -> int:
        """0 done, 3 with failures, lost stems or only unseen sources, 4 too many failed, 75 stopped."""
        if self.stopped_by:
            return EXIT_TOO_MANY_FAILED
        if self.n_unsettled:
            return 75
        return 3 if self.n_failed or self.n_taken_back or 0 < self.n_unseen == self.n_done_before else 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        derived = ("device_s", "cost", "cost_per_1000_tracks", "n_unsettled", "exit_code")
        return {
            **asdict(self),
            "forecast": self.forecast.as_dict() if self.forecast else None,
            **{name: getattr(self, name) for name in derived},
        }


@dataclass(slots=True)
class Tally:
    """Adds up what a run's events tell."""

    n_planned: int
    planned_audio_s: float
    begin: float = field(default_factory=time.monotonic)
    n_done: int = 0
    n_failed: int = 0
    audio_s: float = 0.0
    n_bytes_out: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)
    worker_s: float = 0.0
    device: Counter[str] = field(default_factory=Counter)
    n_skipped: int = 0
    stopped_by: str | None = None
    work_begin: float | None = None
    workers: tuple[WorkerState, ...] = ()
    n_workers: int = 0
    held_s: float = 0.0
    working_s: float = 0.0
    heard_at: float = 0.0

    def begin_work(self) -> None:
        """A track begins; only the first one counts."""
        if self.work_begin is None:
            self.work_begin = time.monotonic()

    def hear(self) -> None:
        """Something was told; until now there were the workers that were told of last, or an unknown one."""
        now, n = time.monotonic(), max(1, len(self.workers))
        since = self.heard_at or self.begin
        self.held_s += n * (now - since)
        if self.work_begin is not None:
            self.working_s += n * (now - max(since, self.work_begin))
        self.n_workers, self.heard_at = max(self.n_workers, n), now

    def usage(self) -> Usage:
        """What the run took of its devices so far."""
        start_s = 0.0 if self.work_begin is None else self.work_begin - self.begin
        return Usage(self.n_workers, self.held_s, self.working_s, start_s)

    def add(self, outcome: Outcome) -> None:
        """Count one settled track."""
        if outcome.status == "failed":
            self.n_failed += 1
            self.codes[outcome.code or ""] += 1
            if len(self.failures) < MAX_FAILURES_SHOWN:
                self.failures.append(Failure(outcome.path, outcome.code or "", outcome.message or ""))
        else:
            self.n_skipped += outcome.status == "skipped"
            self.n_done += outcome.status == "done"
            self.audio_s += outcome.audio_s
            self.n_bytes_out += outcome.n_bytes_out

    def add_shard(self, done: ShardDone) -> None:
        """Count a shard's seconds."""
        self.seconds.update(asdict(done.seconds))
        self.device.update(asdict(done.device))
        self.worker_s += done.wall_s

    def total_seconds(self) -> StageSeconds:
        """Stage seconds of all shards so far."""
        return StageSeconds(**self.seconds)

    def total_device(self) -> DeviceSeconds:
        """What the devices did in all shards so far."""
        return DeviceSeconds(**self.device)

    @property
    def wall_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.begin

    def progress(self) -> Progress:
        """A snapshot."""
        return Progress(
            self.n_planned,
            self.n_done,
            self.n_failed,
            self.audio_s,
            self.planned_audio_s,
            self.wall_s,
            self.n_skipped,
            0.0 if self.work_begin is None else time.monotonic() - self.work_begin,
            dict(self.codes),
            self.workers,
        )
