"""An HTTP server on 127.0.0.1 that gives files by ranges, counts who asks, and can be cut off."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler

from tests.local_http import LocalServer, QuietHandler


class WeightsServer(LocalServer):
    """Runs inside a `with` block.

    Args:
        files: contents by path, such as "/model.index"; they may be changed while it runs.
        has_ranges: whether it gives parts; else it answers with the whole always.
    """

    def __init__(self, files: dict[str, bytes], has_ranges: bool = True) -> None:
        self.files, self.has_ranges = files, has_ranges
        self.etags: dict[str, str] = {}
        """Other than the default, which is the same for all contents of a path."""
        self.requests: list[tuple[str, str]] = []
        """Paths asked for, with the ranges."""
        self.cuts: list[int] = []
        """After so many bytes of its body the next answer ends; one for each of the next answers."""
        self.refusals: dict[str, list[int]] = {}
        """Statuses of the next answers, by path; the last one stays."""
        self.n_sent = 0
        """Bytes of all bodies."""

    def handler(self) -> type[QuietHandler]:
        """Asks `answer`."""
        outer = self

        class Handler(QuietHandler, BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

        return Handler

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range", "")
        self.requests.append((request.path, asked))
        content = self.files.get(request.path)
        refusals = self.refusals.get(request.path, [200])
        status = refusals.pop(0) if len(refusals) > 1 else refusals[0]
        if status != 200:
            request.send_error(status)
            return
        if content is None:
            request.send_error(404)
            return
        etag = self.etags.get(request.path, '"same"')
        match = re.fullmatch(r"bytes=(\d+)-", asked) if self.has_ranges else None
        if match and request.headers.get("If-Range", etag) != etag:
            match = None
        start = int(match[1]) if match else 0
        if match and start >= len(content):
            request.send_error(416)
            return
        body = content[start:]
        request.send_response(206 if match else 200)
        if match:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(body)))
        if etag:
            request.send_header("ETag", etag)
        request.end_headers()
        cut = self.cuts.pop(0) if self.cuts else len(body)
        request.wfile.write(body[:cut])
        self.n_sent += min(cut, len(body))
        if cut < len(body):
            request.close_connection = True
