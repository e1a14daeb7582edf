"""What a vacuum removes, and a last look before it does: hours may have passed since it was listed.

A run that the lease does not keep out writes stems again under the immutable names that they always had. Such
an object was old and unnamed when it was listed, and is neither any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from splitfire_batch.errors import ObjectMissing
from splitfire_batch.lease import Lease
from splitfire_batch.manifest.parts import part_paths, read_each, schema_of
from splitfire_batch.storage import Store
from splitfire_batch.storage.leftovers import Leftover, remove_leftover

_PAGE = 1_000
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something to remove."""

    kind: str
    """stem, temporary, probe, snapshot or upload."""
    path: str
    n_bytes: int
    upload_id: str = ""
    etag: str = ""
    """Of a stem, when it was listed."""
    modified: float = 0.0
    """When it was last written by the store's clock, as it was listed; 0 where nobody asks."""


def stem_paths(rows: pa.Table) -> pa.Array:
    """The paths that manifest rows name as their stems."""
    return rows["stems"].combine_chunks().flatten().field("path").drop_null()


def remove(store: Store, lease: Lease, garbage: Iterable[Garbage], known: Collection[str]) -> set[str]:
    """Remove it, a page at a time; the paths of stems that were left, because they are garbage no more.

    Args:
        store: the destination.
        lease: what it is held by.
        garbage: what to remove; what is gone already does no harm.
        known: the parts whose rows were looked at. What others name is not removed.

    Raises:
        LeaseLost: another run took the destination over.
    """
    rest, left, seen = iter(garbage), set[str](), set(known)
    named: set[str] = set()
    with ThreadPoolExecutor(_THREADS) as pool:
        while page := list(islice(rest, _PAGE)):
            lease.confirm()
            new = [path for path in part_paths(store) if path not in seen]
            for rows in read_each(store, new, schema_of(["stems"])):
                named.update(stem_paths(rows).to_pylist())
            seen.update(new)
            is_gone = pool.map(_remover(store, named), page)
            left.update(item.path for item, gone in zip(page, is_gone, strict=True) if not gone)
    return left


def _remover(store: Store, named: Collection[str]) -> Callable[[Garbage], bool]:
    def remove_one(item: Garbage) -> bool:
        if item.kind == "stem" and (item.path in named or _is_changed(store, item)):
            return False
        remove_leftover(store, Leftover(item.path, item.n_bytes, 0.0, item.upload_id))
        return True

    return remove_one


def _is_changed(store: Store, item: Garbage) -> bool:
    """Whether it was written again since it was listed; with the same bytes many stores keep the etag."""
    try:
        found = store.stat(item.path)
    except ObjectMissing:
        return False
    # an object's own answer tells whole seconds where a listing tells more
    return found.etag != item.etag or int(found.modified) != int(item.modified)
