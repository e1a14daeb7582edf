"""The fault proxy forwards what it leaves alone, and does exactly the faults that its rules name."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from splitfire_batch.storage import RetryBudget, open_store
from tests.fault_proxy import KINDS, Fault, FaultProxy, Rule
from tests.s3_server import S3Server

BODY = bytes(range(256)) * 40


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint, seed=1) as running:
        yield running


@pytest.fixture
def path(bucket: str) -> str:
    """Path of an object in a fresh bucket."""
    return f"/{bucket.removeprefix('s3://')}/x.bin"


def connect(proxy: FaultProxy) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=5)


def ask(proxy: FaultProxy, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of one answer."""
    connection = connect(proxy)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_what_no_rule_names_passes_unchanged_over_one_connection(proxy: FaultProxy, path: str) -> None:
    connection = connect(proxy)
    statuses, bodies, ports = [], [], set()
    for method, body in (("PUT", BODY), ("GET", None), ("HEAD", None), ("PUT", b""), ("GET", None)):
        connection.request(method, path, body)
        answer = connection.getresponse()
        statuses.append(answer.status)
        bodies.append((answer.headers["Content-Length"], answer.read()))
        ports.add(connection.sock.getsockname()[1])
    connection.close()

    assert statuses == [200] * 5
    assert bodies[1:3] == [(str(len(BODY)), BODY), (str(len(BODY)), b"")]
    assert bodies[4] == ("0", b"")
    assert len(ports) == 1
    assert proxy.requests == [f"{method} {path}" for method in ("PUT", "GET", "HEAD", "PUT", "GET")]
    assert proxy.log == []


def test_a_store_works_through_it(proxy: FaultProxy, bucket: str) -> None:
    store = open_store(f"{bucket}/a b", {"s3://": {"endpoint_url": proxy.endpoint}}, RetryBudget(tries=1))

    store.write("Äpfel/#1?x=y%.bin", BODY)

    assert store.read("Äpfel/#1?x=y%.bin") == BODY
    assert [each.path for each in store.list()] == ["Äpfel/#1?x=y%.bin"]


def test_a_status_is_answered_and_the_request_not_done(proxy: FaultProxy, path: str) -> None:
    proxy.set_rules(Rule("status", "^PUT", count=1, status=503, code="SlowDown"))

    status, answer = ask(proxy, "PUT", path, BODY)

    assert (status, b"<Code>SlowDown</Code>" in answer) == (503, True)
    assert ask(proxy, "GET", path)[0] == 404
    assert proxy.log == [Fault("status", f"PUT {path}")]
    assert ask(proxy, "PUT", path, BODY)[0] == 200


def test_a_status_may_lie(proxy: FaultProxy, path: str) -> None:
    proxy.set_rules(Rule("status", "^PUT", status=500, code="InternalError", is_done=True))

    assert ask(proxy, "PUT", path, BODY)[0] == 500

    assert ask(proxy, "GET", path) == (200, BODY)


@pytest.mark.parametrize(("kind", "wanted"), [("reset", 404), ("lostack", 200)])
def test_a_connection_breaks_before_or_after_the_request_is_done(
    proxy: FaultProxy, path: str, kind: str, wanted: int
) -> None:
    proxy.set_rules(Rule(kind, "^PUT"))

    with pytest.raises(ConnectionResetError):
        ask(proxy, "PUT", path, BODY)

    assert ask(proxy, "GET", path)[0] == wanted


def test_a_black_hole_never_answers(proxy: FaultProxy, path: str) -> None:
    proxy.set_rules(Rule("blackhole", seconds=0.5))
    begin = time.monotonic()

    with pytest.raises(ConnectionError):
        ask(proxy, "PUT", path, BODY)

    assert time.monotonic() - begin >= 0.5


def test_latency_delays(proxy: FaultProxy, path: str) -> None:
    proxy.set_rules(Rule("latency", seconds=0.3))
    begin = time.monotonic()

    assert ask(proxy, "PUT", path, BODY)[0] == 200

    assert time.monotonic() - begin >= 0.3


def test_bodies_are_cut_shortened_and_flipped(proxy: FaultProxy, path: str) -> None:
    assert ask(proxy, "PUT", path, BODY)[0] == 200

    proxy.set_rules(Rule("truncate"))
    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(proxy, "GET", path)
    assert cut.value.partial == BODY[: len(BODY) // 2]
    proxy.set_rules(Rule("shortlen"))
    assert ask(proxy, "GET", path) == (200, BODY[: len(BODY) // 2])
    proxy.set_rules(Rule("flip"))
    flipped = ask(proxy, "GET", path)[1]
    assert sum((a ^ b).bit_count() for a, b in zip(BODY, flipped, strict=True)) == 1


def test_what_is_sent_may_arrive_with_a_flipped_bit(proxy: FaultProxy, path: str) -> None:
    proxy.set_rules(Rule("flipsent", "^PUT"))

    assert ask(proxy, "PUT", path, BODY)[0] == 200

    assert sum((a ^ b).bit_count() for a, b in zip(BODY, ask(proxy, "GET", path)[1], strict=True)) == 1


def test_what_has_no_body_is_not_damaged_and_not_counted(proxy: FaultProxy, path: str) -> None:
    proxy.set_rules(*(Rule(kind, count=1) for kind in ("flip", "truncate", "shortlen")))

    assert ask(proxy, "PUT", path, BODY)[0] == 200
    assert ask(proxy, "HEAD", path)[0] == 200

    assert proxy.log == []


def test_the_seed_alone_decides_whom_chance_meets(s3: S3Server, path: str) -> None:
    def met(seed: int, lines: list[str]) -> set[str]:
        with FaultProxy(s3.endpoint, Rule("status", chance=0.5), seed=seed) as proxy:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda line: ask(proxy, "GET", line), lines))
            return {fault.request for fault in proxy.log}

    lines = [f"{path}-{n}" for n in range(40)]

    assert met(1, lines) == met(1, lines[::-1])
    assert met(1, lines) != met(2, lines)
    assert 8 < len(met(1, lines)) < 32


def test_it_leaves_no_thread_behind(s3: S3Server, path: str) -> None:
    before = threading.active_count()
    with FaultProxy(s3.endpoint, Rule("blackhole")) as proxy:
        connection = connect(proxy)
        connection.request("GET", path)
    connection.close()

    assert threading.active_count() == before


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"explode.*latency"):
        Rule("explode")
    assert len(set(KINDS)) == 9
