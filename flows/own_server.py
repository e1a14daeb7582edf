"""Prefect as `splitfire run` uses it: quiet and with JSON results, and with a server that only we may use.

Where no API is configured, Prefect starts a server for the process. By default anybody on the machine could
talk to it, a web page in a browser included, and read its database.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # slow machines need more than its 20
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # never pickle what others can write
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the command line says itself what went wrong
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)

from prefect import settings as known  # noqa: E402 - Prefect reads its settings when it is imported
from prefect.client.orchestration import get_client  # noqa: E402

from flows.server_process import start_server  # noqa: E402
from splitfire_batch.errors import ConfigError, TransientError  # noqa: E402

_NOBODY = "http://127.0.0.1"
"""The only origin whose pages may ask; nothing is served there."""


@contextmanager
def reached() -> Iterator[None]:
    """While it is open, Prefect's API answers: the one that is configured, or a server of this process.

    A server of our own takes only this process, and other users of the machine lose their access to
    Prefect's home folder. What guards another one is said by its operator.

    Raises:
        ConfigError: Prefect's home folder cannot be kept from others.
        TransientError: the API does not answer.
    """
    if api_url():
        _reach()
        yield
        return
    _close(known.PREFECT_HOME.value())
    password = f"splitfire:{secrets.token_urlsafe(32)}"
    changes = {
        known.PREFECT_SERVER_API_AUTH_STRING: password,
        known.PREFECT_API_AUTH_STRING: password,
        known.PREFECT_SERVER_CSRF_PROTECTION_ENABLED: True,
        known.PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True,
        known.PREFECT_SERVER_CORS_ALLOWED_ORIGINS: _NOBODY,
    }
    with known.temporary_settings(changes):
        settings = known.get_current_settings().to_environment_variables(exclude_unset=True)
        within_s = known.PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        url = start_server(settings, within_s)
        with known.temporary_settings({known.PREFECT_API_URL: url}):
            yield


def api_url() -> str | None:
    """URL of the API that is configured; None where a run starts a server of its own."""
    return known.PREFECT_API_URL.value() or None


def _reach() -> None:
    """Ask the API that is configured for a sign of life."""
    with get_client(sync_client=True) as client:
        url, problem = client.api_url, client.api_healthcheck()
    if problem is not None:
        raise TransientError(f"Prefect's API at {url} does not answer: {problem}; see PREFECT_API_URL")


def _close(home: Path) -> None:
    """Let nobody else into the folder that holds the database."""
    try:
        home.mkdir(parents=True, mode=0o700, exist_ok=True)
        if home.stat().st_mode & 0o077:
            home.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"PREFECT_HOME: {home} cannot be kept from others: {error}; set it to a folder of your own"
        ) from error
