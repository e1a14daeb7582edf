"""Every store keeps the same promises: one suite, run on a folder, in memory and against a real S3 server."""

from __future__ import annotations

import errno
import os
import pickle
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from splitfire_batch.errors import (
    AccessDenied,
    ConfigError,
    NoSpace,
    ObjectChanged,
    ObjectExists,
    ObjectMissing,
    StorageError,
    TransientError,
)
from splitfire_batch.storage import (
    RetryBudget,
    Store,
    Stores,
    check_path,
    files,
    listings,
    open_store,
    parse_url,
)
from splitfire_batch.storage.faults import SCHEMES
from splitfire_batch.storage.listings import MAX_KEYS
from tests.s3_server import S3Server

QUICK = RetryBudget(tries=2, first_wait_s=0.05, connect_timeout_s=1, read_timeout_s=5)
WEIRD = [
    "a b/c d.wav",
    "#1 hit.wav",
    "100%.wav",
    "what?.wav",
    "what?versionId=7.wav",
    "what?versionId=8.wav",
    "a%2Fb.wav",
    "x::y.wav",
    "Äpfel/日本語/🎸.flac",
    "plus+and&more=.wav",
    "quote'\".wav",
    "[set]{brace}*.wav",
]


@pytest.fixture
def store(url: str) -> Store:
    opened = open_store(url, {}, QUICK)
    opened.check_writable()
    return opened


def test_a_part_of_an_object_is_what_was_asked_for_or_what_is_left(store: Store) -> None:
    store.write("a b.bin", bytes(range(200)))
    assert store.read_part("a b.bin", 0, 4) == bytes(range(4))
    assert store.read_part("a b.bin", 150, 30) == bytes(range(150, 180))
    assert store.read_part("a b.bin", 190, 100) == bytes(range(190, 200))
    with pytest.raises(ObjectMissing):
        store.read_part("gone", 0, 4)


def test_what_is_written_is_read_back(store: Store) -> None:
    store.write("a/b.bin", b"hello")

    assert store.read("a/b.bin") == b"hello"
    assert store.exists("a/b.bin")
    assert not store.exists("a/c.bin")
    assert not store.exists("a")


def test_a_file_is_written_whole(store: Store, tmp_path: Path) -> None:
    data = secrets.token_bytes(3_000_000)
    (tmp_path / "source").write_bytes(data)

    store.write("big.bin", tmp_path / "source")

    assert store.read("big.bin") == data


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.write("empty", b"")

    assert store.read("empty") == b""
    assert store.stat("empty").n_bytes == 0


def test_fetch_gives_a_file_with_the_bytes(store: Store, tmp_path: Path) -> None:
    store.write("x.bin", b"12345")

    file = store.fetch("x.bin", tmp_path / "fetched")

    assert file.read_bytes() == b"12345"
    assert (file == tmp_path / "fetched") is not store.is_local


def test_fetch_of_another_length_than_expected_leaves_no_file(bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket, {}, RetryBudget(tries=1))
    store.write("x.bin", b"12345")

    with pytest.raises(TransientError, match="5 bytes arrived, 6 were expected"):
        store.fetch("x.bin", tmp_path / "x", n_bytes=6)

    assert list(tmp_path.iterdir()) == []


def test_fetch_of_another_object_than_was_listed_leaves_no_file(store: Store, tmp_path: Path) -> None:
    store.write("x.bin", b"12345")
    listed = store.stat("x.bin")
    assert store.fetch("x.bin", tmp_path / "x", 5, listed.etag).read_bytes() == b"12345"
    (tmp_path / "x").unlink(missing_ok=True)
    store.write("x.bin", b"54321")

    with pytest.raises(ObjectChanged, match=f"found etag {store.stat('x.bin').etag}, wanted {listed.etag}"):
        store.fetch("x.bin", tmp_path / "x", 5, listed.etag)

    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("action", ["stat", "read", "fetch"])
