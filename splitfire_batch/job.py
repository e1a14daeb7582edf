"""The story of a job: list, plan, separate, finalise.

A job is what the operator asks for: a source, a destination and settings. These functions do it, and need
neither Ray nor Prefect: where shards run is a function that the caller hands in. All state is in the
destination, so a job that was cut off anywhere goes on when it is run again.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event

import pyarrow.compute as pc

from splitfire_batch import __version__
from splitfire_batch.account import Account
from splitfire_batch.catalogue import Catalogue, check_source
from splitfire_batch.catalogue import list_tracks as list_source
from splitfire_batch.config import CatalogueConfig, OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import AccessDenied, ConfigError, ObjectMissing
from splitfire_batch.holdings import Holding, choose_holding, record_holding
from splitfire_batch.identity import settings
from splitfire_batch.manifest import ROOT, latest, read_ledger, read_parts, refresh_views
from splitfire_batch.models import fetch_weights, find_card, weights_id
from splitfire_batch.plan import Plan, PlanSettings
from splitfire_batch.plan import make_plan as plan_tracks
from splitfire_batch.records import PoolEvent, Shard
from splitfire_batch.report import Progress, Report, Tally
from splitfire_batch.schema import RunContext, parquet_bytes
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.stems import check_skips, make_recipes, possible_stems
from splitfire_batch.storage import Store, open_store, parse_url

SEGMENT_S = 524_288 / 44_100
"""Seconds of audio in one unit of cost: a Spleeter segment's stride."""
_REAL_TIME = 30.0
"""Seconds of audio a worker is taken to separate per second, for the size of shards."""

