"""The flow an operator starts or schedules: list, plan, separate, finalise, each a Prefect task.

Prefect says when, shows how far, and keeps the summary; the work itself is `splitfire_batch.job` on the
actors of `cluster`. There is no task per track, and nothing is resumed from Prefect's state: a run that
was cut off goes on from its destination when the flow runs again.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.guardian import guarded
from flows.settings import expected_workers
from flows.signals import draining
from flows.summary import summary_markdown
from splitfire_batch import job as story
from splitfire_batch.catalogue import Catalogue
from splitfire_batch.config import CatalogueConfig, OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.escapes import one_line
from splitfire_batch.job import Job, Run
from splitfire_batch.lease import Lease
from splitfire_batch.masking import mask_logs
from splitfire_batch.report import Progress, Report, Tally
from splitfire_batch.storage.urls import refuse_secrets
from splitfire_batch.throughput import keep_throughput

_log = logging.getLogger(__name__)
UPDATE_S = 2.0
"""Seconds between two updates of the progress artifact."""

WATCH: ContextVar[Callable[[Progress], None] | None] = ContextVar("WATCH", default=None)
"""Who else is told of progress; the command line sets it, a deployment does not."""


@flow(name="separate-catalogue", persist_result=False, validate_parameters=True)
def separate_catalogue(
    source: str,
    destination: str,
    separation: SeparationConfig = SeparationConfig(),  # noqa: B008 - frozen
    output: OutputConfig = OutputConfig(),  # noqa: B008
    catalogue: CatalogueConfig = CatalogueConfig(),  # noqa: B008
    runtime: RuntimeConfig = RuntimeConfig(),  # noqa: B008
    replace: bool = False,
    retry: tuple[str, ...] | None = None,
) -> State[Report]:
    """Separate every track of a catalogue that is not done yet.

    Args:
        source: folder, bucket prefix, or table (CSV, Parquet, JSON lines) with a `uri` column.
        destination: folder or bucket prefix for stems and manifest; must not lie in the source.
        separation: everything that changes how the stems sound.
        output: how stems are written.
        catalogue: which tracks to take.
        runtime: where and how the work is done.
        replace: write over stems that were made with other settings (plain names only).
        retry: in place of the whole catalogue, its tracks that failed with these codes; none named, with any.
    """
    mask_logs()
    refuse_secrets(source, destination, runtime.weights_mirror, runtime.registry, *catalogue.allow_root)
    job = Job(source, destination, separation, output, catalogue, runtime, replace, retry)
    story.check(job)
    with story.leased(job, _say) as lease:
        run = plan(job, list_tracks(job), lease)
        _name_flow_run(one_line(f"{run.context.catalogue} {run.context.run_id}"))
        tally = separate(run) if run.plan.n_tracks else Tally(0, 0.0)
        report = finalise(run, tally)
    return _final_state(report)


@task(name="list", cache_policy=NO_CACHE, persist_result=False)
def list_tracks(job: Job) -> Catalogue:
    """Every track of the source."""
    catalogue = story.list_tracks(job)
    get_run_logger().info("listed tracks=%d ignored=%s", len(catalogue.rows), catalogue.ignored)
    return catalogue


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan(job: Job, catalogue: Catalogue, lease: Lease) -> Run:
    """What is not done yet, in shards, stored beside the rows that are to come."""
    run = story.make_plan(job, catalogue, n_workers=expected_workers(job.runtime), lease=lease)
    if run.plan.n_tracks:
        run = story.save_plan(run)
    get_run_logger().info(
        "planned run=%s todo=%d done=%d failed_before=%d",
        run.context.run_id,
        run.plan.n_tracks,
        run.plan.n_done,
        run.plan.n_failed_before,
    )
    return run


@task(name="separate", cache_policy=NO_CACHE, persist_result=False)
def separate(run: Run) -> Tally:
    """Feed the shards to the actors, and show how far it is."""
    if not run.plan.n_shards:  # duplicates of what is done, and nothing to separate
        with draining() as stop:
            return story.separate(run, lambda shards, spec: iter(()), _watch(), stop)  # noqa: ARG005
    from cluster.on_ray import on_ray  # Ray is imported only when there is work

    with draining() as stop, guarded(), on_ray(run.job.runtime, stop, run.lease.is_lost) as run_shards:
        return story.separate(run, run_shards, _watch(), stop)


@task(name="finalise", cache_policy=NO_CACHE, persist_result=False)
def finalise(run: Run, tally: Tally) -> Report:
    """One row per planned track, views, report; summary and failures as artifacts."""
    report = story.finalise(run, tally)
    keep_throughput(run.job.separation, run.job.runtime, report.usage, report.run_id)
    with _cosmetic("summary"):
        create_markdown_artifact(summary_markdown(report), key="summary", description="What the run did")
        if report.failures:
            create_table_artifact(
                [{name: one_line(text) for name, text in asdict(item).items()} for item in report.failures],
                key="failures",
                description="Tracks without stems; failures.parquet in the destination has all",
            )
    return report


def _say(text: str) -> None:
    """To whoever waits at a terminal, and into the log of the flow."""
    print(f"splitfire: {text}", file=sys.stderr)  # noqa: T201
    get_run_logger().warning(text)


def _watch() -> Callable[[Progress], None]:
    """Updates the artifact every few seconds, and whoever else is watching each time."""
    artifact: UUID | None = None
    with _cosmetic("progress"):
        made = create_progress_artifact(0.0, key="progress", description="Tracks settled, of those planned")
        artifact = cast(UUID, made)  # a coroutine only where an event loop runs
    also = WATCH.get()
    shown_at = 0.0

    def watch(progress: Progress) -> None:
        nonlocal shown_at
        if also:
            also(progress)
        is_over = progress.n_settled == progress.n_planned
        if artifact and (is_over or time.monotonic() >= shown_at + UPDATE_S):
            with _cosmetic("progress"):
                update_progress_artifact(artifact, progress.percent)
            shown_at = time.monotonic()

    return watch


def _name_flow_run(name: str) -> None:
    with _cosmetic("name"), get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=name)


@contextmanager
def _cosmetic(what: str) -> Iterator[None]:
    """Around calls that only show something: a server that is away must not end a run."""
    try:
        yield
    except httpx.HTTPError as error:
        _log.warning("prefect_away showing=%s error=%s", what, error)


def _final_state(report: Report) -> State[Report]:
    """Failed tracks are rows, not a failed flow; a run that was stopped has failed, to be run again."""
    message = f"{report.n_done} done, {report.n_failed} failed, {report.n_done_before} done before"
    message += f", {report.n_skipped} skipped" if report.n_skipped else ""
    state: Any = Completed
    name = "Completed with failures" if report.n_failed else "Completed"
    if report.stopped_by:
        state, name, message = Failed, "Stopped by max_failures", f"{message}: {report.stopped_by}"
    elif report.n_unsettled:
        state, name = Failed, "Stopped"
        message += f", {report.n_unsettled} left: run it again"
    final: State[Report] = state(name=name, message=message, data=report)
    return final
