"""`splitfire status`: what a destination holds, from storage alone."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.compute as pc

from flows.settings import Settings
from splitfire_batch.bottleneck import bottleneck
from splitfire_batch.escapes import one_line
from splitfire_batch.manifest.ledger import ROOT, current_rows
from splitfire_batch.records import DeviceSeconds
from splitfire_batch.storage import Store, open_store


def status_text(destination: str, settings: Settings, as_json: bool) -> str:
    """Counts by model and status over all runs, and the last run's own numbers."""
    store = open_store(destination, settings.runtime.storage)
    store.check_readable()
    status = {"destination": store.url, "models": _models(store), "last_run": _last_run(store)}
    if as_json:
        return json.dumps(status, indent=1)
    return "\n".join(map(one_line, _lines(status)))


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
