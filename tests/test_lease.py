"""The lease: one holder at a time, dead ones are replaced, and one that was replaced learns of it.

Holders are real processes on a local folder and on the real S3 server; only the times are shorter.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from splitfire_batch.errors import ConfigError, LeaseHeld, LeaseLost, TransientError
from splitfire_batch.lease import PATH, Guard, Lease, Timing, hold, unheld
from splitfire_batch.lease.clock import awake_or_asleep
from splitfire_batch.storage import Store, open_store

QUICK = Timing(renew_s=0.5, expire_s=2.5, look_s=0.1)
QUICKER = Timing(renew_s=0.1, expire_s=0.4, look_s=0.05)
"""Where nobody is alive who could be late."""
HOLD = """
import sys, time
from pathlib import Path
from splitfire_batch.errors import LeaseHeld
from splitfire_batch.lease import Timing, hold
from splitfire_batch.storage import open_store
url, name, begin_at = sys.argv[1:4]
store = open_store(url, {})
skew = float(sys.argv[4])
true_time = time.time
time.time = lambda: true_time() + skew
time.sleep(max(0.0, float(begin_at) - true_time()))
try:
    tell = lambda text: print("waits", flush=True)
    with hold(store, name, timing=Timing(0.5, 2.5, 0.1), tell=tell) as lease:
        print("holds", flush=True)
        while not lease.is_lost.wait(0.02) and not Path(sys.argv[5]).exists():
            continue
        print("lost" if lease.is_lost.is_set() else "ends", flush=True)
except LeaseHeld as error:
    print("refused", flush=True)