def test_a_missing_object_is_missing(store: Store, action: str, tmp_path: Path) -> None:
    actions = {
        "stat": store.stat,
        "read": store.read,
        "fetch": lambda path: store.fetch(path, tmp_path / "x"),
    }

    with pytest.raises(ObjectMissing, match="no such object"):
        actions[action]("nowhere/x")


def test_listing_shows_what_stat_shows(store: Store) -> None:
    paths = ["x", "a/y", "a/b/.hidden", "ab/z"]
    for path in paths:
        store.write(path, path.encode())

    found = {each.path: each for each in store.list()}

    assert sorted(found) == sorted(paths)
    for path in paths:
        stat = store.stat(path)
        assert stat.n_bytes == len(path)
        assert stat.etag == found[path].etag
        assert abs(stat.modified - time.time()) < 3600
    assert sorted(each.path for each in store.list_under("a")) == ["a/b/.hidden", "a/y"]


def test_listing_where_nothing_is_shows_nothing(store: Store) -> None:
    assert list(store.list()) == []
    assert list(store.list_under("no/such/folder")) == []


def test_a_listing_is_never_stale(url: str, store: Store) -> None:
    other = open_store(url, {}, QUICK)
    assert list(store.list()) == []

    other.write("new", b"1")
    assert [each.path for each in store.list()] == ["new"]
    other.delete("new")

    assert list(store.list()) == []
    assert not store.exists("new")


@pytest.mark.parametrize("path", WEIRD)
def test_keys_are_taken_as_they_are(store: Store, path: str, tmp_path: Path) -> None:
    store.write(path, b"odd")

    assert store.read(path) == b"odd"
    assert store.fetch(path, tmp_path / "odd").read_bytes() == b"odd"
    assert [each.path for each in store.list()] == [path]
    store.delete(path)
    assert list(store.list()) == []


def test_a_replaced_object_has_another_etag(store: Store) -> None:
    store.write("x", b"old")
    before = store.stat("x").etag

    store.write("x", b"new")

    assert before
    assert store.stat("x").etag != before


def test_delete_may_be_repeated(store: Store) -> None:
    store.write("x", b"1")

    store.delete("x")
    store.delete("x")

    assert not store.exists("x")


def test_create_refuses_what_exists_and_leaves_it(store: Store) -> None:
    store.create("lease", b"first")

    with pytest.raises(ObjectExists):
        store.create("lease", b"second")
    with pytest.raises(ObjectExists):
        store.create("lease", b"first")

    assert store.read("lease") == b"first"


def test_replace_changes_the_object_it_was_meant_for(store: Store) -> None:
    first = store.create("lease", b"1")

    second = store.replace("lease", b"22", first)

    assert store.read("lease") == b"22"
    assert first != second == store.stat("lease").etag


@pytest.mark.parametrize("path", ["lease", "nowhere"])
def test_replace_refuses_what_changed_or_is_gone(store: Store, path: str) -> None:
    first = store.create("lease", b"1")
    store.replace("lease", b"2", first)

    with pytest.raises(ObjectChanged, match=path):
        store.replace(path, b"3", first)

    assert [(each.path, store.read(each.path)) for each in store.list()] == [("lease", b"2")]


def test_replacing_waits_for_a_lock_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path), {}, QUICK)
    etag = store.create("lease", b"1")
    monkeypatch.setattr(files, "_LOCKED_WITHIN_S", 0.1)

    with files.locked(tmp_path / "lease"), pytest.raises(TransientError, match="lease is locked"):
        store.replace("lease", b"2", etag)

    store.replace("lease", b"2", etag)


def test_sixteen_threads_share_a_store(store: Store) -> None:
    def work(n: int) -> bytes:
        store.write(f"t/{n}", str(n).encode())
        return store.read(f"t/{n}")

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(work, range(64)))

    assert results == [str(n).encode() for n in range(64)]
    assert len(list(store.list_under("t"))) == 64


