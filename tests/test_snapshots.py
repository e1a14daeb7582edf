"""Ledger snapshots: what is read with them is what is read without, whatever happens to them."""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from splitfire_batch.config import OutputConfig, SeparationConfig
from splitfire_batch.identity import settings as all_settings
from splitfire_batch.manifest.holdings import choose_holding, record_holding
from splitfire_batch.manifest.ledger import current_rows, read_ledger, write_part
from splitfire_batch.manifest.parts import part_paths
from splitfire_batch.manifest.snapshots import COLUMNS, MAX_LOOSE, snapshot_paths, write_snapshot
from splitfire_batch.storage import Store, open_store
from tests.test_manifest import row, table

SETTINGS = [
    all_settings(SeparationConfig(short_clip=clip), OutputConfig(), "w") for clip in ("adaptive", "reference")
]
CODES = st.sampled_from([None, "EMPTY", "OOM", "STEMS_CHANGED"])
ROWS = st.lists(st.tuples(st.integers(0, 4), CODES), min_size=1, max_size=4)
PARTS = st.tuples(st.just("part"), st.integers(0, 1), st.integers(0, 3), ROWS)
STEPS = st.lists(
    st.one_of(PARTS, PARTS, st.tuples(st.sampled_from(["snapshot", "damage", "lose snapshot", "lose part"]))),
    max_size=25,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path), {})


def recorded(store: Store) -> list[str]:
    """Two settings that lie side by side."""
    holdings = [choose_holding(store, values, is_immutable=True, replace=False) for values in SETTINGS]
    for holding in holdings:
        record_holding(store, holding)
    return [holding.settings_id for holding in holdings]


def seen(store: Store, settings_id: str) -> list[Any]:
    """Everything that a run or an operator learns, in an order of its own."""
    ledger = read_ledger(store, settings_id)
    rows = current_rows(store, COLUMNS).to_pylist()
    return [
        *(sorted(getattr(ledger, name).to_pylist()) for name in ("done", "failed", "skipped")),
        *(sorted(map(str, getattr(ledger, name).to_pylist())) for name in ("targets", "failed_runs")),
        ledger.newest_run,
        sorted(map(str, rows)),
    ]


