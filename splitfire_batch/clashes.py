"""Who has part in a clash of names, of a whole listing and what its destination holds; few ever have.

The paths of all stems of all tracks would fill the memory, their hashes do not. Tracks of equal hashes may
clash; so may those whose path another one would get that must give way, and so on until nobody is left.
`naming` then resolves them among themselves, exactly as it would among all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.naming import make_targets, spellings
from splitfire_batch.rows import Rows
from splitfire_batch.selection import repeated
from splitfire_batch.targets import NAMED, folded_all, named_tracks


@dataclass(frozen=True, slots=True)
class Held:
    """What a destination holds, each track once, and which row of the listing each track is."""

    track_ids: pa.Array
    targets: pa.Array
    at: np.ndarray
    """For each row of the listing its place here; -1 for none."""


def find_held(track_ids: pa.ChunkedArray, held: pa.Table) -> Held:
    """Look the listed tracks up in what is held.

    Args:
        track_ids: of the listing.
        held: track_id and target; the last of a track counts.
    """
    numbered = pa.table({"track_id": held["track_id"], "row": np.arange(len(held))})
    rows = numbered.group_by("track_id").aggregate([("row", "min"), ("row", "max")])
    rows = rows.sort_by("row_min")
    ids = rows["track_id"].combine_chunks()
    targets = held["target"].combine_chunks().take(rows["row_max"].combine_chunks())
    at = pc.fill_null(pc.index_in(track_ids, value_set=ids), -1).to_numpy()
    return Held(ids, targets, at)


@dataclass(slots=True)
class Survey:
    """Takes the first targets of a listing, batch after batch in its order, and says which must change."""

    template: str
    model: str
    stems: Sequence[str]
    held: Held
    _hashes: list[np.ndarray] = field(default_factory=list)
    _moved: list[int] = field(default_factory=list)
    """Rows whose track has another of its own spellings in the destination, and keeps that."""
    _is_kept: np.ndarray = field(init=False)
    """Of what is held: whether it is its own track's first target."""
    _n_rows: int = 0

    def __post_init__(self) -> None:
        self._is_kept = np.zeros(len(self.held.track_ids), bool)

    def add(self, batch: pa.RecordBatch, targets: pa.Array) -> None:
        """The next rows of the listing, with the columns NAMED, and their first targets."""
        self._hashes.append(self._hashes_of(targets))
        at = self.held.at[self._n_rows : self._n_rows + len(batch)]
        own = self.held.targets.take(pa.array(at, mask=at < 0))
        is_same = pc.fill_null(pc.equal(own, targets), False).to_numpy(zero_copy_only=False)
        self._is_kept[at[is_same]] = True
        others = np.flatnonzero((at >= 0) & ~is_same)
        if len(others):
            tracks = named_tracks(batch.take(pa.array(others)))
            told = zip(others.tolist(), tracks, own.take(pa.array(others)).to_pylist(), strict=True)
            for row, track, target in told:
                if target in spellings(track, self.template, self.model):
                    self._moved.append(self._n_rows + row)
        self._n_rows += len(batch)

    def changed(self, listing: Rows) -> dict[int, str]:
        """By row, the targets of all tracks that may not have their first one, and of some that may.

        Raises:
            ConfigError: a clash that only `{track_id}` in the template resolves.
        """
        hashes = np.concatenate([np.empty((0, max(1, len(self.stems))), np.int64), *self._hashes])
        self._hashes.clear()
        foreign = self._hashes_of(self.held.targets.filter(pa.array(~self._is_kept)))
        is_new = _has(hashes, np.concatenate([repeated(hashes), foreign.ravel()]))
        is_new[self._moved] = True
        is_in, wanted = np.zeros(len(hashes), bool), [np.empty(0, np.int64)]
        while is_new.any():
            is_in |= is_new
            tracks = named_tracks(listing.taken(is_new, NAMED))
            possible = [text for track in tracks for text in spellings(track, self.template, self.model)]
            wanted.append(self._hashes_of(pa.array(possible, pa.string())).ravel())
            is_new = _has(hashes, wanted[-1]) & ~is_in
        if not is_in.any():
            return {}
        tracks = named_tracks(listing.taken(is_in, NAMED))
        is_held = ~self._is_kept  # who keeps a first target that is wanted is among the tracks
        is_held[is_held] = _has(foreign, np.concatenate(wanted))
        held = self._held_by([track.track_id for track in tracks], is_held)
        made = make_targets(tracks, self.template, self.model, held, self.stems)
        return dict(zip(np.flatnonzero(is_in).tolist(), made, strict=True))

    def _held_by(self, track_ids: list[str], is_held: np.ndarray) -> dict[str, str | None]:
        """What is held by these tracks, and what is marked."""
        is_theirs = pc.is_in(self.held.track_ids, value_set=pa.array(track_ids, pa.string()))
        mask = pc.or_(is_theirs, pa.array(is_held))
        ids, targets = (
            column.filter(mask).to_pylist() for column in (self.held.track_ids, self.held.targets)
        )
        return dict(zip(ids, targets, strict=True))

    def _hashes_of(self, targets: pa.Array) -> np.ndarray:
        """(n, stems): of each stem's path, as file systems compare them; of the target if it has none."""
        keys = folded_all(targets)
        found = np.empty((len(keys), max(1, len(self.stems))), np.int64)
        for index, stem in enumerate(self.stems or ("{stem}",)):
            paths = pc.replace_substring(keys, "{stem}", stem)
            found[:, index] = np.fromiter(map(hash, paths.to_pylist()), np.int64, len(keys))
        return found


def _has(hashes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each row of hashes, whether one is among the values."""
    if not len(values):
        return np.zeros(len(hashes), bool)
    ordered = np.sort(values)
    found = np.zeros(len(hashes), bool)
    for column in hashes.T:
        at = np.searchsorted(ordered, column)
        found |= ordered[np.minimum(at, len(ordered) - 1)] == column
    return found