@pytest.mark.parametrize(
    ("n_keys", "n_in_page"), [(110, 50), pytest.param(1100, MAX_KEYS, marks=pytest.mark.slow)]
)
def test_a_listing_has_more_than_one_page(
    bucket: str, n_keys: int, n_in_page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "MAX_KEYS", n_in_page)
    store = open_store(bucket, {}, QUICK)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: store.write(f"many/{n:04}", b"."), range(n_keys)))

    assert sorted(each.path for each in store.list()) == [f"many/{n:04}" for n in range(n_keys)]


@pytest.mark.usefixtures("s3")
def test_a_missing_root_is_missing(tmp_path: Path) -> None:
    for url in ("s3://no-such-bucket/x", str(tmp_path / "no/folder")):
        with pytest.raises(ObjectMissing):
            open_store(url, {}, QUICK).check_readable()
    with pytest.raises(ObjectMissing):
        open_store("s3://no-such-bucket/x", {}, QUICK).check_writable()


@pytest.mark.usefixtures("s3")
def test_a_store_that_is_down_is_given_up_within_the_budget() -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        store = open_store("s3://music/x", {"s3://": {"endpoint_url": endpoint}}, QUICK)
        begin = time.monotonic()

        with pytest.raises(TransientError, match=r"s3://music/x.*2 tries"):
            store.check_readable()

    assert time.monotonic() - begin < 10


@pytest.mark.usefixtures("s3")
def test_a_store_that_hangs_is_given_up_within_the_budget() -> None:
    with socket.socket() as silent:  # accepts and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        options = {"s3://": {"endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}"}}
        budget = RetryBudget(tries=2, first_wait_s=0.05, connect_timeout_s=1, read_timeout_s=1)
        begin = time.monotonic()

        with pytest.raises(TransientError):
            open_store("s3://music/x", options, budget).read("y")

    assert time.monotonic() - begin < 15


