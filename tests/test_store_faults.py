"""Faults injected between a store and the real S3 server: no outcome may be wrong, and few may be errors.

A wrong outcome is short, damaged or another's data given without an error; a write that reports success while
another's bytes are there, or a lost race while its own are; an exception that is not ours; a partial local
file. A TransientError is no wrong outcome: it says that nobody answered within the budget.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from splitfire_batch.errors import (
    AccessDenied,
    CredentialsExpired,
    ObjectChanged,
    ObjectExists,
    StorageError,
    TransientError,
)
from splitfire_batch.storage import RetryBudget, Store, open_store
from tests.fault_proxy import FaultProxy, Rule
from tests.s3_server import S3Server

BUDGET = RetryBudget(tries=6, first_wait_s=0.005, max_wait_s=0.02, connect_timeout_s=1, read_timeout_s=1)
NOT_A_LISTING = "^(?!GET [^?]*[?].*list-type=2)"
"""A listing has no checksum in S3's protocol; against a flipped bit in one only TLS helps."""
WEATHER = (
    Rule("latency", chance=0.03, seconds=0.02),
    Rule("status", chance=0.06, status=503, code="SlowDown"),
    Rule("status", chance=0.05, status=500, code="InternalError"),
    Rule("status", chance=0.04, status=500, code="InternalError", is_done=True),
    Rule("status", "^PUT", chance=0.08, status=409, code="ConditionalRequestConflict"),
    Rule("reset", chance=0.08),
    Rule("lostack", chance=0.10),
    Rule("blackhole", chance=0.005),
    Rule("truncate", chance=0.12),
    Rule("shortlen", chance=0.10),
    Rule("flip", NOT_A_LISTING, chance=0.12),
    Rule("flipsent", "^PUT", chance=0.08),
)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint, seed=7) as running:
        yield running


@pytest.fixture
def store(bucket: str, proxy: FaultProxy) -> Store:
    """A store behind the proxy."""
    return through(proxy, bucket)


def through(proxy: FaultProxy, url: str, budget: RetryBudget = BUDGET) -> Store:
    return open_store(url, {"s3://": {"endpoint_url": proxy.endpoint}}, budget)


@dataclass(frozen=True)
class Trial:
    """One operation through the proxy, and what it needs to be judged."""

    through: Store
    direct: Store
    folder: Path
    number: int

    @property
    def path(self) -> str:
        return f"{self.number % 7}/object {self.number}#.bin"

    def bytes_of(self, version: int) -> bytes:
        """Its length differs from number to number, from empty to 200 kB, never between versions."""
        chance = random.Random(f"{self.number} {version}")
        return chance.randbytes(random.Random(self.number).choice([0, 1, 17, 5000, 200_000]))


Outcome = str | None
"""What went wrong, or None."""


def read(trial: Trial) -> Outcome:
    trial.direct.write(trial.path, trial.bytes_of(0))
    found = trial.through.read(trial.path)
    return None if found == trial.bytes_of(0) else f"{len(found)} other bytes were read"


def fetch(trial: Trial) -> Outcome:
    trial.direct.write(trial.path, trial.bytes_of(0))
    folder = trial.folder / str(trial.number)
    folder.mkdir()
    try:
        found = trial.through.fetch(trial.path, folder / "x").read_bytes()
    except TransientError:
        return f"left {list(folder.iterdir())}" if list(folder.iterdir()) else None
    if [each.name for each in folder.iterdir()] != ["x"]:
        return f"left {list(folder.iterdir())}"
    return None if found == trial.bytes_of(0) else f"{len(found)} other bytes were fetched"


def stat(trial: Trial) -> Outcome:
    trial.direct.write(trial.path, trial.bytes_of(0))
    found, wanted = trial.through.stat(trial.path), trial.direct.stat(trial.path)
    if trial.through.exists(f"{trial.path}.gone"):
        return "something that is not there was found"
    return None if found == wanted else f"{found} instead of {wanted}"


def listing(trial: Trial) -> Outcome:
    wanted = {f"list-{trial.number}/{n}": n for n in range(3)}
    for path, n in wanted.items():
        trial.direct.write(path, b"x" * n)
    found = {each.path: each.n_bytes for each in trial.through.list_under(f"list-{trial.number}")}
    return None if found == wanted else f"listed {found}"


