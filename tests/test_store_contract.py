"""Every kind of store keeps every promise, with processes as rivals; a store that breaks one is found out."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from splitfire_batch.errors import AccessDenied, ObjectExists, StorageError
from splitfire_batch.storage import Store, StoredObject, open_store
from splitfire_batch.storage.contract import Broken, Promise, Trial, try_promises
from splitfire_batch.storage.promises import PROMISES
from splitfire_batch.storage.races import count_up, create_each, find_false_winner
from splitfire_batch.storage.s3 import S3
from tests.s3_server import S3Server
from tests.small_library import tree

N_RIVALS, CHUNK = 4, 20


@pytest.fixture
def store(url: str) -> Store:
    opened = open_store(url, {})
    opened.check_writable()
    return opened


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)
def test_every_store_keeps_every_promise(store: Store, promise: Any) -> None:
    assert promise.look(Trial(store, "_splitfire/tried"))


def test_a_trial_leaves_nothing_and_touches_nothing(store: Store) -> None:
    store.write("kept", b"1")
    store.write("_splitfire/kept", b"2")

    verdicts = try_promises(store, PROMISES, needs_lease=True)

    assert [verdict for verdict in verdicts if not verdict.holds] == []
    assert [verdict.name for verdict in verdicts] == [promise.name for promise in PROMISES]
    assert {each.path: store.read(each.path) for each in store.list()} == {
        "kept": b"1",
        "_splitfire/kept": b"2",
    }


def test_a_trial_in_a_folder_leaves_no_folder(tmp_path: Path) -> None:
    try_promises(open_store(str(tmp_path), {}), PROMISES, needs_lease=True)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_removed_is_told_beside_the_verdicts(tmp_path: Path) -> None:
    def look(trial: Trial) -> str:
        trial.store.write(trial.path("deep/one"), b"1")
        (tmp_path / trial.folder / "deep/.splitfire-0011223344556677.tmp").write_bytes(b"half")
        return "it is there"

    verdicts = try_promises(open_store(str(tmp_path), {}), [Promise("one", look)], needs_lease=False)

    assert [(each.name, each.holds) for each in verdicts] == [("one", True), ("clean-up", False)]
    assert "_splitfire/doctor-" in verdicts[1].found
    assert "could not be removed" in verdicts[1].found


MEETINGS: dict[int, Any] = {}
"""In a process of the pool: where so many rivals wait for each other."""


def remember(meetings: dict[int, Any]) -> None:
    MEETINGS.update(meetings)


@pytest.fixture(scope="module")
def pool(s3: S3Server) -> Iterator[ProcessPoolExecutor]:
    """Five processes that find the S3 server."""
    assert s3.endpoint
    context = multiprocessing.get_context("spawn")
    meetings = {n: context.Barrier(n) for n in (4, 5)}
    with ProcessPoolExecutor(5, context, remember, (meetings,)) as running:
        yield running


def create_in_step(url: str, paths: list[str], rival: str, n_rivals: int, meeting: Any = None) -> list[str]:
    """Create what a rival can get, all rivals beginning together with every few objects."""
    store, won, meeting = open_store(url, {}), [], meeting or MEETINGS[n_rivals]
    for start in range(0, len(paths), CHUNK):
        meeting.wait(60)
        won += create_each(store, paths[start : start + CHUNK], rival)
    return won


def count_in_step(url: str, paths: list[str], rival: str, n_rivals: int, meeting: Any = None) -> list[str]:
    """Add 10 to the number at the first path."""
    store, meeting = open_store(url, {}), meeting or MEETINGS[n_rivals]
    meeting.wait(60)
    count_up(store, paths[0], 10, rival)
    return []


Work = Callable[..., list[str]]


def race(
    pool: ProcessPoolExecutor, work: Work, url: str, paths: list[str], n_rivals: int
) -> dict[str, list[str]]:
    """What each rival returns: processes, but threads in memory, which no two processes share."""
    rivals = [f"rival {n}" for n in range(n_rivals)]
    if not url.startswith("memory:"):
        running = {rival: pool.submit(work, url, paths, rival, n_rivals) for rival in rivals}
        return {rival: each.result(120) for rival, each in running.items()}
    meeting = threading.Barrier(n_rivals)
    with ThreadPoolExecutor(n_rivals) as threads:
        won = threads.map(lambda rival: work(url, paths, rival, n_rivals, meeting), rivals)
        return dict(zip(rivals, won, strict=True))


@pytest.mark.parametrize("n_keys", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_of_four_processes_exactly_one_creates_each_object(
    pool: ProcessPoolExecutor, url: str, store: Store, n_keys: int
) -> None:
    paths = [f"raced/{n}" for n in range(n_keys)]

    won = race(pool, create_in_step, url, paths, N_RIVALS)

    assert find_false_winner(store, paths, won) == ""
    assert sum(map(len, won.values())) == n_keys
    assert sorted(each.path for each in store.list()) == sorted(paths)


def test_five_processes_count_to_exactly_fifty(pool: ProcessPoolExecutor, url: str, store: Store) -> None:
    store.create("counter", b"0")

    race(pool, count_in_step, url, ["counter"], 5)

    assert store.read("counter").split()[0] == b"50"


def write_half(store: Store, path: str, data: bytes | Path) -> None:
    whole = data if isinstance(data, bytes) else data.read_bytes()
    store._backend.write(path, whole[: len(whole) // 2])


def write_in_two(store: Store, path: str, data: bytes | Path) -> None:
    whole = data if isinstance(data, bytes) else data.read_bytes()
    store._backend.write(path, whole[: len(whole) // 2])
    store._backend.write(path, whole)


def create_after_looking(store: Store, path: str, data: bytes) -> str:
    if store.exists(path):
        raise ObjectExists(path, "it exists already")
    store.write(path, data)
    return store.stat(path).etag


def create_over(store: Store, path: str, data: bytes) -> str:
    store.write(path, data)
    return store.stat(path).etag


def replace_always(store: Store, path: str, data: bytes, etag: str) -> str:
    store.write(path, data)
    return etag


def list_nothing(_store: Store, _prefix: str) -> Iterator[StoredObject]:
    return iter(())


def delete_nothing(_store: Store, _path: str) -> None:
    return None


def refuse(_store: Store, path: str) -> None:
    raise AccessDenied(path, "you may not")


def write_other_names(store: Store, path: str, data: bytes | Path) -> None:
    store._faults.attempt(path, lambda: store._backend.write(path.replace("?", "_"), data))


@pytest.mark.parametrize(
    ("method", "sabotage", "broken"),
    [
        ("write", write_half, "write"),
        ("write", write_in_two, "overwrite"),
        ("list_under", list_nothing, "listing"),
        ("create", create_over, "exclusive create"),
        ("create", create_after_looking, "exclusive create"),
        ("replace", replace_always, "conditional replace"),
        ("delete", delete_nothing, "delete"),
        ("delete", refuse, "delete"),
        ("write", write_other_names, "names"),
    ],
)
def test_a_broken_promise_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, sabotage: Any, broken: str
) -> None:
    store = open_store(str(tmp_path), {})
    (promise,) = [each for each in PROMISES if each.name == broken]
    monkeypatch.setattr(Store, method, sabotage)

    with pytest.raises((Broken, StorageError)):
        promise.look(Trial(store, "_splitfire/tried"))


def test_a_server_that_checks_no_upload_is_found_out(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def put_anything(backend: S3, path: str) -> bool:
        backend.write(path, b"whole")
        return False

    monkeypatch.setattr(S3, "refuses_damage", put_anything)

    (verdict,) = try_promises(open_store(bucket, {}), [PROMISES[-1]], needs_lease=True)

    assert (verdict.name, verdict.holds) == ("checksums", False)
    assert "splitfire verify" in verdict.found
    assert list(open_store(bucket, {}).list()) == []


@pytest.mark.parametrize(
    ("method", "sabotage", "broken", "is_needed"),
    [
        ("create", create_over, "exclusive create", False),  # in a folder the lease is a lock on a file
        ("replace", replace_always, "conditional replace", True),
    ],
)
def test_what_a_lease_needs_is_needed_where_a_run_needs_a_lease(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    sabotage: Any,
    broken: str,
    is_needed: bool,
) -> None:
    monkeypatch.setattr(Store, method, sabotage)
    for needs_lease in (True, False):
        verdicts = try_promises(open_store(str(tmp_path), {}), PROMISES, needs_lease)
        (verdict,) = [each for each in verdicts if not each.holds]

        assert (verdict.name, verdict.is_needed) == (broken, is_needed and needs_lease)
        assert "--no-lease" in verdict.found
    assert tree(tmp_path) == {}


def test_what_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "delete", refuse)

    *_, last = try_promises(open_store(str(tmp_path), {}), PROMISES, needs_lease=False)

    assert (last.name, last.holds, last.is_needed) == ("clean-up", False, False)
    assert f"remove {tmp_path}/_splitfire/doctor-" in last.found


def test_a_trial_that_is_broken_off_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_store: Store, _path: str) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "read", interrupt)

    with pytest.raises(KeyboardInterrupt):
        try_promises(open_store(str(tmp_path), {}), PROMISES, needs_lease=False)

    assert tree(tmp_path) == {}
