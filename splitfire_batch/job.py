"""The story of a job: list, plan, separate, finalise.

A job is what the operator asks for: a source, a destination and settings. These functions do it, and need
neither Ray nor Prefect: where shards run is a function that the caller hands in. All state is in the
destination, so a job that was cut off anywhere goes on when it is run again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from threading import Event

from splitfire_batch.account import Account
from splitfire_batch.catalogue import Catalogue, check_source
from splitfire_batch.catalogue import list_tracks as list_source
from splitfire_batch.closing import finalise as finalise
from splitfire_batch.contents import Reader
from splitfire_batch.duplicate_rows import SHARD_ID as DUPLICATES
from splitfire_batch.duplicate_rows import settle_duplicates
from splitfire_batch.equipment import duplicate_bench, worker_spec
from splitfire_batch.errors import ConfigError, refused_as_usage
from splitfire_batch.failures import check_codes
from splitfire_batch.forecasting import Terms, forecast
from splitfire_batch.headers import read_headers
from splitfire_batch.identity import settings
from splitfire_batch.increment import Increment, find_increment
from splitfire_batch.lease import Lease, unheld
from splitfire_batch.lengths import sample_lengths
from splitfire_batch.manifest.holdings import choose_holding, record_holding
from splitfire_batch.manifest.ledger import read_ledger
from splitfire_batch.manifest.reconcile import without_changed
from splitfire_batch.manifest.schema import RunContext
from splitfire_batch.models import (
    check_commercial,
    fetch_weights,
    find_card,
    supply_of,
    use_registry,
    weights_id,
)
from splitfire_batch.models.mirrors import offer_weights
from splitfire_batch.models.strides import check_obeyed, segment_s
from splitfire_batch.plan import Ledger, PlanSettings
from splitfire_batch.plan import make_plan as plan_tracks
from splitfire_batch.records import Committed, PoolEvent, Shard
from splitfire_batch.report import Progress, Tally
from splitfire_batch.retries import Retry, ledger_for, list_failed, names_record
from splitfire_batch.rows import write_parquet
from splitfire_batch.runs import Run as Run
from splitfire_batch.runs import check_lease, destination_of, keep_unchanged, needs_offers, new_run_id
from splitfire_batch.runs import is_immutable as is_immutable
from splitfire_batch.runs import leased as leased
from splitfire_batch.saved_plan import check_place, read_listing
from splitfire_batch.scratch import scratch_folder
from splitfire_batch.spec import Job as Job
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.stems import check_skips, make_recipes, possible_stems, with_judged
from splitfire_batch.storage import Store, Stores, open_store, parse_url, refuse_file

RunShards = Callable[[Iterable[Shard], WorkerSpec], Iterator[PoolEvent]]
"""Where the work is done: `cluster` does it on Ray."""


def check(job: Job, is_dry: bool = False) -> None:
    """Refuse what cannot work, before anything is done; `is_dry` leaves the destination untouched.

    Raises:
        ConfigError: what `check_settings` refuses, a missing source, a destination that is a file or lies in
            the source.
        TransientError: a store does not answer.
    """
    check_settings(job)
    source, destination = open_store(job.source, job.runtime.storage), destination_of(job)
    is_inside = f"{_true_url(destination)}/".startswith(f"{_true_url(source).rstrip('/')}/")
    if is_inside and job.retry is None:  # the root of a single file or of a table may hold anything
        raise ConfigError(
            f"the destination {destination.url} lies in the source {source.url}: the next run would take "
            "stems for tracks; choose a folder outside it"
        )
    refuse_file(job.destination)
    if job.saved_plan is not None:
        check_place(job.saved_plan, job)
    with refused_as_usage("no access to"):
        check_source(job.source, job.runtime.storage)
        if not is_dry:
            destination.check_writable()


def check_settings(job: Job) -> None:
    """Refuse what cannot work wherever it is run; neither source nor destination is looked at.

    Raises:
        ConfigError: an unknown model, stem or code, a model that may not be used or does not obey a setting,
            a registry that is wrong, or no lease where one is needed.
    """
    use_registry(job.runtime)
    card = find_card(job.separation.model)
    if job.runtime.require_commercial:
        check_commercial(card)
    check_obeyed(card, job.separation)
    make_recipes(job.separation, card.stems)
    check_skips(job.output, card.stems)
    check_lease(job)
    check_codes(job.retry or ())


def list_tracks(job: Job) -> Catalogue:
    """Every track of the source, or those of a saved plan, or its failed ones that the job is to do again."""
    with refused_as_usage("cannot read the source"):
        destination = destination_of(job)
        if job.retry is not None:
            retry = Retry(job.source, job.separation, job.output, job.retry, job.catalogue.allow_root)
            return list_failed(destination, retry, job.runtime.storage, job.runtime.scratch_dir)
        if job.saved_plan is not None:
            return read_listing(job, job.saved_plan)
        skipped = destination.url if destination.is_local else None
        return list_source(
            job.source,
            job.catalogue,
            job.runtime.storage,
            destination=skipped,
            scratch=job.runtime.scratch_dir,
        )


def make_plan(job: Job, catalogue: Catalogue, n_workers: int = 1, lease: Lease | None = None) -> Run:
    """What is listed and not done yet, in shards, and what it will take; nothing is written.

    Lengths that the catalogue does not tell are read from the headers of at most some hundred tracks to do.

    Args:
        job: what is asked for.
        catalogue: of its source.
        n_workers: how many will share the work.
        lease: what the destination is held by, if the plan is to be carried out.

    Raises:
        ConfigError: the destination holds stems made with other settings (plain names).
    """
    card = find_card(job.separation.model)
    store = destination_of(job)
    wanted = settings(job.separation, job.output, weights_id(card))
    holding = choose_holding(store, wanted, is_immutable(job), job.replace)
    plan_settings = PlanSettings(
        model=card.name,
        template=job.output.template,
        segment_s=segment_s(card, job.separation),
        shard_cost=job.runtime.shard_s * card.x_real_time / card.segment_s,
        n_workers=n_workers,
        stems=possible_stems(card.stems),
        overwrite=job.catalogue.overwrite,
        measure=partial(sample_lengths, read=partial(read_headers, options=job.runtime.storage)),
    )
    plain_for = None if is_immutable(job) else card.name
    ledger = read_ledger(store, holding.settings_id, plain_for, catalogue.newest_run)
    lease = lease or unheld(new_run_id())
    context = RunContext(
        run_id=lease.run_id if lease.run_id > ledger.newest_run else new_run_id(after=ledger.newest_run),
        settings_id=holding.settings_id,
        catalogue=catalogue.name,
        model=card.name,
        weights_id=weights_id(card),
        precision=job.separation.precision,
    )
    ledger = ledger if is_immutable(job) else without_changed(store, ledger, holding.settings_id)
    new = _increment(job, store, holding.settings_id, catalogue, ledger)
    plan = plan_tracks(catalogue.rows, new.ledger, plan_settings, job.runtime.scratch_dir, new.duplicates)
    is_local = parse_url(job.source)[0] == "file"
    terms = Terms(job.separation, job.output, job.runtime, n_workers, is_local)
    found = forecast(plan, terms) if plan.n_tracks else None
    run = Run(job, plan, holding, context, catalogue.ignored, lease, found)
    return replace(run, unchanged=new.unchanged, n_unchanged=len(new.unchanged or ()))


def _increment(job: Job, store: Store, settings_id: str, catalogue: Catalogue, ledger: Ledger) -> Increment:
    """The ledger for the plan; of failed tracks that are done again each is separated by itself."""
    if catalogue.held is not None:
        return Increment(ledger_for(ledger, catalogue.held))
    reader = Reader(Stores(job.runtime.storage), job.runtime.scratch_dir)
    return find_increment(store, settings_id, catalogue.rows, ledger, job.catalogue, reader)


def save_plan(run: Run) -> Run:
    """Store the plan and the settings beside the rows that are to come; the plan never changes again.

    Rows of tracks whose objects turned out to be unchanged are written as well. The model's weights are
    fetched first, and stored where workers on other machines find them: without them
    no row would come. The run that is returned knows where.

    Raises:
        ConfigError: the weights cannot be had.
        TransientError: a source of theirs, or the store, does not answer.
        LeaseLost: another run took over the destination; nothing was written.
    """
    run.lease.confirm()
    weights = _provide_weights(run.job) if run.plan.n_shards else ()
    run.lease.confirm()  # that may take minutes; and a record of settings may replace those of another run
    store = destination_of(run.job)
    record_holding(store, run.holding)
    names = "immutable" if is_immutable(run.job) else "plain"
    store.write(f"{run.store_path}/job.json", names_record(names, run.job.output))
    with scratch_folder(run.job.runtime.scratch_dir) as folder:
        file = write_parquet(run.plan.rows, folder / "tracks.parquet")
        store.write(f"{run.store_path}/plan/tracks.parquet", file)
    return replace(keep_unchanged(run), weights=weights)


def _provide_weights(job: Job) -> tuple[str, ...]:
    """Have the weights in this machine's cache, and where workers without it find them; their URLs there."""
    paths = fetch_weights(with_judged(job.separation, job.output), supply_of(job.runtime))
    return offer_weights(paths, destination_of(job)) if needs_offers(job) else ()


def separate(
    run: Run, run_shards: RunShards, watch: Callable[[Progress], None], stop: Event | None = None
) -> Tally:
    """Have every shard of a run that `save_plan` gave done, and tell `watch` how far it is after each event.

    `stop` is set when more tracks fail than `max_failures` allows; whoever runs the shards should heed it.

    Raises:
        LeaseLost: another run took over the destination; the pool ends when `run.lease.is_lost` is set.
    """
    store = destination_of(run.job)
    tally = Tally(run.plan.n_tracks, run.plan.audio_s)
    account = Account(store, run.context, tally, run.job.runtime.max_failures)
    shards = account.suspicions.mark(run.plan.shards())
    for event in run_shards(shards, worker_spec(run)) if run.plan.n_shards else ():
        account.take(event)
        if tally.stopped_by and stop:
            stop.set()
        watch(tally.progress())
    run.lease.check()
    if not (tally.stopped_by or (stop and stop.is_set())):
        for outcomes in settle_duplicates(run.plan, duplicate_bench(run)):
            account.take(Committed(DUPLICATES, outcomes))
            watch(tally.progress())
    return tally


def _true_url(store: Store) -> str:
    """The URL with the links of a local path followed."""
    return os.path.realpath(store.url) if store.is_local else store.url
