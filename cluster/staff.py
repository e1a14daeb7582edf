"""What each worker of a run is at, for whoever watches."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from cluster.ledger import Ledger
from cluster.seats import Seat
from splitfire_batch.staff import Staff, WorkerPhase, WorkerState

TELL_S = 1.0
"""How often it is told, at most; and only if it changed."""


class StaffTeller:
    """Tells of the workers as they change."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._told = Staff(())
        self._due_at = 0.0

    def news(self, seats: Collection[Seat]) -> Iterator[Staff]:
        """How the workers are, if that is due and was not told yet."""
        if time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + TELL_S
        staff = Staff(tuple(map(self._state, seats)))
        if staff != self._told:
            self._told = staff
            yield staff

    def _state(self, seat: Seat) -> WorkerState:
        worker = seat.worker
        tracks = self._ledger.tracks_in_flight(worker.shard_ids)
        return WorkerState(
            node=(worker.node_id or "")[:8],
            pid=worker.pid,
            phase=_phase(seat),
            n_settled=seat.n_settled,
            n_in_flight=len(tracks),
            path=tracks[0].path if tracks else "",
        )


def _phase(seat: Seat) -> WorkerPhase:
    if seat.lost:
        return "lost"
    if seat.is_leaving:
        return "leaving"
    if not seat.worker.has_started:
        return "starting"
    return "working" if seat.worker.shard_ids else "idle"
