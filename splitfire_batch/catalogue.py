"""The catalogue: every track on offer, as one Arrow table sorted by path.

A source is a folder or prefix of any store, one audio object, or a table that names objects (`tables`).
What is left out is counted by reason, never dropped silently. Columns are built a page at a time, so no
Python object is kept per track. Globs (`globs`) are matched against the whole path below the source. What a
run does with the tracks is `plan`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

import numpy as np
import pyarrow as pa

from splitfire_batch.config import CatalogueConfig
from splitfire_batch.errors import ConfigError, ObjectMissing
from splitfire_batch.globs import glob
from splitfire_batch.identity import is_sampled
from splitfire_batch.spelling import is_text
from splitfire_batch.storage import Options, Store, Stores, check_path, open_store, parse_url
from splitfire_batch.storage.urls import matching_options
from splitfire_batch.tables import TABLE_EXTENSIONS, Row, read_rows, with_sizes

AUDIO_EXTENSIONS = frozenset(
    {"aac", "aif", "aifc", "aiff", "caf", "flac", "m4a", "m4b", "mka", "mkv", "mov", "mp3", "mp4", "oga"}
    | {"ogg", "opus", "rf64", "w64", "wav", "wave", "webm", "wma"}
)
"""Objects of a folder that are tracks; those that nothing here decodes fail later, and say so."""

LISTING = pa.schema(
    [
        pa.field("track_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("n_bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("duration_s", pa.float64()),
        pa.field("meta", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("problem", pa.string()),
    ]
)
"""Columns of `Catalogue.tracks`; `records.Track` says what they mean. `problem` is "CODE: why" or null."""

OPEN = pa.schema([pa.field(field.name, field.type) for field in LISTING if field.name != "source_id"])
"""The columns before sizes are asked for, and the source_id that depends on them is known."""
_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Tracks on offer, and how many objects were left out for which reason."""

    name: str
    """URL of the root: the folder, or the folder that holds the object or table."""
    tracks: pa.Table
    """Schema LISTING, sorted by path."""
    ignored: dict[str, int]
    held: pa.Table | None = None
    """track_id and target of failed tracks that are to keep their names; see `retries`."""


def list_tracks(
    source: str, config: CatalogueConfig, options: Options, *, destination: str | None = None
) -> Catalogue:
    """The tracks of a source, sorted by path.

    A `track_id` depends on the catalogue's name and the path alone, a `source_id` also on size and etag.
    An object that a table names and that is missing stays listed, with no bytes and no etag.

    Args:
        source: URL or path of a folder, an audio object, or a table; a table must end in its extension.
        config: what to take.
        options: of the stores, per URL prefix.
        destination: where the stems go; a link from a local source into that folder is not followed.

    Raises:
        ConfigError: a missing source, one without any track, or an unreadable table.
        StorageError, TransientError: the store refuses, or does not answer.
    """
    store, path = _open_source(source, options)
    ignored: Counter[str] = Counter()
    is_table = path is not None and path.rpartition(".")[2].lower() in TABLE_EXTENSIONS
    if path is None:
        rows = _folder_rows(store, destination, ignored)
    elif is_table:
        rows = _table_rows(store, path, config, ignored)
    else:
        rows = iter([_stored_row(store, path)])
    tracks = pa.Table.from_batches(_batches(_taken(rows, store.url, config, ignored)), OPEN)
    tracks = _first_of_each(tracks, ignored).sort_by([("path", "ascending"), ("uri", "ascending")])
    if config.limit is not None and tracks.num_rows > config.limit:
        ignored["over limit"] += tracks.num_rows - config.limit
        tracks = tracks.slice(0, config.limit)
    if not tracks.num_rows:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(ignored.items()))
        what = f"found {ignored.total()} objects: {reasons}" if reasons else "found no objects at all"
        raise ConfigError(f"nothing audible under {store.uri_of(path or '')}: {what}")
    return Catalogue(store.url, complete(tracks, Stores(options) if is_table else None), dict(ignored))


def check_source(source: str, options: Options) -> str:
    """The catalogue's name, by one or two cheap calls that tell whether there is something to list.

    Raises:
        ConfigError: there is no such folder, prefix or object.
        StorageError: the store refuses.
        TransientError: the store does not answer.
    """
    return _open_source(source, options)[0].url


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


