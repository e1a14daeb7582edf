"""Rows of a table as columns: what `locate` says one by one, and ids that no version may change."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from splitfire_batch import tables
from splitfire_batch.catalogue import list_tracks
from splitfire_batch.config import CatalogueConfig
from splitfire_batch.masking import holds_secret, masked
from splitfire_batch.storage import Stores, open_store
from splitfire_batch.tables import locate, metas, placed, with_sizes

ROOTS = ["s3://bucket/in", "/music", "s3://other", "memory://x"]
PARTS = [
    "a",
    "..",
    ".",
    "",
    "x.wav",
    "é",
    "a b",
    "~",
    "\0",
    "?sig=1",
    "u:p@h",
    "s3:",
    "bucket",
    "in",
    "music",
]
STARTS = ["", "/", "s3://bucket/in/", "s3://bucket/inner/", "/music/", "s3://other/", "memory://x/"]
uris = st.builds(
    lambda start, parts: start + "/".join(parts),
    st.sampled_from([*STARTS, "http://h/", "file:///music/", "s3://u:p@bucket/in/", "data:", "s3://other//"]),
    st.lists(st.sampled_from(PARTS), max_size=4),
)
CELLS = st.sampled_from(["t", "", "https://u:p@host/x", "x?sig=hunter2", "Signature=1", "Beyoncé & co"])


@settings(deadline=None, max_examples=100)
@example(
    [*STARTS, "x" * 5_000, "/music/" + "é" * 2_100, "s3://bucket/in/" + "a" * 4_081, "s3://bucket/in"], 1
)
@given(st.lists(uris, min_size=1, max_size=20), st.integers(1, 4))
def test_columns_place_what_locate_places(given_uris, n_roots):
    roots = ROOTS[:n_roots]
    found = placed(pa.array(given_uris, pa.string()), roots)
    rows = zip(*(found[name].to_pylist() for name in ("uri", "path", "name", "problem")), strict=True)
    assert list(rows) == [locate(uri, roots) if uri else (None,) * 4 for uri in given_uris]


def test_ordinary_addresses_are_not_gone_through_one_by_one(monkeypatch):
    monkeypatch.setattr(tables, "locate", lambda *_: pytest.fail("one was"))
    given_uris = ["a/é b.wav", "s3://bucket/in/x/y #1.wav", "/music/a~b.wav", None]
    found = placed(pa.array(given_uris), ROOTS)
    assert found["path"].to_pylist() == ["a/é b.wav", "x/y #1.wav", "a~b.wav", None]
    assert found["name"].to_pylist() == ["a/é b.wav", "x/y #1.wav", "/music/a~b.wav", None]


@settings(deadline=None)
@given(st.lists(st.tuples(CELLS | st.none(), CELLS | st.none()), max_size=9))
def test_a_rows_own_columns_are_a_map_of_what_is_not_null_without_secrets(rows):
    columns = [(name, pa.array([row[n] for row in rows], pa.string())) for n, name in enumerate("ab")]
    wanted = [
        [
            (name, masked(text) if holds_secret(text) else text)
            for name, text in zip("ab", row, strict=True)
            if text is not None
        ]
        for row in rows
    ]
    assert metas(columns, len(rows)).to_pylist() == wanted


@pytest.mark.parametrize(
    ("uri", "etag", "problem"),
    [
        ("s3://b/x.wav", 'W/"abc"', None),
        ("s3://b/x.wav", '"abc"', None),
        ("s3://b//x.wav", "abc", "BAD_URI: found the path '/x.wav'"),
    ],
)
def test_what_a_table_tells_of_an_object_in_a_bucket_is_not_asked_again(uri, etag, problem):
    schema = pa.schema([tables.TOLD.field(name) for name in ("uri", "n_bytes", "etag", "problem")])
    batch = pa.RecordBatch.from_pylist([{"uri": uri, "n_bytes": 7, "etag": etag, "problem": None}], schema)
    (row,) = with_sizes(batch, Stores({})).to_pylist()
    assert (row["problem"] or "").startswith(problem or "")
    assert problem or (row["n_bytes"], row["etag"], row["problem"]) == (7, "abc", None)


def test_ids_are_those_of_every_version(tmp_path: Path) -> None:
    """Hashes that ledgers hold: were they others, everything would be done again."""
    table = tmp_path / "t.csv"
    table.write_text('uri,n_bytes,etag\ns3://b/in/Beyoncé/x.wav,7,e\ns3://b/in/y.wav,8,"W/""f"""\n')
    config = CatalogueConfig(allow_root=("s3://b/in",))
    rows = list_tracks(str(table), config, {}).table()
    assert rows["path"].to_pylist() == ["Beyoncé/x.wav", "y.wav"]
    assert rows["source_id"].to_pylist() == ["0b32b778b39cd710", "896416044972b251"]
    store = open_store("memory://golden/in", {})
    store.write("a/Beyoncé.wav", b"1")
    assert list_tracks(store.url, CatalogueConfig(), {}).table()["track_id"].to_pylist() == [
        "5e1ab724b7b14da2"
    ]
