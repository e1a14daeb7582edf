"""The actors of a pool: started, watched, sent off when their node goes, replaced when they are lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cluster import seats
from cluster.actors import MakeWorker, PoolSize, RemoteWorker
from cluster.ledger import Assignment
from cluster.losses import Lost
from cluster.nodes import LOOK_S, are_any_alive, count_places, draining_nodes
from cluster.seats import Seat
from cluster.watchdog import Watchdog
from splitfire_batch.errors import TransientError

_PENDING_S = 60.0
"""How often it is said that Ray has not yet found room for any actor."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a pool waits."""

    drain_s: float = 25.0
    """For tracks in flight, after a request to stop."""
    stall_s: float = 120.0
    """For a worker that tells nothing and does not get on."""
    may_grow: bool = True
    """Nodes may come that are not there yet; a Ray that was started for one run has its own and no other."""


class Roster:
    """Keeps up a number of actors while there is work for them.

    Args:
        make_worker: called in every actor.
        size: what each actor reserves.
        patience: a worker that is silent for longer than its stall_s hangs.
        has_more: whether an actor without work would get some.
    """

    def __init__(
        self, make_worker: MakeWorker, size: PoolSize, patience: Patience, has_more: Callable[[], bool]
    ) -> None:
        self._make_worker, self._size, self._has_more = make_worker, size, has_more
        self.watchdog, self._may_grow = Watchdog(patience.stall_s), patience.may_grow
        self.seats: dict[RemoteWorker, Seat] = {}
        self._n_wanted = self._n_given_up = 0
        self._look_at = 0.0
        self._warn_at = time.monotonic() + _PENDING_S

    def open(self, n_wanted: int) -> None:
        """Start so many actors, and keep up their number."""
        self._n_wanted = n_wanted
        self.refill()

    def refill(self, n_false_starts: int = 0) -> None:
        """Start the actors that are missing if there is work: some were lost when there was none.

        Args:
            n_false_starts: of the place that was lost now; the first new actor has it.
        """
        n_staying = sum(not seat.is_leaving for seat in self.seats.values())
        for _ in range(self._n_wanted - n_staying):
            if not self._has_more():
                return
            worker = RemoteWorker(self._make_worker, self._size)
            self.seats[worker] = Seat(worker, n_false_starts)
            n_false_starts = 0

    def send(self, seat: Seat, assignment: Assignment) -> None:
        """Give a shard to an actor."""
        seat.is_taking, seat.is_alone = False, assignment.is_alone
        self.watchdog.send(seat.worker, assignment.shard)
        seat.worker.send(assignment.shard)

    def dismiss(self, seat: Seat) -> None:
        """End an actor that is wanted no longer, or is lost."""
        seat.worker.kill()
        self.watchdog.forget(seat.worker)
        del self.seats[seat.worker]

    def replace(self, seat: Seat) -> None:
        """Start another for one that was lost, unless that comes of it too often."""
        n_false_starts = seat.false_starts()
        self.dismiss(seat)
        if n_false_starts < seats.MAX_FALSE_STARTS:
            self.refill(n_false_starts)
        else:
            self._n_wanted -= 1
            self._n_given_up += 1

    def stop_admitting(self) -> None:
        """Have no actor begin a further track."""
        for worker in self.seats:
            worker.stop_admitting()

    def kill(self) -> None:
        """End all actors now."""
        for worker in self.seats:
            worker.kill()

    def look_around(self) -> Iterator[tuple[Seat, Lost]]:
        """Once a second: who hangs or does not answer; those whose node is about to go are sent off.

        Raises:
            TransientError: no node is left, and none can come.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        if not any(worker.has_started for worker in self.seats):
            self._see_to_nodes(now)
        draining = draining_nodes()
        if self._size.grows:
            self._grow(draining)
        self.watchdog.look(now)
        for seat in list(self.seats.values()):
            if seat.lost is None and seat.worker.node_id in draining and not seat.is_leaving:
                self._send_off(seat)
                continue
            hung = None if seat.lost else self.watchdog.hung(seat.worker)
            lost = Lost("hung", hung.why, culprit=hung.track_id) if hung else seat.trouble(now)
            if lost is not None:
                yield seat, lost
            elif seat.is_unclear:
                seat.worker.ask()

    def _send_off(self, seat: Seat) -> None:
        """It finishes what it can, and another one starts elsewhere."""
        _log.warning("node_draining node=%s pid=%s", seat.worker.node_id, seat.worker.pid)
        seat.is_leaving = True
        seat.worker.stop_admitting()
        if not seat.worker.shard_ids:
            self.dismiss(seat)
        self.refill()

    def _grow(self, draining: frozenset[str]) -> None:
        """Start more actors when nodes have joined; those of nodes that left may come back with others."""
        n_places = count_places(self._size.cpus, self._size.gpus, draining) - self._n_given_up
        if n_places > self._n_wanted and self._has_more():
            _log.info("cluster_grew actors=%d before=%d", n_places, self._n_wanted)
            self.open(n_places)

    def _see_to_nodes(self, now: float) -> None:
        """A cluster may have to grow first; a full one keeps us waiting, and should not do so silently."""
        if not self._may_grow and not are_any_alive():
            raise TransientError(
                "the Ray that was started on this machine has lost its node: its raylet is gone; "
                "run the job again"
            )
        if now > self._warn_at:
            self._warn_at = now + _PENDING_S
            _log.warning(
                "actors_pending n=%d cpus=%g gpus=%g", len(self.seats), self._size.cpus, self._size.gpus
            )
