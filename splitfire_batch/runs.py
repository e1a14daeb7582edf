"""A run: one execution of a job, from its plan to its report, and the destination that it holds meanwhile."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from splitfire_batch.errors import ConfigError
from splitfire_batch.forecast import Forecast
from splitfire_batch.lease import BUDGET, Lease, hold, unheld
from splitfire_batch.manifest.holdings import Holding
from splitfire_batch.manifest.parts import ROOT
from splitfire_batch.manifest.schema import RunContext
from splitfire_batch.plan import Plan
from splitfire_batch.spec import Job
from splitfire_batch.storage import Store, open_store, parse_url
from splitfire_batch.unchanged import Unchanged, record_unchanged

_STAMP = "%Y%m%dT%H%M%S%f"
_STAMP_LETTERS = len("20260101T000000000")
_latest: list[tuple[Job, Store]] = []
"""The job whose store was asked for last, and that store."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a job: its plan, and what its rows will say alike."""

    job: Job
    plan: Plan
    holding: Holding
    context: RunContext
    ignored: dict[str, int]
    lease: Lease = field(default_factory=unheld)
    """What the run holds its destination by; without one it trusts that it is alone."""
    forecast: Forecast | None = None
    """What the plan will take; None if there is nothing to do."""
    weights: tuple[str, ...] = ()
    """URLs of the weights in the destination, for workers on other machines; known once the plan is saved."""
    unchanged: Unchanged | None = None
    """Tracks whose rows are still to be written again."""
    n_unchanged: int = 0
    """Of the tracks that are done or were skipped, those whose objects had to be read to know."""

    @property
    def store_path(self) -> str:
        """Folder of this run's records, below the destination."""
        return f"{ROOT}/runs/{self.context.run_id}"


def keep_unchanged(run: Run) -> Run:
    """Write again the rows of tracks that are new by their etag alone; the run without them.

    Raises:
        LeaseLost: another run took over the destination.
    """
    if run.unchanged:
        record_unchanged(destination_of(run.job), run.unchanged, run.context, run.lease.check)
    return replace(run, unchanged=None)


def leased(job: Job, tell: Callable[[str], None]) -> AbstractContextManager[Lease]:
    """Holds the job's destination inside a `with` block: from before it is planned until its report is there.

    Args:
        job: with `lease = false` nothing is held.
        tell: gets a line if another run holds it that may be dead, which takes a while to see.

    Raises:
        LeaseHeld: another run works there.
        ConfigError: the store cannot keep a lease, and names are plain.
    """
    check_lease(job)
    if not job.runtime.lease:
        return nullcontext(unheld(new_run_id()))
    store = open_store(job.destination, job.runtime.storage, BUDGET)
    return hold(store, new_run_id(), is_needed=not is_immutable(job), tell=tell)


def check_lease(job: Job) -> None:
    """Refuse to do without a lease where stems can be written over.

    Raises:
        ConfigError: `lease = false` with plain names.
    """
    if not job.runtime.lease and not is_immutable(job):
        raise ConfigError(
            "lease = false: two runs could write over each other's stems, because names are plain; "
            'leave the lease on, or set names = "immutable"'
        )


def new_run_id(after: str = "") -> str:
    """UTC to the millisecond, by which runs are ordered, and 6 hex digits of chance.

    Args:
        after: the newest run_id so far; the new one is later, though this machine's clock be behind.
    """
    now = datetime.now(UTC)
    if after and stamp(now) <= after[:_STAMP_LETTERS]:
        before = datetime.strptime(after[:_STAMP_LETTERS], _STAMP)
        now = before + timedelta(milliseconds=1)
    return f"{stamp(now)}Z-{secrets.token_hex(3)}"


def newest_run(destination: Store) -> str:
    """The last run_id of those that have begun there; empty if none has."""
    runs = (found.path.split("/")[2] for found in destination.list_under(f"{ROOT}/runs"))
    return max(runs, default="")


def stamp(when: datetime) -> str:
    """How the run_id of a run begins that began at that time, in UTC."""
    return f"{when:{_STAMP}}"[:_STAMP_LETTERS]


def is_immutable(job: Job) -> bool:
    """Whether stem names end in the hash of their bytes."""
    is_local = parse_url(job.destination)[0] == "file"
    return job.output.names == "immutable" or (job.output.names == "auto" and not is_local)


def needs_offers(job: Job) -> bool:
    """Whether workers may run on machines without this one's cache, and no mirror has their weights.

    What they all reach is the destination. Offline it will do only where it is a folder.
    """
    is_local = parse_url(job.destination)[0] == "file"
    is_spread = job.runtime.ray is not None and job.runtime.weights_mirror is None
    return is_spread and (is_local or not job.runtime.offline)


def destination_of(job: Job) -> Store:
    """The store that a job writes to, one for all its steps: a bucket's client takes 0.1 s to make."""
    for known, store in _latest:
        if known is job:  # another job may find other credentials, though it is the same in all that is said
            return store
    store = open_store(job.destination, job.runtime.storage)
    _latest[:] = [(job, store)]
    return store