class FaultyServer(BaseHTTPRequestHandler):
    """Answers with the statuses in `answers`, one a request."""

    protocol_version = "HTTP/1.1"  # or clients wait for "100 Continue" in vain
    answers: ClassVar[list[int]]
    stored: ClassVar[bytes]
    etag: ClassVar[str]

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        status = self.answers.pop(0)
        self.send_response(status)
        n_bytes = len(self.stored) if status == 200 and self.command != "PUT" else 0
        self.send_header("Content-Length", str(n_bytes))
        self.send_header("ETag", f'"{self.etag}"')
        self.send_header("Connection", "close")
        self.end_headers()
        if status == 200 and self.command == "GET":
            self.wfile.write(self.stored)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def faulty(s3: S3Server) -> Iterator[Store]:
    """A store of five tries whose server does what `FaultyServer.answers` says."""
    assert s3.endpoint  # for the credentials that it leaves in the environment
    FaultyServer.answers, FaultyServer.stored, FaultyServer.etag = [], b"the object", "of-what-is-stored"
    with ThreadingHTTPServer(("127.0.0.1", 0), FaultyServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        options = {"s3://": {"endpoint_url": f"http://127.0.0.1:{server.server_port}"}}
        yield open_store("s3://bucket", options, RetryBudget(first_wait_s=0.01, connect_timeout_s=1))
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(faulty: Store, status: int) -> None:
    FaultyServer.answers += [status, status, 200]

    assert faulty.read("x") == b"the object"


def test_what_does_not_pass_is_given_up(faulty: Store) -> None:
    FaultyServer.answers += [503] * 9

    with pytest.raises(TransientError, match=r"s3://bucket/x.*5 tries"):
        faulty.read("x")

    assert len(FaultyServer.answers) == 9 - 5


@pytest.mark.parametrize(
    ("status", "error"), [(403, AccessDenied), (404, ObjectMissing), (507, NoSpace), (400, StorageError)]
)
def test_a_refusal_is_final(faulty: Store, status: int, error: type[StorageError]) -> None:
    FaultyServer.answers += [status, 200]

    with pytest.raises(error, match="s3://bucket/x"):
        faulty.read("x")


def test_an_etag_that_only_looks_like_an_md5_keeps_nothing_from_being_read(faulty: Store) -> None:
    FaultyServer.etag = "0" * 32  # as of objects that are encrypted with a key of the customer's
    FaultyServer.answers += [200, 200, 200, 200]

    assert faulty.read("x") == b"the object"  # a second GET gave the same, and HEAD the length
    assert len(FaultyServer.answers) == 1
    assert faulty.read("y") == b"the object"

    assert FaultyServer.answers == []


def test_a_bucket_that_disappears_between_two_pages_ends_no_listing_silently(faulty: Store) -> None:
    FaultyServer.answers += [200, 404]
    FaultyServer.stored = b"""<ListBucketResult><IsTruncated>true</IsTruncated>
        <NextContinuationToken>more</NextContinuationToken><Contents><Key>a.wav</Key><Size>1</Size>
        <LastModified>2026-01-01T00:00:00Z</LastModified></Contents></ListBucketResult>"""

    listing = faulty.list()

    assert next(listing).path == "a.wav"
    with pytest.raises(ObjectMissing, match="s3://bucket"):
        next(listing)


def test_a_write_whose_answer_got_lost_has_succeeded(faulty: Store) -> None:
    FaultyServer.stored = b"mine"
    for write in (lambda: faulty.create("lease", b"mine"), lambda: faulty.replace("lease", b"mine", "old")):
        FaultyServer.answers += [503, 412, 200]

        assert write() == "of-what-is-stored"

        assert FaultyServer.answers == []


def test_a_write_of_which_no_answer_ever_came_is_looked_for(faulty: Store) -> None:
    FaultyServer.answers += [503] * 5 + [200]
    FaultyServer.stored = b"mine"

    assert faulty.create("lease", b"mine") == "of-what-is-stored"


def test_a_write_that_lost_after_a_retry_says_so(faulty: Store) -> None:
    FaultyServer.stored = b"theirs"
    for write, error in (
        (lambda: faulty.create("lease", b"mine"), ObjectExists),
        (lambda: faulty.replace("lease", b"mine", "old"), ObjectChanged),
    ):
        FaultyServer.answers += [503, 412, 200]

        with pytest.raises(error, match="lease"):
            write()


def test_a_write_may_be_tried_again_after_a_conflict(faulty: Store) -> None:
    FaultyServer.answers += [409, 200]

    assert faulty.replace("lease", b"mine", "old") == "of-what-is-stored"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a\0b",
        "http://x/y",
        "https://u:p@x/y",
        "ftp://x",
        "data:text/plain,x",
        "reference://x",
        "local:///etc",
        "file://host/x",
        "simplecache::s3://b/x",
        "simplecache::/etc/passwd",
        "s3://",
        "s3://b/../c",
        "s3://key:secret@bucket/x",
        "memory://a::b/c",
    ],
)
def test_other_urls_are_refused_without_showing_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_store(url, {})

    assert "secret" not in str(error.value)
    assert "u:p" not in str(error.value)


def test_local_urls_mean_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    wanted = ("file", f"{tmp_path}/My Music")

    for url in ("~/My Music", "My Music", f"{tmp_path}/x/../My Music/", f"file://{tmp_path}/My%20Music"):
        assert parse_url(url) == wanted


def test_the_home_folder_of_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"~nouser/x.*write the folder's full path"):
        parse_url("~nouser/x")


def test_a_missing_package_and_an_unknown_option_are_named() -> None:
    with pytest.raises(ConfigError, match=r"splitfire-batch\[gcs\]"):
        open_store("gs://bucket/x", {})
    with pytest.raises(ConfigError, match="no option endpoint; known are endpoint_url"):
        open_store("s3://bucket/x", {"s3://": {"endpoint": "x"}})


def test_every_extra_that_a_message_names_installs_its_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = {scheme.extra: scheme.package for scheme in SCHEMES.values() if scheme.extra}

    for extra, package in extras.items():
        assert [need for need in project["optional-dependencies"][extra] if need.startswith(package)]