def take(store: Store, step: tuple[Any, ...], ids: list[str], clock: list[float]) -> None:
    """Do one step of a history."""
    snapshots, parts = snapshot_paths(store), part_paths(store)
    if step[0] == "part":
        rows = []
        for number, code in step[3]:
            clock[0] += 1
            rows.append(row(f"t{number}", f"s{number}", at=clock[0], code=code))
        write_part(store, table(*rows, settings_id=ids[step[1]], run_id=f"run{step[2]}"))
    elif step[0] == "snapshot":
        write_snapshot(store, max_loose=0)
    elif step[0] == "damage" and snapshots:
        store.write(snapshots[0], store.read(snapshots[0])[:-9] + b"x" * 9)
    elif step[0] == "lose snapshot" and snapshots:
        store.delete(snapshots[0])
    elif step[0] == "lose part" and parts:
        store.delete(parts[len(parts) // 2])


@given(STEPS)
@example([("part", 0, 0, [(0, None)]), ("part", 0, 1, [(1, None)]), ("snapshot",), ("lose part",)])
@example([("part", 0, 0, [(0, None)]), ("snapshot",), ("part", 0, 1, [(0, "OOM")]), ("damage",)])
@settings(max_examples=12, deadline=None)
def test_whatever_happened_a_snapshot_changes_nothing_that_is_read(steps):
    store = open_store(f"memory://snapshots-{secrets.token_hex(8)}", {})
    ids, clock = recorded(store), [1e9]
    for step in steps:
        take(store, step, ids, clock)
    with_snapshots = [seen(store, key) for key in ids]
    for path in snapshot_paths(store):
        store.delete(path)
    assert [seen(store, key) for key in ids] == with_snapshots


def test_a_snapshot_does_not_bring_back_rows_whose_stems_were_replaced(store):
    first = choose_holding(store, SETTINGS[0], is_immutable=False, replace=False)
    record_holding(store, first)
    write_part(store, table(row(), settings_id=first.settings_id))
    second = choose_holding(store, SETTINGS[1], is_immutable=False, replace=True)
    record_holding(store, second)
    write_part(store, table(row("t2"), settings_id=second.settings_id))
    write_snapshot(store, max_loose=0)
    assert current_rows(store, COLUMNS)["track_id"].to_pylist() == ["t2"]


def test_only_parts_that_the_snapshot_lacks_are_read(store, monkeypatch):
    settings_id = recorded(store)[0]
    for n in range(5):
        write_part(store, table(row(f"t{n}", f"s{n}"), settings_id=settings_id))
    snapshot = write_snapshot(store, max_loose=4)
    late = write_part(store, table(row("late", "late"), settings_id=settings_id))
    read: list[str] = []
    true_read = store.read
    monkeypatch.setattr(store, "read", lambda path, n=None: read.append(path) or true_read(path, n))
    assert len(read_ledger(store, settings_id).done) == 6
    assert {path for path in read if "/settings/" not in path} == {snapshot, late}


def test_a_snapshot_is_written_only_when_many_parts_are_in_none(store):
    settings_id = recorded(store)[0]
    for n in range(4):
        write_part(store, table(row(f"t{n}"), settings_id=settings_id))
    assert MAX_LOOSE == 256
    assert write_snapshot(store, max_loose=4) is None
    first = write_snapshot(store, max_loose=3)
    assert write_snapshot(store, max_loose=0) is None, "nothing is new"
    write_part(store, table(row("t4"), settings_id=settings_id))
    second = write_snapshot(store, max_loose=0)
    assert snapshot_paths(store) == [second, first]


def test_the_last_snapshot_is_read_also_after_parts_have_gone(store):
    settings_id = recorded(store)[0]
    paths = [write_part(store, table(row(f"t{n}"), settings_id=settings_id)) for n in range(5)]
    first = write_snapshot(store, max_loose=0)
    for path in paths[:4]:
        store.delete(path)
    write_part(store, table(row("late"), settings_id=settings_id))
    second = write_snapshot(store, max_loose=0)
    assert snapshot_paths(store) == [second, first]
    assert write_snapshot(store, max_loose=0) is None, "nothing is new"


def test_a_snapshot_is_named_by_the_hash_of_its_bytes_and_names_its_parts(store):
    settings_id = recorded(store)[0]
    paths = [write_part(store, table(row(f"t{n}"), settings_id=settings_id)) for n in range(2)]
    path = write_snapshot(store, max_loose=0)
    assert path is not None
    data = store.read(path)
    assert path == f"_splitfire/ledger/snapshot-00000001-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    assert sorted(pq.read_table(io.BytesIO(data))["part"].to_pylist()) == sorted(paths)


def unknown_columns(_: bytes) -> bytes:
    """What a later version might write."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"colour": ["red"]}), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    "harm", [lambda _: b"", lambda data: data[:100], lambda _: b"x" * 999, unknown_columns]
)
def test_an_unusable_snapshot_is_said_and_passed_over(store, caplog, harm: Callable[[bytes], bytes]):
    settings_id = recorded(store)[0]
    for n in range(3):
        write_part(store, table(row(f"t{n}", f"s{n}"), settings_id=settings_id))
    path = write_snapshot(store, max_loose=0)
    assert path is not None
    bad = harm(store.read(path))
    store.delete(path)
    name = path if harm is not unknown_columns else _named(bad)
    store.write(name, bad)
    assert len(read_ledger(store, settings_id).done) == 3
    assert f"snapshot_unusable path={name}" in caplog.text
    assert write_snapshot(store, max_loose=0) is not None, "a bad one must not stop a good one"


def _named(data: bytes) -> str:
    return f"_splitfire/ledger/snapshot-99999999-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
