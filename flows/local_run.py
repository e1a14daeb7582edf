"""`splitfire run`: the flow in this process, against whichever Prefect API is configured, or its own."""

from __future__ import annotations

import os
from typing import cast

_PREFECT_DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # slow machines need more than its 20
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # never pickle what others can write
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the command line says itself what went wrong
}
for _name, _value in _PREFECT_DEFAULTS.items():
    os.environ.setdefault(_name, _value)

from flows.console import showing  # noqa: E402 - Prefect reads its settings when it is imported
from flows.separate_catalogue import WATCH, separate_catalogue  # noqa: E402
from flows.settings import Settings  # noqa: E402
from splitfire_batch import job as story  # noqa: E402
from splitfire_batch.job import Job  # noqa: E402
from splitfire_batch.report import Report  # noqa: E402


def run_flow(source: str, destination: str, settings: Settings, replace: bool, is_quiet: bool) -> Report:
    """Run the flow and return its report.

    Raises:
        SplitfireError: what ended the flow before its report.
    """
    job = Job(
        source,
        destination,
        settings.separation,
        settings.output,
        settings.catalogue,
        settings.runtime,
        replace,
    )
    story.check(job)  # bad usage need not wait for Prefect's server
    with showing(is_quiet) as show:
        WATCH.set(show)
        state = separate_catalogue(
            source=job.source,
            destination=job.destination,
            separation=job.separation,
            output=job.output,
            catalogue=job.catalogue,
            runtime=job.runtime,
            replace=job.replace,
            return_state=True,
        )
    outcome: object = state.result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    return cast(Report, outcome)