@pytest.mark.usefixtures("s3")
def test_the_longest_matching_prefix_gives_the_options() -> None:
    options = {"s3://": {"wrong": "1"}, "s3://bucket/inner": {}}

    assert open_store("s3://bucket/inner/x", options).url == "s3://bucket/inner/x"
    with pytest.raises(ConfigError, match="wrong"):
        open_store("s3://bucket/other", options)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "..", "a/../../b", "a\0b"])
def test_paths_stay_below_the_root(store: Store, path: str) -> None:
    with pytest.raises(ValueError, match="below the store's root"):
        store.write(path, b"x")
    with pytest.raises(ValueError, match="below the store's root"):
        check_path(path)


def test_a_link_leads_no_writer_out_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    store = open_store(str(tmp_path / "root"), {})

    for action in (
        lambda: store.write("link/new", b"x"),
        lambda: store.create("link/new", b"x"),
        lambda: store.delete("link/kept"),
    ):
        with pytest.raises(AccessDenied, match="out of"):
            action()

    assert [each.name for each in (tmp_path / "outside").iterdir()] == ["kept"]


def test_a_linked_file_is_replaced_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("kept")
    store = open_store(str(tmp_path / "root"), {})
    store.check_writable()
    (tmp_path / "root/stem.wav").symlink_to(tmp_path / "outside")

    with pytest.raises(ObjectExists):
        store.create("stem.wav", b"new")
    store.write("stem.wav", b"new")

    assert (tmp_path / "outside").read_text() == "kept"
    assert not (tmp_path / "root/stem.wav").is_symlink()


def test_a_walk_follows_links_and_ends_in_loops(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a.wav").write_bytes(b"1")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub/up").symlink_to(root)
    (root / "linked").symlink_to(tmp_path / "disk")
    (root / "gone.wav").symlink_to(tmp_path / "nowhere")

    found = {each.path: each.etag for each in open_store(str(root), {}).list()}

    assert sorted(found) == ["gone.wav", "linked/a.wav"]
    assert found["gone.wav"] == ""


def before_scan(monkeypatch: pytest.MonkeyPatch, name: str, happen: Callable[[Path], object]) -> None:
    """Let something happen to the folders called `name` just before they are read."""
    scan = os.scandir

    def scandir(path: Path) -> object:
        if isinstance(path, Path) and path.name == name:
            happen(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)


