"""How many tracks may fail before a run is stopped: wrong credentials should not cost a night."""

from __future__ import annotations

from splitfire_batch.report import Tally


def allowed_failures(limit: str, n_planned: int) -> int:
    """The number that `max_failures` stands for; a percentage is of all planned tracks, rounded down."""
    if limit.endswith("%"):
        return int(float(limit[:-1]) * n_planned / 100)
    return int(limit)


def excess(tally: Tally, limit: str | None) -> str | None:
    """Why a run must be stopped, if more tracks failed than `max_failures` allows."""
    if limit is None or tally.n_failed <= (allowed := allowed_failures(limit, tally.n_planned)):
        return None
    codes = ", ".join(f"{code} {n}" for code, n in tally.codes.most_common(3))
    return (
        f"{tally.n_failed} of {tally.n_planned} tracks failed, max_failures is {limit} ({allowed} tracks); "
        f"most of them: {codes}; see to that, then run the same command again to go on"
    )
