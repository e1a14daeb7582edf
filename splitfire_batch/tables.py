"""Listings as columns, and how a catalogue table (CSV, Parquet, JSON lines) is read into them.

A table has a column `uri`, and may have n_bytes, etag and duration_s; whatever else it has travels along as
text. An etag counts for objects of buckets; that of a local file is always the folder's own. A row may name
objects below the table's own folder or below `allow_root`. Any other row stays, with its `problem`, and
becomes a failed track. Who wrote the table may be a stranger: what it unfolds to is limited, no cell of it is
ever run or opened, and a URL with a secret in it is not repeated. Links below an allowed folder are followed,
as in a listing: only who may write there can have made them.

A page of rows is looked at as columns. Rows that need more than a look, such as a URL with a `?` in it, are
found by regular expressions, some of them needlessly, and are then gone through one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.errors import AccessDenied, ConfigError, CredentialsExpired, ObjectMissing, StorageError
from splitfire_batch.masking import holds_secret, masked, without_secret
from splitfire_batch.scratch import scratch_folder
from splitfire_batch.spelling import shortened
from splitfire_batch.storage import Store, Stores, check_path, parse_url, plain_etag
from splitfire_batch.table_pages import MAX_BYTES, Unfit, pages

TABLE_EXTENSIONS = frozenset({"csv", "parquet", "jsonl", "ndjson"})
MAX_URI_BYTES = 4_096
META = pa.map_(pa.string(), pa.string())
TOLD = pa.schema(
    [
        ("uri", pa.string()),
        ("path", pa.string()),
        ("name", pa.string()),
        ("n_bytes", pa.int64()),
        ("etag", pa.string()),
        ("duration_s", pa.float64()),
        ("meta", META),
        ("problem", pa.string()),
    ]
)
"""Tracks as their source names them; null where it does not say. `path` is below the root that holds the
object, and names the track to people. `name` is what makes the track's id, with the catalogue's name: the
path below that, or else the whole URI. `problem` is a failure code and its reason, known without opening the
object."""
_STAT_THREADS = 16
_ODD_PATH = r"(?:^|/)\.{0,2}(?:/|$)|[?&\x00]|://"
"""What needs more than a look: parts that are empty or only dots, and what may be a signature or a user."""
_PLAIN_URI = r"^\w+://[^/\x00]+/[^/\x00][^\x00]*$"
_ODD_CELL = r"://|[?&]"
"""Without these no cell holds a secret; see `masking.holds_secret`."""


def read_rows(
    store: Store, path: str, allow_root: tuple[str, ...], scratch: str | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a table, in order, as TOLD; those without a `uri` have nulls only.

    Args:
        store: opened at the table's folder.
        path: the table in it; its extension says how it is read.
        allow_root: URLs below which rows may name objects, besides the table's folder.
        scratch: folder for a copy of a table in a bucket.

    Raises:
        ConfigError: an unreadable table, or one without a `uri` column.
    """
    table_uri = store.uri_of(path)
    n_bytes = store.stat(path).n_bytes
    if n_bytes > MAX_BYTES:
        raise ConfigError(f"{table_uri} has {n_bytes} bytes, the limit is {MAX_BYTES}; split it")
    roots = [store.url, *(plain_url(root) for root in allow_root)]
    with scratch_folder(scratch) as folder:
        file = store.fetch(path, folder / "table")
        try:
            for page in pages(path.rpartition(".")[2].lower(), file):
                yield _told(page, roots)
        except Unfit as error:
            raise ConfigError(f"{table_uri} cannot be read as a table: {masked(str(error))}") from error


def _told(page: pa.RecordBatch, roots: list[str]) -> pa.RecordBatch:
    known = set(page.schema.names)
    rest = [name for name in page.schema.names if name not in ("uri", "n_bytes", "etag", "duration_s")]
    columns = placed(page["uri"], roots)
    columns |= {
        name: page[name] if name in known else pa.nulls(len(page), TOLD.field(name).type)
        for name in ("n_bytes", "etag", "duration_s")
    }
    columns["meta"] = metas([(name, page[name]) for name in rest], len(page))
    return pa.RecordBatch.from_arrays([columns[name] for name in TOLD.names], schema=TOLD)


