"""What writes that were cut off leave in a store, and no listing shows.

In a folder these are temporary files, in an S3 bucket uploads in parts that were never completed: the store
keeps them, and bills for them, until somebody aborts them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitfire_batch.errors import AccessDenied, StorageError
from splitfire_batch.storage.files import is_temporary
from splitfire_batch.storage.folder import Folder
from splitfire_batch.storage.store import Store

_UNSEEN = "uploads in parts that were never completed are not seen"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file, or an upload if it has an `upload_id`."""

    path: str
    """Below the store's root."""
    n_bytes: int
    """0 for an upload, whose size nobody tells."""
    modified: float
    """When it was last written, or the upload begun: seconds since 1970-01-01 UTC by the store's clock."""
    upload_id: str = ""


def list_leftovers(store: Store) -> Iterator[Leftover]:
    """All of them below the root, young ones too: their writers may be alive.

    Raises:
        StorageError: the store refuses.
        TransientError: it does not answer.
    """
    if isinstance(store._backend, Folder):
        return _temporary_files(Path(store.url))
    return _uploads(store) if store.url.startswith("s3://") else iter(())


def try_leftovers(store: Store) -> tuple[list[Leftover], str]:
    """As `list_leftovers`; or none, and why, where the store refuses: that takes a right of its own, and not
    every store that speaks S3 knows the question.

    Raises:
        TransientError: it does not answer.
    """
    try:
        return list(list_leftovers(store)), ""
    except AccessDenied as error:
        return [], f"{_UNSEEN}: {error.why}; give the role s3:ListBucketMultipartUploads on the bucket"
    except StorageError as error:
        return [], f"{_UNSEEN}: {error.why}; let a lifecycle rule of the bucket abort them"


def remove_leftover(store: Store, leftover: Leftover) -> None:
    """Remove it; no error when it is gone."""
    if not leftover.upload_id:
        store.delete(leftover.path)
        return
    bucket, key = _place(store, leftover.path)
    where = {"Bucket": bucket, "Key": key, "UploadId": leftover.upload_id}
    _ask(store, "abort_multipart_upload", where)


def _temporary_files(root: Path) -> Iterator[Leftover]:
    for folder, _, names in os.walk(root):
        for name in filter(is_temporary, names):
            file = Path(folder, name)
            try:
                found = file.lstat()
            except FileNotFoundError:  # its writer was alive
                continue
            yield Leftover(file.relative_to(root).as_posix(), found.st_size, found.st_mtime)


def _uploads(store: Store) -> Iterator[Leftover]:
    bucket, prefix = _place(store, "")
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    while True:
        answer = _ask(store, "list_multipart_uploads", request)
        for found in answer.get("Uploads") or ():
            yield Leftover(found["Key"][len(prefix) :], 0, found["Initiated"].timestamp(), found["UploadId"])
        if not answer.get("IsTruncated"):
            return
        request["KeyMarker"] = answer["NextKeyMarker"]
        request["UploadIdMarker"] = answer["NextUploadIdMarker"]


def _place(store: Store, path: str) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    return bucket, f"{prefix}/{path}" if prefix else path


def _ask(store: Store, method: str, request: dict[str, Any]) -> Any:
    backend: Any = store._backend
    return store._faults.attempt(store.url, lambda: backend._fs.call_s3(method, **request))
