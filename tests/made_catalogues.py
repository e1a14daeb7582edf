"""Catalogues of any size that nobody recorded: a Parquet table, an S3 Inventory, a folder, a bucket.

Paths are as deep and as long as a label's (`label/artist/album (year)/01 title.flac`), and every few
thousandth is one of those that need care: an accent, a device's name, a space at the end, a twin that only
differs by case or extension.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from tests.s3_server import S3Server

PAGE = 100_000
ROOT = "s3://label-masters/audio"
"""Nothing is ever asked of it: sizes and etags are told."""
_WRITERS = 8
_ODD = ("Beyoncé", "con", "Vol. 1.", "wav", "ß", "CON.live")
_ADJECTIVES = pa.array(["Blue", "Silent", "Golden", "Broken", "Electric", "Distant", "Paper", "Velvet"])
_NOUNS = pa.array(["River", "Machines", "Summer", "Hearts", "Satellites", "Avenue", "Mirrors", "Thunder"])


def pages(n: int) -> Iterator[pa.Table]:
    """`n` rows of a label's catalogue, a page at a time: path, n_bytes, etag, duration_s, isrc, title."""
    for start in range(0, n, PAGE):
        yield _page(np.arange(start, min(n, start + PAGE)))


def _page(numbers: np.ndarray) -> pa.Table:
    text = [pa.array(part).cast(pa.string()) for part in (numbers // 5_000, numbers // 120, numbers // 12)]
    track = pc.utf8_lpad(pa.array(numbers % 12 + 1).cast(pa.string()), 2, "0")
    mixed = (numbers * 2_654_435_761) % 2**32
    title = _joined(" ", _ADJECTIVES.take(pa.array(mixed % 8)), _NOUNS.take(pa.array(mixed // 8 % 8)))
    artist = pc.binary_join_element_wise("artist ", text[1], "")
    odd = numbers % 4_001 == 0
    names = pa.array(_ODD).take(pa.array(numbers % len(_ODD)))
    artist = pc.if_else(pa.array(odd), names, artist)
    album = _joined("", "album ", text[2], " (", pa.array(1960 + mixed % 65).cast(pa.string()), ")")
    stem = _joined("", track, " ", title)
    twin = numbers % 2_003 == 1  # has the name of the one before it, but for the extension
    stem = pc.if_else(pa.array(twin), _shifted(stem), stem)
    album = pc.if_else(pa.array(twin), _shifted(album), album)
    artist = pc.if_else(pa.array(twin), _shifted(artist), artist)
    ending = pa.array(np.where(twin, ".wav", ".flac"))
    path = _joined("/", _joined("", "label ", text[0]), artist, album, _joined("", stem, ending))
    etag = _joined("", *(_hex(mixed * k + numbers) for k in (3, 5, 7, 11)))
    columns: Mapping[str, pa.Array] = {
        "path": path,
        "n_bytes": pa.array(20_000_000 + mixed % 40_000_000),
        "etag": etag,
        "duration_s": pa.array(120 + (mixed % 300_000) / 1_000),
        "isrc": _joined("", "GBAAA", pc.utf8_lpad(pa.array(numbers % 10**7).cast(pa.string()), 7, "0")),
        "title": title,
    }
    return pa.table(columns)


def _joined(separator: str, *parts: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, separator)


def _shifted(column: pa.Array) -> pa.Array:
    """Each value is the one before it."""
    return pa.concat_arrays([column.slice(0, 1), column.slice(0, len(column) - 1)])


def _hex(numbers: np.ndarray) -> pa.Array:
    """Eight hex digits of each number."""
    data = np.ascontiguousarray((numbers % 2**32).astype(">u4"))
    digits = np.array([f"{value:02x}" for value in range(256)], "S2")[data.view(np.uint8)]
    flat = np.ascontiguousarray(digits).view("S8")
    return pa.array(flat).cast(pa.string())


@contextmanager
def parquet(folder: Path, n: int) -> Iterator[str]:
    """A Parquet table in the folder."""
    path = folder / "catalogue.parquet"
    writer = None
    for page in pages(n):
        uri = _joined("/", ROOT, page["path"])
        table = page.set_column(0, "uri", uri)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer:
        writer.close()
    yield str(path)


@contextmanager
def inventory(folder: Path, n: int) -> Iterator[str]:
    """A copy of an S3 Inventory in CSV, a gzipped file for every hundred thousand objects."""
    bucket, _, prefix = ROOT.removeprefix("s3://").partition("/")
    (folder / "data").mkdir()
    (folder / "2026-01-01T01-00Z").mkdir()
    files = []
    for number, page in enumerate(pages(n)):
        keys = pa.array([quote_plus(f"{prefix}/{path}", safe="/") for path in page["path"].to_pylist()])
        columns = [_joined("", bucket, pc.utf8_slice_codeunits(keys, 0, 0)), keys]
        columns += [
            page["n_bytes"].combine_chunks(),
            page["etag"].combine_chunks(),
            pa.repeat("STANDARD", len(page)),
        ]
        file = folder / f"data/{number}.csv.gz"
        with pa.CompressedOutputStream(pa.OSFile(str(file), "wb"), "gzip") as stream:
            options = pa.csv.WriteOptions(include_header=False)
            pa.csv.write_csv(pa.table(columns, names=list("abcde")), stream, options)
        digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        files.append({"key": f"inventories/data/{file.name}", "MD5checksum": digest})
    told = {
        "sourceBucket": bucket,
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size, ETag, StorageClass",
    }
    manifest = folder / "2026-01-01T01-00Z/manifest.json"
    manifest.write_text(json.dumps({**told, "files": files}))
    yield str(manifest)


@contextmanager
def files(folder: Path, n: int) -> Iterator[str]:
    """Empty files in a folder."""
    for page in pages(n):
        for path in page["path"].to_pylist():
            file = folder / "music" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    yield str(folder / "music")


@contextmanager
def bucket(_: Path, n: int) -> Iterator[str]:
    """Objects of one byte in the real S3 server; its address is in the environment meanwhile."""
    name, _, prefix = ROOT.removeprefix("s3://").partition("/")
    before = dict(os.environ)
    with S3Server() as server:
        os.environ.update(server.environment)
        server.make_bucket(name)
        place = f"/{name}/{prefix}"
        with ThreadPoolExecutor(_WRITERS) as pool:
            done = pool.map(lambda part: _put(server.endpoint, place, n, part), range(_WRITERS))
            assert sum(done) == n
        try:
            yield ROOT
        finally:
            os.environ.clear()
            os.environ.update(before)


def _put(endpoint: str, place: str, n: int, part: int) -> int:
    """Write every so manieth object over one connection; returns how many."""
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
    n_put = 0
    for page in pages(n):
        for path in page["path"].to_pylist()[part::_WRITERS]:
            connection.request("PUT", f"{place}/{quote(path)}", b".")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            n_put += 1
    connection.close()
    return n_put


SOURCES: dict[str, Callable[[Path, int], AbstractContextManager[str]]] = {
    "parquet": parquet,
    "inventory": inventory,
    "folder": files,
    "bucket": bucket,
}
"""A folder for it and a number of tracks give the catalogue's URL, for a `with` block."""