def placed(uris: pa.Array, roots: list[str]) -> dict[str, pa.Array]:
    """What `locate` says of each URI, as columns; nulls for none.

    Args:
        uris: as a stranger wrote them.
        roots: as in `locate`.
    """
    uri, path = pa.nulls(len(uris), pa.string()), pa.nulls(len(uris), pa.string())
    name = path
    is_absolute = pc.or_(pc.starts_with(uris, "/"), pc.match_substring(uris, "://"))
    for i, root in enumerate(roots):
        folder = root.rstrip("/") + "/"
        below = pc.utf8_slice_codeunits(uris, len(folder))
        is_mine = pc.and_(pc.starts_with(uris, folder), pc.and_(is_absolute, pc.is_null(path)))
        uri = pc.if_else(is_mine, uris, uri)
        path = pc.if_else(is_mine, below, path)
        name = pc.if_else(is_mine, uris if i else below, name)
    is_relative = pc.invert(is_absolute)
    full = pc.binary_join_element_wise(roots[0].rstrip("/") + "/", uris, "")
    uri, path, name = (
        pc.if_else(is_relative, mine, other) for mine, other in ((full, uri), (uris, path), (uris, name))
    )
    is_odd = pc.or_(
        pc.fill_null(pc.match_substring_regex(path, _ODD_PATH), True),
        pc.greater(pc.binary_length(uris), MAX_URI_BYTES),
    )
    is_odd = pc.and_(pc.is_valid(uris), pc.and_(pc.fill_null(is_odd, False), pc.not_equal(uris, "")))
    columns = {"uri": uri, "path": path, "name": name, "problem": pa.nulls(len(uris), pa.string())}
    exact = [locate(text, roots) for text in uris.filter(is_odd).to_pylist()]
    for index, column in enumerate(columns):
        found = pa.array([row[index] for row in exact], pa.string())
        columns[column] = pc.replace_with_mask(columns[column], pc.fill_null(is_odd, False), found)
    has_none = pc.or_(pc.is_null(uris), pc.equal(uris, ""))
    none = pa.scalar(None, pa.string())
    return {name: pc.if_else(pc.fill_null(has_none, True), none, values) for name, values in columns.items()}


def metas(columns: Sequence[tuple[str, pa.Array]], n_rows: int) -> pa.MapArray:
    """A map for every row, from these names to what of these texts is not null; nothing that opens a door."""
    if not columns or not n_rows:
        empty = np.zeros(n_rows + 1, np.int32)
        return pa.MapArray.from_arrays(pa.array(empty), pa.array([], pa.string()), pa.array([], pa.string()))
    texts = pa.concat_arrays([_without_secrets(column) for _, column in columns])
    # from column after column to row after row
    order = np.arange(len(texts)).reshape(len(columns), n_rows).T.ravel()
    order = order[texts.is_valid().to_numpy(zero_copy_only=False)[order]]
    offsets = np.zeros(n_rows + 1, np.int32)
    np.cumsum(np.bincount(order % n_rows, minlength=n_rows), out=offsets[1:])
    names = pa.array([name for name, _ in columns], pa.string())
    return pa.MapArray.from_arrays(
        pa.array(offsets), names.take(pa.array(order // n_rows)), texts.take(pa.array(order))
    )


def _without_secrets(column: pa.Array) -> pa.Array:
    """Cells as they are, unless one holds a URL that opens a door: titles may look like secrets."""
    may_hold = pc.fill_null(pc.match_substring_regex(column, _ODD_CELL), False)
    if not pc.any(may_hold).as_py():
        return column
    shown = [masked(text) if holds_secret(text) else text for text in column.filter(may_hold).to_pylist()]
    return pc.replace_with_mask(column, may_hold, pa.array(shown, pa.string()))


def with_sizes(batch: pa.RecordBatch, stores: Stores) -> pa.RecordBatch:
    """The batch with every n_bytes and etag; 0 and "" for objects that are missing, refused or misnamed.

    What a store cannot even be asked for gets a `problem`; CredentialsExpired is raised: all are refused.
    """
    columns = {name: batch[name] for name in ("uri", "n_bytes", "etag", "problem")}
    is_told = pc.and_(pc.is_valid(columns["n_bytes"]), pc.is_valid(columns["etag"]))
    is_plain = pc.and_not(
        pc.match_substring_regex(columns["uri"], _PLAIN_URI),
        pc.or_(
            pc.match_substring_regex(columns["uri"], r"^file:|/\.\.(?:/|$)|/$"),
            pc.is_valid(columns["problem"]),
        ),
    )
    is_known = pc.and_(is_told, is_plain)
    columns["etag"] = _plain_etags(columns["etag"])
    if pc.any(is_known).as_py():  # whether there is such a kind of store at all
        stores.locate(columns["uri"].filter(is_known)[0].as_py())
    rest = pc.invert(is_known)
    asked = zip(*(batch[name].filter(rest).to_pylist() for name in columns), strict=True)
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        found = list(pool.map(lambda row: _size_of(stores, *row), asked))
    for index, name in enumerate(("n_bytes", "etag", "problem")):
        values = pa.array([row[index] for row in found], columns[name].type)
        columns[name] = pc.replace_with_mask(columns[name], rest, values)
    arrays = [columns[name] if name in columns else batch[name] for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _plain_etags(etags: pa.Array) -> pa.Array:
    """`plain_etag` of each."""
    strong = pc.if_else(pc.starts_with(etags, "W/"), pc.utf8_slice_codeunits(etags, 2), etags)
    return pc.utf8_trim(strong, '"')


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
    except CredentialsExpired:
        raise
    except (ObjectMissing, AccessDenied):
        return 0, "", None
    except StorageError as error:
        return 0, "", f"SOURCE_READ: {error}"
    return found.n_bytes if n_bytes is None else n_bytes, given or found.etag, None


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
