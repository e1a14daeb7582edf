"""Tracks that may have killed a worker: who is under suspicion, from run to run, and who is given up.

A worker that dies takes its rows with it, so these two things the driver writes. A suspicion that only the
driver knew would end with it, and a track that takes everything down with it would be innocent again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from splitfire_batch.errors import AccessDenied, ObjectMissing
from splitfire_batch.manifest.ledger import ROOT, write_part
from splitfire_batch.manifest.outcomes import outcome_of
from splitfire_batch.manifest.schema import RunContext, to_table
from splitfire_batch.records import Outcome, Quarantined, Shard, Suspected, TrackRow
from splitfire_batch.storage import Store

_FILE = "suspects.json"
_READERS = 16


class Suspicions:
    """Attempts that were charged to tracks without a row, kept in the run's folder and read by later runs.

    A charge is gone as soon as its track has a row, whichever run wrote it down: files of earlier runs lose
    what this one settles, and go when nothing is left in them.

    Args:
        store: the destination.
        context: of this run; suspicions of other settings do not count.
    """

    def __init__(self, store: Store, context: RunContext) -> None:
        self._store, self._settings_id = store, context.settings_id
        self._path = f"{ROOT}/runs/{context.run_id}/{_FILE}"
        self._charges: dict[str, dict[str, int]] = {}
        """By file, the attempts of each source_id."""
        self._source_ids: dict[str, str] = {}
        """By track_id, of those that are charged."""

    def mark(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """The shards, with the attempts that earlier runs charged to their tracks."""
        self._charges |= self._read()
        before: dict[str, int] = {}
        for charges in self._charges.values():
            for source_id, attempts in charges.items():
                before[source_id] = max(attempts, before.get(source_id, 0))
        for shard in shards:
            charged = {t.track_id: t.source_id for t in shard.tracks if t.source_id in before}
            self._source_ids |= charged
            if charged:
                tracks = (replace(t, attempts=before.get(t.source_id, 0)) for t in shard.tracks)
                yield replace(shard, tracks=tuple(tracks))
            else:
                yield shard

    def note(self, event: Suspected) -> None:
        """Write down who was charged, before anyone tries them again."""
        mine = self._charges.setdefault(self._path, {})
        mine |= {track.source_id: track.attempts for track in event.tracks}
        self._source_ids |= {track.track_id: track.source_id for track in event.tracks}
        self._write(self._path)

    def clear(self, outcomes: Iterable[Outcome]) -> None:
        """These tracks have rows."""
        ids = (outcome.track_id for outcome in outcomes)
        known = {self._source_ids.pop(track_id) for track_id in ids if track_id in self._source_ids}
        for path in [path for path, charges in self._charges.items() if charges.keys() & known]:
            for source_id in self._charges[path].keys() & known:
                del self._charges[path][source_id]
            self._write(path)

    def _write(self, path: str) -> None:
        """The file as it is to be now; an empty one goes, if this run may delete."""
        if not self._charges[path]:
            with suppress(AccessDenied):
                self._store.delete(path)
                del self._charges[path]
                return
        record = {"settings_id": self._settings_id, "attempts": self._charges[path]}
        self._store.write(path, json.dumps(record, indent=1).encode())

    def _read(self) -> dict[str, dict[str, int]]:
        """The files of all runs with these settings."""
        listed = (found.path for found in self._store.list_under(f"{ROOT}/runs"))
        paths = [path for path in listed if path.endswith(f"/{_FILE}")]
        with ThreadPoolExecutor(_READERS) as pool:
            return {
                path: record["attempts"]
                for path, record in zip(paths, pool.map(self._record, paths), strict=True)
                if record and record["settings_id"] == self._settings_id
            }

    def _record(self, path: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self._store.read(path))
        except ObjectMissing:  # another run without a lease has settled the last one in it
            return None
        return record


def record_quarantined(store: Store, event: Quarantined, context: RunContext) -> Outcome:
    """The row of a track that no worker survived, written by the driver."""
    track, now = event.track, time.time()
    message = f"{track.path}: {event.why}"
    row = TrackRow(track, "failed", event.code, message, started_at=now, finished_at=now)
    write_part(store, to_table([row], context, "quarantine"))
    return outcome_of(row)