def write(trial: Trial) -> Outcome:
    old, new = trial.bytes_of(0), trial.bytes_of(1)
    if trial.number % 2:
        trial.direct.write(trial.path, old)
    data: bytes | Path = new
    if trial.number % 3 == 0:
        data = trial.folder / f"{trial.number}.source"
        data.write_bytes(new)
    try:
        trial.through.write(trial.path, data)
    except TransientError:
        found = trial.direct.read(trial.path) if trial.direct.exists(trial.path) else old
        return None if found in (old, new) else f"{len(found)} bytes of neither version"
    return None if trial.direct.read(trial.path) == new else "written is not what is there"


def delete(trial: Trial) -> Outcome:
    trial.direct.write(trial.path, b"x")
    trial.through.delete(trial.path)
    return "it is still there" if trial.direct.exists(trial.path) else None


def create(trial: Trial) -> Outcome:
    return judge_rivals(trial, lambda data: trial.through.create(trial.path, data), ObjectExists)


def replace(trial: Trial) -> Outcome:
    etag = trial.direct.create(trial.path, b"the first")
    return judge_rivals(trial, lambda data: trial.through.replace(trial.path, data, etag), ObjectChanged)


def judge_rivals(trial: Trial, act: Callable[[bytes], str], lost: type[StorageError]) -> Outcome:
    """Up to three rivals with different bytes; who says what must fit what is there in the end."""
    datas = [b"%d " % n + trial.bytes_of(n) for n in range(1 + trial.number % 3)]

    def attempt(data: bytes) -> str:
        try:
            return act(data)
        except lost:
            return "lost"
        except TransientError:
            return "unknown"

    with ThreadPoolExecutor(len(datas)) as pool:
        said = list(pool.map(attempt, datas))
    found = trial.direct.read(trial.path) if trial.direct.exists(trial.path) else b""
    for data, word in zip(datas, said, strict=True):
        is_there = data == found
        if (word == "lost" and is_there) or (word not in ("lost", "unknown") and not is_there):
            return f"of {said} the one with {data[:1]!r} is wrong: {found[:1]!r} is there"
        if is_there and word != "unknown" and word != trial.direct.stat(trial.path).etag:
            return "the etag is another's"
    return None if found in datas or "unknown" in said else f"nobody won: {said}"


def check(trial: Trial) -> Outcome:
    trial.through.check_readable()
    trial.through.check_writable()
    return None


OPERATIONS = (read, fetch, stat, listing, write, delete, create, replace, check)


def run_storm(
    s3: S3Server, folder: Path, n_trials: int, seed: int
) -> tuple[Counter[str], Counter[str], list[str]]:
    """Counts of injected faults and of outcomes, and every wrong outcome."""
    name = f"storm-{seed}-{n_trials}"  # in every request line, which decides who meets what
    s3.make_bucket(name)
    direct = open_store(f"s3://{name}/x", {})
    wrong, outcomes = [], Counter[str]()
    with FaultProxy(s3.endpoint, *WEATHER, seed=seed) as proxy:
        store = through(proxy, f"s3://{name}/x")

        def attempt(number: int) -> None:
            operation = OPERATIONS[number % len(OPERATIONS)]
            try:
                outcome = operation(Trial(store, direct, folder, number))
                outcomes["as wanted" if outcome is None else "wrong"] += 1
            except TransientError:
                outcomes["gave up"] += 1
                return
            except Exception as error:  # noqa: BLE001  (whatever it is, it is the finding)
                outcome = f"{type(error).__name__}: {error}"
                outcomes["wrong"] += 1
            if outcome:
                wrong.append(f"{operation.__name__} {number}: {outcome}")

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(attempt, range(n_trials)))
        return proxy.faults(), outcomes, wrong


@pytest.mark.parametrize(
    ("checksums", "seed"),  # compared with what came, or not; a bucket of its own for each
    [("when_supported", 5), ("when_required", 6)],
)
@pytest.mark.parametrize(
    ("n_trials", "n_wanted"), [(300, 200), pytest.param(4500, 3000, marks=pytest.mark.slow)]
)
def test_no_fault_makes_a_wrong_outcome(
    s3: S3Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    n_trials: int,
    n_wanted: int,
    checksums: str,
    seed: int,
) -> None:
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", checksums)
    faults, outcomes, wrong = run_storm(s3, tmp_path, n_trials, seed)

    with capsys.disabled():
        print(f"\n{faults.total()} faults {dict(faults)} in {n_trials} trials: {dict(outcomes)}")
    assert wrong == []
    assert faults.total() >= n_wanted
    assert set(faults) == {rule.kind for rule in WEATHER}
    assert outcomes["gave up"] <= 0.03 * n_trials


