"""An HTTP server on 127.0.0.1 that takes webhooks, keeps what it got, and answers as it is told to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.local_http import LocalServer, QuietHandler

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@dataclass(frozen=True)
class Received:
    """One request; names of headers in small letters."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    def is_signed_with(self, key: bytes) -> bool:
        """As a receiver checks it, by the Standard Webhooks specification; written without our own code."""
        signed = b".".join(
            (self.headers["webhook-id"].encode(), self.headers["webhook-timestamp"].encode(), self.body)
        )
        wanted = base64.standard_b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return f"v1,{wanted}" in self.headers["webhook-signature"].split()


class WebhookReceiver(LocalServer):
    """Runs inside a `with` block; answers 200 when `answers` is empty, else with the next of it."""

    path = "/services/T0/B0/very-secret"

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[int] = []

    def handler(self) -> type[QuietHandler]:
        """Keeps what it got."""
        outer = self

        class Handler(QuietHandler, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.received.append(Received(self.path, headers, body))
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("Location", "/elsewhere")  # read only with a redirect
                self.end_headers()

            def do_GET(self) -> None:  # what a followed redirect would become
                self.do_POST()

        return Handler

    def wait(self, n: int, within_s: float = 60) -> list[Received]:
        """What came, once there are so many."""
        deadline = time.monotonic() + within_s
        while len(self.received) < n and time.monotonic() < deadline:
            time.sleep(0.05)
        return list(self.received)
