"""Why tracks have no stems, counted by code: failures and skips that stand, and what a listing shows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NO_CODES = pa.schema([("source_id", pa.string()), ("code", pa.string())])


@dataclass(frozen=True, slots=True)
class Codes:
    """Numbers of listed tracks by code, most first."""

    skipped_before: dict[str, int] = field(default_factory=dict)
    """Got no stems, as the settings wish."""
    failed_before: dict[str, int] = field(default_factory=dict)
    """Their failure stands."""
    without_stems: dict[str, int] = field(default_factory=dict)
    """Are to be done and will get no stems, as the listing shows already."""


def codes_of(
    ids: pa.Table, known: pa.Table, is_skipped: np.ndarray, is_failed: np.ndarray, is_todo: np.ndarray
) -> Codes:
    """The codes of a listing.

    Args:
        ids: source_id and problem ("CODE: why", or null) of every row.
        known: source_id and code of what was settled without stems.
        is_skipped: a truth for each row, as the two that follow.
        is_failed: its failure stands.
        is_todo: it is to be done.
    """
    skipped, failed = (_known_codes(ids["source_id"], mask, known) for mask in (is_skipped, is_failed))
    problems = ids["problem"].filter(pa.array(is_todo)).drop_null()
    return Codes(skipped, failed, _counts(pc.list_element(pc.split_pattern(problems, ": "), 0)))


def _known_codes(source_ids: pa.ChunkedArray, mask: np.ndarray, known: pa.Table) -> dict[str, int]:
    at = pc.index_in(source_ids.filter(pa.array(mask)), value_set=known["source_id"].combine_chunks())
    return _counts(known["code"].take(at))


def _counts(codes: pa.ChunkedArray) -> dict[str, int]:
    counts = {item["values"] or "": item["counts"] for item in pc.value_counts(codes).to_pylist()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
