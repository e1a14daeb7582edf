"""Who holds a destination, as it is written there, and whether that holder is still alive."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from splitfire_batch.errors import ObjectMissing
from splitfire_batch.storage import Store

PATH = "_splitfire/lease.json"
"""Where the record lies in a destination; on object stores it stays, released, when nobody holds it."""
_WIDTH = 512
_TORN_S = 0.5


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds between renewals, until silence means that the holder is dead, and between two looks."""

    renew_s: float = 5.0
    expire_s: float = 15.0
    look_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Holder:
    """A run, or a `vacuum`, that holds a destination. Nobody compares `started` with a clock."""

    run_id: str
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    """Chance that no other holder has: what tells mine from theirs."""
    count: int = 0
    """Renewals so far, so that no two records are alike."""
    is_released: bool = False

    def __str__(self) -> str:
        return f"{self.run_id} (process {self.pid} on {self.host}, since {self.started})"

    def renewed(self) -> Holder:
        """The record of the next renewal."""
        return replace(self, count=self.count + 1)

    def released(self) -> Holder:
        """The record that says that nobody holds the destination."""
        return replace(self, count=self.count + 1, is_released=True)

    def as_bytes(self) -> bytes:
        """JSON, padded to one width: a record written over another leaves nothing of it."""
        return json.dumps(asdict(self), indent=1).encode().ljust(_WIDTH)


def parse(data: bytes) -> Holder | None:
    """The record in these bytes; None if they are none, such as a half-written one."""
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        return None


def read_holder(store: Store) -> Holder | None:
    """The record in a destination; None if there is none, or none that can be read."""
    deadline = time.monotonic() + _TORN_S
    while True:
        try:
            holder = parse(store.read(PATH))
        except ObjectMissing:
            return None
        # a file is written in place, so one look may find half a record
        if holder is not None or time.monotonic() > deadline:
            return holder
        time.sleep(0.02)


def describe(holder: Holder | None) -> str:
    """Who it is, in words."""
    return str(holder) if holder else "a process that left no readable record"


class Watch:
    """Tells a live holder from a dead one by its signs of life, on the clock of whoever looks."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._sign: str | None = None
        self._since = self._last = 0.0

    def look(self, sign: str) -> Literal["new", "silent", "alive", "dead"]:
        """What `sign`, which changes with every renewal, says; "new" on the first look."""
        now, last = time.monotonic(), self._last
        self._last = now
        if self._sign is None:
            self._sign, self._since = sign, now
            return "new"
        if sign != self._sign:
            return "alive"
        if now - last > self._timing.renew_s:  # we slept, or the store was away: so may have been the holder
            self._since = now
        return "dead" if now - self._since >= self._timing.expire_s else "silent"
