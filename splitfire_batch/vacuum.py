"""What a destination holds and nothing needs: stems that no row that counts names, and our own leftovers.

Only what is certainly ours is garbage; everything else is counted and left alone, and a destination that lies
in this one is not looked at. Ours is
  - a path that some row once named as its stem, of whatever run and settings, replaced ones included: what a
    changed source, other settings or another format left behind. A track's last stems stay, until there are
    others: if it failed since, or waits for its turn after `--replace`;
  - an audio file whose name ends in the hash of its own bytes, as immutable names do: what was put before a
    run was cut off, and never recorded;
  - temporary files of local writes, objects of `doctor`, all ledger snapshots but the last two, and uploads
    in parts, to paths such as these, that were never completed, whose writers are dead.
And it must be old, by the clock of the store alone. Objects are listed before rows are read, so that what is
recorded in between counts as named; and the destination is held meanwhile, so that no run is under way. For
those that go on all the same, each object is looked at again just before it goes (`garbage`).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.errors import ConfigError
from splitfire_batch.lease import Lease
from splitfire_batch.manifest.garbage import Garbage, remove, stem_paths
from splitfire_batch.manifest.holdings import Holding, is_current, read_holdings, replaces
from splitfire_batch.manifest.parts import REVOKED, ROOT, latest, part_paths, read_each, schema_of
from splitfire_batch.manifest.snapshots import snapshot_paths
from splitfire_batch.storage import Store
from splitfire_batch.storage.leftovers import Leftover, try_leftovers
from splitfire_batch.stored import listed, sha256_at

_AUDIO = ("wav", "flac", "aiff", "ogg", "opus", "mp3")
_HASHED = re.compile(rf"-([0-9a-f]{{16}})\.(?:{'|'.join(_AUDIO)})$")
_OWN = re.compile(rf"{ROOT}/(?:doctor-[0-9a-f]+(?:/.+)?|clock-[0-9a-f]+)")
_COLUMNS = ("track_id", "settings_id", "run_id", "status", "code", "finished_at", "stems")
_KEPT_SNAPSHOTS = 2
_UPLOAD_S = 86_400.0
"""An upload in parts that is older than a day has no writer any more."""
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What was found, and whether it is gone now."""

    destination: str
    is_deleted: bool
    older_than_s: float
    garbage: tuple[Garbage, ...]
    n_named: int
    """Objects that rows name: the stems."""
    n_young: int
    """Objects that no row names, and too young to be judged; or were, when they were to be removed."""
    n_foreign: int
    """Objects that no row names, and uploads, that are not certainly ours."""
    remark: str = ""
    """What could not be looked at, and why."""

    @property
    def n_bytes(self) -> int:
        """Of all garbage."""
        return sum(item.n_bytes for item in self.garbage)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "n_garbage": len(self.garbage), "n_bytes": self.n_bytes}


def vacuum(store: Store, lease: Lease, older_than_s: float, is_dry: bool) -> Vacuumed:
    """Find garbage, and remove it unless `is_dry`. What was removed twice or half does no harm.

    Args:
        store: the destination.
        lease: what it is held by.
        older_than_s: age, by the store's clock, below which nothing is garbage.
        is_dry: only tell.

    Raises:
        ConfigError: no parts, or some are damaged or gone: then nobody knows what is named.
        LeaseLost: another run took the destination over.
        StorageError: the store refuses.
        TransientError: it does not answer.
    """
    now = _clock(store)
    objects, inner = _listing(store)
    parts = part_paths(store)
    named, ever = _named(store, parts)
    is_named = pc.is_in(objects["path"], value_set=named)
    rest = objects.filter(pc.invert(is_named))
    old = rest.filter(pc.less_equal(rest["modified"], now - older_than_s))
    ours = old.filter(pa.array(_are_ours(store, old, ever), pa.bool_()))
    garbage = [Garbage("stem", **row) for row in ours.to_pylist()]
    found, remark = try_leftovers(store)
    rest_of_ours = chain(_probes(store, now - older_than_s), _leftovers(found, now, older_than_s))
    leftovers = [item for item in rest_of_ours if not item.path.startswith(inner)]
    foreign = _foreign_uploads(leftovers, ever)
    garbage += (item for item in leftovers if item not in foreign)
    left = set() if is_dry else remove(store, lease, garbage, parts)
    return Vacuumed(
        destination=store.url,
        is_deleted=not is_dry,
        older_than_s=older_than_s,
        garbage=tuple(sorted(_without(garbage, left), key=lambda item: (item.kind, item.path))),
        n_named=len(objects) - len(rest),
        n_young=len(rest) - len(old) + len(left),
        n_foreign=len(old) - len(ours) + len(foreign),
        remark=remark,
    )


def _without(garbage: Sequence[Garbage], left: set[str]) -> list[Garbage]:
    return [item for item in garbage if item.kind != "stem" or item.path not in left]


def _clock(store: Store) -> float:
    """What the store takes for now: the time it gives an object that is written now."""
    path = f"{ROOT}/clock-{secrets.token_hex(4)}"
    store.write(path, b"now")
    try:
        return store.stat(path).modified
    finally:
        store.delete(path)


