"""Tracks without stems, as data: which ones a destination's rows say failed, and why.

Only rows that count are read: a track that failed and was done later has not failed. To run them again is
`retries`' business, to show them that of `flows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.errors import FAILURE_CODES, SKIP_CODES, ConfigError
from splitfire_batch.manifest.holdings import read_holdings
from splitfire_batch.manifest.ledger import ROOT, current_rows
from splitfire_batch.storage import Store

COLUMNS: tuple[str, ...] = (
    "track_id",
    "uri",
    "path",
    "status",
    "code",
    "message",
    "is_retryable",
    "attempts",
)
COLUMNS += ("n_failed_runs", "run_id", "settings_id", "model", "catalogue", "finished_at", "meta", "target")
"""Of the manifest, what is of use here."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which of the failed tracks; all of them by default."""

    codes: tuple[str, ...] = ()
    retryable: bool = False
    """Only those that the next run tries again by itself."""
    run_id: str | None = None
    """Only those whose row is of this run."""
    skipped: bool = False
    """Also tracks that got no stems because the settings wish so."""


def check_codes(codes: Sequence[str], with_skipped: bool = False) -> None:
    """Refuse codes that no row can have.

    Raises:
        ConfigError: an unknown code; the known ones are listed.
    """
    known = [*FAILURE_CODES, *(SKIP_CODES if with_skipped else ())]
    unknown = [code for code in codes if code not in known]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is no code of a failure; known are {', '.join(known)}")


def read_failures(store: Store, query: Query) -> pa.Table:
    """Rows of failed tracks with COLUMNS, sorted by code, then path; of every settings that is current.

    Raises:
        ConfigError: an unknown code or run, or a destination without a manifest.
    """
    check_codes(query.codes, query.skipped)
    if not read_holdings(store):
        raise ConfigError(f"{store.url} holds no manifest ({ROOT}/): nothing was run into it")
    if query.run_id is not None:
        _check_run(store, query.run_id)
    rows = current_rows(store, COLUMNS)
    statuses = ["failed", "skipped"] if query.skipped else ["failed"]
    wanted = pc.is_in(rows["status"], value_set=pa.array(statuses))
    if query.codes:
        wanted = pc.and_(wanted, pc.is_in(rows["code"], value_set=pa.array(query.codes)))
    if query.retryable:
        wanted = pc.and_(wanted, pc.fill_null(rows["is_retryable"], False))
    if query.run_id is not None:
        wanted = pc.and_(wanted, pc.equal(rows["run_id"], query.run_id))
    keys = [("code", "ascending"), ("path", "ascending"), ("uri", "ascending"), ("settings_id", "ascending")]
    return rows.filter(wanted).sort_by(keys)


def _check_run(store: Store, run_id: str) -> None:
    runs = {found.path.split("/")[2] for found in store.list_under(f"{ROOT}/runs")}
    if run_id not in runs:
        last = ", ".join(sorted(runs)[-3:]) or "there is none"
        raise ConfigError(f"{store.url} knows no run {run_id!r}; the last ones: {last}")