def refuse(folder: Path) -> None:  # permission bits would not do: root may run these tests
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder `root` with one object in each of its folders 0 to 4."""
    for n in range(5):
        (tmp_path / f"root/{n}").mkdir(parents=True)
        (tmp_path / f"root/{n}/x.wav").write_bytes(b"1")
    return tmp_path / "root"


@pytest.mark.parametrize("happen", [shutil.rmtree, become_a_file])
def test_a_folder_that_disappears_while_listing_takes_no_other_along(
    root: Path, happen: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before_scan(monkeypatch, "2", happen)

    found = [each.path for each in open_store(str(root), {}).list()]

    assert sorted(found) == ["0/x.wav", "1/x.wav", "3/x.wav", "4/x.wav"]


def test_a_root_that_disappears_while_listing_ends_no_listing_silently(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_scan(monkeypatch, "2", lambda _: shutil.rmtree(root))

    with pytest.raises(ObjectMissing, match=str(root)):
        list(open_store(str(root), {}).list())


def test_folders_without_access_are_counted_when_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_scan(monkeypatch, "2", refuse)
    left_out: Counter[str] = Counter()

    found = [each.path for each in open_store(str(root), {}).list(left_out=left_out)]

    assert sorted(found) == ["0/x.wav", "1/x.wav", "3/x.wav", "4/x.wav"]
    assert left_out == {"no access": 1}


def test_folders_without_access_are_fatal_where_nobody_counts(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_scan(monkeypatch, "2", refuse)

    with pytest.raises(AccessDenied):
        list(open_store(str(root), {}).list())


def test_a_root_without_access_is_fatal(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_scan(monkeypatch, "root", refuse)

    with pytest.raises(AccessDenied):
        list(open_store(str(root), {}).list(left_out=Counter()))


def test_an_interrupted_write_leaves_no_object(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "root"), {})
    store.check_writable()

    with pytest.raises(StorageError):
        store.write("x", tmp_path / "no such source")

    assert list((tmp_path / "root").iterdir()) == []


def test_a_store_does_not_travel(store: Store) -> None:
    with pytest.raises(TypeError, match="send its URL"):
        pickle.dumps(store)


def test_an_object_is_found_by_its_uri(store: Store) -> None:
    store.write("a/b c.wav", b"1")

    found, path = Stores({}, QUICK).locate(store.uri_of("a/b c.wav"))

    assert found.read(path) == b"1"
    assert found.uri_of(path) == store.uri_of("a/b c.wav")


FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from splitfire_batch.errors import NoSpace
from splitfire_batch.storage import open_store

root, scratch = Path(sys.argv[1]), Path(sys.argv[2])
store = open_store(str(root), {})
etag = store.create("lease", b"small")
store.write("x", b"old")
(scratch / "source").write_bytes(bytes(300_000))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for write in (
    lambda: store.write("x", bytes(300_000)),
    lambda: store.write("x", scratch / "source"),
    lambda: store.create("y", bytes(300_000)),
    lambda: store.replace("lease", bytes(300_000), etag),
):
    try:
        write()
    except NoSpace as error:
        print(error)
"""


def test_a_full_disk_tears_nothing(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()

    command = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "root"), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert said.stderr == ""
    assert said.stdout.count("the disk or the quota is full") == 4
    assert {each.name: each.read_bytes() for each in (tmp_path / "root").iterdir()} == {
        "lease": b"small",
        "x": b"old",
    }


def test_a_download_that_finds_the_disk_full_leaves_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(bucket, {}, QUICK)
    store.write("x", bytes(100_000))
    fetch = store._backend.fetch

    def fill_the_disk(path: str, to: Path, etag: str) -> None:
        fetch(path, to, etag)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store._backend, "fetch", fill_the_disk)

    with pytest.raises(NoSpace):
        store.fetch("x", tmp_path / "x")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)

    with pytest.raises(StorageError, match=r"lease: .*no hard links"):
        open_store(str(tmp_path), {}).create("lease", b"1")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("skew_s", [-86_400, 86_400])
def test_a_clock_that_jumps_changes_no_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: int
) -> None:
    store = open_store(str(tmp_path), {})
    first = store.create("lease", b"1")
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + skew_s * 10**9)

    second = store.replace("lease", b"2", first)

    assert second not in ("", first)
    with pytest.raises(ObjectChanged):
        store.replace("lease", b"3", first)
    monkeypatch.undo()
    assert store.replace("lease", b"3", second) not in (first, second)


def test_an_etag_never_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)  # a clock that stands still; inodes are used again
    store = open_store(str(tmp_path), {})
    etags, times = [store.create("lease", b"0")], []

    for _ in range(20):
        times.append((tmp_path / "lease").stat().st_mtime_ns)
        etags.append(store.replace("lease", b"1", etags[-1]))

    assert len(set(etags)) == 21
    assert times == [10**18 + 1000 * n for n in range(20)]  # whatever the kernel's clock would have said


def test_an_object_is_copied_within_its_store_over_what_was_there(url: str) -> None:
    store = open_store(url, {})
    store.write("a/b.wav", b"0123456789")
    store.write("there", b"old")
    for to in ("new/c.wav", "there"):
        store.copy(to, "a/b.wav")
        assert store.read(to) == b"0123456789"
    store.write("a/b.wav", b"changed")
    assert store.read("there") == b"0123456789"
    with pytest.raises(ObjectMissing):
        store.copy("there", "gone")
    assert store.read("there") == b"0123456789"
