"""An S3 Inventory gives the tracks that a listing of the bucket would give."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from splitfire_batch.catalogue import list_tracks
from splitfire_batch.config import CatalogueConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.job import Job
from splitfire_batch.storage import Store, open_store
from tests.test_job import PASSTHROUGH, run, tone

KEYS = ["in/a b+c/x%.wav", "in/Beyoncé.flac", "in/cover.jpg", "in/.x.wav", "other/y.wav", "in/sub/"]
CSV_SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag, StorageClass"


def write_inventory(store: Store, bucket: str, rows: list[dict[str, object]], kind: str, prefix: str) -> str:
    """An inventory of these rows as AWS lays it out, below `prefix` of the store; the manifest's URL."""
    if kind == "CSV":
        names = (
            "bucket",
            "key",
            "version",
            "is_latest",
            "is_delete_marker",
            "size",
            "e_tag",
            "storage_class",
        )
        told = [{**row, "key": quote_plus(str(row["key"]), safe="/"), "version": ""} for row in rows]
        lines = [",".join(f'"{row[name]}"' for name in names) for row in told]
        data, schema = gzip.compress("\n".join(lines).encode()), CSV_SCHEMA
    else:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        data, schema = sink.getvalue().to_pybytes(), "message s3.inventory { required binary bucket; }"
    key = f"{prefix}data/one.{'csv.gz' if kind == 'CSV' else 'parquet'}"
    manifest = {
        "sourceBucket": bucket,
        "fileFormat": {"CSV": "CSV", "PARQUET": "Parquet"}[kind],
        "fileSchema": schema,
        "files": [{"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}],  # noqa: S324
    }
    store.write(key, data)
    store.write(f"{prefix}2026-01-01T01-00Z/manifest.json", json.dumps(manifest).encode())
    return store.uri_of(f"{prefix}2026-01-01T01-00Z/manifest.json")


def row_of(key: str, **changes: object) -> dict[str, object]:
    told = {"bucket": "b", "key": key, "is_latest": True, "is_delete_marker": False, "size": 7, "e_tag": "e"}
    return told | {"storage_class": "STANDARD"} | changes


@pytest.fixture
def copies(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path), {})
    store.check_writable()
    return store


@pytest.mark.parametrize("kind", ["CSV", "PARQUET"])
def test_an_inventory_lists_what_a_listing_lists(bucket: str, kind: str) -> None:
    store = open_store(bucket, {})
    for key in KEYS[:-1]:
        store.write(key, b"1234567")
    etag = store.stat(KEYS[0]).etag
    rows = [row_of(key, e_tag=etag) for key in KEYS]
    url = write_inventory(store, bucket.removeprefix("s3://"), rows, kind, "inv/")

    listed = list_tracks(f"{bucket}/in", CatalogueConfig(), {})
    found = list_tracks(url, CatalogueConfig(allow_root=(f"{bucket}/in",)), {})

    assert found.name == listed.name
    assert found.table().equals(listed.table())
    assert found.ignored == {"not audio": 1, "hidden": 1, "outside the root": 1, "folder mark": 1}


def test_old_versions_are_left_out_and_archived_objects_are_told(copies: Store) -> None:
    classes = {"x.wav": "GLACIER_IR", "y.wav": "GLACIER", "z.wav": "DEEP_ARCHIVE"}
    rows = [row_of(key, storage_class=name) for key, name in classes.items()]
    rows += [row_of("x.wav", is_latest=False, e_tag="old"), row_of("gone.wav", is_delete_marker=True)]
    url = write_inventory(copies, "b", rows, "CSV", "")

    found = list_tracks(url, CatalogueConfig(allow_root=("s3://b",)), {})

    problems = {row["path"]: (row["problem"] or "").partition(":")[0] for row in found.table().to_pylist()}
    assert problems == {"x.wav": "", "y.wav": "ARCHIVED", "z.wav": "ARCHIVED"}
    assert found.ignored == {"old version": 1, "deleted": 1}


@pytest.mark.parametrize("size", ["many", ""])
def test_a_file_with_a_size_that_is_none_is_refused_by_name(copies: Store, size: str) -> None:
    url = write_inventory(copies, "b", [row_of("x.wav", size=size)], "CSV", "")
    with pytest.raises(ConfigError, match=r"data/.* is no inventory file: "):
        list_tracks(url, CatalogueConfig(allow_root=("s3://b",)), {}).table()


def test_a_file_that_is_not_what_the_manifest_says_is_refused(copies: Store) -> None:
    url = write_inventory(copies, "b", [row_of("x.wav")], "CSV", "")
    copies.write("data/one.csv.gz", b"other")
    with pytest.raises(ConfigError, match="its manifest says"):
        list_tracks(url, CatalogueConfig(allow_root=("s3://b",)), {})
    copies.delete("data/one.csv.gz")
    with pytest.raises(ConfigError, match="the manifest names it, and it is not there"):
        list_tracks(url, CatalogueConfig(allow_root=("s3://b",)), {})


@pytest.mark.parametrize("allowed", [(), ("s3://bb",), ("s3://other/b",)])
def test_an_inventory_of_a_bucket_that_is_not_allowed_is_refused(copies: Store, allowed: tuple[str]) -> None:
    url = write_inventory(copies, "b", [row_of("x.wav")], "PARQUET", "")
    with pytest.raises(ConfigError, match="set allow_root to it"):
        list_tracks(url, CatalogueConfig(allow_root=allowed), {})


def test_an_archived_object_is_a_skipped_row_until_it_is_restored(bucket: str, tmp_path: Path) -> None:
    tone(tmp_path / "x.wav", 220)
    store, copies = open_store(bucket, {}), open_store(str(tmp_path / "copy"), {})
    store.write("x.wav", tmp_path / "x.wav")
    found = store.stat("x.wav")

    def separated(storage_class: str) -> tuple[int, int, int, int]:
        row = row_of("x.wav", size=found.n_bytes, e_tag=found.etag, storage_class=storage_class)
        url = write_inventory(copies, bucket.removeprefix("s3://"), [row], "CSV", "")
        job = Job(url, str(tmp_path / "out"), PASSTHROUGH, catalogue=CatalogueConfig(allow_root=(bucket,)))
        report = run(job)
        return report.n_skipped, report.n_skipped_before, report.n_done, report.n_done_before

    assert separated("GLACIER") == (1, 0, 0, 0)
    assert read_latest_code(tmp_path / "out") == "ARCHIVED"
    assert separated("GLACIER") == (0, 1, 0, 0)
    assert separated("STANDARD") == (0, 0, 1, 0)
    assert separated("GLACIER") == (0, 0, 0, 1)  # archived again, and its stems are there


def read_latest_code(destination: Path) -> str:
    (code,) = pq.read_table(destination / "_splitfire/views/tracks.parquet")["code"].to_pylist()
    return str(code)
