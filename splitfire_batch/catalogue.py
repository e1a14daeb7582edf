"""The catalogue: every track on offer, as rows of Arrow columns.

A source is a folder or prefix of any store, one audio object, or a table that names objects (`tables`).
What is left out is counted by reason, never dropped silently. Columns are made a page at a time and kept in a
file (`rows`), so that ten million tracks take as little memory as ten thousand. Globs (`globs`) are matched
against the whole path below the source. What a run does with the tracks is `plan`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from splitfire_batch.config import CatalogueConfig
from splitfire_batch.errors import ConfigError, ObjectMissing
from splitfire_batch.globs import glob
from splitfire_batch.identity import is_sampled
from splitfire_batch.inventory import FILE_NAME, inventory_pages, read_manifest
from splitfire_batch.rows import Rows, rows_of
from splitfire_batch.selection import first_of_each, limited
from splitfire_batch.sources import folder_pages, left, named_pages, object_pages
from splitfire_batch.storage import Options, Store, Stores, open_store, parse_url
from splitfire_batch.storage.urls import matching_options
from splitfire_batch.tables import META, TABLE_EXTENSIONS, read_rows, with_sizes

LISTING = pa.schema(
    [
        pa.field("track_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("n_bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("duration_s", pa.float64()),
        pa.field("meta", META, nullable=False),
        pa.field("problem", pa.string()),
    ]
)
"""Columns of `Catalogue.rows`; `records.Track` says what they mean. `problem` is "CODE: why" or null."""

OPEN = pa.schema([pa.field(field.name, field.type) for field in LISTING if field.name != "source_id"])
"""The columns before sizes are asked for, and the source_id that depends on them is known."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Tracks on offer, and how many objects were left out for which reason."""

    name: str
    """URL of the root: the folder, or the folder that holds the object or table."""
    rows: Rows
    """Schema LISTING, in no order that counts."""
    ignored: dict[str, int]
    held: pa.Table | None = None
    """track_id and target of failed tracks that are to keep their names; see `retries`."""
    newest_run: str | None = None
    """Of a listing that was saved: the last run_id of its destination then, empty if there was none."""

    def table(self) -> pa.Table:
        """All tracks in memory, sorted by path."""
        return self.rows.table().sort_by([("path", "ascending"), ("uri", "ascending")])


def list_tracks(
    source: str,
    config: CatalogueConfig,
    options: Options,
    *,
    destination: str | None = None,
    scratch: str | None = None,
) -> Catalogue:
    """The tracks of a source.

    A `track_id` depends on the catalogue's name and the path alone, a `source_id` also on size and etag.
    An object that a table names and that is missing stays listed, with no bytes and no etag.

    Args:
        source: URL or path of a folder, an audio object, or a table; a table must end in its extension.
        config: what to take.
        options: of the stores, per URL prefix.
        destination: where the stems go; a link from a local source into that folder is not followed.
        scratch: folder for what is listed; the system's own for temporary files if None.

    Raises:
        ConfigError: a missing source, one without any track, or an unreadable table.
        StorageError, TransientError: the store refuses, or does not answer.
    """
    store, path = _open_source(source, options)
    name, ignored = store.url, Counter[str]()
    is_table = path is not None and path.rpartition(".")[2].lower() in TABLE_EXTENSIONS
    if path is None:
        pages = folder_pages(store, destination, ignored)
    elif path == FILE_NAME:
        bucket = _bucket_of(store, options)
        inventory = read_manifest(store, path, bucket, config.allow_root)
        name, pages = inventory.root, inventory_pages(inventory, bucket, ignored, scratch)
    elif is_table:
        pages = named_pages(read_rows(store, path, config.allow_root, scratch), ignored)
    else:
        pages = object_pages(store, path)
    uris: list[np.ndarray] = []
    taken = rows_of(_taken(pages, name, config, ignored, uris), OPEN, scratch)
    is_wanted = limited(taken, first_of_each(taken, uris, ignored), config.limit, ignored)
    if not is_wanted.any():
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(ignored.items()))
        what = f"found {ignored.total()} objects: {reasons}" if reasons else "found no objects at all"
        raise ConfigError(f"nothing audible under {store.uri_of(path or '')}: {what}")
    stores = Stores(options) if is_table else None
    return Catalogue(name, complete(taken.only(is_wanted), stores, scratch), dict(ignored))


