"""The plan: what is listed, minus what is done, packed into shards of about equal cost.

The same listing, ledger and settings give the same plan, down to the names of shards and stems. It works on
Arrow columns, a batch of rows at a time: in memory are a few numbers for each track, and its ids; the rest
stays in files (`rows`). Longer shards come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.clashes import Survey, find_held
from splitfire_batch.codes import NO_CODES, Codes, codes_of
from splitfire_batch.config import Overwrite
from splitfire_batch.lengths import LengthSample, Measure, guess_lengths
from splitfire_batch.packing import ShardSizes, in_shards, with_last
from splitfire_batch.plan_rows import NO_DUPLICATES, ids_of, in_order, named, planned_schema
from splitfire_batch.records import Shard
from splitfire_batch.rows import Rows, rows_of
from splitfire_batch.shards import shards_of
from splitfire_batch.targets import check_columns

_NO_TARGETS = pa.schema([("track_id", pa.string()), ("target", pa.string())])
_NO_RUNS = pa.schema([("source_id", pa.string()), ("n_failed_runs", pa.int16())])


@dataclass(frozen=True, slots=True)
class Ledger:
    """What earlier runs settled, for one settings_id: source_ids by status; of failures those that stand."""

    done: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    failed: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    targets: pa.Table = field(default_factory=_NO_TARGETS.empty_table)
    """track_id and target of every track whose stems lie in the destination; of another model's stems, where
    names are plain, an owner that no track is."""
    skipped: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    failed_runs: pa.Table = field(default_factory=_NO_RUNS.empty_table)
    """source_id and n_failed_runs of objects that failed in a way that stands after some runs."""
    newest_run: str = ""
    """The last run_id of all; a new one must be later."""
    done_tracks: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    """The track_ids of `done`."""
    done_since: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    """Those that runs did after a saved listing was made: its version of them may be an older one."""
    archived: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    """The source_ids of objects that were skipped for lying in an archive: that may be over."""
    codes: pa.Table = field(default_factory=NO_CODES.empty_table)
    """source_id and code of what was skipped, and of failures that stand."""


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What a plan depends on besides the listing and the ledger."""

    model: str
    template: str
    segment_s: float
    """Seconds of audio in one full segment, the unit of cost."""
    shard_cost: float
    """At most this many segments in a shard, unless a single track has more."""
    n_workers: int = 1
    stems: tuple[str, ...] = ()
    """Every stem that the model may ever give, written or not: names do not depend on the choice."""
    overwrite: Overwrite = "changed"
    """Which tracks that have stems are done again; see `CatalogueConfig`."""
    measure: Measure = guess_lengths
    """Tells how long tracks are."""

    @property
    def sizes(self) -> ShardSizes:
        """How shards are made."""
        return ShardSizes(self.segment_s, self.shard_cost, self.n_workers)


@dataclass(frozen=True, slots=True)
class Plan:
    """Tracks to do, in shards, and the numbers of what is not to do."""

    rows: Rows
    """The listing's columns plus duplicate, target, n_failed_runs, cost and shard (int32, ascending).

    Behind the shards' rows come those of duplicates, which are in no shard; of others `duplicate` is null.
    """
    n_listed: int
    n_done: int
    """Listed tracks that a committed row already says are done; also `n_unseen`."""
    n_skipped_before: int
    """Listed tracks that a committed row says got no stems, as the settings wish."""
    n_failed_before: int
    """Listed tracks whose failure stands: unchanged, and not worth another try."""
    n_shards: int = 0
    audio_s: float = 0.0
    """Estimated seconds of audio to do."""
    n_bytes: int = 0
    """Bytes of the objects to separate."""
    n_duplicates: int = 0
    """Tracks to do that are duplicates of others, and are not separated."""
    sample: LengthSample = field(default_factory=LengthSample)
    """How the seconds of the tracks to separate are known."""
    codes: Codes = field(default_factory=Codes)
    """Why tracks have no stems, or will get none."""
    n_unseen: int = 0
    """Listed tracks that have stems, and whose objects could not be looked at: they are left as they are."""

    @property
    def n_tracks(self) -> int:
        """Tracks to do."""
        return len(self.rows)

    def source_ids(self) -> pa.Array:
        """Of the tracks to do."""
        return self.rows.table(["source_id"])["source_id"].combine_chunks()

    def shards(self) -> Iterator[Shard]:
        """The shards, most expensive first; their ids hash the tracks in them."""
        return shards_of(self.rows)


