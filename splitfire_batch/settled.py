"""What a destination's rows say of tracks under one settings_id, to tell whether others are the same.

A few numbers of every track are at hand; hashes are read from the parts, of those that are asked for only.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.manifest.parts import KEYS, PART, latest, read_each, schema_of
from splitfire_batch.manifest.snapshots import read_placed
from splitfire_batch.plan import Ledger
from splitfire_batch.storage import Store

_NUMBERS = ("n_bytes", "sample_rate", "n_channels", "n_frames")
_HASHES = ("track_id", "source_id", "path", "content_id", "audio_id", "duplicate_of")


@dataclass(frozen=True, slots=True)
class Settled:
    """The rows that count of tracks that are done, or were skipped as the settings wish."""

    store: Store
    parts: list[str]
    rows: pa.Table
    """track_id, source_id, status, the numbers of the source, and PART, by which `parts` has the row."""
    tried: pa.Array
    """The source_ids of objects whose rows say that they failed."""

    def hashes(self, wanted: pa.ChunkedArray) -> pa.Table:
        """Some of the rows, with the hashes of their sources; of older versions these are null.

        Args:
            wanted: a truth for each of `rows`.
        """
        rows = self.rows.filter(wanted)
        schema = schema_of((*dict.fromkeys((*KEYS, *_HASHES)),))
        paths = [self.parts[number] for number in pc.unique(rows["part"]).to_pylist()]
        found = pa.concat_tables([schema.empty_table(), *read_each(self.store, paths, schema)])
        mine = found.filter(pc.is_in(found["source_id"], value_set=rows["source_id"].combine_chunks()))
        return latest(mine).select([*_HASHES, "status"])


def read_settled(store: Store, settings_id: str, ledger: Ledger) -> Settled:
    """What rows of these settings say, as far as the ledger takes it for true.

    Args:
        store: the destination.
        settings_id: of the run to come.
        ledger: of the same; what it does not call done or skipped does not count.
    """
    rows, parts = read_placed(store, {settings_id}, (*KEYS, "source_id", *_NUMBERS))
    rows = latest(rows)
    tried = rows.filter(pc.equal(rows["status"], "failed"))["source_id"].combine_chunks()
    counting = pc.or_(
        pc.and_(pc.equal(rows["status"], "done"), pc.is_in(rows["source_id"], value_set=ledger.done)),
        pc.and_(pc.equal(rows["status"], "skipped"), pc.is_in(rows["source_id"], value_set=ledger.skipped)),
    )
    names = ["track_id", "source_id", "status", *_NUMBERS, PART.name]
    return Settled(store, parts, rows.filter(counting).select(names), tried)
