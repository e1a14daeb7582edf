"""A prefix of an S3 bucket as a store, by s3fs, one request a call.

`Store` checks the paths, and repeats and translates what fails here. Conditional writes and reads that tell
the etag of what they read go to the API itself, because s3fs drops conditions and etags on the way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fsspec.asyn import sync

from splitfire_batch.storage.digests import Arrival
from splitfire_batch.storage.faults import RetryBudget, http_status
from splitfire_batch.storage.folder import StoredObject
from splitfire_batch.storage.listings import Pages, plain_etag, speed_up, stored_object

_PIECE = 2**20


class S3:
    """The objects below `root` ("bucket" or "bucket/prefix") of a filesystem of s3fs."""

    can_replace = True

    def __init__(self, fs: Any, root: str) -> None:
        self._fs, self._root = fs, root
        self._bucket, _, self._prefix = root.partition("/")

    def pages(self, prefix: str) -> Pages:
        """A call that returns one page of 1,000 objects after the other, then None; it may be repeated."""
        key = self._where(prefix)["Key"] if prefix else self._prefix
        n_cut = len(self._prefix) + 1 if self._prefix else 0
        return Pages(self._ask_quickly, self._bucket, f"{key}/" if key else "", n_cut)

    def _ask_quickly(self, method: str, **request: Any) -> Any:
        speed_up(self._fs.s3)
        return self._fs.call_s3(method, **request)

    def stat(self, path: str) -> StoredObject:
        """The object at `path`; FileNotFoundError also for prefixes."""
        where = self._where(path)
        try:
            answer = self._fs.call_s3("head_object", **where)
        except OSError as error:
            if http_status(error) in (400, 403):  # an answer to HEAD has no body; this one says why
                self.check_readable()
            raise
        return stored_object(path, answer["ContentLength"], answer)

    def read(self, path: str) -> tuple[bytes, str]:
        """All bytes of the object, by one GET, and the etag of just these bytes."""
        data, etag = sync(self._fs.loop, self._get, path)
        return data, plain_etag(etag)

    async def _get(self, path: str, wanted: Mapping[str, str] | None = None) -> tuple[bytes, str]:
        answer = await self._fs._call_s3("get_object", **self._where(path), **(wanted or {}))
        try:
            return await answer["Body"].read(), answer.get("ETag", "")
        finally:
            answer["Body"].close()

    def copy(self, path: str, source: str) -> None:
        """Make the object at `path` one with the bytes of that at `source`, within the store."""
        self._fs.cp_file(self._name(source), self._name(path))

    def read_part(self, path: str, start: int, n_bytes: int) -> bytes:
        """So many bytes of the object from `start` on, which must lie in it; fewer where it ends."""
        wanted = {"Range": f"bytes={start}-{start + n_bytes - 1}"}
        return sync(self._fs.loop, self._get, path, wanted)[0]  # type: ignore[no-any-return]

    def fetch(self, path: str, to: Path, wanted_etag: str = "") -> Arrival:
        """Download the object to the file `to`, by one GET; nothing if another etag is wanted than it has."""
        return sync(self._fs.loop, self._save, path, to, wanted_etag)  # type: ignore[no-any-return]

    async def _save(self, path: str, to: Path, wanted_etag: str) -> Arrival:
        answer = await self._fs._call_s3("get_object", **self._where(path))
        body, etag = answer["Body"], plain_etag(answer.get("ETag", ""))
        try:
            if wanted_etag in ("", etag):
                with to.open("wb") as file:
                    async for piece in body.iter_chunks(_PIECE):
                        file.write(piece)
        finally:
            body.close()
        return Arrival(etag, hasattr(body, "checksum"))  # has it, it has compared it with the store's

    def write(self, path: str, data: bytes | Path) -> None:
        """Make `data` the object at `path`; it shows whole or not at all."""
        if isinstance(data, Path):
            self._fs.put_file(str(data), self._name(path))
        else:
            self._fs.pipe_file(self._name(path), data)

    def create(self, path: str, data: bytes) -> str:
        """Make `data` the object at `path`, or raise what `Faults` calls ObjectExists; its etag."""
        return self._put_if(path, data, IfNoneMatch="*")

    def replace(self, path: str, data: bytes, etag: str) -> str:
        """Make `data` the object at `path` if it has that etag; its new one.

        Else raises FileNotFoundError, or what `Faults` calls ObjectExists.
        """
        return self._put_if(path, data, IfMatch=f'"{etag}"')

    def _put_if(self, path: str, data: bytes, **condition: str) -> str:
        answer = self._fs.call_s3("put_object", **self._where(path), Body=data, **condition)
        return plain_etag(answer.get("ETag", ""))

    def delete(self, path: str) -> None:
        """Remove the object; no error when there is none."""
        self._fs.rm_file(self._name(path))

    def check_readable(self) -> None:
        """Raise what listing would; a prefix with nothing below it is no fault."""
        self._fs.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def check_writable(self) -> None:
        """As `check_readable`: only a write would tell more, and workers may not delete a probe."""
        self.check_readable()

    def refuses_damage(self, path: str) -> bool:
        """Whether an upload is refused that has not the checksum it says."""
        try:
            self._fs.call_s3("put_object", **self._where(path), Body=b"whole", ChecksumCRC32="AAAAAA==")
        except OSError as error:
            if http_status(error) == 400:
                return True
            raise
        return False

    def _name(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _where(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{path}" if self._prefix else path}


def s3_settings(given: Mapping[str, object], budget: RetryBudget) -> dict[str, object]:
    """Arguments of `S3FileSystem` that leave every retry to us."""
    settings = dict(given)
    region, profile = settings.pop("region_name", None), settings.pop("profile", None)
    return settings | {
        "session": new_session(profile),
        # One GET or PUT at a time per call: ranged reads are not checked, and parts cost 50 MB each.
        "max_concurrency": 1,
        "client_kwargs": {"region_name": region} if region else {},
        "config_kwargs": {
            "http_session_cls": _single_try_session(),
            # A hidden retry would make our own create look like a rival's.
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "connect_timeout": budget.connect_timeout_s,
            "read_timeout": budget.read_timeout_s,
            "max_pool_connections": 32,
        },
    }


def new_session(profile: object = None) -> Any:
    """A session of its own, with credentials of its own, that reads the description of S3 from memory."""
    from aiobotocore.session import AioSession

    session = AioSession(profile=profile)
    session.register_component("data_loader", _descriptions(os.environ.get("AWS_DATA_PATH")))
    return session


@cache
def _descriptions(path: str | None) -> Any:
    """What botocore's data files say of services: reading them anew takes each client 0.1 to 0.2 s."""
    from botocore.loaders import create_loader

    return create_loader(path)


def prepare_s3(fs: Any) -> None:
    """What no argument of `S3FileSystem` does."""
    fs.retries = 1
    fs.split_path = _split_path


def _split_path(path: str) -> tuple[str, str, None]:
    """Bucket and key, as they are: s3fs would cut a key at `?versionId=`, and take another object for it."""
    bucket, _, key = path.partition("/")
    return bucket, key, None


def _single_try_session() -> type[Any]:
    """A session of aiobotocore in which aiohttp sends no request twice.

    By itself it sends a PUT again when a kept connection turns out to be closed, even when the first one had
    arrived: then our own exclusive create looks like a rival's, and no count of ours knows of it.
    """
    from aiobotocore.httpsession import AIOHTTPSession

    class SingleTrySession(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            session._retry_connection = False
            return session

    return SingleTrySession
