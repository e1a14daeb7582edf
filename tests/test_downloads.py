"""Weights over HTTP: cut off and gone on with, changed on the way, asked for by many processes at once."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from flows.downloading import plain_lines, showing_downloads
from splitfire_batch.errors import ConfigError, StorageError, TransientError
from splitfire_batch.models.cards import ModelCard, WeightsFile
from splitfire_batch.models.downloads import WATCH
from splitfire_batch.models.supply import Supply
from splitfire_batch.models.weights import cache_folder, fetch_weights, load_weights
from splitfire_batch.storage import open_store
from splitfire_batch.storage.download import download
from tests.test_weights import DATA, FILES, INDEX, card_with
from tests.weights_server import WeightsServer

BIG = bytes(range(256)) * 40_000
"""10 MB: more than the buffers between two processes hold."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with WeightsServer({"/big": BIG, **{f"/{name}": content for name, content in FILES.items()}}) as running:
        yield running


def fetch(url: str, to: Path, limit: int = 2**30) -> list[int]:
    """What `download` tells on its way."""
    told: list[int] = []
    download(url, to, {}, limit, lambda n_bytes, _: told.append(n_bytes))
    return told


def test_a_download_tells_how_far_it_is(server, tmp_path):
    told = fetch(f"{server.url}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == BIG
    assert told == sorted(told)
    assert told[-1] == len(BIG)
    assert len(told) > 3


def test_what_a_broken_connection_brought_is_gone_on_with(server, tmp_path):
    server.cuts = [3_000_000, 2_000_000]
    fetch(f"{server.url}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == BIG
    assert [asked for _, asked in server.requests] == ["", "bytes=3000000-", "bytes=5000000-"]
    assert server.n_sent == len(BIG)


def test_a_download_is_gone_on_with_by_the_next_process(server, tmp_path):
    server.cuts = [3_000_000]
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from splitfire_batch.storage.download import download\n"
        "def tell(n_bytes, _):\n"
        "    if n_bytes >= 3_000_000: os._exit(9)\n"
        "download(sys.argv[1], Path(sys.argv[2]), {}, 2**30, tell)\n"
    )
    child = subprocess.run([sys.executable, "-c", code, f"{server.url}/big", str(tmp_path / "big")])
    assert child.returncode == 9
    fetch(f"{server.url}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == BIG
    assert server.requests[-1] == ("/big", "bytes=3000000-")


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_source_that_changed_starts_anew(server, tmp_path, has_ranges):
    server.cuts, server.has_ranges = [3_000_000], has_ranges
    other = BIG[::-1]

    class Changing(dict[str, bytes]):
        def get(self, *_):
            if len(server.requests) > 1:
                server.etags["/big"] = '"another"'
                return other
            return BIG

    server.files = Changing()
    fetch(f"{server.url}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == other


def test_a_source_that_got_shorter_starts_anew(server, tmp_path):
    (tmp_path / "big").write_bytes(BIG + b"more")
    (tmp_path / "big.mark").write_text('"same"')
    fetch(f"{server.url}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == BIG
    assert len(server.requests) == 2


def test_bytes_without_a_mark_are_not_gone_on_with(server, tmp_path):
    server.etags["/big"] = ""
    server.cuts = [3_000_000]
    fetch(f"{server.url}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == BIG
    assert [asked for _, asked in server.requests] == ["", ""]


def test_a_download_stops_at_its_limit(server, tmp_path):
    with pytest.raises(StorageError, match="wanted at most 1000"):
        fetch(f"{server.url}/big", tmp_path / "big", limit=1000)
    assert not (tmp_path / "big").exists()
    assert server.n_sent <= len(BIG)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_source_is_copied_no_further_than_its_limit(tmp_path, scheme):
    (tmp_path / "large").write_bytes(BIG)
    with pytest.raises(StorageError, match=f"has {len(BIG)} bytes, wanted at most 1000"):
        fetch(f"{scheme}{tmp_path}/large", tmp_path / "copy", limit=1000)
    assert not (tmp_path / "copy").exists()


def test_a_local_source_that_grows_is_stopped_at_its_limit(tmp_path):
    source = tmp_path / "growing"
    source.write_bytes(bytes(100))

    def grow(*_: object) -> None:
        with source.open("ab") as file:
            file.write(bytes(400_000))

    with pytest.raises(StorageError, match="wanted at most 1000000"):
        download(str(source), tmp_path / "copy", {}, 1_000_000, grow)
    assert not (tmp_path / "copy").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_no_source(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    source = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    with pytest.raises(StorageError, match="is no regular file"):
        fetch(str(source), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_server_that_is_not_there_is_told_within_seconds(tmp_path):
    with pytest.raises(TransientError, match="tries in"):
        fetch("http://127.0.0.1:9/big", tmp_path / "big")


@pytest.mark.parametrize("path", ["absent", "big"])
def test_s3_objects_are_gone_on_with(bucket, tmp_path, path):
    store = open_store(bucket, {})
    store.write("big", BIG)
    if path == "absent":
        with pytest.raises(StorageError, match="there is no such object"):
            fetch(f"{bucket}/absent", tmp_path / "big")
        return
    (tmp_path / "big").write_bytes(b"!" * 3_000_000)  # to see which bytes are asked for
    (tmp_path / "big.mark").write_text(store.stat("big").etag)
    told = fetch(f"{bucket}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == b"!" * 3_000_000 + BIG[3_000_000:]
    assert told[0] > 3_000_000
    (tmp_path / "big").write_bytes(b"!" * 3_000_000)
    (tmp_path / "big.mark").write_text("0" * 32)  # of an object that was there before
    fetch(f"{bucket}/big", tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == BIG


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_weights_come_from_every_kind_of_store(bucket, scheme):
    root = bucket if scheme == "s3" else "memory://weights"
    for name, content in FILES.items():
        open_store(root, {}).write(f"tiny/{name}", content)
    assert "step" in load_weights(card_with("/absent/"), Supply(root))


def test_ten_processes_that_start_together_download_once(server):
    card = card_with(f"{server.url}/")
    server.cuts = [len(INDEX) // 2]
    code = (
        "import pickle, sys\n"
        "from splitfire_batch.models.weights import fetch_weights\n"
        "card = pickle.load(sys.stdin.buffer)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.buffer.read(1)\n"
        "print(fetch_weights(card))\n"
        "assert 'torch' not in sys.modules\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    children = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(10)]
    for child in children:
        child.stdin.write(pickle.dumps(card))
        child.stdin.flush()
    assert {child.stdout.readline() for child in children} == {b"ready\n"}
    for child in children:
        child.stdin.write(b"!")
        child.stdin.close()
    found = set()
    for child in children:
        with child.stdout:
            found.add(child.stdout.read())
        assert child.wait() == 0
    assert len(found) == 1
    assert server.n_sent == len(INDEX) + len(DATA)
    assert [path for path, _ in server.requests] == ["/model.index"] * 2 + ["/model.data-00000-of-00001"]
    assert sorted(path.suffix for path in cache_folder().iterdir()) == [".lock", ".safetensors"]


def test_a_fetch_that_broke_off_keeps_what_it_has_and_a_later_one_goes_on(server):
    card = card_with(f"{server.url}/")
    server.cuts = [len(INDEX), 1, *[0] * 7]  # as long as something arrives, there is another round
    with pytest.raises(TransientError, match="tries in"):
        fetch_weights(card)
    server.cuts.clear()
    fetch_weights(card)
    assert server.requests[-1] == ("/model.data-00000-of-00001", "bytes=1-")
    assert server.n_sent == len(INDEX) + len(DATA)


@pytest.mark.parametrize("etag", ['"same"', ""], ids=["mark", "no mark"])
def test_a_part_is_kept_only_where_it_can_be_gone_on_with(server, etag):
    server.etags["/model.index"] = etag
    server.cuts = [10, *[0] * 7]
    with pytest.raises(TransientError, match="tries in"):
        fetch_weights(card_with(f"{server.url}/"))
    kept = sorted(path.suffix for path in cache_folder().rglob("*") if path.is_file())
    assert kept == ([".lock", ".mark", ".part"] if etag else [".lock"])


def test_what_was_gone_on_with_and_is_wrong_is_fetched_whole(server):
    """The mark of a source need not tell its versions apart: the hash of the whole does."""
    card = card_with(f"{server.url}/")
    server.files["/model.index"] = b"!" * len(INDEX)
    server.cuts = [10, *[0] * 7]
    with pytest.raises(TransientError, match="tries in"):
        fetch_weights(card)
    server.files["/model.index"] = INDEX
    fetch_weights(card)
    assert [asked for path, asked in server.requests if path == "/model.index"][-2:] == ["bytes=10-", ""]


def test_a_source_that_answers_with_other_bytes_is_refused_and_named(server):
    server.files["/model.index"] = INDEX[:-1] + b"!"
    with pytest.raises(ConfigError, match=f"{server.url}/model.index: has the sha256 "):
        fetch_weights(card_with(f"{server.url}/"))


@pytest.mark.parametrize("status", [404, 410, 403, 400])
def test_an_answer_that_stands_is_no_passing_fault(server, status):
    server.refusals["/model.index"] = [status]
    with pytest.raises(ConfigError, match=f"{server.url}/model.index: "):
        fetch_weights(card_with(f"{server.url}/"))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_answer_that_passes_is_told_as_one_beside_those_that_stand(server, status):
    server.refusals["/model.index"] = [status]
    with pytest.raises(TransientError) as caught:
        fetch_weights(card_with(f"{server.url}/", "/absent/", f"{server.url}/absent/"))
    first, away, local, missing, advice = str(caught.value).splitlines()
    assert first.startswith(f"no source has model.index of tiny ({len(INDEX)} bytes")
    assert f"{server.url}/model.index: " in away
    assert "tries in" in away
    assert local.startswith("  /absent/model.index: ")
    assert missing == f"  {server.url}/absent/model.index: there is no such object, folder or bucket"
    assert advice.startswith("Run the same command again; or put it at <folder>/tiny/model.index and set")


@pytest.mark.parametrize(
    "root", ["http://127.0.0.1:9/", "http://nowhere.invalid/"], ids=["refused", "no name"]
)
def test_a_server_that_cannot_be_reached_may_be_later(server, root):
    with pytest.raises(TransientError, match="tries in"):
        fetch_weights(card_with(root, f"{server.url}/absent/"))
    assert "step" in load_weights(card_with(root, f"{server.url}/"))


def test_whoever_is_patient_waits_for_a_source(server):
    server.refusals["/model.index"] = [503, 503, 503, 503, 200]
    assert "step" in load_weights(card_with(f"{server.url}/"), Supply(patience_s=60))
    assert [path for path, _ in server.requests].count("/model.index") == 5


@pytest.mark.parametrize(
    ("status", "kind"), [(503, TransientError), (404, ConfigError), (None, TransientError)]
)
def test_pips_index_is_away_or_has_no_such_wheel(server, monkeypatch, status, kind):
    url = f"{server.url}/simple" if status else "http://127.0.0.1:9/simple"
    server.refusals["/simple/tiny-weights/"] = [status or 200]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(kind, match=f"pip download ended with 1: Could not fetch URL {url}/tiny-weights/: "):
        fetch_weights(card_with("pypi:tiny-weights==1.0!tiny/"))


def archive_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A .tar.gz of these files in their order, after links to the paths given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, target in (links or {}).items():
            item = tarfile.TarInfo(name)
            item.type, item.linkname = tarfile.SYMTYPE, target
            tar.addfile(item)
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            tar.addfile(item, io.BytesIO(content))
    return buffer.getvalue()


def card_of(name: str, content: bytes, *sources: str) -> ModelCard:
    file = WeightsFile(name, hashlib.sha256(content).hexdigest(), len(content), sources)
    return ModelCard(
        "tiny", "spleeter", ("vocals",), 44_100, 2, (file,), "MIT", "MIT", "", True, "none", "", ()
    )


@pytest.mark.parametrize("root", ["", "./"])
def test_weights_come_out_of_an_archive_that_is_verified_whole(server, root):
    archive = archive_of(
        {f"{root}{name}": content for name, content in [*FILES.items(), ("checkpoint", b"")]}
    )
    server.files["/1.tar.gz"] = archive
    assert "step" in load_weights(card_of("1.tar.gz", archive, f"{server.url}/1.tar.gz"))


def test_weights_come_out_of_an_archive_by_the_names_of_its_members(server):
    server.files["/1.tar.gz"] = archive_of({f"./2stems/{name}": content for name, content in FILES.items()})
    assert "step" in load_weights(card_with(f"{server.url}/1.tar.gz!2stems/"))
    assert [path for path, _ in server.requests].count("/1.tar.gz") == 1


@pytest.mark.parametrize(
    ("member", "content", "why"),
    [
        ("absent", b"", "holds no absent"),
        ("model.index", b"!" * 10_000_000, "wanted"),
        ("link", b"", "holds no link"),
        ("outside", b"", "holds no outside"),
    ],
)
def test_members_that_are_not_what_they_should_be_are_refused(server, member, content, why):
    links = {"link": "model.index", "outside": "/etc/hostname"}
    server.files["/1.tar.gz"] = archive_of({"model.index": content}, links)
    file = WeightsFile("model.index", "0" * 64, 100, (f"{server.url}/1.tar.gz!{member}",))
    card = ModelCard("t", "spleeter", ("v",), 44_100, 2, (file,), "", "", "", True, "", "", ())
    with pytest.raises(ConfigError, match=why):
        fetch_weights(card)
    assert sum(path.stat().st_size for path in cache_folder().rglob("*") if path.is_file()) < 1_000_000


def test_an_archive_without_a_checkpoint_is_refused(server):
    archive = archive_of({"readme": b"hello"})
    server.files["/1.tar.gz"] = archive
    with pytest.raises(ConfigError, match=r"the archive holds \[\], wanted one model.index"):
        fetch_weights(card_of("1.tar.gz", archive, f"{server.url}/1.tar.gz"))


@pytest.mark.parametrize("more", ["old/model.index", "model.data-00001-of-00002"])
def test_an_archive_of_more_than_one_checkpoint_is_not_read_on(server, more, monkeypatch):
    """What lies behind the first could be of any size; and which one is meant nobody knows."""
    content = [*FILES.items(), (more, b"another"), ("third/model.index", b"one more")]
    archive = archive_of({f"./{name}": data for name, data in content})
    server.files["/1.tar.gz"] = archive
    read: list[str] = []

    def extract(tar, item, real=tarfile.TarFile.extractfile):
        read.append(item.name)
        return real(tar, item)

    monkeypatch.setattr(tarfile.TarFile, "extractfile", extract)
    with pytest.raises(ConfigError, match=f"1.tar.gz holds ./{more} besides .*; wanted one checkpoint"):
        fetch_weights(card_of("1.tar.gz", archive, f"{server.url}/1.tar.gz"))
    assert read[-1] == f"./{more}"


def test_offline_opens_no_connection_and_says_what_to_put_where(server, tmp_path):
    card = card_with(f"{server.url}/", "pypi:tiny-weights==1.0!tiny/")
    with pytest.raises(ConfigError) as caught:
        fetch_weights(card, Supply(str(tmp_path / "mirror"), is_offline=True))
    first, mirror, url, pip, advice = str(caught.value).splitlines()
    digest = hashlib.sha256(INDEX).hexdigest()
    assert first == f"no source has model.index of tiny ({len(INDEX)} bytes, sha256 {digest}):"
    assert mirror == f"  {tmp_path}/mirror/tiny/model.index: there is no such object, folder or bucket"
    assert url == f"  {server.url}/model.index: not asked: this is offline"
    assert pip == "  pypi:tiny-weights==1.0!tiny/model.index: not asked: this is offline"
    assert advice == f"To work offline, put it at {tmp_path}/mirror/tiny/model.index."
    assert not server.requests


def test_offline_takes_files_of_this_machine(server, tmp_path):
    (tmp_path / "mirror" / "tiny").mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "mirror" / "tiny" / name).write_bytes(content)
    card = card_with(f"{server.url}/")
    assert "step" in load_weights(card, Supply(str(tmp_path / "mirror"), is_offline=True))
    assert not server.requests


def test_whoever_watches_is_told_of_each_file(server):
    told: list[tuple[str, int, int | None]] = []
    token = WATCH.set(lambda *news: told.append(news))
    try:
        fetch_weights(card_with(f"{server.url}/"))
    finally:
        WATCH.reset(token)
    assert ("model.index", len(INDEX), len(INDEX)) in told
    assert ("model.data-00000-of-00001", len(DATA), len(DATA)) in told


def test_without_a_terminal_there_are_plain_lines(monkeypatch):
    lines = io.StringIO()
    now = [0.0]
    monkeypatch.setattr("flows.downloading.time.monotonic", lambda: now[0])
    watch = plain_lines(Console(file=lines))
    for now[0], n_bytes in ((0.0, 0), (1.0, 10_000_000), (11.0, 60_000_000), (12.0, 70_000_000)):
        watch("model.data", n_bytes, 80_000_000)
    watch("model.data", 80_000_000, 80_000_000)
    assert lines.getvalue().splitlines() == [
        "fetching model.data: 0.0 of 80.0 MB",
        "fetching model.data: 60.0 of 80.0 MB",
        "fetching model.data: 80.0 of 80.0 MB",
    ]


def test_on_a_terminal_a_bar_moves_while_files_are_on_their_way(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with showing_downloads():
        assert capsys.readouterr().err == ""
        WATCH.get()("model.data", 40_000_000, 80_000_000)
        print("data")
        time.sleep(0.3)  # it is drawn ten times a second
        WATCH.get()("model.data", 80_000_000, 80_000_000)
        seen = capsys.readouterr()
    assert "model.data" in seen.err
    assert "40.0/80.0 MB" in seen.err
    assert seen.out == "data\n"
    assert WATCH.get() is None


def test_quiet_shows_nothing(server, capsys):
    with showing_downloads(is_quiet=True):
        fetch_weights(card_with(f"{server.url}/"))
    assert capsys.readouterr().err == ""
