"""One signed message to the webhook that the operator names in the environment or in a block of Prefect.

A message is JSON with `text`, which Slack and what imitates it show, beside `type`, `timestamp` and `data`
for programs. It is signed as the Standard Webhooks specification (1.0) says, so that receivers can check it
with that project's libraries: base64 of the HMAC-SHA256 of "id.timestamp.body". The URL may be a secret
itself, as Slack's are: it is in no parameter and no log.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from splitfire_batch.errors import ConfigError

_log = logging.getLogger(__name__)
URL, SECRET = "SPLITFIRE_WEBHOOK_URL", "SPLITFIRE_WEBHOOK_SECRET"
"""Variables of the environment; blocks of Prefect are called the same in small letters, with dashes."""
_SECRET_PREFIX = "whsec_"  # noqa: S105
PAUSES_S = (1.0, 2.0, 4.0)
"""Between one try and the next."""
TIMEOUT_S = 5.0
"""Of one try: with the pauses a receiver that never answers takes 27 s of a run's end."""
_BUSY = frozenset({408, 425, 429})
"""Beside 5xx, the answers after which another try can help."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where messages go, and the key that signs them; None signs nothing."""

    url: str
    key: bytes | None = None

    @property
    def host(self) -> str:
        """All of the URL that may be shown."""
        return urlsplit(self.url).hostname or ""


def find_webhook(read_block: Callable[[str], str | None]) -> Webhook | None:
    """The webhook that is set up here; None where there is none.

    Args:
        read_block: the value of a secret block by its name, None if there is no such block; it is asked only
            for what the environment does not say.

    Raises:
        ConfigError: the URL or the secret is none; neither is shown.
    """

    def setting(name: str) -> str | None:
        return os.environ.get(name) or read_block(name.lower().replace("_", "-"))

    url = setting(URL)
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{URL}: found {parts.scheme!r} for its scheme, wanted https://host/path")
    secret = setting(SECRET)
    return Webhook(url, _key(secret) if secret else None)


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ConfigError(
            f"{SECRET}: found {len(secret)} letters that are no base64, wanted {_SECRET_PREFIX} and "
            "the base64 of 24 to 64 random bytes"
        ) from None


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header `webhook-signature`."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def post(
    webhook: Webhook, message_id: str, message: Mapping[str, Any], pauses: Sequence[float] = PAUSES_S
) -> bool:
    """Whether the receiver took the message, after a few tries at most; what went wrong is logged.

    Args:
        webhook: where to, signed with what.
        message_id: the same in every try, and whenever the same event is told again.
        message: for JSON.
        pauses: seconds between tries, of which there is one more.
    """
    body = json.dumps(message).encode()
    for pause_s in (*pauses, None):
        problem, is_passing = _try(webhook, message_id, body)
        if problem is None:
            _log.info("webhook_told host=%s type=%s", webhook.host, message.get("type"))
            return True
        if not is_passing or pause_s is None:
            break
        time.sleep(pause_s)
    _log.warning("webhook_failed host=%s type=%s problem=%s", webhook.host, message.get("type"), problem)
    return False


def _try(webhook: Webhook, message_id: str, body: bytes) -> tuple[str | None, bool]:
    """What went wrong, and whether it may pass; each try has its own time, whose age receivers check."""
    now = int(time.time())
    headers = {"Content-Type": "application/json", "webhook-id": message_id, "webhook-timestamp": str(now)}
    if webhook.key is not None:
        headers["webhook-signature"] = signature(webhook.key, message_id, now, body)
    request = urllib.request.Request(webhook.url, body, headers, method="POST")  # noqa: S310 - http or https
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S):
            return None, False
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code}", error.code >= 500 or error.code in _BUSY
    except urllib.error.URLError as error:
        return type(error.reason).__name__, True  # its text may quote the URL
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__, True


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET elsewhere, which tells nobody: it counts as a refusal."""

    def redirect_request(self, *_args: object, **_named: object) -> None:
        return None
