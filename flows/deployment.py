"""A job as a deployment on a Prefect server: the flow's parameters, when it starts, and who runs it.

The parameters are what differs from the defaults, so that a deployment does what the same `splitfire run`
would do. They are stored and shown by the server; secrets never get into them, because settings take none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from flows.own_server import api_url, reached  # isort: skip - before Prefect, which reads its settings at import

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import TypeAdapter, ValidationError

from flows.separate_catalogue import separate_catalogue
from splitfire_batch import __version__
from splitfire_batch.errors import ConfigError, TransientError
from splitfire_batch.job import Job
from splitfire_batch.masking import masked
from splitfire_batch.storage.urls import parse_url

ENTRYPOINT = "flows.separate_catalogue.separate_catalogue"
"""Workers have the package installed: no code is fetched."""
DRAIN_S = 15.0
"""Prefect's workers kill a run 30 s after they asked it to stop; the rest is for its report."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment as the server has it now."""

    name: str
    """With the flow's before it, as Prefect's commands want it."""
    deployment_id: str
    is_new: bool
    pool: str
    pool_type: str
    api_url: str
    cron: str | None
    timezone: str | None
    parameters: dict[str, Any]


def parameters_of(job: Job) -> dict[str, Any]:
    """The flow's parameters for a job, for JSON; local paths are written out, for workers start elsewhere."""
    runtime = replace(
        job.runtime,
        registry=_anywhere(job.runtime.registry),
        weights_mirror=_anywhere(job.runtime.weights_mirror),
        scratch_dir=_anywhere(job.runtime.scratch_dir),
        drain_s=min(job.runtime.drain_s, DRAIN_S),
    )
    roots = tuple(_written_out(root) for root in job.catalogue.allow_root)
    job = replace(
        job,
        source=_written_out(job.source),
        destination=_written_out(job.destination),
        catalogue=replace(job.catalogue, allow_root=roots),
        runtime=runtime,
    )
    dumped: dict[str, Any] = TypeAdapter(Job).dump_python(job, mode="json", exclude_defaults=True)
    return {
        field.name: dumped[field.name] for field in fields(job) if dumped.get(field.name) not in (None, {})
    }


def schedule_of(cron: str, timezone: str) -> CronSchedule:
    """A schedule for Prefect.

    Raises:
        ConfigError: no cron expression, or no time zone of the IANA database.
    """
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        (name, *_), *_ = (item["loc"] for item in error.errors())
        found, wanted = {
            "cron": (cron, "minute hour day month weekday, such as '0 2 * * *' for two every night"),
            "timezone": (timezone, "a name of the IANA database, such as Europe/Berlin"),
        }[str(name)]
        raise ConfigError(f"--{name}: found {found!r}, wanted {wanted}") from None


def deploy_job(job: Job, name: str, pool: str, schedule: CronSchedule | None) -> Deployed:
    """Make the deployment on the server that is configured, or have the one of this name do this job instead.

    One run at a time: a start while another is under way is cancelled. What else was set on the server stays:
    whether it is paused, and the pool's variables.

    Raises:
        ConfigError: no server is configured, it does not take our password, or it has no such pool.
        TransientError: it does not answer.
    """
    configured = api_url()
    if configured is None:
        raise ConfigError(
            "PREFECT_API_URL is not set, and a deployment lives on a Prefect server; start one as "
            "infra/README.md says, and set PREFECT_API_URL to its address with /api behind it"
        )
    url, parameters = masked(configured), parameters_of(job)
    with reached(), get_client(sync_client=True) as client, _translated(url):
        pool_type = _pool_type(client, pool, url)
        full_name = f"{separate_catalogue.name}/{name}"
        try:
            before = client.read_deployment_by_name(full_name)
        except ObjectNotFound:
            before = None
        variables = before.job_variables if before else {}
        made = _put(client, name, pool, schedule, parameters, variables)
    cron, timezone = (schedule.cron, schedule.timezone) if schedule else (None, None)
    return Deployed(full_name, str(made), before is None, pool, pool_type, url, cron, timezone, parameters)


def _put(
    client: SyncPrefectClient,
    name: str,
    pool: str,
    schedule: CronSchedule | None,
    parameters: dict[str, Any],
    job_variables: dict[str, Any],
) -> UUID:
    """Create it, or replace all of it but what is not named here."""
    return client.create_deployment(
        flow_id=client.create_flow_from_name(separate_catalogue.name),
        name=name,
        version=__version__,
        description=f"What is not done yet of {parameters['source']}, to {parameters['destination']}",
        tags=["splitfire"],
        entrypoint=ENTRYPOINT,
        pull_steps=[],
        work_pool_name=pool,
        job_variables=job_variables,
        schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)] if schedule else [],
        concurrency_limit=1,
        concurrency_options=ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        parameters=parameters,
        parameter_openapi_schema=separate_catalogue.parameters.model_dump(),
        enforce_parameter_schema=True,
    )


def _pool_type(client: SyncPrefectClient, pool: str, url: str) -> str:
    try:
        return client.read_work_pool(pool).type
    except ObjectNotFound:
        known = ", ".join(sorted(found.name for found in client.read_work_pools())) or "none"
        raise ConfigError(
            f"--work-pool: the server at {url} has no pool {pool!r}, it has {known}; make one with: "
            f"prefect work-pool create {pool} --type process"
        ) from None


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """What the client raises, in our words."""
    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise ConfigError(
                f"the Prefect server at {url} takes no other password than its own; set "
                "PREFECT_API_AUTH_STRING to that"
            ) from error
        raise ConfigError(f"the Prefect server at {url} refuses the deployment: {error}") from error
    except httpx.HTTPError as error:
        raise TransientError(f"the Prefect server at {url} does not answer: {error}") from error


def _anywhere(place: str | None) -> str | None:
    """A URL, or the full path of a local file or folder."""
    return place if place is None or "://" in place else str(Path(place).expanduser().absolute())


def _written_out(url: str) -> str:
    """A store's URL as it is understood from any folder."""
    scheme, root = parse_url(url)
    return root if scheme == "file" else url
