"""A large object that arrives in pieces: what an earlier call brought is kept, and gone on with.

From http(s) and S3 by ranges, and only while the object is the same one: both are asked for the rest of what
has a certain etag or date. Other stores give the object whole. What arrives is not verified here beyond its
length; a hash of the whole is the caller's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import fsspec
from fsspec.asyn import sync

from splitfire_batch.errors import StorageError, TransientError
from splitfire_batch.storage.buckets import connect
from splitfire_batch.storage.faults import SCHEMES, Faults, RetryBudget, Scheme, http_status
from splitfire_batch.storage.files import open_regular
from splitfire_batch.storage.listings import plain_etag
from splitfire_batch.storage.urls import Options, matching_options, parse_url

Tell = Callable[[int, int | None], None]
"""Gets the bytes that are there, and of how many, if that is known."""

HTTP = ("http", "https")
_HTTP = Scheme(
    package="aiohttp",
    transient=("aiohttp:ClientConnectionError", "aiohttp:ClientPayloadError"),
    other=("aiohttp:ClientError",),
)
FEW_TRIES = RetryBudget(tries=4)
_PIECE = 2**20
_NO_SUCH_RANGE, _CHANGED = 416, 412


def mark_of(path: Path) -> Path:
    """The file that says which object the bytes of `path` are from; missing or empty if nobody knows."""
    return path.with_name(f"{path.name}.mark")


def is_local(url: str) -> bool:
    """Whether no network is needed to get an object."""
    return "://" not in url or url.startswith(("file://", "memory://"))


def download(
    url: str, to: Path, options: Options, limit: int, tell: Tell, budget: RetryBudget = FEW_TRIES
) -> None:
    """Make the file `to` the object at `url`, going on where an earlier call was ended.

    Args:
        url: http(s), or what `open_store` takes.
        to: the file; beside it lies the mark of the object that its bytes are from.
        options: of the stores, per URL prefix.
        limit: bytes that the object may have at most.
        tell: gets the progress, in another thread.
        budget: how long to wait for a source that does not answer, or gives no more.

    Raises:
        StorageError: the object is not there, refused or larger.
        TransientError: no answer within the budget; a later call goes on.
        ConfigError: a URL of no known kind.
    """
    partial = Partial(to, limit, tell)
    scheme = url.partition("://")[0]
    if scheme in HTTP:
        _whole(partial, url, Faults(_HTTP, budget), _http(url))
    elif parse_url(url)[0] == "s3":
        root = parse_url(url)[1]
        fs = connect("s3", matching_options(options, "s3", root), budget)
        _whole(partial, url, Faults(SCHEMES["s3"], budget), _s3(fs, root))
    else:
        _at_once(url, options, partial, budget)


class Partial:
    """A file that grows, and the mark of the object that its bytes are from: an etag, or a date."""

    def __init__(self, path: Path, limit: int, tell: Tell) -> None:
        self.path, self._mark = path, mark_of(path)
        self._limit, self._tell = limit, tell
        self.n_total: int | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def mark(self) -> str:
        """Of the object; empty if its bytes cannot be gone on with."""
        return self._mark.read_text() if self._mark.exists() else ""

    def begin(self, start: int, mark: str, n_total: int | None) -> None:
        """What follows is the object with that mark, from byte `start`."""
        with self.path.open("ab") as file:
            file.truncate(start)
        self._mark.write_text(mark)  # after the bytes of another object are gone
        self.n_total = n_total
        if n_total is not None and n_total > self._limit:
            self.refuse(n_total)

    def take(self, piece: bytes) -> None:
        """The next bytes."""
        with self.path.open("ab") as file:
            file.write(piece)
            n_bytes = file.tell()
        if n_bytes > self._limit:
            self.refuse(n_bytes)
        self._tell(n_bytes, self.n_total)

    def forget(self) -> None:
        """Drop what is there."""
        self.path.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)

    def refuse(self, n_bytes: int) -> NoReturn:
        """The object is larger than it may be: it has so many bytes, or more."""
        self.forget()
        raise StorageError("the source", f"has {n_bytes} bytes, wanted at most {self._limit}")


Get = Callable[[Partial], None]
"""One request: for the rest of what a Partial has begun, or for all; its bytes go there."""


def _whole(partial: Partial, url: str, faults: Faults, get: Get) -> None:
    """Ask until all is there: as long as each round of tries brings something, there is another."""
    while True:
        before = partial.n_bytes
        try:
            faults.attempt(url, lambda: _try(partial, get, faults))
        except TransientError:
            if partial.n_bytes <= before:
                raise
        else:
            return


def _try(partial: Partial, get: Get, faults: Faults) -> None:
    try:
        get(partial)
    except faults.foreign as error:
        if http_status(error) in (_NO_SUCH_RANGE, _CHANGED):
            partial.forget()
            # whose status would be taken for its own, were it the cause
            raise ConnectionError("the object changed since its first part was fetched") from None
        raise
    if partial.n_total is not None and partial.n_bytes != partial.n_total:
        raise ConnectionError(f"{partial.n_bytes} bytes arrived, {partial.n_total} were expected; cut short")


def _http(url: str) -> Get:
    from aiohttp import ClientConnectorCertificateError, ClientResponseError, ClientTimeout  # s3fs brings it

    timeout = ClientTimeout(total=None, sock_connect=10, sock_read=60)
    settings = {"timeout": timeout, "trust_env": True}
    fs: Any = fsspec.filesystem("http", skip_instance_cache=True, client_kwargs=settings)

    async def get(partial: Partial) -> None:
        start, mark = (partial.n_bytes, partial.mark) if partial.mark else (0, "")
        wanted = {"Accept-Encoding": "identity"}
        wanted |= {"Range": f"bytes={start}-", "If-Range": mark} if start else {}
        session = await fs.set_session()
        async with session.get(url, headers=wanted) as answer:
            if answer.status == _NO_SUCH_RANGE:
                partial.forget()
                raise ConnectionError("the object changed since its first part was fetched")
            answer.raise_for_status()
            is_rest = answer.status == 206
            if is_rest and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise ConnectionError(f"another range than from {start} arrived")
            length = answer.content_length
            n_total = None if length is None else length + (start if is_rest else 0)
            partial.begin(start if is_rest else 0, _mark_of(answer.headers), n_total)
            async for piece in answer.content.iter_chunked(_PIECE):
                partial.take(piece)

    def run(partial: Partial) -> None:
        try:
            sync(fs.loop, get, partial)
        except ClientConnectorCertificateError as error:  # a connection error by its type, and there to stay
            raise StorageError(url, f"its certificate is not trusted: {error.certificate_error}") from error
        except ClientResponseError as error:
            error.headers = None  # they hold nothing that helps, and may hold cookies
            raise

    return run


def _mark_of(headers: Mapping[str, str]) -> str:
    """What `If-Range` takes (RFC 9110, 13.1.5): a strong etag, else the date; empty if there is neither."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _s3(fs: Any, root: str) -> Get:
    bucket, _, key = root.partition("/")

    async def get(partial: Partial) -> None:
        start, mark = (partial.n_bytes, partial.mark) if partial.mark else (0, "")
        rest = {"Range": f"bytes={start}-", "IfMatch": f'"{mark}"'} if start else {}
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **rest)
        body = answer["Body"]
        try:
            partial.begin(start, plain_etag(answer.get("ETag", "")), start + int(answer["ContentLength"]))
            async for piece in body.iter_chunks(_PIECE):
                partial.take(piece)
        finally:
            body.close()

    return lambda partial: sync(fs.loop, get, partial)


def _at_once(url: str, options: Options, partial: Partial, budget: RetryBudget) -> None:
    """All of it by one call of the store; a local file is copied, so that it cannot change after that."""
    from splitfire_batch.storage import Stores

    scheme, path = parse_url(url)
    if scheme == "file":
        Faults(SCHEMES["file"], budget).attempt(url, lambda: _copy(path, partial))
    else:
        store, name = Stores(options, budget).locate(url)
        partial.begin(0, "", store.stat(name).n_bytes)
        store.fetch(name, partial.path)
        partial.take(b"")


def _copy(path: str, partial: Partial) -> None:
    """A file of this machine, piece by piece: it may grow while it is read."""
    with open_regular(path) as source:
        partial.begin(0, "", os.fstat(source.fileno()).st_size)
        partial.take(b"")
        while piece := source.read(_PIECE):
            partial.take(piece)
