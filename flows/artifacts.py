"""What Prefect's page of a flow run shows: progress, summary, failures, and what it cost in machine time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import cast
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.summary import summary_markdown
from splitfire_batch.escapes import one_line
from splitfire_batch.report import Progress, Report

_log = logging.getLogger(__name__)
UPDATE_S = 2.0
"""Seconds between two updates of the progress artifact."""
_HOUR_S = 3600.0


@contextmanager
def cosmetic(what: str) -> Iterator[None]:
    """Around calls that only show something: a server that is away must not end a run."""
    try:
        yield
    except httpx.HTTPError as error:
        _log.warning("prefect_away showing=%s error=%s", what, error)


def progress_shown() -> Callable[[Progress], None]:
    """A function that keeps the progress artifact of this flow run, updating it every few seconds."""
    artifact: UUID | None = None
    with cosmetic("progress"):
        made = create_progress_artifact(0.0, key="progress", description="Tracks settled, of those planned")
        artifact = cast(UUID, made)  # a coroutine only where an event loop runs
    shown_at = 0.0

    def show(progress: Progress) -> None:
        nonlocal shown_at
        is_over = progress.n_settled == progress.n_planned
        if artifact and (is_over or time.monotonic() >= shown_at + UPDATE_S):
            with cosmetic("progress"):
                update_progress_artifact(artifact, progress.percent)
            shown_at = time.monotonic()

    return show


def show_report(report: Report) -> None:
    """Summary, failures if there are any, and cost if anything was done."""
    with cosmetic("summary"):
        create_markdown_artifact(summary_markdown(report), key="summary", description="What the run did")
        if report.failures:
            create_table_artifact(
                [{name: one_line(text) for name, text in asdict(item).items()} for item in report.failures],
                key="failures",
                description="Tracks without stems; failures.parquet in the destination has all",
            )
        if report.n_done + report.n_skipped + report.n_failed:
            create_table_artifact(cost_rows(report), key="cost", description="Machine time of this run")


def cost_rows(report: Report) -> list[dict[str, str | float]]:
    """Machine time of a run that settled a track: in all and for a thousand such tracks, and in money.

    What is paid for is the time for which devices were held; money is told only with a price. Stages are
    summed over tracks, many of which go through them at the same time, so they may add up to more.
    """
    thousands = (report.n_done + report.n_skipped + report.n_failed) / 1000
    stages = {name.replace("_", " for "): seconds for name, seconds in asdict(report.seconds).items()}
    spent = {
        "devices held": report.usage.held_s,
        "devices busy": report.device_s,
        "wall clock": report.wall_s,
        **{f"tracks: {name}": seconds for name, seconds in stages.items()},
    }
    rows: list[dict[str, str | float]] = [
        {
            "what": what,
            "hours": round(seconds / _HOUR_S, 4),
            "hours per 1,000 tracks": round(seconds / _HOUR_S / thousands, 3),
        }
        for what, seconds in spent.items()
    ]
    if report.cost is not None:
        for row in rows:
            row["cost"] = row["cost per 1,000 tracks with stems"] = ""
        each = report.cost_per_1000_tracks
        rows[0]["cost"] = round(report.cost, 2)
        rows[0]["cost per 1,000 tracks with stems"] = "" if each is None else round(each, 2)
    return rows
