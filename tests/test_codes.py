"""Tracks without stems are counted by code."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from splitfire_batch.codes import NO_CODES, Codes, codes_of

IDS = pa.table(
    {
        "source_id": ["a", "b", "c", "d"],
        "problem": pa.array([None, None, "BAD_URI: found x: y", "ARCHIVED: z"], pa.string()),
    }
)
NOBODY = np.zeros(4, bool)


def test_each_is_counted_once_under_its_code():
    known = pa.table({"source_id": ["b", "a", "x"], "code": ["EMPTY", "NO_VOCALS", "EMPTY"]}, NO_CODES)
    skipped, failed = np.array([True, False, False, False]), np.array([False, True, False, False])
    found = codes_of(IDS, known, skipped, failed, ~(skipped | failed))
    assert found == Codes({"NO_VOCALS": 1}, {"EMPTY": 1}, {"ARCHIVED": 1, "BAD_URI": 1})


def test_a_listing_without_such_tracks_has_no_codes():
    assert codes_of(IDS.slice(0, 2), NO_CODES.empty_table(), *[NOBODY[:2]] * 2, ~NOBODY[:2]) == Codes()
