"""`splitfire plan`: what a run would do and what it would take, in numbers; what was listed can be saved."""

from __future__ import annotations

import json

from flows.settings import Settings, expected_workers
from splitfire_batch import job as story
from splitfire_batch.escapes import one_line, shell_word
from splitfire_batch.figures import forecast_figures
from splitfire_batch.job import Run
from splitfire_batch.runs import destination_of, newest_run
from splitfire_batch.saved_plan import check_place, save_listing
from splitfire_batch.storage.urls import refuse_secrets


def preview(
    source: str, destination: str, settings: Settings, replace: bool, as_json: bool, save: str | None = None
) -> str:
    """The plan as text, or as JSON with the same numbers.

    Nothing is written but the file `save`, with which a run does what was listed here.
    """
    refuse_secrets(save)
    job = settings.job(source, destination, replace)
    story.check(job, is_dry=True)
    if save:
        check_place(save, job, is_new=True)
        newest = newest_run(destination_of(job))  # before anything is listed
    catalogue = story.list_tracks(job)
    run = story.make_plan(job, catalogue, expected_workers(job.runtime))
    if save:
        save_listing(catalogue, job, save, newest)
    if as_json:
        return json.dumps(_numbers(run), indent=1)
    return "\n".join(one_line(f"{name:15} {value}") for name, value in _figures(run))


def _numbers(run: Run) -> dict[str, object]:
    plan = run.plan
    return {
        "tracks": plan.n_listed,
        "todo": plan.n_tracks,
        "duplicates": plan.n_duplicates,
        "done_before": plan.n_done,
        "unseen": plan.n_unseen,
        "unchanged": run.n_unchanged,
        "skipped_before": plan.n_skipped_before,
        "skipped_before_by_code": plan.codes.skipped_before,
        "failed_before": plan.n_failed_before,
        "failed_before_by_code": plan.codes.failed_before,
        "without_stems_by_code": plan.codes.without_stems,
        "ignored": run.ignored,
        "shards": plan.n_shards,
        "bytes_in": plan.n_bytes,
        "estimated_audio_s": round(plan.audio_s, 1),
        "forecast": run.forecast.as_dict() if run.forecast else None,
        "model": run.context.model,
        "settings_id": run.context.settings_id,
        "names": _names(run),
    }


def _figures(run: Run) -> list[tuple[str, str]]:
    plan = run.plan
    again = f"; not tried again, unless by: splitfire retry {shell_word(run.job.destination)}"
    by_bytes = f" ({run.n_unchanged:,} by their bytes)" if run.n_unchanged else ""
    unseen = f" ({plan.n_unseen:,} missing or refused at the source now)" if plan.n_unseen else ""
    found = [
        ("tracks", f"{plan.n_listed:,}"),
        ("done before", f"{plan.n_done:,}{by_bytes}{unseen}"),
        ("skipped before", f"{plan.n_skipped_before:,}{_by_code(plan.codes.skipped_before)}"),
        ("failed before", f"{plan.n_failed_before:,}{_by_code(plan.codes.failed_before)}"),
        ("ignored", _listed(run.ignored) or "nothing"),
        ("to do", f"{plan.n_tracks:,} in {plan.n_shards:,} shard{'' if plan.n_shards == 1 else 's'}"),
    ]
    if plan.n_failed_before:
        found[3] = (found[3][0], found[3][1] + again)
    if plan.n_duplicates:
        found.append(("duplicates", f"{plan.n_duplicates:,} of these, which get the stems of another track"))
    if plan.codes.without_stems:
        found.append(("without stems", f"of these {_listed(plan.codes.without_stems)}"))
    if run.forecast:
        found += forecast_figures(run.forecast)
    found.append(("model", f"{run.context.model}, settings {run.context.settings_id}"))
    found.append(("names", _names(run)))
    return found


def _names(run: Run) -> str:
    return "immutable" if story.is_immutable(run.job) else "plain"


def _by_code(codes: dict[str, int]) -> str:
    return f" ({_listed(codes)})" if codes else ""


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in numbers.items())
