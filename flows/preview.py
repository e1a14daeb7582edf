"""`splitfire plan`: what a run would do, in numbers. Nothing is written."""

from __future__ import annotations

import json

from flows.settings import Settings, expected_workers
from splitfire_batch import job as story


def preview(source: str, destination: str, settings: Settings, replace: bool, as_json: bool) -> str:
    """The plan as text, or as JSON with the same numbers."""
    job = settings.job(source, destination, replace)
    story.check(job, is_dry=True)
    run = story.make_plan(job, story.list_tracks(job), expected_workers(job.runtime))
    plan = run.plan
    numbers = {
        "tracks": plan.n_listed,
        "todo": plan.n_tracks,
        "duplicates": plan.n_duplicates,
        "done_before": plan.n_done,
        "unchanged": run.n_unchanged,
        "skipped_before": plan.n_skipped_before,
        "failed_before": plan.n_failed_before,
        "ignored": run.ignored,
        "shards": plan.n_shards,
        "bytes_in": plan.n_bytes,
        "estimated_audio_s": round(plan.audio_s, 1),
        "model": run.context.model,
        "settings_id": run.context.settings_id,
        "names": "immutable" if story.is_immutable(job) else "plain",
    }
    if as_json:
        return json.dumps(numbers, indent=1)
    return "\n".join(f"{name.replace('_', ' '):18} {_shown(value)}" for name, value in numbers.items())


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{n} {reason}" for reason, n in value.items()) or "nothing"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
