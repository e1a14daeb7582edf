"""A catalogue table (CSV, Parquet, JSON lines) as pages of rows, within limits whoever wrote it.

A few kB can say "the same megabyte, a million times", or name a column of its own in every line: sizes are
looked at before anything is unfolded, and only a page is at a time. Which rows make tracks is for `tables`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

MAX_BYTES = 2 * 2**30
"""Of a table, and of a row group of it."""
MAX_ROWS = 20_000_000
MAX_COLUMNS = 500
MAX_PAGE_BYTES = 64 * 2**20
"""What a page of rows may take: 64 kB a row."""
MAX_LINE_BYTES = 2**20
_WIDEST = 4_096
_PAGE = 1_000
_BATCH = 65_536
"""Rows of a Parquet table that share a dictionary: for each page it would be copied."""
_TYPES = {"uri": pa.string(), "n_bytes": pa.int64(), "etag": pa.string(), "duration_s": pa.float64()}


class Unfit(Exception):
    """The table is none for us; the text says why."""


def pages(extension: str, file: Path) -> Iterator[pa.RecordBatch]:
    """A thousand rows at a time, our columns in our types and the others as text.

    Args:
        extension: csv, parquet, jsonl or ndjson.
        file: the whole table.

    Raises:
        Unfit: it is no such table, a damaged one, or unfolds to too much.
    """
    n_rows = 0
    try:
        for page in _json_pages(file) if extension in ("jsonl", "ndjson") else _arrow_pages(extension, file):
            n_rows += len(page)
            if n_rows > MAX_ROWS:
                raise Unfit(f"it has more than {MAX_ROWS:,} rows; split it")
            page.validate(full=True)  # text that is no UTF-8
            yield page
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # Arrow's, and text that is none
        raise Unfit(str(error)) from error


def _arrow_pages(extension: str, file: Path) -> Iterator[pa.RecordBatch]:
    for batch in _parquet_batches(file) if extension == "parquet" else _csv_batches(file):
        last_of = {name: index for index, name in enumerate(batch.schema.names)}
        for start in range(0, batch.num_rows, _PAGE):
            page = batch.slice(start, _PAGE)
            _check_size(sum(map(_n_bytes, page.columns)))
            wanted = pa.schema([(name, _TYPES.get(name, pa.string())) for name in last_of])
            columns = [page.column(index).cast(wanted.field(name).type) for name, index in last_of.items()]
            yield pa.RecordBatch.from_arrays(columns, schema=wanted)


def _csv_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """Everything as text, so that the id 007 stays 007; `cast` finds the numbers in our own columns."""
    layout = pa.csv.ParseOptions(newlines_in_values=True)
    with pa.csv.open_csv(file, parse_options=layout) as reader:
        names = reader.schema.names
    _check_columns(names)
    options = pa.csv.ConvertOptions(
        column_types={name: pa.string() for name in names}, null_values=[""], strings_can_be_null=True
    )
    with pa.csv.open_csv(file, parse_options=layout, convert_options=options) as reader:
        yield from reader


def _parquet_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """Plain columns only; what is text stays a dictionary, so that a word repeated a million times is one."""
    with pa.parquet.ParquetFile(file) as parquet:
        names = [field.name for field in parquet.schema_arrow if _is_plain(field.type)]
        groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]
    _check_columns(names)
    largest = max((group.total_byte_size for group in groups), default=0)
    if largest > MAX_BYTES:
        raise Unfit(f"a row group unfolds to {largest} bytes, the limit is {MAX_BYTES}; write smaller ones")
    with pa.parquet.ParquetFile(file, read_dictionary=names) as parquet:
        yield from parquet.iter_batches(_BATCH, columns=names)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether an Arrow type has single values of known size, or text; lists and the like stay out."""
    if pa.types.is_fixed_size_binary(kind):
        return bool(kind.byte_width <= _WIDEST)
    return not (pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType))


def _check_columns(names: Sequence[str]) -> None:
    if "uri" not in names:
        raise Unfit(f"it has no column `uri`; its columns are {', '.join(names[:20]) or 'none'}")
    if len(names) > MAX_COLUMNS:
        raise Unfit(f"it has {len(names)} columns, the limit is {MAX_COLUMNS}; leave some out")


def _check_size(n_bytes: int) -> None:
    if n_bytes > MAX_PAGE_BYTES:
        raise Unfit(f"{_PAGE} of its rows hold {n_bytes} bytes, the limit is {MAX_PAGE_BYTES}")


def _n_bytes(column: pa.Array) -> int:
    """What the column takes once it is unfolded."""
    if pa.types.is_dictionary(column.type):
        return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)
    return int(column.nbytes)


def _json_pages(file: Path) -> Iterator[pa.RecordBatch]:
    """Line by line: as columns, lines with a key of their own each would unfold without end."""
    page: list[dict[str, Any]] = []
    n_bytes, keys = 0, dict[str, None]()
    with file.open("rb") as lines:
        for number, line in enumerate(_lines(lines), 1):
            if not line.strip():
                continue
            page.append(_json_row(number, line))
            keys |= dict.fromkeys(page[-1])
            _check_size(n_bytes := n_bytes + len(line))
            if len(page) == _PAGE or len(keys) > MAX_COLUMNS:
                yield _json_page(page, keys)
                page, n_bytes = [], 0
    yield _json_page(page, keys)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines, each cut just beyond the limit: nobody wants the rest of a longer one."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        yield line


def _json_page(page: list[dict[str, Any]], keys: Iterable[str]) -> pa.RecordBatch:
    _check_columns(sorted(keys))
    schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in keys])
    return pa.RecordBatch.from_pylist(page, schema)


def _json_row(number: int, line: bytes) -> dict[str, Any]:
    """Our columns checked, the others as text."""
    try:
        row = json.loads(line) if len(line) <= MAX_LINE_BYTES else None
    except (ValueError, RecursionError) as error:
        raise Unfit(f"line {number} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise Unfit(f"line {number} is no object {{...}} of at most {MAX_LINE_BYTES} bytes")
    for name, value in row.items():
        if name in _TYPES and value is not None:
            row[name] = _in_type(number, name, value)
        elif not isinstance(value, str | None):
            row[name] = json.dumps(value, ensure_ascii=False)
    return row


def _in_type(number: int, name: str, value: object) -> object:
    kind = _TYPES[name]
    try:
        return pa.scalar(value).cast(kind).as_py()
    except pa.ArrowException as error:
        raise Unfit(f"line {number}: {name} is {value!r:.80}, wanted {kind}") from error
