"""Rows that may be more than memory holds: batches of Arrow columns in a temporary file.

The file has no name, so it is gone with its process, however that ends. What is in it cannot be changed, and
is read a batch at a time, of only the columns that are asked for.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from splitfire_batch.errors import FULL_DISK, TransientError

BATCH_ROWS = 20_000
"""Of a batch in the file: some megabytes."""
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")


class Rows:
    """Rows of one schema, in the order in which they were written; for one thread at a time."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._file, self.schema, self._n_rows = file, schema, 0
        weakref.finalize(self, file.close)

    def __len__(self) -> int:
        return self._n_rows

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows, with these columns in this order; all for None."""
        fields = None if columns is None else [self.schema.get_field_index(name) for name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        # by its descriptor: a thread of Arrow's that lets go of a Python file's bytes late aborts the process
        with pa.OSFile(f"/dev/fd/{self._file.fileno()}") as file:
            reader = pa.ipc.open_file(file, options=options)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                yield batch if columns is None else batch.select(list(columns))

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows in memory, with these columns; all for None."""
        names = self.schema.names if columns is None else list(columns)
        return pa.Table.from_batches(self.batches(columns), pa.schema([self.schema.field(n) for n in names]))

    def taken(self, wanted: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Some of the rows in memory, in their order.

        Args:
            wanted: a truth for every row.
            columns: of the result.
        """
        schema = pa.schema([self.schema.field(name) for name in columns])
        return pa.Table.from_batches(self.only(wanted, columns), schema)

    def only(self, wanted: np.ndarray, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """As `taken`, a batch at a time; with all columns for None."""
        start = 0
        for batch in self.batches(columns):
            mask = wanted[start : start + len(batch)]
            start += len(batch)
            if mask.all():
                yield batch
            elif mask.any():
                yield batch.filter(pa.array(mask))


class RowWriter:
    """Writes `Rows`.

    Args:
        schema: of every batch.
        scratch: folder for the file; the system's own for None.
    """

    def __init__(self, schema: pa.Schema, scratch: str | None = None) -> None:
        self._schema, self._scratch = schema, scratch
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - Rows closes it
        self._rows = Rows(self._file, schema)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), schema, options=_PACKED)
        self._waiting: list[pa.RecordBatch] = []
        self._n_waiting = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows.

        Raises:
            TransientError: the disk is full.
        """
        self._waiting.append(batch)
        self._n_waiting += len(batch)
        if self._n_waiting >= BATCH_ROWS:
            self._flush()

    def rows(self) -> Rows:
        """What was written; nothing may be added any more.

        Raises:
            TransientError: the disk is full.
        """
        self._flush()
        with self._room():
            self._writer.close()
            self._file.flush()
        return self._rows

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
        self._rows._n_rows += self._n_waiting
        self._waiting, self._n_waiting = [], 0
        with self._room():
            self._writer.write_table(table)
            self._file.flush()

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Says of a full disk what to do about it."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            where = self._scratch or tempfile.gettempdir()
            raise TransientError(
                f"no space is left in {where} for {len(self._rows)} rows of the catalogue; free some, or set "
                "scratch_dir to a folder with room for about 1 kB for every track"
            ) from error


def rows_of(batches: Iterable[pa.RecordBatch], schema: pa.Schema, scratch: str | None = None) -> Rows:
    """All batches, written down. Raises TransientError when the disk is full."""
    writer = RowWriter(schema, scratch)
    for batch in batches:
        writer.write(batch)
    return writer.rows()


def write_parquet(rows: Rows, file: Path, about: Mapping[bytes, bytes] | None = None) -> Path:
    """Make the file a Parquet table of all rows, a group of rows for each batch; returns the file.

    `about` becomes the metadata of the table's schema.
    """
    with pq.ParquetWriter(file, rows.schema.with_metadata(about), compression="zstd") as writer:
        for batch in rows.batches():
            writer.write_batch(batch)
    return file