def make_plan(
    listing: Rows,
    ledger: Ledger,
    settings: PlanSettings,
    scratch: str | None = None,
    duplicates: pa.Table = NO_DUPLICATES,
) -> Plan:
    """Listing minus ledger, in shards.

    Names are given over the whole listing and what the destination holds, so that no track's stems are
    written over by another's, and a track's stems keep their names while others come.

    Args:
        listing: `catalogue.LISTING` columns, every track_id once.
        ledger: what is settled under the same settings_id.
        settings: model, names and shard size.
        scratch: folder for the plan; the system's own for temporary files if None.
        duplicates: tracks to do that are duplicates of others.

    Raises:
        ConfigError: a template that does not fit the listing.
        TransientError: there is no room in `scratch`.
    """
    check_columns((b["meta"] for b in listing.batches(["meta"])), len(listing), settings.template)
    ids = listing.table(["track_id", "source_id", "problem"])
    is_done, is_skipped, is_failed, is_unseen = _settled(listing, ids, ledger, settings.overwrite)
    is_duplicate = np.array(pc.is_in(ids["track_id"], value_set=ids_of(duplicates)).to_numpy(), bool)
    is_todo = ~(is_done | is_skipped | is_failed)
    is_duplicate &= is_todo
    lengths = settings.measure(listing, is_todo & ~is_duplicate)
    places = in_shards(listing, is_todo & ~is_duplicate, lengths.seconds, settings.sizes)
    places = with_last(places, is_duplicate)
    if is_todo.any():
        held = find_held(ids["track_id"], ledger.targets)
        survey = Survey(settings.template, settings.model, settings.stems, held)
        pieces = named(listing, places, survey, settings.segment_s, scratch)
        rows = in_order(pieces, survey.changed(listing), ledger.failed_runs, duplicates, scratch)
    else:  # no stem gets a name
        rows = rows_of([], planned_schema(listing.schema), scratch)
    return Plan(
        rows=rows,
        n_listed=len(listing),
        n_done=int(is_done.sum()),
        n_skipped_before=int(is_skipped.sum()),
        n_failed_before=int(is_failed.sum()),
        n_shards=places.n_shards,
        audio_s=places.audio_s,
        n_bytes=sum(
            pc.sum(batch.filter(pc.is_null(batch["duplicate"]))["n_bytes"]).as_py() or 0
            for batch in rows.batches(["n_bytes", "duplicate"])
        ),
        n_duplicates=int(is_duplicate.sum()),
        sample=lengths.sample,
        codes=codes_of(ids, ledger.codes, is_skipped, is_failed, is_todo),
        n_unseen=int(is_unseen.sum()),
    )


def find_todo(listing: Rows, ledger: Ledger, overwrite: Overwrite) -> np.ndarray:
    """For each listed track whether a plan has it; `make_plan` says with what."""
    ids = listing.table(["track_id", "source_id", "problem"])
    return np.array(~np.any(_settled(listing, ids, ledger, overwrite), axis=0), bool)


def _unseen(listing: Rows, ids: pa.Table, ledger: Ledger) -> np.ndarray:
    """For each listed track whether it has stems, and its object is missing, is refused, or has a problem.

    Whether it is another one than before cannot be told then (see `tables.with_sizes`); and to try it would
    only put a failure before the row that has the stems. What lies in an archive can be told.
    """
    found = [
        pc.or_(
            pc.and_(pc.equal(batch["n_bytes"], 0), pc.equal(batch["etag"], "")),
            pc.and_(pc.is_valid(batch["problem"]), pc.invert(_is_archived(batch["problem"]))),
        ).to_numpy(zero_copy_only=False)
        for batch in listing.batches(["n_bytes", "etag", "problem"])
    ]
    is_unseen = np.concatenate(found).astype(bool) if found else np.zeros(0, bool)
    few = ids.filter(pa.array(is_unseen))
    is_unseen[is_unseen] = pc.and_not(
        pc.is_in(few["track_id"], value_set=ledger.done_tracks),
        pc.is_in(few["source_id"], value_set=ledger.done),
    ).to_numpy()
    return is_unseen


def _is_archived(problems: pa.Array) -> pa.Array:
    return pc.fill_null(pc.starts_with(problems, "ARCHIVED: "), False)


def _settled(listing: Rows, ids: pa.Table, ledger: Ledger, overwrite: Overwrite) -> tuple[np.ndarray, ...]:
    """For each listed track whether it is done, was skipped, has a failure that stands; and, of those that
    are done, whether it is `_unseen`.
    """
    if overwrite == "always":
        nobody = np.zeros(len(ids), bool)
        return nobody, nobody, nobody, nobody
    is_done, is_skipped, is_failed = (
        np.array(pc.is_in(ids["source_id"], value_set=known).to_numpy(), bool)
        for known in (ledger.done, ledger.skipped, ledger.failed)
    )
    was_archived = pc.is_in(ids["source_id"], value_set=ledger.archived)
    is_skipped |= pc.and_(_is_archived(ids["problem"]), was_archived).to_numpy()
    is_unseen = _unseen(listing, ids, ledger)
    is_done |= is_unseen
    is_done |= pc.is_in(ids["track_id"], value_set=ledger.done_since).to_numpy()
    if overwrite == "never":
        is_done |= pc.is_in(ids["track_id"], value_set=ledger.done_tracks).to_numpy()
    is_skipped &= ~is_done
    return is_done, is_skipped, is_failed & ~(is_done | is_skipped), is_unseen