def check_source(source: str, options: Options) -> str:
    """The catalogue's name, by one or two cheap calls that tell whether there is something to list.

    Raises:
        ConfigError: there is no such folder, prefix or object.
        StorageError: the store refuses.
        TransientError: the store does not answer.
    """
    return _open_source(source, options)[0].url


def _bucket_of(store: Store, options: Options) -> Store:
    """Where an inventory's files lie: their manifest's bucket, or the folder above it for a copy."""
    if store.is_local:
        return open_store(store.url.rpartition("/")[0] or "/", options)
    scheme, root = parse_url(store.url)
    url = f"{scheme}://{root.partition('/')[0]}"
    return open_store(url, {url: matching_options(options, scheme, root)})


def _open_source(source: str, options: Options) -> tuple[Store, str | None]:
    """The store of a folder and None, or of the folder of one object and its name."""
    store = open_store(source, options)
    folder, _, name = store.url.rpartition("/")
    if name and not folder.endswith(("/", ":")):
        # The options of the object itself, should it have its own.
        parent = open_store(folder or "/", {folder or "/": matching_options(options, *parse_url(source))})
        try:
            parent.stat(name)
        except ObjectMissing:
            pass
        else:
            return parent, name
    try:
        store.check_readable()
    except ObjectMissing as error:
        raise ConfigError(f"there is no folder, prefix or object {store.url}") from error
    return store, None


def _taken(
    pages: Iterable[pa.RecordBatch],
    name: str,
    config: CatalogueConfig,
    ignored: Counter[str],
    uris: list[np.ndarray],
) -> Iterator[pa.RecordBatch]:
    """The rows that globs and sampling leave, as OPEN; hashes of their URIs are added to `uris`."""
    is_included = _chooser(config)
    for page in pages:
        named = page.add_column(0, "track_id", _hashes(name, page["name"])).select(OPEN.names).cast(OPEN)
        included = _those(named, "path", is_included, "excluded", ignored)
        is_of_sample = None if config.sample is None else partial(is_sampled, percent=config.sample)
        taken = _those(included, "track_id", is_of_sample, "not sampled", ignored)
        uris.append(np.fromiter(map(hash, taken["uri"].to_pylist()), np.int64, len(taken)))
        yield taken


def _those(
    page: pa.RecordBatch,
    column: str,
    is_wanted: Callable[[str], bool] | None,
    otherwise: str,
    ignored: Counter[str],
) -> pa.RecordBatch:
    """The rows whose column is wanted; all for None. The others are counted."""
    if is_wanted is None:
        return page
    is_out = pa.array([not is_wanted(text) for text in page[column].to_pylist()], pa.bool_())
    return left(page, is_out, otherwise, ignored)


def _chooser(config: CatalogueConfig) -> Callable[[str], bool] | None:
    """Whether globs take a path; None if there are none."""
    include = [glob(pattern).fullmatch for pattern in config.include]
    exclude = [glob(pattern).fullmatch for pattern in config.exclude]
    if not include and not exclude:
        return None
    return lambda path: (
        (not include or any(matches(path) for matches in include))
        and not any(matches(path) for matches in exclude)
    )


def complete(batches: Iterable[pa.RecordBatch], stores: Stores | None, scratch: str | None = None) -> Rows:
    """Schema LISTING from OPEN: with source_ids, after what is missing was asked of `stores`."""
    return rows_of(map(partial(_complete, stores=stores), batches), LISTING, scratch)


def _complete(batch: pa.RecordBatch, stores: Stores | None) -> pa.RecordBatch:
    if stores is not None:
        batch = with_sizes(batch, stores)
    uris, sizes, etags = (batch[name].to_pylist() for name in ("uri", "n_bytes", "etag"))
    ids = [_hash(f"{uri}\0{etag}\0{n}") for uri, n, etag in zip(uris, sizes, etags, strict=True)]
    source_id = pa.array(ids, pa.string())
    arrays = [source_id if name == "source_id" else batch[name] for name in LISTING.names]
    return pa.RecordBatch.from_arrays(arrays, schema=LISTING)


def _hashes(name: str, parts: pa.Array) -> pa.Array:
    return pa.array([_hash(f"{name}\0{part}") for part in parts.to_pylist()], pa.string())


def _hash(parts: str) -> str:
    """16 hex digits of parts that NUL keeps apart."""
    return blake2b(parts.encode(), digest_size=8).hexdigest()
