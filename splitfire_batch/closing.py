"""The end of a run: every planned track has its row, the rows hold, views and report are made.

Everything here may be cut off anywhere; whatever is missing then is made by the next run.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch import __version__
from splitfire_batch.forecast import Usage, in_classes
from splitfire_batch.manifest.holdings import read_holdings, record_holding
from splitfire_batch.manifest.ledger import refresh_views
from splitfire_batch.manifest.parts import KEYS, REVOKED, part_paths, read_latest, schema_of, whole_rows
from splitfire_batch.manifest.reconcile import revoke_changed
from splitfire_batch.manifest.schema import parquet_bytes
from splitfire_batch.manifest.snapshots import write_snapshot
from splitfire_batch.page import report_page
from splitfire_batch.records import Outcome
from splitfire_batch.report import Report, Tally
from splitfire_batch.runs import Run, destination_of, is_immutable, keep_unchanged
from splitfire_batch.storage import Store

_TIMES = ("duration_s", "device_s", "device", "numerics")


def finalise(run: Run, tally: Tally) -> Report:
    """Check that every planned track has its row, make the views, and write the run's report.

    The counts come from the parts in the store, not from what workers told. Under plain names tracks whose
    stems were removed or written over since are among the failed ones, for the next run to do.

    Raises:
        LeaseLost: another run took over the destination; nothing more was written.
    """
    store = destination_of(run.job)
    run.lease.confirm()
    run = keep_unchanged(run)
    n_taken_back = 0 if is_immutable(run.job) else _take_back(run, store, tally)
    planned, failed = _planned(run, store)
    report = _report(run, tally, store.url, planned, n_taken_back)
    run.lease.confirm()
    _keep_settings(run, store)
    run.lease.check()
    write_snapshot(store)
    refresh_views(store, report.run_id, run.lease.check)
    if report.n_planned:
        run.lease.check()
        store.write(f"{run.store_path}/failures.parquet", parquet_bytes(failed))
        record = {**report.as_dict(), "settings": run.holding.settings, "version": __version__}
        run.lease.check()
        store.write(f"{run.store_path}/report.html", report_page(report).encode())
        run.lease.check()
        store.write(f"{run.store_path}/run.json", json.dumps(record, indent=1).encode())
    return report


def _planned(run: Run, store: Store) -> tuple[pa.Table, pa.Table]:
    """The row of each planned track that has one, from the parts of the run; the failed ones whole."""
    paths = part_paths(store, run.context.settings_id, run.context.run_id)
    rows = read_latest(store, paths, schema_of((*KEYS, "source_id", "duplicate_of", *_TIMES)))
    source_ids = run.plan.source_ids()
    rows = rows.filter(pc.is_in(rows["source_id"], value_set=source_ids))
    return rows, whole_rows(store, paths, rows.filter(pc.equal(rows["status"], "failed")))


def _report(run: Run, tally: Tally, destination: str, rows: pa.Table, n_taken_back: int) -> Report:
    """What became of the run: counts and lengths from the rows, the rest from what workers told."""
    statuses = rows["status"]
    is_duplicate = pc.and_(pc.is_valid(rows["duplicate_of"]), pc.equal(statuses, "done"))
    n_failed, n_skipped = (
        pc.sum(pc.equal(statuses, status)).as_py() or 0 for status in ("failed", "skipped")
    )
    return Report(
        run_id=run.context.run_id,
        source=run.job.source,
        destination=destination,
        model=run.context.model,
        settings_id=run.context.settings_id,
        n_listed=run.plan.n_listed,
        ignored=run.ignored,
        n_done_before=run.plan.n_done,
        n_failed_before=run.plan.n_failed_before,
        n_planned=run.plan.n_tracks,
        n_skipped_before=run.plan.n_skipped_before,
        n_done=len(statuses) - n_failed - n_skipped,
        n_skipped=n_skipped,
        n_duplicates=pc.sum(is_duplicate).as_py() or 0,
        n_unchanged=run.n_unchanged,
        n_unseen=run.plan.n_unseen,
        n_taken_back=n_taken_back,
        n_failed=n_failed,
        failures_by_code=dict(tally.codes),
        failures=tuple(tally.failures),
        audio_s=tally.audio_s,
        n_bytes_out=tally.n_bytes_out,
        wall_s=tally.wall_s,
        seconds=tally.total_seconds(),
        worker_s=tally.worker_s,
        device=tally.total_device(),
        stopped_by=tally.stopped_by,
        forecast=run.forecast,
        usage=_usage(tally, rows),
        gpu_hourly=run.job.runtime.gpu_hourly,
    )


def _usage(tally: Tally, rows: pa.Table) -> Usage:
    """What the run took of its devices; a track whose length is not known came to no device."""
    timed = rows.filter(pc.and_(pc.is_valid(rows["duration_s"]), pc.greater(rows["device_s"], 0)))
    durations_s, device_s = (timed[name].to_numpy() for name in ("duration_s", "device_s"))
    devices = sorted(pc.unique(timed["device"]).to_pylist())
    classes = in_classes(durations_s, device_s.astype(float))
    told = " ".join(pc.unique(timed["numerics"]).to_pylist())
    threads = max(map(int, re.findall(r"/threads(\d+)", told)), default=None)
    return replace(tally.usage(), devices=tuple(devices), threads=threads, classes=classes)


def _take_back(run: Run, store: Store, tally: Tally) -> int:
    """Rows of this run and of others that were cut off, whose stems are not what they say.

    Gives how many of them are not of the plan.
    """
    changed = revoke_changed(store, run.context.settings_id, run.context.run_id, run.lease.check)
    if not len(changed):
        return 0
    for track in changed.select(["track_id", "path"]).to_pylist():
        why = f"{track['path']}: a stem was removed or written over; run the job again"
        tally.add(Outcome(track["track_id"], track["path"], "failed", REVOKED, why, 0.0, 0))
    planned = run.plan.rows.table(["track_id"])["track_id"].combine_chunks()
    is_planned = pc.is_in(changed["track_id"], value_set=planned)
    return len(changed) - (pc.sum(is_planned).as_py() or 0)


def _keep_settings(run: Run, store: Store) -> None:
    """A destination that lost the record of its settings, and not its parts, gets it back."""
    recorded = {item.settings_id for item in read_holdings(store)}
    if run.holding.settings_id not in recorded and part_paths(store, run.holding.settings_id):
        record_holding(store, run.holding)