def _folder_rows(store: Store, destination: str | None, ignored: Counter[str]) -> Iterator[Row]:
    """Everything audible below a root, without the stems that a link there may lead to."""
    scheme, folder = parse_url(destination) if destination else ("", "")
    for found in store.list(folder if scheme == "file" else None, ignored):
        reason = _why_ignored(found.path)
        if reason:
            ignored[reason] += 1
            continue
        uri, problem = store.uri_of(found.path), None
        try:
            check_path(found.path)
        except ValueError as error:  # a bucket may hold such keys
            problem = f"BAD_URI: {error}"
        yield Row(uri, found.path, found.path, found.n_bytes, found.etag, problem=problem)


def _why_ignored(path: str) -> str | None:
    """The reason why an object of a folder is no track; None for a track."""
    *folders, name = path.split("/")
    if "_splitfire" in folders:
        return "own records"
    if any(part.startswith(".") and part != ".." for part in (*folders, name)):
        return "hidden"
    if "." not in name or name.rpartition(".")[2].lower() not in AUDIO_EXTENSIONS:
        return "not audio"
    if not is_text(path):
        return "name is not UTF-8"
    return None


def _table_rows(store: Store, path: str, config: CatalogueConfig, ignored: Counter[str]) -> Iterator[Row]:
    for row in read_rows(store, path, config.allow_root):
        if row is None:
            ignored["no uri"] += 1
        elif "_splitfire" in row.path.split("/"):
            ignored["own records"] += 1
        else:
            yield row


def _stored_row(store: Store, path: str) -> Row:
    found = store.stat(path)
    return Row(store.uri_of(path), path, path, found.n_bytes, found.etag)


def _taken(
    rows: Iterable[Row], name: str, config: CatalogueConfig, ignored: Counter[str]
) -> Iterator[tuple[str, Row]]:
    """The rows that globs and sampling leave, with their track_id."""
    include = [glob(pattern) for pattern in config.include]
    exclude = [glob(pattern) for pattern in config.exclude]
    for row in rows:
        track_id = _hash(name, row.name)
        is_included = not include or any(glob.fullmatch(row.path) for glob in include)
        if not is_included or any(glob.fullmatch(row.path) for glob in exclude):
            ignored["excluded"] += 1
        elif not is_sampled(track_id, config.sample):
            ignored["not sampled"] += 1
        else:
            yield track_id, row


def _batches(rows: Iterator[tuple[str, Row]]) -> Iterator[pa.RecordBatch]:
    """Rows as Arrow columns, a page at a time."""
    while page := list(islice(rows, _PAGE)):
        columns = [[track_id for track_id, _ in page]]
        columns += [[getattr(row, name) for _, row in page] for name in OPEN.names[1:]]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, OPEN, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=OPEN)


def _first_of_each(tracks: pa.Table, ignored: Counter[str]) -> pa.Table:
    """Only the first track of each uri."""
    numbered = pa.table({"uri": tracks["uri"], "row": np.arange(tracks.num_rows)})
    rows = numbered.group_by("uri").aggregate([("row", "min")])["row_min"]
    if len(rows) == tracks.num_rows:
        return tracks
    ignored["duplicate"] += tracks.num_rows - len(rows)
    return tracks.take(rows)


def complete(tracks: pa.Table, stores: Stores | None) -> pa.Table:
    """Schema LISTING from OPEN: with source_ids, after what is missing was asked of `stores`."""
    batches = (_complete(batch, stores) for batch in tracks.to_batches(max_chunksize=_PAGE))
    return pa.Table.from_batches(batches, LISTING)


def _complete(batch: pa.RecordBatch, stores: Stores | None) -> pa.RecordBatch:
    if stores is not None:
        batch = with_sizes(batch, stores)
    uris, sizes, etags = (batch[name].to_pylist() for name in ("uri", "n_bytes", "etag"))
    ids = [_hash(uri, etag, str(n)) for uri, n, etag in zip(uris, sizes, etags, strict=True)]
    source_id = pa.array(ids, pa.string())
    arrays = [source_id if name == "source_id" else batch[name] for name in LISTING.names]
    return pa.RecordBatch.from_arrays(arrays, schema=LISTING)


def _hash(*parts: str) -> str:
    """16 hex digits of the parts, kept apart by NUL."""
    return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
