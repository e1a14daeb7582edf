"""Rows on disk: what was written is read, in part or whole, and nothing is left behind."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from splitfire_batch.errors import TransientError
from splitfire_batch.rows import BATCH_ROWS, RowWriter, rows_of, write_parquet

TABLE = pa.table({"number": range(1_000), "text": [str(n) for n in range(1_000)]})


@pytest.mark.parametrize("page", [1, 300, 1_000])
def test_rows_come_back_as_they_were_written(page: int, tmp_path: Path) -> None:
    rows = rows_of(TABLE.to_batches(page), TABLE.schema, str(tmp_path))
    assert len(rows) == 1_000
    assert rows.table().equals(TABLE)
    assert rows.table(["text"]).equals(TABLE.select(["text"]))
    assert rows.table(["text", "number"]).equals(TABLE.select(["text", "number"]))
    wanted = np.arange(1_000) % 7 == 3
    assert rows.taken(wanted, ["number"])["number"].to_pylist() == list(range(3, 1_000, 7))
    assert pq.read_table(write_parquet(rows, tmp_path / "t.parquet")).equals(TABLE)


def test_no_rows_are_rows() -> None:
    rows = rows_of([], TABLE.schema)
    assert (len(rows), rows.table().num_rows) == (0, 0)
    assert rows.taken(np.empty(0, bool), ["text"]).column_names == ["text"]


def test_batches_are_of_a_size_whatever_the_pages_were() -> None:
    many = pa.table({"number": range(3 * BATCH_ROWS)})
    sizes = [len(batch) for batch in rows_of(many.to_batches(1_000), many.schema).batches()]
    assert sizes == [BATCH_ROWS] * 3 + ([0] if len(sizes) == 4 else [])


def test_the_file_has_no_name(tmp_path: Path) -> None:
    rows = rows_of(TABLE.to_batches(), TABLE.schema, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert len(rows.table()) == 1_000


def test_a_full_disk_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    writer = RowWriter(TABLE.schema, str(tmp_path))

    def full(_: pa.Table) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_writer", type("Full", (), {"write_table": staticmethod(full)}))
    writer.write(TABLE.to_batches()[0])
    with pytest.raises(TransientError, match="set scratch_dir to a folder with room"):
        writer.rows()
