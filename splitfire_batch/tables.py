"""Rows of a listing, and how a catalogue table (CSV, Parquet, JSON lines) is read into them.

A table has a column `uri`, and may have n_bytes, etag and duration_s; whatever else it has travels along as
text. An etag counts for objects of buckets; that of a local file is always the folder's own. A row may name
objects below the table's own folder or below `allow_root`. Any other row stays, with its `problem`, and
becomes a failed track. Who wrote the table may be a stranger: what it unfolds to is limited, no cell of it is
ever run or opened, and a URL with a secret in it is not repeated. Links below an allowed folder are followed,
as in a listing: only who may write there can have made them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from splitfire_batch.errors import AccessDenied, ConfigError, ObjectMissing, StorageError
from splitfire_batch.masking import holds_secret, masked, without_secret
from splitfire_batch.spelling import shortened
from splitfire_batch.storage import Store, Stores, check_path, parse_url, plain_etag
from splitfire_batch.table_pages import MAX_BYTES, Unfit, pages

TABLE_EXTENSIONS = frozenset({"csv", "parquet", "jsonl", "ndjson"})
_STAT_THREADS = 16
MAX_URI_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Row:
    """One track as its source names it; None where the source does not say."""

    uri: str
    path: str
    """Below the root that holds the object; names the track to people."""
    name: str
    """What makes the track's id, with the catalogue's name: the path below it, or else the whole URI."""
    n_bytes: int | None = None
    etag: str | None = None
    duration_s: float | None = None
    meta: tuple[tuple[str, str], ...] = ()
    problem: str | None = None
    """A failure code and its reason, known without opening the object."""


def read_rows(store: Store, path: str, allow_root: tuple[str, ...]) -> Iterator[Row | None]:
    """The rows of a table, in order; None for one without a `uri`.

    Args:
        store: opened at the table's folder.
        path: the table in it; its extension says how it is read.
        allow_root: URLs below which rows may name objects, besides the table's folder.

    Raises:
        ConfigError: an unreadable table, or one without a `uri` column.
    """
    table_uri = store.uri_of(path)
    n_bytes = store.stat(path).n_bytes
    if n_bytes > MAX_BYTES:
        raise ConfigError(f"{table_uri} has {n_bytes} bytes, the limit is {MAX_BYTES}; split it")
    roots = [store.url, *(plain_url(root) for root in allow_root)]
    try:
        for page in pages(path.rpartition(".")[2].lower(), store.read(path)):
            for values in page:
                uri = values.pop("uri", None)
                yield _row(uri, values, roots) if uri else None
    except Unfit as error:
        raise ConfigError(f"{table_uri} cannot be read as a table: {masked(str(error))}") from error


def with_sizes(batch: pa.RecordBatch, stores: Stores) -> pa.RecordBatch:
    """The batch with every n_bytes and etag; 0 and "" for objects that are missing, refused or misnamed.

    What a store cannot even be asked for gets a `problem`.
    """
    columns = [batch[name].to_pylist() for name in ("uri", "n_bytes", "etag", "problem")]
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        known = list(pool.map(lambda row: _size_of(stores, *row), zip(*columns, strict=True)))
    made = {
        "n_bytes": pa.array([n_bytes for n_bytes, _, _ in known], pa.int64()),
        "etag": pa.array([etag for _, etag, _ in known], pa.string()),
        "problem": pa.array([problem for _, _, problem in known], pa.string()),
    }
    arrays = [made[name] if name in made else batch[name] for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _size_of(
    stores: Stores, uri: str, n_bytes: int | None, etag: str | None, problem: str | None
) -> tuple[int, str, str | None]:
    if problem:
        return n_bytes or 0, etag or "", problem
    store, path = stores.locate(uri)
    given = None if etag is None or store.is_local else plain_etag(etag)
    try:
        check_path(path)
        if n_bytes is not None and given is not None:
            return n_bytes, given, None
        found = store.stat(path)
    except ValueError as error:
        return 0, "", f"BAD_URI: {error}"
    except (ObjectMissing, AccessDenied):
        return 0, "", None
    except StorageError as error:
        return 0, "", f"SOURCE_READ: {error}"
    return found.n_bytes if n_bytes is None else n_bytes, given or found.etag, None


def _row(uri: str, values: dict[str, object], roots: list[str]) -> Row:
    n_bytes, etag, duration_s = (values.pop(name, None) for name in ("n_bytes", "etag", "duration_s"))
    full, path, name, problem = locate(uri, roots)
    return Row(
        uri=full,
        path=path,
        name=name,
        n_bytes=n_bytes if isinstance(n_bytes, int) else None,
        etag=etag if isinstance(etag, str) else None,
        duration_s=duration_s if isinstance(duration_s, float) else None,
        meta=tuple((key, _plain_text(value)) for key, value in values.items() if value is not None),
        problem=problem,
    )


def _plain_text(value: object) -> str:
    """A cell as it is, unless it holds a URL that opens a door: titles may look like secrets."""
    text = str(value)
    return masked(text) if holds_secret(text) else text


def locate(uri: str, roots: list[str]) -> tuple[str, str, str, str | None]:
    """Absolute URI, path below its root, name for the id, and problem; roots[0] is the table's own."""
    if holds_secret(uri):
        shown = without_secret(uri)
        why = "a password, key or signature; name the bucket and the key only"
        return shown, shown, shown, f"BAD_URI: found {shown!r} with {why}"
    if len(uri.encode(errors="surrogatepass")) > MAX_URI_BYTES:
        shown = shortened(uri, 200)
        return shown, shown, shown, f"BAD_URI: found {len(uri)} letters, the limit is {MAX_URI_BYTES} bytes"
    try:
        if "://" not in uri and not uri.startswith("/"):
            return f"{roots[0].rstrip('/')}/{check_path(uri)}", uri, uri, None
        full = plain_url(uri)
    except (ConfigError, ValueError) as error:
        return uri, uri, uri, f"BAD_URI: {error}"
    for i, root in enumerate(roots):
        path = full.removeprefix(root.rstrip("/") + "/")
        if path != full:
            return full, path, path if i == 0 else full, None
    wanted = " or ".join(roots)
    return (
        full,
        full,
        full,
        f"BAD_URI: found {full}, wanted an object below {wanted}; add its root to allow_root",
    )


def plain_url(url: str) -> str:
    """The one spelling of a URL that stores use themselves."""
    scheme, root = parse_url(url)
    return root if scheme == "file" else f"{scheme}://{root}"
