"""The flow an operator starts or schedules: list, plan, separate, finalise, each a Prefect task.

Prefect says when, shows how far, and keeps the summary; the work itself is `splitfire_batch.job` on the
actors of `cluster`. There is no task per track, and nothing is resumed from Prefect's state: a run that
was cut off goes on from its destination when the flow runs again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from flows.artifacts import cosmetic, progress_shown, show_report
from flows.cancelling import heeding_cancel, is_cancelling
from flows.guardian import guarded
from flows.notices import COMPLETED_WITH_FAILURES, STOPPED, STOPPED_BY_FAILURES, tell
from flows.settings import expected_workers
from flows.signals import draining
from splitfire_batch import job as story
from splitfire_batch.catalogue import Catalogue
from splitfire_batch.config import CatalogueConfig, OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.escapes import one_line
from splitfire_batch.importing import uncollected
from splitfire_batch.job import Job, Run
from splitfire_batch.lease import Lease
from splitfire_batch.masking import mask_logs
from splitfire_batch.report import Progress, Report, Tally
from splitfire_batch.storage.urls import refuse_secrets
from splitfire_batch.throughput import keep_throughput

WATCH: ContextVar[Callable[[Progress], None] | None] = ContextVar("WATCH", default=None)
"""Who else is told of progress; the command line sets it, a deployment does not."""


@flow(
    name="separate-catalogue",
    persist_result=False,
    validate_parameters=True,
    on_failure=[tell],
    on_crashed=[tell],
    on_completion=[tell],
)
def separate_catalogue(
    source: str,
    destination: str,
    separation: SeparationConfig = SeparationConfig(),  # noqa: B008 - frozen
    output: OutputConfig = OutputConfig(),  # noqa: B008
    catalogue: CatalogueConfig = CatalogueConfig(),  # noqa: B008
    runtime: RuntimeConfig = RuntimeConfig(),  # noqa: B008
    replace: bool = False,
    retry: tuple[str, ...] | None = None,
    saved_plan: str | None = None,
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
        saved_plan: path or URL of a plan of this job; what was listed for it is taken, and nothing else.
    """
    mask_logs()
    job = Job(source, destination, separation, output, catalogue, runtime, replace, retry, saved_plan)
    refuse_secrets(*job.urls)
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
    with uncollected():
        from cluster.on_ray import on_ray  # Ray is imported only when there is work

    with (
        draining() as stop,
        heeding_cancel(_flow_run_id(), stop),
        guarded(),
        on_ray(run.job.runtime, stop, run.lease.is_lost) as run_shards,
    ):
        return story.separate(run, run_shards, _watch(), stop)


@task(name="finalise", cache_policy=NO_CACHE, persist_result=False)
def finalise(run: Run, tally: Tally) -> Report:
    """One row per planned track, views, report; summary and failures as artifacts."""
    report = story.finalise(run, tally)
    keep_throughput(run.job.separation, run.job.runtime, report.usage, report.run_id)
    show_report(report)
    return report


def _say(text: str) -> None:
    """To whoever waits at a terminal, and into the log of the flow."""
    print(f"splitfire: {text}", file=sys.stderr)  # noqa: T201
    get_run_logger().warning(text)


def _watch() -> Callable[[Progress], None]:
    """Tells Prefect's page, and whoever else is watching."""
    show, also = progress_shown(), WATCH.get()

    def watch(progress: Progress) -> None:
        if also:
            also(progress)
        show(progress)

    return watch


def _flow_run_id() -> UUID:
    return UUID(str(flow_run.id))


def _name_flow_run(name: str) -> None:
    with cosmetic("name"), get_client(sync_client=True) as client:
        client.update_flow_run(_flow_run_id(), name=name)


def _final_state(report: Report) -> State[Report]:
    """Failed tracks are rows, not a failed flow; a run that was stopped has failed, to be run again.

    A flow run that was cancelled ends so, because Prefect lets it end in no other state.
    """
    message = f"{report.n_done} done, {report.n_failed} failed, {report.n_done_before} done before"
    message += f", {report.n_skipped} skipped" if report.n_skipped else ""
    left = f", {report.n_unsettled} left: run it again" if report.n_unsettled else ""
    state: Any = Completed
    name = COMPLETED_WITH_FAILURES if report.exit_code else "Completed"
    if is_cancelling(_flow_run_id()):
        state, name, message = Cancelled, "Cancelled", message + left
    elif report.stopped_by:
        state, name, message = Failed, STOPPED_BY_FAILURES, f"{message}: {report.stopped_by}"
    elif report.n_unsettled:
        state, name, message = Failed, STOPPED, message + left
    final: State[Report] = state(name=name, message=message, data=report)
    return final
