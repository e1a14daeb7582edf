"""What lies in a store, as the manifest is compared with it: listings as tables, and hashes of bytes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa

from splitfire_batch.errors import ObjectMissing
from splitfire_batch.spelling import is_text
from splitfire_batch.storage import Store, StoredObject

_PAGE = 1_000
_TYPES = {"path": pa.string(), "n_bytes": pa.int64(), "etag": pa.string(), "modified": pa.float64()}


def listed(objects: Iterable[StoredObject], names: Iterable[str]) -> pa.Table:
    """A listing as a table with these columns of StoredObject; only a page is in memory as objects.

    Names that are no UTF-8 are left out: they are none of ours, and none for Arrow.
    """
    schema = pa.schema([(name, _TYPES[name]) for name in names])
    rest, pages = iter(objects), []
    while page := list(islice(rest, _PAGE)):
        page = [item for item in page if is_text(item.path)]
        columns = ([getattr(item, name) for item in page] for name in schema.names)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        pages.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return pa.Table.from_batches(pages, schema)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, as hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_at(store: Store, path: str, n_bytes: int | None = None) -> str | None:
    """That of an object, fetched for it; None if it is not there. `n_bytes` is as in `Store.fetch`."""
    with tempfile.TemporaryDirectory(prefix="splitfire-") as folder:
        try:
            return sha256_of(store.fetch(path, Path(folder) / "object", n_bytes))
        except ObjectMissing:
            return None
