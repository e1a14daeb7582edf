"""Which rows of a listing are taken: the first of each object, and no more than were asked for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow.compute as pc

from splitfire_batch.rows import Rows


def repeated(hashes: np.ndarray) -> np.ndarray:
    """Those that are there more than once, each once, ascending."""
    ordered = np.sort(hashes, axis=None)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def first_of_each(taken: Rows, uris: list[np.ndarray], ignored: Counter[str]) -> np.ndarray:
    """Which rows are the first of their uri: those of equal hashes are compared."""
    is_first = np.ones(len(taken), bool)
    hashes = np.concatenate([np.empty(0, np.int64), *uris])
    twice = repeated(hashes)
    if not len(twice):
        return is_first
    is_candidate = np.isin(hashes, twice)
    seen: set[str] = set()
    for row, uri in zip(
        np.flatnonzero(is_candidate).tolist(),
        taken.taken(is_candidate, ["uri"])["uri"].to_pylist(),
        strict=True,
    ):
        is_first[row] = uri not in seen
        seen.add(uri)
    n_more = len(taken) - int(is_first.sum())
    if n_more:
        ignored["duplicate"] += n_more
    return is_first


def limited(taken: Rows, is_wanted: np.ndarray, limit: int | None, ignored: Counter[str]) -> np.ndarray:
    """The first so many of the wanted rows, by path."""
    n_over = int(is_wanted.sum()) - (limit or 0)
    if limit is None or n_over <= 0:
        return is_wanted
    ignored["over limit"] += n_over
    rows = np.flatnonzero(is_wanted)
    order = pc.sort_indices(
        taken.taken(is_wanted, ["path", "uri"]), [("path", "ascending"), ("uri", "ascending")]
    )
    within = np.zeros(len(is_wanted), bool)
    within[rows[order.to_numpy()[:limit]]] = True
    return within
