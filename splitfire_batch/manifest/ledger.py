"""The manifest as a whole: what is settled in a destination, from its parts, and views of it.

Readers trust parts only (`parts`); a ledger snapshot (`snapshots`) repeats what many of them say, and views
are a convenience made from them.

    _splitfire/views/tracks.parquet, stems.parquet, view.json         one row per track, one per stem
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.errors import ObjectMissing
from splitfire_batch.manifest.holdings import is_current, read_holdings
from splitfire_batch.manifest.parts import (
    KEYS,
    ROOT,
    latest,
    part_paths,
    read_parts,
    settings_ids,
    write_part,
)
from splitfire_batch.manifest.schema import SCHEMA, SCHEMA_VERSION, STEM, parquet_bytes
from splitfire_batch.manifest.snapshots import read_rows
from splitfire_batch.plan import Ledger
from splitfire_batch.storage import Store

__all__ = ["ROOT", "current_rows", "latest", "part_paths", "read_ledger", "read_parts", "refresh_views"]
__all__ += ["write_part"]

_VIEWS = f"{ROOT}/views"
_TRIES = 3
"""How often views are made for one run, while others write over them."""
_LEDGER_COLUMNS = (*KEYS, "source_id", "target", "model", "is_retryable", "n_failed_runs")

_log = logging.getLogger(__name__)


def read_ledger(
    store: Store, settings_id: str, plain_for: str | None = None, listed_after: str | None = None
) -> Ledger:
    """What is settled under `settings_id`, failures worth another try left out, and which names are taken.

    Names are taken by every track whose stems lie in the destination, under whatever settings.

    Args:
        store: the destination.
        settings_id: of the run to come.
        plain_for: its model, if names are plain: a track's stems by another model then need other names.
        listed_after: the last run_id there was when the tracks were listed, if that is long ago.
    """
    also = settings_id if _may_be_current(store, settings_id, plain_for) else None
    rows = current_rows(store, _LEDGER_COLUMNS, also)
    done, skipped, failed = (
        rows.filter(pc.equal(rows["status"], status)) for status in ("done", "skipped", "failed")
    )
    standing = failed.filter(pc.invert(pc.fill_null(failed["is_retryable"], False)))

    def ids(table: pa.Table, name: str = "source_id") -> pa.Array:
        mine = table.filter(pc.equal(table["settings_id"], settings_id))
        return mine[name].combine_chunks()

    settled = pa.concat_tables([skipped, standing])
    settled = settled.filter(pc.equal(settled["settings_id"], settings_id))
    is_archived = pc.fill_null(pc.equal(skipped["code"], "ARCHIVED"), False)
    targets = done.select(["track_id", "target"])
    if plain_for is not None:
        foreign = pc.binary_join_element_wise(done["model"], done["track_id"], ":")
        owners = pc.if_else(pc.equal(done["model"], plain_for), done["track_id"], foreign)
        targets = targets.set_column(0, "track_id", owners)
    since = done.slice(0, 0)
    if listed_after is not None:
        since = done.filter(pc.greater(done["run_id"], listed_after))
    runs = failed.filter(pc.greater(pc.fill_null(failed["n_failed_runs"], 0), 0))
    runs = runs.filter(pc.equal(runs["settings_id"], settings_id)).select(["source_id", "n_failed_runs"])
    return Ledger(
        ids(done),
        ids(standing),
        targets,
        ids(skipped.filter(pc.invert(is_archived))),
        runs,
        newest_run=pc.max(rows["run_id"]).as_py() or "",
        done_tracks=ids(done, "track_id"),
        done_since=ids(since, "track_id"),
        archived=ids(skipped.filter(is_archived)),
        codes=settled.select(["source_id", "code"]),
    )


def _may_be_current(store: Store, settings_id: str, plain_for: str | None) -> bool:
    """Whether rows of these settings count though their record is gone, as after a loss of all but the parts.

    Under plain names other settings without a record may have replaced the stems: then nobody can say.
    """
    recorded = {item.settings_id for item in read_holdings(store)}
    if settings_id in recorded:
        return False
    return plain_for is None or settings_ids(store) <= {*recorded, settings_id}


def current_rows(store: Store, columns: Sequence[str] | None = None, also: str | None = None) -> pa.Table:
    """The latest row of every track and settings; those whose stems were replaced are left out.

    Args:
        store: the destination.
        columns: of the manifest; all for None.
        also: settings that count although nothing is recorded of them.
    """
    holdings = read_holdings(store)
    current = {item.settings_id for item in holdings if is_current(item, holdings)}
    current |= {also} if also else set()
    names = SCHEMA.names if columns is None else list(columns)
    rows = read_rows(store, current, tuple(dict.fromkeys((*names, *KEYS))))
    return latest(rows).select(names)


def refresh_views(store: Store, run_id: str, check: Callable[[], None] = lambda: None) -> None:
    """Make the views from the parts: the latest row of every track, and its stems one per row.

    Nothing is done when they were made from these very parts. `view.json` is written last; it names the
    hashes of both tables, so that a reader can tell a pair that belongs together, and of the parts' names.
    Their etags tell the next run whether another, that held no lease either, has written over one of them.

    Args:
        store: the destination.
        run_id: of the run that makes them.
        check: called before every write; what it raises is raised.
    """
    for _ in range(_TRIES):
        parts = "\n".join([*part_paths(store), *(item.settings_id for item in read_holdings(store))])
        made_from = hashlib.sha256(parts.encode()).hexdigest()
        if not parts or _views_are_from(store, made_from):
            return
        _make_views(store, {"run_id": run_id, "made_from": made_from}, check)
        if _views_are_from(store, made_from):
            return
    _log.warning("views_contended destination=%s: other runs write them; the next run looks again", store.url)


def _make_views(store: Store, view: dict[str, object], check: Callable[[], None]) -> None:
    tracks = current_rows(store).sort_by([("path", "ascending"), ("model", "ascending")])
    digests, etags = {}, {}
    for name, table in (("tracks.parquet", tracks), ("stems.parquet", _flat_stems(tracks))):
        data = parquet_bytes(table)
        check()
        store.write(f"{_VIEWS}/{name}", data)
        found = store.stat(f"{_VIEWS}/{name}")
        digests[name] = hashlib.sha256(data).hexdigest()
        etags[name] = found.etag if found.n_bytes == len(data) else ""  # else a rival's, written just now
    view = {**view, "n_tracks": len(tracks), "sha256": digests, "etags": etags, "schema": SCHEMA_VERSION}
    check()
    store.write(f"{_VIEWS}/view.json", json.dumps(view, indent=1).encode())


def _views_are_from(store: Store, made_from: str) -> bool:
    """Whether the views were made from these parts, and both tables are the ones that were written then."""
    try:
        view = json.loads(store.read(f"{_VIEWS}/view.json"))
        return view.get("made_from") == made_from and all(
            store.stat(f"{_VIEWS}/{name}").etag == view.get("etags", {}).get(name)
            for name in ("tracks.parquet", "stems.parquet")
        )
    except (ObjectMissing, ValueError):
        return False


def _flat_stems(tracks: pa.Table) -> pa.Table:
    """One row per stem: its own columns behind the track's ids and path."""
    stems = tracks["stems"].combine_chunks()
    parents = pc.list_parent_indices(stems)
    flat = pa.Table.from_struct_array(stems.flatten()).rename_columns(
        [{"path": "stem_path"}.get(field.name, field.name) for field in STEM]
    )
    for index, name in enumerate(("track_id", "path", "settings_id", "run_id", "model")):
        flat = flat.add_column(index, name, tracks[name].take(parents))
    return flat.replace_schema_metadata(SCHEMA.metadata)