@pytest.mark.parametrize(
    ("checksums", "wanted"), [("when_supported", ["GET"]), ("when_required", ["GET", "HEAD"])]
)
def test_what_nothing_vouches_for_is_asked_for_its_length(
    bucket: str,
    proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checksums: str,
    wanted: list[str],
) -> None:
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", checksums)
    store = through(proxy, bucket)
    store.write("x", b"12345")
    before = len(proxy.requests)

    assert store.fetch("x", tmp_path / "x").read_bytes() == b"12345"

    assert [request.split()[0] for request in proxy.requests[before:]] == wanted


def test_nothing_underneath_sends_a_request_again(store: Store, proxy: FaultProxy) -> None:
    store.write("x", b"1")  # over a connection that is kept: that is where a client may send twice
    once = store.within(RetryBudget(tries=1, connect_timeout_s=1, read_timeout_s=1))
    actions: list[tuple[str, Callable[[], object]]] = [
        ("GET", lambda: once.read("x")),
        ("HEAD", lambda: once.stat("x")),
        ("PUT", lambda: once.write("x", b"2")),
        ("DELETE", lambda: once.delete("x")),
        ("GET", lambda: list(once.list())),
    ]
    for rule in (Rule("lostack"), Rule("reset"), Rule("status", code="SlowDown"), Rule("status", status=500)):
        for method, action in actions:
            proxy.set_rules()
            store.write("x", b"1")
            proxy.set_rules(rule)
            before = len(proxy.requests)

            with pytest.raises(TransientError):
                action()

            sent = [request.split()[0] for request in proxy.requests[before:]]
            assert sent == [method], rule


def test_a_create_whose_answer_is_lost_on_a_kept_connection_has_succeeded(
    store: Store, proxy: FaultProxy
) -> None:
    store.write("x", b"1")
    proxy.set_rules(Rule("lostack", "^PUT", count=1))

    etag = store.create("lease", b"mine")

    assert etag == store.stat("lease").etag
    assert [request.split()[0] for request in proxy.requests[-4:]] == ["PUT", "PUT", "GET", "HEAD"]


@pytest.mark.parametrize("is_there", [True, False])
def test_what_cannot_be_read_back_is_not_taken_for_lost(
    store: Store, proxy: FaultProxy, is_there: bool
) -> None:
    kind = "lostack" if is_there else "reset"
    proxy.set_rules(Rule(kind, "^PUT", count=1), Rule("status", "^PUT", status=412), Rule("reset", "^GET"))

    with pytest.raises(TransientError, match="nobody can say whether it was written"):
        store.create("lease", b"mine")

    proxy.set_rules()
    assert store.exists("lease") is is_there


def test_a_burst_of_503_is_sat_out(store: Store, proxy: FaultProxy) -> None:
    store.write("x", b"1")
    proxy.set_rules(Rule("status", count=5, code="SlowDown"))

    assert store.read("x") == b"1"

    assert proxy.faults() == {"status": 5}


def test_waits_grow_and_differ_by_chance() -> None:
    budget = RetryBudget(first_wait_s=0.2, max_wait_s=5)
    for n_tries, longest in enumerate([0.2, 0.4, 0.8, 1.6, 3.2, 5, 5], start=1):
        waits = [budget.wait_s(n_tries) for _ in range(200)]

        assert longest / 2 <= min(waits) <= max(waits) <= longest
        assert max(waits) - min(waits) > longest / 4


def test_a_store_that_was_there_is_waited_for(proxy: FaultProxy, bucket: str) -> None:
    patient = RetryBudget(tries=2, patience_s=1.5, first_wait_s=0.05, max_wait_s=0.1)
    store = through(proxy, bucket, patient)
    store.write("x", b"1")
    proxy.set_rules(Rule("reset"))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(store.read, "x")
        time.sleep(0.7)
        assert not reading.done()
        proxy.set_rules()

        assert reading.result(5) == b"1"


