"""S3 Inventory: a bucket's objects as AWS writes them down daily, so that nobody has to list them.

A manifest.json names the files of one inventory, gzipped CSV or Parquet, with their MD5. Of a bucket's
objects those below the root are taken that a listing of that root would take: so both give the same tracks.
The manifest may lie in its bucket, or in a folder with `data/` beside it, as a copy. Keys in CSV files are
URL-encoded. Old versions and delete markers are left out; objects in an archive are tracks with a problem.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from splitfire_batch.errors import ConfigError, ObjectMissing
from splitfire_batch.scratch import scratch_folder
from splitfire_batch.sources import left, tracks_of
from splitfire_batch.storage import Store, plain_etag
from splitfire_batch.tables import plain_url

FILE_NAME = "manifest.json"
_MAX_MANIFEST_BYTES = 64 * 2**20
_BATCH = 20_000
_COLUMNS = {
    "key": "key",
    "islatest": "is_latest",
    "isdeletemarker": "is_delete_marker",
    "size": "n_bytes",
    "etag": "etag",
    "storageclass": "storage_class",
    "intelligenttieringaccesstier": "access_tier",
}
"""What is read, by AWS' names for it without underscores and in lower case."""
_NEEDED = ("key", "size", "etag")


@dataclass(frozen=True, slots=True)
class Inventory:
    """One inventory."""

    root: str
    """URL of the bucket or prefix whose objects are tracks: the catalogue's name."""
    columns: tuple[str, ...]
    """Of CSV files."""
    is_csv: bool
    files: tuple[tuple[str, str], ...]
    """Paths in the manifest's own store, and MD5s."""


def read_manifest(store: Store, path: str, bucket: Store, allow_root: tuple[str, ...]) -> Inventory:
    """What a manifest.json says.

    Args:
        store: opened at the manifest's folder.
        path: the manifest in it.
        bucket: opened where the manifest's keys begin.
        allow_root: URLs of which one, in the inventory's own bucket, is the catalogue's root.

    Raises:
        ConfigError: it is no such manifest, or no root in its bucket is allowed.
    """
    uri = store.uri_of(path)
    try:
        told: dict[str, Any] = json.loads(store.read(path))
        source, kind = f"s3://{told['sourceBucket']}", told["fileFormat"].upper()
        schema = told["fileSchema"]
        files = [(str(file["key"]), str(file["MD5checksum"]).lower()) for file in told["files"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{uri} is no manifest of an S3 Inventory: {error!r}") from error
    if kind not in ("CSV", "PARQUET"):
        raise ConfigError(f"{uri} has files in {kind}, wanted CSV or Parquet; set the inventory's format")
    roots = [root for root in map(plain_url, allow_root) if f"{root}/".startswith(f"{source}/")]
    if not roots:
        raise ConfigError(f"{uri} lists the bucket {source}: set allow_root to it, or to a prefix in it")
    names = tuple(_plain(name) for name in schema.split(",")) if kind == "CSV" else ()
    found = tuple((_place(bucket, key), md5) for key, md5 in files)
    return Inventory(roots[0], names, kind == "CSV", found)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _place(bucket: Store, key: str) -> str:
    """A file of a bucket lies under its key; that of a copy in `data/` beside the manifest's folder."""
    return f"data/{key.rpartition('/')[2]}" if bucket.is_local else key


def inventory_pages(
    inventory: Inventory, bucket: Store, ignored: Counter[str], scratch: str | None = None
) -> Iterator[pa.RecordBatch]:
    """The objects of an inventory as `tables.TOLD`, a page at a time.

    Args:
        inventory: what `read_manifest` said.
        bucket: as there.
        ignored: counts objects that are no tracks, by reason.
        scratch: folder for a copy of one file at a time.

    Raises:
        ConfigError: a file is missing, damaged, or has not the columns Key, Size and ETag.
    """
    for path, md5 in inventory.files:
        uri = bucket.uri_of(path)
        with scratch_folder(scratch) as folder:
            try:
                file = bucket.fetch(path, folder / "file")
                _check_md5(uri, file, md5)
                for batch in _csv(file, inventory) if inventory.is_csv else _parquet(file):
                    yield _tracks(batch, inventory.root, ignored)
            except ObjectMissing as error:
                raise ConfigError(f"{uri}: the manifest names it, and it is not there") from error
            except (pa.ArrowException, KeyError) as error:
                raise ConfigError(f"{uri} is no inventory file: {error}") from error


def _check_md5(uri: str, file: Path, wanted: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != wanted:
        raise ConfigError(f"{uri} has the MD5 {found}, its manifest says {wanted}; fetch the inventory anew")


def _csv(file: Path, inventory: Inventory) -> Iterator[pa.RecordBatch]:
    names = list(inventory.columns)
    with (
        pa.CompressedInputStream(pa.OSFile(str(file), "rb"), "gzip") as stream,
        pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(column_names=names),
            convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        ) as reader,
    ):
        for batch in reader:
            found = _known(batch)
            keys = pa.array([unquote_plus(key) for key in found["key"].to_pylist()], pa.string())
            yield found.set_column(found.schema.get_field_index("key"), "key", keys)


def _parquet(file: Path) -> Iterator[pa.RecordBatch]:
    with pa.parquet.ParquetFile(file) as parquet:
        names = [name for name in parquet.schema_arrow.names if _plain(name) in _COLUMNS]
        for batch in parquet.iter_batches(_BATCH, columns=names):
            yield _known(batch)


def _known(batch: pa.RecordBatch) -> pa.RecordBatch:
    """All columns of `_COLUMNS` as text, by our names; null where an inventory has none."""
    found = {_plain(name): column for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    for name in _NEEDED:
        if name not in found:
            raise KeyError(name)
    nulls = pa.nulls(len(batch), pa.string())
    texts = {told: pc.cast(found.get(name, nulls), pa.string()) for name, told in _COLUMNS.items()}
    return pa.RecordBatch.from_pydict(texts)


def _tracks(objects: pa.RecordBatch, root: str, ignored: Counter[str]) -> pa.RecordBatch:
    """What a listing of the root would take, as TOLD."""
    prefix = root.partition("://")[2].partition("/")[2]
    folder = f"{prefix}/" if prefix else ""
    reasons: dict[str, Callable[[pa.RecordBatch], pa.Array]] = {
        "old version": lambda rows: _says(rows["is_latest"], "false"),
        "deleted": lambda rows: _says(rows["is_delete_marker"], "true"),
        "outside the root": lambda rows: pc.invert(pc.starts_with(rows["key"], folder)),
        "folder mark": lambda rows: pc.ends_with(rows["key"], "/"),
    }
    for reason, is_out in reasons.items():
        objects = left(objects, is_out(objects), reason, ignored)
    columns = {
        "path": pc.utf8_slice_codeunits(objects["key"], len(folder)),
        "n_bytes": pc.cast(objects["n_bytes"], pa.int64()),
        "etag": pa.array([plain_etag(etag or "") for etag in objects["etag"].to_pylist()], pa.string()),
        "storage_class": objects["storage_class"],
        "access_tier": objects["access_tier"],
    }
    return tracks_of(root, pa.RecordBatch.from_pydict(columns), ignored)


def _says(column: pa.Array, word: str) -> pa.Array:
    """Where a text is that word, in whatever case; null is nothing said."""
    return pc.fill_null(pc.equal(pc.utf8_lower(column), word), False)
