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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from splitfire_batch.errors import ConfigError, ObjectMissing
from splitfire_batch.scratch import scratch_folder
from splitfire_batch.sources import Listed, page_of, problem_of, why_ignored
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
                    yield page_of(list(_rows(batch, inventory, ignored)))
            except ObjectMissing as error:
                raise ConfigError(f"{uri}: the manifest names it, and it is not there") from error
            except (pa.ArrowException, KeyError) as error:
                raise ConfigError(f"{uri} is no inventory file: {error}") from error


def _check_md5(uri: str, file: Path, wanted: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != wanted:
        raise ConfigError(f"{uri} has the MD5 {found}, its manifest says {wanted}; fetch the inventory anew")


def _csv(file: Path, inventory: Inventory) -> Iterator[dict[str, list[Any]]]:
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
            found["key"] = [unquote_plus(key) for key in found["key"]]
            yield found


def _parquet(file: Path) -> Iterator[dict[str, list[Any]]]:
    with pa.parquet.ParquetFile(file) as parquet:
        names = [name for name in parquet.schema_arrow.names if _plain(name) in _COLUMNS]
        for batch in parquet.iter_batches(_BATCH, columns=names):
            yield _known(batch)


def _known(batch: pa.RecordBatch) -> dict[str, list[Any]]:
    """The columns that are there, by our names."""
    return {
        _COLUMNS[_plain(name)]: column.to_pylist()
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
        if _plain(name) in _COLUMNS
    }


def _rows(columns: dict[str, list[Any]], inventory: Inventory, ignored: Counter[str]) -> Iterator[Listed]:
    keys, prefix = columns["key"], inventory.root.partition("://")[2].partition("/")[2]
    folder = f"{prefix}/" if prefix else ""
    told = [columns.get(name, [None] * len(keys)) for name in ("is_latest", "is_delete_marker")]
    classes = [columns.get(name, [None] * len(keys)) for name in ("storage_class", "access_tier")]
    for key, n_bytes, etag, is_latest, is_deleted, *where in zip(
        keys, columns["n_bytes"], columns["etag"], *told, *classes, strict=True
    ):
        reason = _why_left_out(key, folder, is_latest, is_deleted)
        if reason:
            ignored[reason] += 1
            continue
        path = key.removeprefix(folder)
        yield f"{inventory.root}/{path}", path, int(n_bytes), plain_etag(etag), problem_of(path, *where)


def _why_left_out(key: str, folder: str, is_latest: object, is_deleted: object) -> str | None:
    if str(is_latest).lower() == "false":
        return "old version"
    if str(is_deleted).lower() == "true":
        return "deleted"
    if not key.startswith(folder):
        return "outside the root"
    return "folder mark" if key.endswith("/") else why_ignored(key.removeprefix(folder))