RunShards = Callable[[Iterable[Shard], WorkerSpec], Iterator[PoolEvent]]
"""Where the work is done: `cluster` does it on Ray."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the operator asks for."""

    source: str
    destination: str
    separation: SeparationConfig = field(default_factory=SeparationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    catalogue: CatalogueConfig = field(default_factory=CatalogueConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    replace: bool = False
    """Write over stems that were made with other settings (plain names only)."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a job: its plan, and what its rows will say alike."""

    job: Job
    plan: Plan
    holding: Holding
    context: RunContext
    ignored: dict[str, int]

    @property
    def store_path(self) -> str:
        """Folder of this run's records, below the destination."""
        return f"{ROOT}/runs/{self.context.run_id}"


def check(job: Job, is_dry: bool = False) -> None:
    """Refuse what cannot work, before anything is done; `is_dry` leaves the destination untouched.

    Raises:
        ConfigError: an unknown model or stem, a missing source, a destination in the source.
        TransientError: a store does not answer.
    """
    stems = find_card(job.separation.model).stems
    make_recipes(job.separation, stems)
    check_skips(job.output, stems)
    source, destination = open_store(job.source, job.runtime.storage), _destination(job)
    if f"{_true_url(destination)}/".startswith(f"{_true_url(source).rstrip('/')}/"):
        raise ConfigError(
            f"the destination {destination.url} lies in the source {source.url}: the next run would take "
            "stems for tracks; choose a folder outside it"
        )
    try:
        check_source(job.source, job.runtime.storage)
        if not is_dry:
            destination.check_writable()
    except (ObjectMissing, AccessDenied) as error:
        raise ConfigError(f"no access to {error}") from error


def list_tracks(job: Job) -> Catalogue:
    """Every track of the source."""
    try:
        destination = _destination(job)
        skipped = destination.url if destination.is_local else None
        return list_source(job.source, job.catalogue, job.runtime.storage, destination=skipped)
    except AccessDenied as error:
        raise ConfigError(f"cannot read the source {error}") from error


def make_plan(job: Job, catalogue: Catalogue, n_workers: int = 1) -> Run:
    """What is listed and not done yet, in shards; nothing is written.

    Raises:
        ConfigError: the destination holds stems made with other settings (plain names).
    """
    card = find_card(job.separation.model)
    store = _destination(job)
    wanted = settings(job.separation, job.output, weights_id(card))
    holding = choose_holding(store, wanted, is_immutable(job), job.replace)
    plan_settings = PlanSettings(
        model=card.name,
        template=job.output.template,
        segment_s=SEGMENT_S,
        shard_cost=job.runtime.shard_s * _REAL_TIME / SEGMENT_S,
        n_workers=n_workers,
        stems=possible_stems(card.stems),
    )
    context = RunContext(
        run_id=_new_run_id(),
        settings_id=holding.settings_id,
        catalogue=catalogue.name,
        model=card.name,
        weights_id=weights_id(card),
        precision=job.separation.precision,
    )
    ledger = read_ledger(store, holding.settings_id, None if is_immutable(job) else card.name)
    plan = plan_tracks(catalogue.tracks, ledger, plan_settings)
    return Run(job, plan, holding, context, catalogue.ignored)


def _new_run_id() -> str:
    """UTC to the millisecond, by which runs are ordered, and 6 hex digits of chance."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"[:-3] + f"Z-{secrets.token_hex(3)}"


def save_plan(run: Run) -> None:
    """Store the plan and the settings beside the rows that are to come; the plan never changes again.

    The model's weights are fetched first: without them no row would come.

    Raises:
        ConfigError: the weights cannot be had.
    """
    runtime = run.job.runtime
    fetch_weights(find_card(run.context.model), runtime.weights_mirror, runtime.storage)
    store = _destination(run.job)
    record_holding(store, run.holding)
    store.write(f"{run.store_path}/plan/tracks.parquet", parquet_bytes(run.plan.tracks))


def separate(
    run: Run, run_shards: RunShards, watch: Callable[[Progress], None], stop: Event | None = None
) -> Tally:
    """Have every shard done, and tell `watch` how far it is after each event.

    `stop` is set when more tracks fail than `max_failures` allows; whoever runs the shards should heed it.
    """
    store = _destination(run.job)
    tally = Tally(len(run.plan.tracks), run.plan.audio_s)
    account = Account(store, run.context, tally, run.job.runtime.max_failures)
    spec = WorkerSpec(
        destination=store.url,
        separation=run.job.separation,
        output=run.job.output,
        runtime=run.job.runtime,
        context=run.context,
        is_immutable=is_immutable(run.job),
    )
    for event in run_shards(account.suspicions.mark(run.plan.shards()), spec):
        account.take(event)
        if tally.stopped_by and stop:
            stop.set()
        watch(tally.progress())
    return tally


def finalise(run: Run, tally: Tally) -> Report:
    """Check that every planned track has its row, make the views, and write the run's report.

    The counts come from the parts in the store, not from what workers told.
    """
    store = _destination(run.job)
    rows = latest(read_parts(store, run.context.settings_id, run.context.run_id))
    source_ids = run.plan.tracks["source_id"].combine_chunks()
    planned = rows.filter(pc.is_in(rows["source_id"], value_set=source_ids))
    failed = planned.filter(pc.equal(planned["status"], "failed"))
    n_skipped = pc.sum(pc.equal(planned["status"], "skipped")).as_py() or 0
    report = Report(
        run_id=run.context.run_id,
        source=run.job.source,
        destination=store.url,
        model=run.context.model,
        settings_id=run.context.settings_id,
        n_listed=run.plan.n_listed,
        ignored=run.ignored,
        n_done_before=run.plan.n_done,
        n_failed_before=run.plan.n_failed_before,
        n_planned=len(run.plan.tracks),
        n_skipped_before=run.plan.n_skipped_before,
        n_done=len(planned) - len(failed) - n_skipped,
        n_skipped=n_skipped,
        n_failed=len(failed),
        failures_by_code=dict(tally.codes),
        failures=tuple(tally.failures),
        audio_s=tally.audio_s,
        n_bytes_out=tally.n_bytes_out,
        wall_s=tally.wall_s,
        seconds=tally.total_seconds(),
        worker_s=tally.worker_s,
        device=tally.total_device(),
        stopped_by=tally.stopped_by,
    )
    refresh_views(store, report.run_id)
    if report.n_planned:
        store.write(f"{run.store_path}/failures.parquet", parquet_bytes(failed))
        record = {**report.as_dict(), "settings": run.holding.settings, "version": __version__}
        store.write(f"{run.store_path}/run.json", json.dumps(record, indent=1).encode())
    return report


def is_immutable(job: Job) -> bool:
    """Whether stem names end in the hash of their bytes."""
    is_local = parse_url(job.destination)[0] == "file"
    return job.output.names == "immutable" or (job.output.names == "auto" and not is_local)


def _true_url(store: Store) -> str:
    """The URL with the links of a local path followed."""
    return os.path.realpath(store.url) if store.is_local else store.url


def _destination(job: Job) -> Store:
    return open_store(job.destination, job.runtime.storage)
