"""A run as it looks to somebody who sees nothing but its destination, from whatever machine.

The lease says who works there, the run's plan what there is to do, its parts what is done; nothing is asked
of the run itself, nor of a cluster or a server. So what is seen is as old as the last part: workers write one
after 64 tracks or 15 s. Each look reads only the parts that are new.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from splitfire_batch.bottleneck import bottleneck
from splitfire_batch.lease.sighting import LeaseSeen, Sighting
from splitfire_batch.manifest.holdings import read_holdings
from splitfire_batch.manifest.parts import KEYS, ROOT, latest, part_paths, read_used, schema_of
from splitfire_batch.records import DeviceSeconds
from splitfire_batch.report import Progress
from splitfire_batch.scratch import scratch_folder
from splitfire_batch.shards import shard_id_of
from splitfire_batch.storage import Store

_COLUMNS = schema_of((*KEYS, "duration_s", "shard_id", "started_at"))
_AT_ONCE = 64
"""Parts that are read together; who interrupts a look waits for no more."""
_RUN_FILE = re.compile(rf"{ROOT}/runs/([^/]+)/(plan/tracks\.parquet|run\.json)")
_DEVICE = tuple(field.name for field in fields(DeviceSeconds))


@dataclass(frozen=True, slots=True)
class ShardSeen:
    """A shard of which something is done."""

    shard_id: str
    n_settled: int
    n_tracks: int | None
    """As planned; None for tracks that were shared out once more."""
    audio_s: float
    settled_at: float
    """When its last track was done, by its worker's clock: seconds since 1970-01-01 UTC."""
    busy: float | None
    """The part of the time that the device was busy meanwhile, 0 to 1."""


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run that has a plan."""

    run_id: str
    progress: Progress
    n_shards: int
    """Of the plan."""
    shards: tuple[ShardSeen, ...]
    """That have a row; the one that was heard of last comes first."""
    bottleneck: str | None
    """None before anything is done."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look shows."""

    lease: LeaseSeen
    run: RunSeen | None
    """The run that is not over; None while it lists and plans, and where there is none."""


class Onlooker:
    """Looks at a destination again and again.

    Args:
        store: the destination.
        scratch: folder for a copy of a plan; the system's own for temporary files if None.
    """

    def __init__(self, store: Store, scratch: str | None = None) -> None:
        self._store, self._scratch = store, scratch
        self._sighting = Sighting(store)
        self._followed: _Followed | None = None

    def look(self) -> Sight:
        """The destination as it is now.

        Raises:
            StorageError: the store refuses.
            TransientError: it does not answer.
        """
        lease = self._sighting.look()
        run_id = self._unfinished(lease.holder.run_id if lease.holder else "")
        if run_id is None:
            self._followed = None
            return Sight(lease, None)
        if self._followed is None or self._followed.run_id != run_id:
            self._followed = _Followed(self._store, run_id, self._scratch)
        return Sight(lease, self._followed.look())

    def _unfinished(self, holder: str) -> str | None:
        """The run of the lease's holder once it has a plan, else the last one that was planned and not ended.

        A run takes a later id than its lease's if runs of other clocks are later.
        """
        found = {"plan/tracks.parquet": set[str](), "run.json": set[str]()}
        for item in self._store.list_under(f"{ROOT}/runs"):
            if match := _RUN_FILE.fullmatch(item.path):
                found[match[2]].add(match[1])
        planned, ended = found["plan/tracks.parquet"], found["run.json"]
        last = max(planned, default="")
        return last if last >= holder and last and last not in ended else None


