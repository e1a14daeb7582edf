"""The end of a run: actors that have nothing to do get tracks that others hold and have not begun."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.ledger import Ledger
from cluster.seats import Seat
from splitfire_batch.records import Returned


class Tail:
    """Asks workers for some of their tracks, once no shard is left to send.

    Each answer halves what waits in a shard, so a few rounds leave no device alone with the last one; what
    is in flight stays where it is.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._asked: set[str] = set()
        self._has_no_more: set[str] = set()

    def share_out(self, seats: Iterable[Seat]) -> None:
        """For every idle actor ask one other, those first whose shards have most cost to begin."""
        seats = list(seats)
        n_idle = sum(seat.can_take and not seat.worker.shard_ids for seat in seats)
        if not n_idle or self._ledger.has_next():
            return
        held = [(seat, shard_id) for seat in seats if not seat.lost for shard_id in seat.worker.shard_ids]
        n_asked = sum(shard_id in self._asked for _, shard_id in held)
        if n_asked >= n_idle:
            return
        known = self._asked | self._has_no_more
        costs = [(self._ledger.waiting_cost(item[1]), *item) for item in held if item[1] not in known]
        able = sorted((item for item in costs if item[0]), key=lambda item: item[0], reverse=True)
        for _, seat, shard_id in able[: n_idle - n_asked]:
            self._asked.add(shard_id)
            seat.worker.give_back(shard_id)

    def hear(self, told: Returned) -> None:
        """An answer; a worker that gave nothing is not asked for the same shard again."""
        self._asked.discard(told.shard_id)
        if not told.track_ids:
            self._has_no_more.add(told.shard_id)
