"""`splitfire run`: the flow in this process, against whichever Prefect API is configured, or its own."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn, cast

from flows.own_server import reached  # isort: skip - before Prefect, which reads its settings at import

from prefect.exceptions import TerminationSignal

from flows.console import showing
from flows.downloading import showing_downloads
from flows.guardian import guarded
from flows.separate_catalogue import WATCH, separate_catalogue
from flows.settings import Settings
from splitfire_batch import job as story
from splitfire_batch.errors import TransientError
from splitfire_batch.report import Report


def run_flow(
    source: str,
    destination: str,
    settings: Settings,
    replace: bool,
    is_quiet: bool,
    retry: tuple[str, ...] | None = None,
    saved_plan: str | None = None,
) -> Report:
    """Run the flow and return its report; over the tracks of a saved plan, or that failed with some codes.

    Raises:
        SplitfireError: what ended the flow before its report.
        TransientError: Prefect's API does not answer.
    """
    job = settings.job(source, destination, replace, retry, saved_plan)
    story.check(job)  # bad usage need not wait for Prefect's server
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        with guarded(), reached(), showing_downloads(is_quiet, has_bar=False), showing(is_quiet) as show:
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
                saved_plan=job.saved_plan,
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