class _Followed:
    """One run: its plan, and the rows of its parts so far."""

    def __init__(self, store: Store, run_id: str, scratch: str | None) -> None:
        self.run_id, self._store = run_id, store
        self._read: set[str] = set()
        self._seen: RunSeen | None = None
        self._rows = _COLUMNS.empty_table()
        self._usage: dict[str, dict[str, float]] = {}
        with scratch_folder(scratch) as folder:
            file = store.fetch(f"{ROOT}/runs/{run_id}/plan/tracks.parquet", folder / "plan.parquet")
            plan = pq.ParquetFile(file).read(["source_id", "duration_s", "shard"])
        self._n_tracks, self._audio_s = len(plan), pc.sum(plan["duration_s"]).as_py() or 0.0
        self._sizes = dict(_sizes(plan))

    def look(self) -> RunSeen:
        """The run as it is now."""
        keys = [holding.settings_id for holding in read_holdings(self._store)]
        paths = [path for key in keys for path in part_paths(self._store, key, self.run_id)]
        new = [path for path in paths if path not in self._read]
        if new or self._seen is None:
            self._add(new)
            self._seen = self._sum_up()
        return self._seen

    def _sum_up(self) -> RunSeen:
        worker_s = sum(usage.get("wall_s", 0.0) for usage in self._usage.values())
        device = {name: sum(usage.get(name, 0.0) for usage in self._usage.values()) for name in _DEVICE}
        rows = latest(self._rows)
        return RunSeen(
            self.run_id,
            self._progress(rows),
            len(self._sizes),
            tuple(self._shards(rows)),
            bottleneck(DeviceSeconds(**device), worker_s) if worker_s else None,
        )

    def _add(self, paths: list[str]) -> None:
        """Read parts that nobody read yet."""
        with ThreadPoolExecutor(16) as pool:
            for start in range(0, len(paths), _AT_ONCE):
                some = paths[start : start + _AT_ONCE]
                found = list(pool.map(lambda path: read_used(self._store, path, _COLUMNS), some))
                self._rows = pa.concat_tables([self._rows, *(rows for rows, _ in found)])
                for rows, usage in found:
                    shard_id = rows["shard_id"][0].as_py()
                    if usage.get("wall_s", 0.0) > self._usage.get(shard_id, {}).get("wall_s", 0.0):
                        self._usage[shard_id] = usage  # of all that the shard has used so far
                self._read |= set(some)

    def _progress(self, rows: pa.Table) -> Progress:
        is_failed = pc.equal(rows["status"], "failed")
        n_failed = pc.sum(is_failed).as_py() or 0
        n_skipped = pc.sum(pc.equal(rows["status"], "skipped")).as_py() or 0
        begin, end = pc.min(rows["started_at"]).as_py(), pc.max(rows["finished_at"]).as_py()
        working_s = (end - begin).total_seconds() if begin else 0.0
        return Progress(
            n_planned=self._n_tracks,
            n_done=len(rows) - n_failed - n_skipped,
            n_failed=n_failed,
            n_skipped=n_skipped,
            audio_s=pc.sum(rows.filter(pc.invert(is_failed))["duration_s"]).as_py() or 0.0,
            planned_audio_s=self._audio_s,
            wall_s=working_s,
            working_s=working_s,
            failures_by_code=dict(Counter(rows.filter(is_failed)["code"].to_pylist())),
        )

    def _shards(self, rows: pa.Table) -> Iterator[ShardSeen]:
        by_shard = rows.group_by("shard_id").aggregate(
            [("track_id", "count"), ("duration_s", "sum"), ("finished_at", "max")]
        )
        for shard in by_shard.sort_by([("finished_at_max", "descending")]).to_pylist():
            usage = self._usage.get(shard["shard_id"], {})
            yield ShardSeen(
                shard_id=shard["shard_id"],
                n_settled=shard["track_id_count"],
                n_tracks=self._sizes.get(shard["shard_id"]),
                audio_s=shard["duration_s_sum"] or 0.0,
                settled_at=shard["finished_at_max"].timestamp(),
                busy=min(1.0, usage.get("busy", 0.0) / usage["wall_s"]) if usage.get("wall_s") else None,
            )


def _sizes(plan: pa.Table) -> Iterator[tuple[str, int]]:
    """Each shard of a plan, and how many tracks it has."""
    numbers = plan["shard"].to_numpy()
    ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    ids, begin = plan["source_id"].to_pylist(), 0
    for end in ends:
        yield shard_id_of(ids[begin:end]), end - begin
        begin = end
