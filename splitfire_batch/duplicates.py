"""Which tracks that are to be done are duplicates of others: the same audio, whatever tags are around it.

A track is read whole only if another, to be done or done, has the same shape (rate, channels, frames, from
the first bytes of a file) or, where the shape cannot be seen, the same length in bytes. Tracks of equal
`audio_id` are duplicates of one of them, the original: one that has stems already, else the first by path.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.audio import Shape
from splitfire_batch.contents import NEEDED, Content, Reader
from splitfire_batch.plan_rows import NO_DUPLICATES
from splitfire_batch.rows import Rows
from splitfire_batch.selection import repeated
from splitfire_batch.settled import Settled

_WANTED = ("track_id", "source_id", "path", *NEEDED)


@dataclass(frozen=True, slots=True)
class _Member:
    """A track among those with the same audio."""

    track_id: str
    source_id: str
    path: str
    content_id: str
    audio_id: str


def find_duplicates(listing: Rows, is_todo: np.ndarray, settled: Settled, reader: Reader) -> pa.Table:
    """The tracks that need not be separated, as `plan_rows.NO_DUPLICATES`.

    A track that failed before is separated by itself: what ails one must not take others with it twice.

    Args:
        listing: all tracks.
        is_todo: a truth for each, whether it is to be done.
        settled: tracks that may be originals.
        reader: of the objects that are listed.

    Raises:
        TransientError: a store does not answer.
    """
    is_readable = is_todo & _are_readable(listing)
    keys = np.zeros(len(listing), np.int64)
    keys[is_readable] = _keys(listing, is_readable, reader)
    # what is to be done again will have other stems, and may be written over by then
    is_staying = pc.invert(pc.is_in(settled.rows["track_id"], value_set=_track_ids(listing, is_todo)))
    old_keys, old_sizes = _settled_keys(settled.rows)
    shared = np.concatenate([repeated(keys[is_readable]), old_keys, old_sizes])
    is_candidate = is_readable & np.isin(keys, shared)
    objects = listing.taken(is_candidate, _WANTED)
    found = list(reader.contents(objects))
    is_wanted = np.isin(old_keys, keys[is_candidate]) | np.isin(old_sizes, keys[is_candidate])
    originals = _originals(settled.hashes(pc.and_(is_staying, pa.array(is_wanted))))
    return _duplicates(_members(objects, found), originals, set(settled.tried.to_pylist()))


def _track_ids(listing: Rows, is_todo: np.ndarray) -> pa.Array:
    return listing.taken(is_todo, ["track_id"])["track_id"].combine_chunks()


def _are_readable(listing: Rows) -> np.ndarray:
    """What has bytes, and nothing that the listing complains of."""
    found = [np.empty(0, bool)]
    for batch in listing.batches(["n_bytes", "problem"]):
        has_bytes = pc.and_(pc.is_null(batch["problem"]), pc.greater(batch["n_bytes"], 0))
        found.append(has_bytes.to_numpy(zero_copy_only=False))
    return np.concatenate(found)


def _keys(listing: Rows, is_readable: np.ndarray, reader: Reader) -> np.ndarray:
    """For each of these tracks a number that all who may be its duplicates share, and hardly any other."""
    keys = [np.empty(0, np.int64)]
    for batch in listing.only(is_readable, NEEDED):
        sizes = batch["n_bytes"].to_pylist()
        shapes = reader.shapes(pa.Table.from_batches([batch]))
        pairs = zip(shapes, sizes, strict=True)
        keys.append(np.fromiter((_key(shape, size) for shape, size in pairs), np.int64, len(batch)))
    return np.concatenate(keys)


def _key(shape: Shape | None, n_bytes: int) -> int:
    return hash(("bytes", n_bytes) if shape is None else ("shape", *shape))


def _settled_keys(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Of each settled track the key of its shape, and the one it has if its head does not tell that."""
    shapes = zip(*(rows[name].to_pylist() for name in ("sample_rate", "n_channels", "n_frames")), strict=True)
    sizes = rows["n_bytes"].to_pylist()
    return (
        np.fromiter((_key(shape, 0) for shape in shapes), np.int64, len(rows)),
        np.fromiter((_key(None, size) for size in sizes), np.int64, len(rows)),
    )


def _members(objects: pa.Table, found: list[Content | None]) -> list[_Member]:
    names = zip(*(objects[name].to_pylist() for name in ("track_id", "source_id", "path")), strict=True)
    return [
        _Member(track_id, source_id, path, content.content_id, content.audio_id)
        for (track_id, source_id, path), content in zip(names, found, strict=True)
        if content is not None
    ]


def _originals(rows: pa.Table) -> dict[str, _Member]:
    """By audio_id, or what an older version knew, the settled track to refer to.

    Rather one that was separated itself, and the first by path.
    """
    known = rows.to_pylist()
    known.sort(key=lambda row: (row["duplicate_of"] is not None, row["path"], row["track_id"]))
    names = ("track_id", "source_id", "path", "content_id", "audio_id")
    originals: dict[str, _Member] = {}
    for row in known:
        originals.setdefault(row["audio_id"] or row["content_id"], _Member(*(row[name] for name in names)))
    return originals


def _duplicates(members: list[_Member], originals: dict[str, _Member], tried: set[str]) -> pa.Table:
    made: list[dict[str, object]] = []
    groups = defaultdict[str, list[_Member]](list)
    for member in members:
        original = originals.get(member.audio_id) or originals.get(member.content_id)
        if member.source_id in tried:
            continue
        if original is None:
            groups[member.audio_id].append(member)
        else:
            made.append(_duplicate(member, original))
    for group in groups.values():
        original, *others = sorted(group, key=lambda member: (member.path, member.track_id))
        made += [_duplicate(member, original) for member in others]
    return pa.Table.from_pylist(made, NO_DUPLICATES.schema)


def _duplicate(member: _Member, original: _Member) -> dict[str, object]:
    told = {"of": original.track_id, "content_id": member.content_id, "audio_id": member.audio_id}
    return {"track_id": member.track_id, "duplicate": told}
