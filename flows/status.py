"""`splitfire status`: what a destination holds, from storage alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from flows.console import progress_text
from flows.settings import Settings
from splitfire_batch.bottleneck import bottleneck
from splitfire_batch.escapes import one_line
from splitfire_batch.figures import duration
from splitfire_batch.manifest.ledger import ROOT, current_rows
from splitfire_batch.onlooker import Onlooker, Sight
from splitfire_batch.records import DeviceSeconds
from splitfire_batch.storage import Store, open_store


def status_text(destination: str, settings: Settings, as_json: bool) -> str:
    """Counts by model and status over all runs, and the last run's own numbers."""
    store = open_store(destination, settings.runtime.storage)
    store.check_readable()
    sight = Onlooker(store, settings.runtime.scratch_dir).look()
    status = status_record(store, sight)
    return json.dumps(status, indent=1) if as_json else status_words(status, sight)


def status_record(store: Store, sight: Sight) -> dict[str, Any]:
    """All that there is to tell, for JSON; `sight` is of this moment."""
    told = {"destination": store.url, **sight_record(sight)}
    return {**told, "models": _models(store), "last_run": _last_run(store)}


def status_words(status: dict[str, Any], sight: Sight) -> str:
    """The same in lines."""
    first, *others = _lines(status)
    return "\n".join(map(one_line, (first, *sight_lines(sight), *others)))


def sight_record(sight: Sight) -> dict[str, Any]:
    """Who holds the destination, and the run that is not over, for JSON."""
    holder, run = sight.lease.holder, sight.run
    who = {name: getattr(holder, name) for name in ("run_id", "host", "pid", "started")} if holder else None
    lease = {"state": sight.lease.state, "holder": who, "silent_s": round(sight.lease.silent_s, 1)}
    if run is None:
        return {"lease": lease, "run": None}
    progress = asdict(run.progress)
    del progress["workers"], progress["wall_s"]  # of a run that one takes part in
    progress |= {"real_time_factor": run.progress.real_time_factor, "eta_s": run.progress.eta_s}
    told = {"run_id": run.run_id, **progress, "bottleneck": run.bottleneck, "n_shards": run.n_shards}
    return {"lease": lease, "run": {**told, "shards": [asdict(shard) for shard in run.shards]}}


def sight_lines(sight: Sight) -> list[str]:
    """The same in words; nothing where nobody is at work and no run was cut off."""
    lease, run = sight.lease, sight.run
    lines = []
    if lease.state != "free":
        what = (
            "lists and plans" if run is None and lease.holder and lease.holder.run_id != "vacuum" else "works"
        )
        seen = f"last sign of life {duration(lease.silent_s)} ago"
        dead = ": it is probably dead, and the next run takes over" if lease.state == "silent" else ""
        lines.append(f"{lease.holder} {what} here; {seen}{dead}")
    elif run is not None:
        lines.append(f"run {run.run_id} did not come to its end, or it holds no lease; run it again to go on")
    if run is not None:
        progress = run.progress
        lines.append(
            f"separating {progress.n_settled}/{progress.n_planned} tracks, {progress_text(progress)}"
        )
        lines += [f"so far {run.bottleneck}"] if run.bottleneck else []
    return lines


def _models(store: Store) -> list[dict[str, Any]]:
    columns = ("track_id", "settings_id", "run_id", "model", "status", "code", "duration_s", "finished_at")
    rows = current_rows(store, columns)
    models = []
    for key in pc.unique(rows["settings_id"]).to_pylist():
        mine = rows.filter(pc.equal(rows["settings_id"], key))
        failed = mine.filter(pc.equal(mine["status"], "failed"))
        n_skipped = pc.sum(pc.equal(mine["status"], "skipped")).as_py() or 0
        codes = {entry["values"]: entry["counts"] for entry in pc.value_counts(failed["code"]).to_pylist()}
        models.append(
            {
                "model": mine["model"][0].as_py(),
                "settings_id": key,
                "done": len(mine) - len(failed) - n_skipped,
                "skipped": n_skipped,
                "failed": len(failed),
                "failures_by_code": codes,
                "audio_s": pc.sum(mine["duration_s"]).as_py() or 0.0,
            }
        )
    return models


def _last_run(store: Store) -> dict[str, Any] | None:
    runs = [found.path for found in store.list_under(f"{ROOT}/runs") if found.path.endswith("/run.json")]
    if not runs:
        return None
    record: dict[str, Any] = json.loads(store.read(max(runs)))
    return record


def _lines(status: dict[str, Any]) -> list[str]:
    lines = [str(status["destination"])]
    if not status["models"]:
        lines.append("no stems of ours here yet")
    for model in status["models"]:
        failed = ", ".join(f"{n} {code}" for code, n in sorted(model["failures_by_code"].items()))
        hours = model["audio_s"] / 3600
        skipped = f"{model['skipped']} skipped, " if model["skipped"] else ""
        lines.append(
            f"{model['model']} (settings {model['settings_id']}): {model['done']} done, "
            f"{hours:.2f} h of audio, {skipped}{model['failed']} failed{f' ({failed})' if failed else ''}"
        )
    last = status["last_run"]
    if last:
        skipped = f"{last['n_skipped']} skipped, " if last.get("n_skipped") else ""
        lines.append(
            f"last run {last['run_id']}: {last['n_done']} done, {skipped}{last['n_failed']} failed, "
            f"{last['n_unsettled']} left, {last['wall_s']:.0f} s"
        )
        stages = (f"{stage.replace('_', ' for ')} {s:.1f} s" for stage, s in last["seconds"].items())
        lines.append(f"all tracks together: {', '.join(stages)}")
        if "device" in last:  # not in the records of older versions
            lines.append(bottleneck(DeviceSeconds(**last["device"]), last["worker_s"]))
    return lines
