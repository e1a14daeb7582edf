"""Hooks of the flow: who is told of a run that needs somebody, and in what words.

A run that failed, crashed, was stopped, or finished with failed tracks is told to the webhook, if there is
one. What ended well is not, nor what a person cancelled. Nothing in here ends a run.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger
from prefect.utilities.urls import url_for

from flows.webhook import Webhook, find_webhook, post
from splitfire_batch.errors import ConfigError
from splitfire_batch.escapes import one_line, shell_word
from splitfire_batch.masking import masked
from splitfire_batch.report import Report

if TYPE_CHECKING:
    from prefect import Flow

_log = logging.getLogger(__name__)
COMPLETED_WITH_FAILURES = "Completed with failures"
STOPPED, STOPPED_BY_FAILURES = "Stopped", "Stopped by max_failures"
"""Names of states in which the flow ends."""
_MAX_MESSAGE_LETTERS = 1000


def tell(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """A hook for every state in which a run can end; what needs nobody is passed over."""
    event = event_of(state)
    if event is None:
        return
    webhook = _webhook()
    if webhook and not post(webhook, f"{flow_run.id}.{event}", message_of(event, flow_run, state)):
        flow_run_logger(flow_run).warning("the webhook at %s was not told: see the log", webhook.host)


def event_of(state: State[Any]) -> str | None:
    """What happened, as a program reads it; None where nobody need know."""
    if state.is_crashed():
        return "run.crashed"
    if state.is_failed():
        return "run.stopped" if state.name in (STOPPED, STOPPED_BY_FAILURES) else "run.failed"
    if state.is_completed() and state.name == COMPLETED_WITH_FAILURES:
        return "run.completed_with_failures"
    return None


def message_of(event: str, flow_run: FlowRun, state: State[Any]) -> dict[str, Any]:
    """The message for the webhook: `text` for people, the rest for programs."""
    report = _report_in(state)
    source, destination = (str(flow_run.parameters.get(name, "")) for name in ("source", "destination"))
    said = masked(state.message or "")[:_MAX_MESSAGE_LETTERS]
    page = url_for(flow_run)
    data = {
        "source": source,
        "destination": destination,
        "state": state.name,
        "message": said,
        "flow_run_id": str(flow_run.id),
        "flow_run_name": flow_run.name,
        "deployment_id": str(flow_run.deployment_id) if flow_run.deployment_id else None,
        "url": page,
        "report": _numbers(report) if report else None,
    }
    lines = [f"splitfire: {state.name}: {source} to {destination}", *said.splitlines()]
    if report and report.failures_by_code:
        codes = ", ".join(f"{n} {code}" for code, n in sorted(report.failures_by_code.items()))
        lines.append(f"{codes}; see: splitfire failures {shell_word(destination)}")
    text = "\n".join(_slack(line) for line in (*lines, page or "") if line)
    return {"text": text, "type": event, "timestamp": datetime.now(UTC).isoformat(), "data": data}


def _report_in(state: State[Any]) -> Report | None:
    """What the run did, where its state has it: that is in its own process only."""
    found = state.result(raise_on_failure=False) if state.data is not None else None
    return found if isinstance(found, Report) else None


def _numbers(report: Report) -> dict[str, Any]:
    """The report, without the texts of single tracks."""
    return {name: value for name, value in report.as_dict().items() if name != "failures"}


def _slack(line: str) -> str:
    """A line in which nothing is a link or a mention; Slack asks for these three letters to be escaped."""
    return one_line(line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _webhook() -> Webhook | None:
    try:
        return find_webhook(_read_block)
    except ConfigError as error:
        _log.warning("webhook_unusable why=%s", error)
        return None


def _read_block(name: str) -> str | None:
    """The value of a secret block of Prefect; None where there is none, or the server is away."""
    try:
        block = Secret.load(name, _sync=True)  # type: ignore[call-arg]
    except (ValueError, httpx.HTTPError):  # the first is Prefect's word for "no such block"
        return None
    return str(block.get())  # type: ignore[union-attr]
