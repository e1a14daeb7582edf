"""`splitfire deploy`: a run that starts itself, as a deployment on a Prefect server."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import Config, Destination, Flags, Json, Source, takes_settings
from flows.prefect_files import refuse_settings_in
from flows.settings import load_settings
from splitfire_batch.errors import ConfigError
from splitfire_batch.escapes import one_line, shell_word

if TYPE_CHECKING:
    from flows.deployment import Deployed


@takes_settings("separation", "output", "catalogue", "runtime")
def deploy(
    source: Source,
    destination: Destination,
    flags: Flags,
    name: Annotated[str, typer.Option(help="Of the deployment; one of this name is updated.")] = "nightly",
    cron: Annotated[
        str | None, typer.Option(help="When it starts, such as '0 2 * * *'; without, only when asked to.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help=r"Of --cron, such as Europe/Berlin \[default: UTC].")
    ] = None,
    work_pool: Annotated[
        str, typer.Option(help="Of the Prefect server; its workers do the runs.")
    ] = "splitfire",
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Source and destination cannot be seen from here: trust me.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over stems made with other settings.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Have `run` start by itself: make, or update, a deployment on the server at PREFECT_API_URL.

    It takes the options of `run` and stores what differs from their defaults. One run at a time: a start
    while another is under way is cancelled. Credentials stay with the workers; none is stored.
    """
    if not name or set(name) & set("/%&><"):
        raise ConfigError(f"--name: found {name!r}, wanted a name without / % & < >, such as nightly")
    if timezone is not None and cron is None:
        raise ConfigError("--timezone says nothing without --cron; add --cron '0 2 * * *', or leave it out")
    job = load_settings(flags, config).job(source, destination, replace)
    refuse_settings_in(source)

    from flows.deployment import deploy_job, schedule_of  # they bring Prefect
    from splitfire_batch import job as story

    schedule = schedule_of(cron, timezone or "UTC") if cron is not None else None
    if unchecked:
        story.check_settings(job)
    else:
        story.check(job, is_dry=True)
    made = deploy_job(job, name, work_pool, schedule)
    typer.echo(
        json.dumps(asdict(made), indent=1) if as_json else "\n".join(map(one_line, deployed_lines(made)))
    )


def deployed_lines(made: Deployed) -> list[str]:
    """What was made, and what to do next."""
    start = f"{made.cron} ({made.timezone})" if made.cron else "only when asked to"
    settings = {key: value for key, value in made.parameters.items() if key not in ("source", "destination")}
    name, pool = shell_word(made.name), shell_word(made.pool)
    return [
        f"deployment {made.name} {'made' if made.is_new else 'updated'} at {made.api_url}",
        f"source       {made.parameters['source']}",
        f"destination  {made.parameters['destination']}",
        f"settings     {json.dumps(settings) if settings else 'defaults'}",
        f"starts       {start}; one run at a time, a second start is cancelled",
        f"work pool    {made.pool} ({made.pool_type})",
        f"start a worker where source and destination can be reached:  prefect worker start --pool {pool}",
        f"start a run now:  prefect deployment run {name}",
    ]