"""


class Process:
    """A process that holds a lease until it is told to end."""

    def __init__(self, url: str, name: str, end: Path, begin_at: float = 0.0, skew: float = 0.0) -> None:
        self._end = end
        arguments = [sys.executable, "-c", HOLD, url, name, str(begin_at), str(skew), str(end)]
        self.popen = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self.popen.stdout
        self._lines = self.popen.stdout

    def said(self) -> str:
        """The next line; waits for it."""
        return self._lines.readline().strip()

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def end(self) -> None:
        self._end.touch()
        self.popen.wait(30)


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A destination of either kind."""
    return str(request.getfixturevalue("bucket")) if request.param == "s3" else str(tmp_path / "out")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts holders; those that are left are killed."""
    started: list[Process] = []

    def begin(url: str, name: str = "first", **more: float) -> Process:
        started.append(Process(url, name, tmp_path / f"end-{len(started)}", **more))
        return started[-1]

    yield begin
    for process in started:
        process.signal(signal.SIGKILL)
        process.popen.wait()
        process.popen.stdout.close()  # type: ignore[union-attr]


def record(store: Store) -> dict[str, object]:
    found: dict[str, object] = json.loads(store.read(PATH))
    return found


def quiet(_: str) -> None:
    """Nobody wants to know who is waited for."""


def try_to_hold(store: Store, timing: Timing = QUICK) -> Lease:
    """The lease, held and released at once."""
    with hold(store, "second", timing=timing, tell=quiet) as lease:
        return lease


def test_a_second_run_is_refused_and_told_who_holds_the_destination(url, start):
    first = start(url, "run-1")
    assert first.said() == "holds"
    with pytest.raises(LeaseHeld, match=rf"run-1 \(process {first.popen.pid} on .*, since 20"):
        try_to_hold(open_store(url, {}))


def is_released(store: Store) -> bool:
    """A file is removed; an object stays, because stores cannot remove it conditionally."""
    return not store.exists(PATH) if store.is_local else record(store)["is_released"] is True


def test_a_released_lease_is_free_at_once(url):
    store = open_store(url, {})
    told: list[str] = []
    for name in ("one", "two"):
        with hold(store, name, timing=QUICK, tell=told.append) as lease:
            assert (record(store)["run_id"], record(store)["nonce"]) == (name, lease.nonce)
            assert len(store.read(PATH)) > 100
        assert is_released(store)
    assert told == [], "somebody was waited for"


def test_a_lease_is_released_when_the_run_ends_with_an_error(url):
    store = open_store(url, {})
    with pytest.raises(RuntimeError, match="its own"), hold(store, "one", timing=QUICK):
        raise RuntimeError("its own")
    assert is_released(store)


def test_of_several_that_find_a_dead_holder_one_wins(url, start):
    dead = start(url)
    assert dead.said() == "holds"
    dead.signal(signal.SIGKILL)
    dead.popen.wait()
    begin_at = time.time() + 3
    rivals = [start(url, f"rival-{n}", begin_at=begin_at) for n in range(4)]
    said = []
    for rival in rivals:
        line = rival.said()
        said.append(rival.said() if line == "waits" else line)
    assert sorted(said) == ["holds", "refused", "refused", "refused"]


def test_a_killed_holder_is_replaced_locally_at_once_and_on_a_store_when_it_stayed_silent(url, start):
    first = start(url)
    assert first.said() == "holds"
    first.signal(signal.SIGKILL)
    first.popen.wait()
    told: list[str] = []
    begin = time.monotonic()
    with hold(open_store(url, {}), "second", timing=QUICK, tell=told.append):
        waited_s = time.monotonic() - begin
    if url.startswith("s3"):
        assert waited_s >= QUICK.expire_s
        assert "is held by first" in told[0]
    else:
        assert told == [], "somebody was waited for"


def test_a_holder_that_was_frozen_finds_that_it_has_lost(bucket, start):
    first = start(bucket)
    assert first.said() == "holds"
    first.signal(signal.SIGSTOP)
    store = open_store(bucket, {})
    with hold(store, "second", timing=QUICK, tell=quiet) as lease:
        first.signal(signal.SIGCONT)
        assert first.said() == "lost"
        assert first.popen.wait(10) == 0
        lease.confirm()
        assert record(store)["run_id"] == "second"
        assert record(store)["is_released"] is False, "the loser released what is not its own"


def test_a_frozen_local_holder_keeps_the_lease(tmp_path, start):
    first = start(str(tmp_path))
    assert first.said() == "holds"
    first.signal(signal.SIGSTOP)
    time.sleep(1.2 * QUICK.expire_s)
    with pytest.raises(LeaseHeld, match=f"process {first.popen.pid} "):
        try_to_hold(open_store(str(tmp_path), {}))


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
def test_clocks_that_differ_by_an_hour_change_nothing(bucket, start, skew_s):
    first = start(bucket, skew=skew_s)
    assert first.said() == "holds"
    store = open_store(bucket, {})
    with pytest.raises(LeaseHeld):
        try_to_hold(store)
    first.signal(signal.SIGKILL)
    first.popen.wait()
    begin = time.monotonic()
    try_to_hold(store)
    assert QUICK.expire_s <= time.monotonic() - begin < 60


def test_a_process_that_ends_well_leaves_no_wait_behind(url, start):
    first = start(url)
    assert first.said() == "holds"
    first.end()
    assert first.said() == "ends"
    told: list[str] = []
    with hold(open_store(url, {}), "second", timing=QUICK, tell=told.append):
        assert told == [], "somebody was waited for"


@pytest.mark.parametrize("left", [b"{", b"null", b'{"run_id": "x", "colour": 1}'])
def test_an_unreadable_record_counts_as_a_holder_until_it_stayed_silent(bucket, left):
    store = open_store(bucket, {})
    store.write(PATH, left)
    begin = time.monotonic()
    lease = try_to_hold(store, QUICKER)
    assert time.monotonic() - begin >= QUICKER.expire_s
    assert record(store)["nonce"] == lease.nonce


@pytest.mark.parametrize("harm", ["removed", "taken"])
def test_whatever_is_not_our_record_ends_our_lease(url, harm):
    store = open_store(url, {})
    with hold(store, "first", timing=QUICK) as lease:
        if harm == "removed":
            store.delete(PATH)
        else:
            store.write(PATH, store.read(PATH).replace(lease.nonce.encode(), b"f" * 16))
        assert lease.is_lost.wait(5)
        with pytest.raises(LeaseLost, match=r"run it again"):
            lease.check()
        with pytest.raises(LeaseLost):
            lease.confirm()
    if harm == "taken":
        assert record(store)["is_released"] is False


def test_confirm_asks_the_store_itself_when_the_thread_did_not_get_to_it(bucket):
    store = open_store(bucket, {})
    asleep = Timing(renew_s=1000, expire_s=3000)
    with hold(store, "first", timing=asleep) as lease:
        store.write(PATH, store.read(PATH).replace(lease.nonce.encode(), b"f" * 16))
        lease.confirm()  # young enough
        lease._renewed_at -= 5000
        with pytest.raises(LeaseLost, match="taken over"):
            lease.confirm()


def test_whatever_a_renewal_ends_with_it_is_said_and_tried_again(monkeypatch, caplog):
    store = open_store("memory://lease-surprise", {})
    true_replace, is_broken = store.replace, [True]

    def replace(*arguments: object) -> str:
        if is_broken[0]:
            raise RuntimeError("a bug in a library")
        return true_replace(*arguments)  # type: ignore[arg-type]

    with hold(store, "first", timing=QUICKER):
        monkeypatch.setattr(store, "replace", replace)
        time.sleep(3 * QUICKER.renew_s)
        is_broken[0] = False
        before = record(store)["count"]
        time.sleep(5 * QUICKER.renew_s)
        assert record(store)["count"] > before
    assert "lease_not_renewed run=first why='a bug in a library'" in caplog.text


def test_an_outage_is_waited_out(monkeypatch):
    store = open_store("memory://lease-outage", {})
    true_replace, away = store.replace, [True]

    def replace(*arguments: object) -> str:
        if away[0]:
            raise TransientError("the store is away")
        return true_replace(*arguments)  # type: ignore[arg-type]

    with hold(store, "first", timing=QUICKER) as lease:
        monkeypatch.setattr(store, "replace", replace)
        time.sleep(1.5 * QUICKER.expire_s)
        assert not lease.is_lost.is_set()
        away[0] = False
        before = record(store)["count"]
        time.sleep(5 * QUICKER.renew_s)
        assert record(store)["count"] > before
        assert not lease.is_lost.is_set()


def test_a_machine_that_the_file_lock_does_not_reach_is_seen_by_its_record(tmp_path):
    store = open_store(str(tmp_path), {})
    with hold(store, "elsewhere", timing=QUICK):
        foreign = {**record(store), "host": "another"}
    store.write(PATH, json.dumps(foreign).encode())
    begin = time.monotonic()
    try_to_hold(store, QUICKER)
    assert time.monotonic() - begin >= QUICKER.expire_s


def test_a_store_without_conditional_writes_has_no_lease(monkeypatch, caplog):
    store = open_store("memory://lease-none", {})
    monkeypatch.setattr(type(store), "can_replace", property(lambda _: False))
    with pytest.raises(ConfigError, match='names = "immutable"'), hold(store, "run"):
        pass
    with hold(store, "run", is_needed=False) as lease:
        lease.check()
        lease.confirm()
        assert lease.nonce == ""
    assert "no_lease" in caplog.text
    assert not store.exists(PATH)


def test_a_lease_that_nobody_wants_is_never_lost():
    lease = unheld("run")
    lease.check()
    lease.confirm()
    lease.release()
    assert (lease.run_id, lease.nonce) == ("run", "")


def test_a_worker_writes_only_while_its_run_holds_the_destination(url, monkeypatch):
    store = open_store(url, {})
    with hold(store, "first", timing=QUICK) as lease:
        guard = Guard(store, lease.nonce)
        guard.check()
        Guard(store, "").check()
    guard.check(max_age_s=60)  # its last answer is young
    asleep_until = awake_or_asleep() + 61
    monkeypatch.setattr("splitfire_batch.lease.awake_or_asleep", lambda: asleep_until)
    with pytest.raises(LeaseLost, match="no longer held"):
        guard.check(max_age_s=60)
    with hold(store, "second", timing=QUICK), pytest.raises(LeaseLost):
        guard.check()
    store.delete(PATH)
    with pytest.raises(LeaseLost):
        guard.check()


def test_time_goes_on_while_the_machine_is_suspended(monkeypatch):
    monkeypatch.setattr("time.clock_gettime", lambda clock: clock)
    assert awake_or_asleep() == time.CLOCK_BOOTTIME


def test_a_held_lease_leaves_no_thread_and_no_open_file_behind(url):
    """Of 20 leases: a client of S3 may open another connection of its pool meanwhile."""
    store = open_store(url, {})
    try_to_hold(store)
    threads, files = threading.active_count(), open_files()
    for _ in range(20):
        try_to_hold(store)
    assert threading.active_count() <= threads + 2
    assert open_files() <= files + 5


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
