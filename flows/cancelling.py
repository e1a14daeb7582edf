"""A flow run that somebody cancels at the API, or on Prefect's page, stops as if by SIGTERM.

Prefect's own workers send SIGTERM to what they started. Nobody does so to a `splitfire run` that is merely
registered with a server, or where a worker is gone; so the run looks for itself.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound

_log = logging.getLogger(__name__)
LOOK_S = 5.0
"""Seconds between two looks at the state that the API has."""


@contextmanager
def heeding_cancel(flow_run_id: UUID, stop: threading.Event) -> Iterator[None]:
    """While it is open, `stop` is set a few seconds after the flow run is cancelled."""
    over = threading.Event()
    # the thread is to see the settings that the flow sees: the API's URL may stand nowhere else
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(_look, flow_run_id, stop, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LOOK_S)


def is_cancelling(flow_run_id: UUID) -> bool:
    """Whether the API has the flow run as one that shall stop; False when it does not answer."""
    with get_client(sync_client=True) as client:
        return _asked(client, flow_run_id)


def _look(flow_run_id: UUID, stop: threading.Event, over: threading.Event) -> None:
    with get_client(sync_client=True) as client:
        while not over.wait(LOOK_S):
            if _asked(client, flow_run_id):
                _log.warning("flow_run_cancelled id=%s", flow_run_id)
                stop.set()
                return


def _asked(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    try:
        state = client.read_flow_run(flow_run_id).state
    except (httpx.HTTPError, ObjectNotFound) as error:
        _log.debug("prefect_away asking=state error=%s", error)
        return False
    return state is not None and state.is_cancelling()
