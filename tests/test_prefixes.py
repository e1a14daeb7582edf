"""A bucket is listed by several readers at once, and what they find is what there is, each object once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitfire_batch.errors import TransientError
from splitfire_batch.storage import RetryBudget, listings, open_store
from splitfire_batch.storage.listings import Pages
from splitfire_batch.storage.prefixes import read_side_by_side
from tests.fault_proxy import FaultProxy, Rule
from tests.s3_server import S3Server

keys = st.sets(
    st.lists(st.sampled_from(["a", "b", "a-b", "", "c.wav"]), min_size=1, max_size=4)
    .map("/".join)
    .filter(bool)
)


class FakeBucket:
    """Answers `list_objects_v2` as S3 says it: keys in order, of each folder only its prefix if asked so.

    Args:
        names: of the objects.
        page: objects and prefixes in one answer.
    """

    def __init__(self, names: set[str], page: int) -> None:
        self._names, self._page = sorted(names), page
        self.requests: list[dict[str, Any]] = []

    def ask(self, method: str, **request: Any) -> dict[str, Any]:
        assert method == "list_objects_v2"
        self.requests.append(request)
        prefix, found = request["Prefix"], dict[str, bool]()
        for name in self._names:
            if name.startswith(prefix):
                folder, mark, _ = name[len(prefix) :].partition("/")
                is_folder = bool(mark) and "Delimiter" in request
                found[f"{prefix}{folder}/" if is_folder else name] = is_folder
        begin = int(request.get("ContinuationToken") or 0)
        some = list(found.items())[begin : begin + self._page]
        end = begin + len(some)
        return {
            "Contents": [{"Key": name, "Size": 1} for name, is_folder in some if not is_folder],
            "CommonPrefixes": [{"Prefix": name} for name, is_folder in some if is_folder],
            "IsTruncated": end < len(found),
            "NextContinuationToken": str(end) if end < len(found) else None,
        }


def listed(ask: Callable[..., Any], prefix: str = "") -> Counter[str]:
    """How often each path is told."""
    root = Pages(ask, "bucket", prefix, len(prefix))
    pages = read_side_by_side(root, root() or (), lambda pages: pages())
    return Counter(found.path for page in pages for found in page)


@settings(max_examples=40)
@given(keys, st.integers(1, 3), st.sampled_from(["", "a/"]))
def test_each_object_is_told_once(names: set[str], page: int, prefix: str) -> None:
    """Keys that end in "/" are no objects; one that begins with it, and empty folders, are like any other."""
    wanted = {name[len(prefix) :] for name in names if name.startswith(prefix) and not name.endswith("/")}
    assert listed(FakeBucket(names, page).ask, prefix) == Counter(wanted)


def test_one_page_takes_one_request() -> None:
    bucket = FakeBucket({f"{n % 7}/{n}" for n in range(50)}, 50)
    assert listed(bucket.ask).total() == 50
    assert len(bucket.requests) == 1


def test_many_small_folders_take_no_request_each() -> None:
    bucket = FakeBucket({f"{n // 5:03}/{n}" for n in range(1_000)}, 50)
    assert listed(bucket.ask).total() == 1_000
    assert len(bucket.requests) == 20


def test_few_large_folders_take_hardly_more_requests() -> None:
    bucket = FakeBucket({f"music/{n // 300}/{n}" for n in range(3_000)}, 30)
    assert listed(bucket.ask).total() == 3_000
    assert len(bucket.requests) <= 100 + 2 * 2  # two levels are divided: a page read twice, and its folders


def test_what_fails_is_raised_and_no_reader_stays() -> None:
    bucket = FakeBucket({f"{n // 100}/{n:03}" for n in range(1_000)}, 10)

    def ask(method: str, **request: Any) -> Any:
        if request["Prefix"] == "7/" and request.get("ContinuationToken"):
            raise OSError("the network is down")
        return bucket.ask(method, **request)

    with pytest.raises(OSError, match="the network is down"):
        listed(ask)
    assert_no_reader_stays()


def test_who_stops_reading_leaves_no_reader_behind() -> None:
    root = Pages(FakeBucket({f"{n // 100}/{n:03}" for n in range(2_000)}, 10).ask, "bucket", "", 0)
    pages = read_side_by_side(root, root() or (), lambda pages: pages())
    assert next(pages) == []  # nothing lies beside the folders
    pages.close()  # type: ignore[attr-defined]
    assert_no_reader_stays()


def assert_no_reader_stays() -> None:
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("listing-") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def library(s3: S3Server) -> tuple[str, set[str]]:
    """A bucket of ten folders with twelve objects each, and some odd ones."""
    s3.make_bucket("library")
    names = {f"{folder}/{n:02} a&b+é.wav" for folder in "abcdefghij" for n in range(12)}
    names |= {"z.wav", "a/b/c/d.wav", "a-b/c.wav", "%2F.wav"}
    store = open_store("s3://library", {})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.write(f"in/{name}", b"."), names))
    return "s3://library/in", names


@pytest.fixture
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four objects in a page in place of a thousand."""
    monkeypatch.setattr(listings, "MAX_KEYS", 4)


@pytest.mark.usefixtures("_small_pages")
def test_a_real_server_lists_the_same_side_by_side(library: tuple[str, set[str]]) -> None:
    url, names = library
    store = open_store(url, {})
    found = list(store.list())
    assert Counter(item.path for item in found) == Counter(names)
    assert {item.path for item in store.list_under("a")} == {name for name in names if name.startswith("a/")}
    first = min(found, key=lambda item: item.path)
    assert (first.n_bytes, first.etag) == (1, store.stat(first.path).etag)


@pytest.mark.usefixtures("_small_pages")
def test_answers_are_waited_for_side_by_side(
    s3: S3Server, library: tuple[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, names = library
    with FaultProxy(s3.endpoint, Rule("latency", match="list-type=2", seconds=0.3)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_store(url, {})
        begin = time.monotonic()
        assert len(list(store.list())) == len(names)
        took_s = time.monotonic() - begin
    one_by_one_s = 0.3 * len(proxy.requests)
    assert one_by_one_s > 9
    assert took_s < one_by_one_s / 2  # where nothing else runs it takes 3.3 s


@pytest.mark.usefixtures("_small_pages")
def test_an_outage_in_the_middle_ends_no_listing_silently(
    s3: S3Server, library: tuple[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = library
    with FaultProxy(s3.endpoint, Rule("status", match="prefix=in%2Fg")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_store(url, {}, RetryBudget(tries=2, first_wait_s=0.01))
        with pytest.raises(TransientError):
            list(store.list())
    assert_no_reader_stays()