def test_a_store_that_others_know_is_waited_for_from_the_start(proxy: FaultProxy, bucket: str) -> None:
    proxy.set_rules(Rule("reset", count=8))
    known = RetryBudget(tries=2, patience_s=20, is_known=True, first_wait_s=0.01, max_wait_s=0.02)

    assert list(through(proxy, bucket, known).list()) == []

    assert proxy.faults() == {"reset": 8}


def test_a_store_that_refuses_for_now_is_there(proxy: FaultProxy, bucket: str) -> None:
    proxy.set_rules(Rule("status", count=4))
    patient = RetryBudget(tries=2, patience_s=20, first_wait_s=0.01, max_wait_s=0.02)

    assert list(through(proxy, bucket, patient).list()) == []


def test_a_store_that_stays_away_is_given_up_in_time(proxy: FaultProxy, bucket: str) -> None:
    patient = RetryBudget(tries=2, patience_s=1.0, first_wait_s=0.05, max_wait_s=0.1)
    store = through(proxy, bucket, patient)
    proxy.set_rules(Rule("reset"))
    with pytest.raises(TransientError, match=r"2 tries.*is the store up"):
        store.read("x")  # it never answered: a wrong address is no reason to wait
    proxy.set_rules(Rule("reset", "^GET"))
    store.write("x", b"1")
    begin = time.monotonic()

    with pytest.raises(TransientError, match="is the store up"):
        store.read("x")

    assert 1 <= time.monotonic() - begin < 4


@pytest.mark.parametrize(
    ("status", "code"), [(400, "ExpiredToken"), (403, "ExpiredToken"), (400, "TokenRefreshRequired")]
)
def test_expired_credentials_end_at_once_and_say_what_to_do(
    store: Store, proxy: FaultProxy, tmp_path: Path, status: int, code: str
) -> None:
    store.write("x", b"1")
    proxy.set_rules(Rule("status", status=status, code=code))
    for action in (
        lambda: store.read("x"),
        lambda: store.fetch("x", tmp_path / "x"),
        lambda: store.stat("x"),
        lambda: list(store.list()),
        lambda: store.write("x", b"2"),
        lambda: store.create("y", b"2"),
        lambda: store.delete("x"),
        store.check_readable,
    ):
        before = len(proxy.requests)

        with pytest.raises(CredentialsExpired, match=f"{code}.*renew them"):
            action()

        # An answer to HEAD tells no code: botocore asks for the bucket's region, we ask for the reason.
        assert len(proxy.requests) - before <= (3 if proxy.requests[before].startswith("HEAD") else 1)


def test_other_refusals_name_what_to_do(store: Store, proxy: FaultProxy) -> None:
    for code, advice in (
        ("RequestTimeTooSkewed", "set the clock"),
        ("AccessDenied", "check the credentials"),
    ):
        proxy.set_rules(Rule("status", status=403, code=code))

        with pytest.raises(AccessDenied, match=advice) as refused:
            store.read("x")

        assert not isinstance(refused.value, CredentialsExpired)


def test_a_listing_that_cannot_be_parsed_is_asked_for_again(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a flipped bit in the size of an object."""
    store = open_store(bucket, {})
    store.write("x", b"data")
    fs: Any = store._backend._fs  # type: ignore[attr-defined]
    call, n_calls = fs.call_s3, 0

    def call_damaged(method: str, **request: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            raise ValueError("invalid literal for int() with base 10: '='")
        return call(method, **request)

    monkeypatch.setattr(fs, "call_s3", call_damaged)
    assert [found.path for found in store.list()] == ["x"]
    assert n_calls == 2


def test_a_flipped_bit_is_found_without_any_checksum(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    store, data = through(proxy, bucket), random.Random(1).randbytes(100_000)
    store.write("x", data)
    proxy.set_rules(Rule("flip", "^GET", count=4))

    assert store.read("x") == data
    assert store.fetch("x", tmp_path / "x").read_bytes() == data

    assert proxy.faults() == {"flip": 4}


def test_damage_that_goes_on_is_an_error(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    store = through(proxy, bucket)
    store.write("x", bytes(100_000))
    for kind in ("flip", "shortlen", "truncate"):
        proxy.set_rules(Rule(kind, "^GET"))

        with pytest.raises(TransientError, match="x"):
            store.read("x")
        with pytest.raises(TransientError, match="x"):
            store.fetch("x", tmp_path / "x")

    assert list(tmp_path.iterdir()) == []