def _listing(store: Store) -> tuple[pa.Table, tuple[str, ...]]:
    """Everything but manifests and what lies in destinations inside this one; and where those are."""
    found = (item for item in store.list() if not item.path.startswith(f"{ROOT}/"))
    objects = listed(found, ("path", "etag", "n_bytes", "modified"))
    inside = f"/{ROOT}/"
    manifests = objects["path"].filter(pc.match_substring(objects["path"], inside)).to_pylist()
    inner = tuple(sorted({path.partition(inside)[0] + "/" for path in manifests}))
    for root in inner:
        objects = objects.filter(pc.invert(pc.starts_with(objects["path"], root)))
    return objects, inner


def _named(store: Store, parts: Sequence[str]) -> tuple[pa.Array, pa.Array]:
    """The paths that rows that count name as stems, and those that any row ever named."""
    schema = schema_of(_COLUMNS)
    rows = pa.concat_tables([schema.empty_table(), *read_each(store, parts, schema)])
    _check_parts(store, parts, rows)
    return stem_paths(_counting(rows, read_holdings(store))), stem_paths(rows)


def _counting(rows: pa.Table, holdings: Sequence[Holding]) -> pa.Table:
    """The last row of each track and settings that tells of stems, unless later settings have replaced them.

    Who fails puts nothing in their place, nor does who finds the source in an archive; and `--replace` may be
    cut off, or be meant for some tracks: the stems of the others count on.
    """
    is_failure = pc.and_(pc.equal(rows["status"], "failed"), pc.not_equal(rows["code"], REVOKED))
    tells_nothing = pc.or_kleene(is_failure, pc.equal(rows["code"], "ARCHIVED"))
    rows = latest(rows.filter(pc.invert(pc.fill_null(tells_nothing, False))))
    for held in holdings:
        if is_current(held, holdings):
            continue
        later = [item.settings_id for item in holdings if replaces(item, held)]
        is_later = pc.is_in(rows["settings_id"], value_set=pa.array(later, pa.string()))
        is_redone = pc.is_in(rows["track_id"], value_set=rows["track_id"].filter(is_later).combine_chunks())
        is_old = pc.equal(rows["settings_id"], held.settings_id)
        rows = rows.filter(pc.invert(pc.and_(is_old, is_redone)))
    return rows


def _check_parts(store: Store, parts: Sequence[str], rows: pa.Table) -> None:
    """Refuse where parts of a run that ended are gone: their stems would look like garbage."""
    if not parts:
        raise ConfigError(
            f"{store.url} has no manifest: found no parts below {ROOT}/parts; nothing can be judged"
        )
    counts = rows.group_by("run_id").aggregate([("track_id", "count_distinct")]).to_pylist()
    held = {count["run_id"]: count["track_id_count_distinct"] for count in counts}
    records = [found.path for found in store.list_under(f"{ROOT}/runs") if found.path.endswith("/run.json")]
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, data in zip(records, pool.map(store.read, records), strict=True):
            record, run_id = json.loads(data), path.split("/")[2]
            n_wanted = record["n_done"] + record["n_failed"] + record.get("n_skipped", 0)
            if held.get(run_id, 0) < n_wanted:
                raise ConfigError(
                    f"{store.url}: run {run_id} ended with rows of {n_wanted} tracks, found "
                    f"{held.get(run_id, 0)}: parts are gone. Bring them back below "
                    f"{ROOT}/parts/{record['settings_id']}/{run_id}; or, if stems that only they name may go "
                    f"too, move {path} away"
                )


def _are_ours(store: Store, objects: pa.Table, ever: pa.Array) -> list[bool]:
    """Whether each is certainly ours."""
    was_named = pc.is_in(objects["path"], value_set=ever).to_pylist()
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(
            pool.map(
                lambda path, is_known: is_known or _is_named_by_its_bytes(store, path),
                objects["path"].to_pylist(),
                was_named,
            )
        )


def _is_named_by_its_bytes(store: Store, path: str) -> bool:
    match = _HASHED.search(path)
    if match is None:
        return False
    digest = sha256_at(store, path)
    return digest is not None and digest.startswith(match[1])


def _foreign_uploads(leftovers: Sequence[Garbage], ever: pa.Array) -> set[Garbage]:
    """Uploads to paths that no run of ours need ever have written to; of their bytes nothing can be asked."""
    unknown = [
        item
        for item in leftovers
        if item.upload_id and not (_HASHED.search(item.path) or item.path.startswith(f"{ROOT}/"))
    ]
    is_known = pc.is_in(pa.array([item.path for item in unknown], pa.string()), value_set=ever).to_pylist()
    return {item for item, known in zip(unknown, is_known, strict=True) if not known}


def _probes(store: Store, before: float) -> Iterator[Garbage]:
    """What our own checks and snapshots leave behind."""
    for found in store.list_under(ROOT):
        if _OWN.fullmatch(found.path) and found.modified <= before:
            yield Garbage("probe", found.path, found.n_bytes)
    for path in snapshot_paths(store)[_KEPT_SNAPSHOTS:]:
        found = store.stat(path)
        if found.modified <= before:
            yield Garbage("snapshot", path, found.n_bytes)


def _leftovers(found: Iterable[Leftover], now: float, older_than_s: float) -> Iterator[Garbage]:
    """Those of them whose writers are dead."""
    for left in found:
        # an upload may go on for long, and its begin is all that is known
        age_s = max(older_than_s, _UPLOAD_S) if left.upload_id else older_than_s
        if left.modified <= now - age_s:
            kind = "upload" if left.upload_id else "temporary"
            yield Garbage(kind, left.path, left.n_bytes, left.upload_id)
