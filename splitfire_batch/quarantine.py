"""Tracks that may have killed a worker: who is under suspicion, from run to run, and who is given up.

A worker that dies takes its rows with it, so these two things the driver writes. A suspicion that only the
driver knew would end with it, and a track that takes everything down with it would be innocent again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from splitfire_batch.manifest import ROOT, write_part
from splitfire_batch.records import Outcome, Quarantined, Shard, Suspected, TrackRow
from splitfire_batch.schema import RunContext, to_table
from splitfire_batch.storage import Store

_FILE = "suspects.json"


class Suspicions:
    """Attempts that were charged to tracks without a row, kept in the run's folder and read by later runs.

    Args:
        store: the destination.
        context: of this run; suspicions of other settings do not count.
    """

    def __init__(self, store: Store, context: RunContext) -> None:
        self._store, self._settings_id = store, context.settings_id
        self._path = f"{ROOT}/runs/{context.run_id}/{_FILE}"
        self._attempts: dict[str, int] = {}
        self._source_ids: dict[str, str] = {}

    def mark(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """The shards, with the attempts that earlier runs charged to their tracks."""
        before = self._read()
        for shard in shards:
            if before.keys() & {track.source_id for track in shard.tracks}:
                tracks = (replace(t, attempts=before.get(t.source_id, 0)) for t in shard.tracks)
                yield replace(shard, tracks=tuple(tracks))
            else:
                yield shard

    def note(self, event: Suspected) -> None:
        """Write down who was charged, before anyone tries them again."""
        self._attempts |= {track.source_id: track.attempts for track in event.tracks}
        self._source_ids |= {track.track_id: track.source_id for track in event.tracks}
        self._write()

    def clear(self, outcomes: Iterable[Outcome]) -> None:
        """These tracks have rows."""
        ids = (outcome.track_id for outcome in outcomes)
        known = [self._source_ids.pop(track_id) for track_id in ids if track_id in self._source_ids]
        for source_id in known:
            del self._attempts[source_id]
        if known:
            self._write()

    def _write(self) -> None:
        record = {"settings_id": self._settings_id, "attempts": self._attempts}
        self._store.write(self._path, json.dumps(record, indent=1).encode())

    def _read(self) -> dict[str, int]:
        """Of all runs, the most that was charged to each source."""
        found: dict[str, int] = {}
        for listed in self._store.list_under(f"{ROOT}/runs"):
            if listed.path.endswith(f"/{_FILE}"):
                record = json.loads(self._store.read(listed.path))
                if record["settings_id"] == self._settings_id:
                    for source_id, attempts in record["attempts"].items():
                        found[source_id] = max(attempts, found.get(source_id, 0))
        return found


def record_quarantined(store: Store, event: Quarantined, context: RunContext) -> Outcome:
    """The row of a track that no worker survived, written by the driver."""
    track, now = event.track, time.time()
    message = f"{track.path}: {event.why}"
    row = TrackRow(track, "failed", event.code, message, started_at=now, finished_at=now)
    write_part(store, to_table([row], context, "quarantine"))
    return Outcome(track.track_id, track.path, "failed", row.code, message, 0.0, 0)
