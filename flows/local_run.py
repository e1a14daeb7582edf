"""`splitfire run`: the flow in this process, against whichever Prefect API is configured, or its own."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn, cast

_PREFECT_DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # slow machines need more than its 20
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # never pickle what others can write
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the command line says itself what went wrong
}
for _name, _value in _PREFECT_DEFAULTS.items():
    os.environ.setdefault(_name, _value)

from prefect.client.orchestration import get_client  # noqa: E402 - Prefect reads its settings when it is imported
from prefect.exceptions import TerminationSignal  # noqa: E402

from flows.console import showing  # noqa: E402
from flows.separate_catalogue import WATCH, separate_catalogue  # noqa: E402
from flows.settings import Settings  # noqa: E402
from splitfire_batch import job as story  # noqa: E402
from splitfire_batch.errors import TransientError  # noqa: E402
from splitfire_batch.report import Report  # noqa: E402


def run_flow(
    source: str,
    destination: str,
    settings: Settings,
    replace: bool,
    is_quiet: bool,
    retry: tuple[str, ...] | None = None,
) -> Report:
    """Run the flow and return its report; with `retry`, over the tracks that failed with these codes.

    Raises:
        SplitfireError: what ended the flow before its report.
        TransientError: Prefect's API does not answer.
    """
    job = settings.job(source, destination, replace, retry)
    story.check(job)  # bad usage need not wait for Prefect's server
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        _reach_prefect()
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
                retry=job.retry,
                return_state=True,
            )
    except TerminationSignal as error:
        raise TransientError("stopped by SIGTERM; run the same command again to go on") from error
    finally:
        signal.signal(signal.SIGTERM, before)
    outcome: object = state.result(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome
    return cast(Report, outcome)


def _on_sigterm(number: int, _: FrameType | None) -> NoReturn:
    """Outside `separate`, where nothing needs to be finished; Prefect's server ends with this process."""
    raise TerminationSignal(number)


def _reach_prefect() -> None:
    """Ask Prefect's API for a sign of life; where none is configured, that starts one for this process.

    A terminal sends Ctrl-C to all its processes. That server must outlive the tracks that are finished
    then, so it is born with SIGINT blocked.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with get_client(sync_client=True) as client:
            url, problem = client.api_url, client.api_healthcheck()
    except RuntimeError as error:  # its own server did not start in time
        raise TransientError(f"Prefect: {error}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if problem is not None:
        raise TransientError(f"Prefect's API at {url} does not answer: {problem}; see PREFECT_API_URL")
