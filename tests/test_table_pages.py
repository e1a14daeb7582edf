"""Hostile tables are refused in words, in little memory; ordinary ones lose nothing."""

from __future__ import annotations

import io
import json
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitfire_batch import table_pages
from splitfire_batch.table_pages import Unfit, pages

MB = 2**20


def parquet(table: pa.Table, **how: object) -> bytes:
    buffer = io.BytesIO()
    pa.parquet.write_table(table, buffer, **how)
    return buffer.getvalue()


def rows(kind: str, data: bytes) -> list[dict[str, object]]:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        return [row for page in pages(kind, Path(file.name)) for row in page.to_pylist()]


@contextmanager
def within(n_bytes: int) -> Iterator[None]:
    """Fails when Python and Arrow together took more in between."""
    pool = pa.default_memory_pool()
    tracemalloc.start()
    before, peak = pool.bytes_allocated(), pool.max_memory()
    try:
        yield
        taken = tracemalloc.get_traced_memory()[1] + max(0, pool.max_memory() - max(before, peak))
        assert taken <= n_bytes, f"{taken / MB:.0f} MiB"
    finally:
        tracemalloc.stop()


def test_a_megabyte_said_a_million_times_is_refused_before_it_unfolds() -> None:
    indices = pa.array([0] * 1_000_000, pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * MB]))
    data = parquet(pa.table({"uri": column}))
    assert len(data) < 2 * MB

    with within(64 * MB), pytest.raises(Unfit, match=r"1000 of its rows hold 1048576000 bytes"):
        rows("parquet", data)


def test_lines_with_keys_of_their_own_are_refused_early() -> None:
    lines = [json.dumps({"uri": "x", f"key{number}": 1}) for number in range(100_000)]

    with within(16 * MB), pytest.raises(Unfit, match="columns, the limit is 500"):
        rows("jsonl", "\n".join(lines).encode())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_more_columns_than_anybody_has_are_refused(kind: str) -> None:
    names = ["uri", *(f"c{number}" for number in range(500))]
    data = (
        parquet(pa.table({name: ["x"] for name in names}))
        if kind == "parquet"
        else f"{chr(44).join(names)}\n".encode()
    )
    with pytest.raises(Unfit, match="501 columns"):
        rows(kind, data)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_more_rows_than_the_limit_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_pages, "MAX_ROWS", 2_500)
    names = [f"{number}.wav" for number in range(3_000)]
    data = {
        "csv": "\n".join(["uri", *names]).encode(),
        "jsonl": "\n".join(json.dumps({"uri": name}) for name in names).encode(),
        "parquet": parquet(pa.table({"uri": names})),
    }[kind]
    with pytest.raises(Unfit, match="more than 2,500 rows"):
        rows(kind, data)


def test_a_row_group_that_unfolds_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_pages, "MAX_BYTES", 1_000)
    data = parquet(pa.table({"uri": [f"{number:04}" for number in range(1_000)]}), use_dictionary=False)
    with pytest.raises(Unfit, match="a row group unfolds to"):
        rows("parquet", data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"uri": "x", "a": ' + b"[" * 100_000,
        b'{"uri": ' + b"9" * 5_000 + b"}",
        b'["uri"]',
        b'{"uri": "x", "n_bytes": "many"}',
        b'{"uri": ["x"]}',
        b'{"uri": "' + b"x" * 2 * MB + b'"}',
        b'{"uri": "\xff"}',
        b"\x00\x01\x02",
    ],
)
def test_lines_that_are_no_rows_are_named(data: bytes) -> None:
    with pytest.raises(Unfit, match=r"^line 2"):
        rows("jsonl", b'{"uri": "good.wav"}\n' + data)


def test_a_cell_larger_than_a_block_is_refused() -> None:
    with pytest.raises(Unfit):
        rows("csv", b"uri,a\nx.wav," + b"y" * 8 * MB)


def test_only_plain_columns_are_read() -> None:
    extension = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16)))
    table = pa.table(
        {"uri": ["x.wav"], "list": [["a"]], "struct": [{"a": 1}], "isrc": ["007"], "uuid": extension}
    )
    assert rows("parquet", parquet(table)) == [{"uri": "x.wav", "isrc": "007"}]


def test_a_uri_column_of_another_kind_is_no_uri() -> None:
    with pytest.raises(Unfit, match="no column `uri`"):
        rows("parquet", parquet(pa.table({"uri": [["x.wav"]]})))


def test_values_of_json_become_text_as_they_are_written() -> None:
    line = b'{"uri": "x.wav", "year": 1999, "live": true, "tags": ["a", "b"], "isrc": "007", "none": null}'
    assert rows("jsonl", line) == [
        {"uri": "x.wav", "year": "1999", "live": "true", "tags": '["a", "b"]', "isrc": "007", "none": None}
    ]


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["csv", "parquet", "jsonl"]))
def test_any_bytes_are_rows_or_refused(data: bytes, kind: str) -> None:
    try:
        found = rows(kind, data)
    except Unfit:
        return
    assert all(isinstance(row, dict) for row in found)


@settings(deadline=None)
@given(st.integers(0, 5_000), st.integers(0, 255))
def test_a_damaged_parquet_table_is_rows_or_refused(position: int, value: int) -> None:
    data = bytearray(parquet(pa.table({"uri": [f"{n}.wav" for n in range(300)], "n_bytes": range(300)})))
    data[position % len(data)] = value
    try:
        found = rows("parquet", bytes(data))
    except Unfit:
        return
    assert len(found) <= 300
