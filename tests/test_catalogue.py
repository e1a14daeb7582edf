"""The catalogue, over folders and real buckets; no audio is needed, names and sizes are enough."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from splitfire_batch.catalogue import LISTING, Catalogue, list_tracks
from splitfire_batch.config import CatalogueConfig
from splitfire_batch.errors import AccessDenied, ConfigError, CredentialsExpired
from splitfire_batch.storage import Store, StoredObject, open_store

ALL = CatalogueConfig()
TREE = {
    "b.flac": b"22",
    "a/one.wav": b"1",
    "a/Two.MP3": b"333",
    "a/deep/er/x.ogg": b"4444",
    "a/._one.wav": b"resource fork",
    ".DS_Store": b"x",
    "cover.jpg": b"x",
    "README": b"x",
    "_splitfire/runs/1/spool.wav": b"x",
}
TRACKS = ["a/Two.MP3", "a/deep/er/x.ogg", "a/one.wav", "b.flac"]


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "folder":
        store = open_store(str(tmp_path / "music"), {})
    elif request.param == "memory":
        store = open_store(f"memory://{secrets.token_hex(6)}/music", {})
    else:
        store = open_store(f"{request.getfixturevalue('bucket')}/music", {})
    store.check_writable()
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    """A local store, for what does not depend on the kind of store."""
    store = open_store(str(tmp_path / "music"), {})
    store.check_writable()
    return store


def fill(store: Store, files: dict[str, bytes] = TREE) -> Store:
    for path, data in files.items():
        store.write(path, data)
    return store


def listed(source: str, **config: object) -> Catalogue:
    return list_tracks(source, CatalogueConfig(**config), {})


def paths(catalogue: Catalogue) -> list[str]:
    return catalogue.table()["path"].to_pylist()


def column(catalogue: Catalogue, name: str) -> dict[str, object]:
    return dict(zip(paths(catalogue), catalogue.table()[name].to_pylist(), strict=True))


def test_a_folder_lists_what_is_audible_sorted_by_path(store: Store) -> None:
    fill(store)

    found = listed(store.url)

    assert found.name == store.url
    assert found.table().schema == LISTING
    assert paths(found) == TRACKS
    assert column(found, "n_bytes") == {path: len(TREE[path]) for path in TRACKS}
    assert column(found, "uri") == {path: store.uri_of(path) for path in TRACKS}
    assert column(found, "etag") == {path: store.stat(path).etag for path in TRACKS}
    assert found.ignored == {"hidden": 2, "not audio": 2, "own records": 1}


def test_one_object_is_a_catalogue_of_one(store: Store) -> None:
    fill(store)

    one = listed(store.uri_of("a/one.wav"))

    assert paths(one) == ["one.wav"]
    assert one.name == store.uri_of("a")
    assert one.table()["uri"].to_pylist() == [store.uri_of("a/one.wav")]


def test_a_table_lists_the_same_tracks_with_the_same_ids(store: Store) -> None:
    fill(store)
    store.write("list.csv", "\n".join(["uri", *TRACKS[:2], *(store.uri_of(p) for p in TRACKS[2:])]).encode())

    by_table, by_folder = listed(store.uri_of("list.csv")), listed(store.url)

    assert by_table.table().equals(by_folder.table())


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl", "ndjson"])
def test_every_kind_of_table_says_the_same(folder: Store, kind: str, tmp_path: Path) -> None:
    fill(folder)
    rows = [
        {"uri": "b.flac", "isrc": "007", "duration_s": 1.5, "n_bytes": 22, "etag": "e"},
        {"uri": "a/one.wav", "isrc": None, "duration_s": None, "n_bytes": None, "etag": None},
    ]
    table = pa.Table.from_pylist(rows)
    if kind == "parquet":
        pa.parquet.write_table(table, tmp_path / "t")
    elif kind == "csv":
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        (tmp_path / "t").write_text("\n".join(["uri,isrc,duration_s,n_bytes,etag", *lines]))
    else:
        (tmp_path / "t").write_text("\n".join(json.dumps(row) for row in rows))
    folder.write(f"t.{kind}", tmp_path / "t")

    found = listed(folder.uri_of(f"t.{kind}"))

    assert column(found, "meta") == {"a/one.wav": [], "b.flac": [("isrc", "007")]}
    assert column(found, "duration_s") == {"a/one.wav": None, "b.flac": 1.5}
    assert column(found, "n_bytes") == {"a/one.wav": 1, "b.flac": 22}
    assert column(found, "etag") == {path: folder.stat(path).etag for path in ("a/one.wav", "b.flac")}


def test_a_missing_object_of_a_table_stays_listed(store: Store) -> None:
    store.write("list.csv", b"uri\ngone.wav\n")

    found = listed(store.uri_of("list.csv"))

    assert paths(found) == ["gone.wav"]
    assert column(found, "n_bytes") == {"gone.wav": 0}
    assert column(found, "etag") == {"gone.wav": ""}
    assert column(found, "problem") == {"gone.wav": None}


@pytest.mark.parametrize("refusal", [AccessDenied, CredentialsExpired])
def test_an_object_that_is_refused_stays_listed_unless_all_of_them_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: type[AccessDenied]
) -> None:
    folder = open_store(str(tmp_path), {})
    folder.write("list.csv", b"uri,n_bytes\na.wav,\n")
    stat = Store.stat

    def refuse(self: Store, path: str) -> StoredObject:
        if path.endswith("a.wav"):
            raise refusal(path, "refused")
        return stat(self, path)

    monkeypatch.setattr(Store, "stat", refuse)
    if refusal is CredentialsExpired:
        with pytest.raises(CredentialsExpired):
            listed(folder.uri_of("list.csv"))
    else:
        assert column(listed(folder.uri_of("list.csv")), "etag") == {"a.wav": ""}


@pytest.mark.parametrize("spelling", ["{}", '"{}"', 'W/"{}"'])
def test_an_etag_of_a_table_means_the_same_in_every_spelling(bucket: str, spelling: str) -> None:
    store = fill(open_store(bucket, {}), {"x.wav": b"1"})
    etag = store.stat("x.wav").etag
    store.write("list.jsonl", json.dumps({"uri": "x.wav", "etag": spelling.format(etag)}).encode())

    found = listed(store.uri_of("list.jsonl"))

    assert column(found, "etag") == {"x.wav": etag}
    assert found.table()["source_id"] == listed(store.url).table()["source_id"]


@pytest.mark.parametrize(
    ("kind", "name", "problem"),
    [
        ("folder", f"{'n' * 300}.wav", "SOURCE_READ: .*too long"),
        ("bucket", "/x.wav", "BAD_URI: .*below the store's root"),
    ],
)
@pytest.mark.parametrize("columns", ["", ",1,e"])
def test_one_bad_row_spoils_no_other(
    request: pytest.FixtureRequest, kind: str, name: str, problem: str, columns: str
) -> None:
    root = request.getfixturevalue(kind)
    store = root if kind == "folder" else open_store(root, {})
    fill(store, {"good.wav": b"1"})
    table = f"uri,n_bytes,etag\n{store.url}/{name}{columns or ',,'}\ngood.wav,,\n"
    store.write("list.csv", table.encode())

    found = column(listed(store.uri_of("list.csv")), "problem")

    assert found["good.wav"] is None
    assert re.match(problem, str(found[name]))


@pytest.mark.parametrize(
    "uri", ["../secret.wav", "/etc/passwd", "s3://other/x.wav", "http://x/y.wav", "simplecache::s3://b/x.wav"]
)
def test_a_table_may_not_name_objects_elsewhere(folder: Store, uri: str) -> None:
    folder.write("list.csv", f"uri\n{uri}\n".encode())

    (problem,) = listed(folder.uri_of("list.csv")).table()["problem"].to_pylist()

    assert problem.startswith("BAD_URI: ")


def test_a_sibling_with_the_same_beginning_is_elsewhere(folder: Store) -> None:
    folder.write("list.csv", f"uri\n{folder.url}-private/x.wav\n".encode())

    assert listed(folder.uri_of("list.csv")).table()["problem"][0].is_valid


def test_allow_root_opens_another_place(folder: Store, tmp_path: Path) -> None:
    (tmp_path / "other/sub").mkdir(parents=True)
    (tmp_path / "other/sub/x.wav").write_bytes(b"12")
    folder.write("list.csv", f"uri\n{tmp_path}/other/sub/x.wav\n".encode())

    found = listed(folder.uri_of("list.csv"), allow_root=(f"{tmp_path}/other",))

    assert column(found, "problem") == {"sub/x.wav": None}
    assert column(found, "n_bytes") == {"sub/x.wav": 2}


def test_titles_stay_as_they_are_and_urls_that_open_a_door_do_not(folder: Store) -> None:
    fill(folder)
    told = {
        "title": "Password=Swordfish, authorization: granted",
        "artist": "Ring Bearer Extraordinary12345678",
        "note": "Key Signature: F#m; sig=4/4",
        "cover": "https://host/x.png?a=1&sig=hunter2hunter2",
    }
    folder.write("list.jsonl", json.dumps({"uri": "b.flac", **told}).encode())

    found = listed(folder.uri_of("list.jsonl"))

    shown = told | {"cover": "https://host/x.png?a=1&sig=***"}
    assert dict(column(found, "meta")["b.flac"]) == shown


def test_the_first_of_equal_rows_counts(folder: Store) -> None:
    fill(folder)
    folder.write("list.csv", f"uri,take\nb.flac,1\nb.flac,2\n{folder.uri_of('b.flac')},3\n,4\n".encode())

    found = listed(folder.uri_of("list.csv"))

    assert column(found, "meta") == {"b.flac": [("take", "1")]}
    assert found.ignored == {"duplicate": 2, "no uri": 1}


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        (["*.flac"], [], ["b.flac"]),
        (["*.wav"], [], None),
        (["**/*.wav"], [], ["a/one.wav"]),
        (["**/*.flac"], [], ["b.flac"]),
        (["a/*"], [], ["a/Two.MP3", "a/one.wav"]),
        (["a/**"], [], ["a/Two.MP3", "a/deep/er/x.ogg", "a/one.wav"]),
        (["a/**/x.ogg"], [], ["a/deep/er/x.ogg"]),
        (["**/[Tx]*"], [], ["a/Two.MP3", "a/deep/er/x.ogg"]),
        (["**/[!Tx]*"], ["a/**"], ["b.flac"]),
        (["?.flac"], [], ["b.flac"]),
        ([], ["a/**"], ["b.flac"]),
    ],
)
def test_globs_choose_by_the_whole_path(
    folder: Store, include: list[str], exclude: list[str], wanted: list[str] | None
) -> None:
    fill(folder)
    config = {"include": tuple(include), "exclude": tuple(exclude)}

    if wanted is None:
        with pytest.raises(ConfigError, match="4 excluded"):
            listed(folder.url, **config)
    else:
        found = listed(folder.url, **config)
        assert paths(found) == wanted
        assert found.ignored["excluded"] == len(TRACKS) - len(wanted)


def test_the_limit_takes_the_first_by_path(folder: Store) -> None:
    found = listed(fill(folder).url, limit=2)

    assert paths(found) == TRACKS[:2]
    assert found.ignored["over limit"] == 2


def test_a_larger_sample_holds_the_smaller_one(folder: Store) -> None:
    fill(folder, {f"{n:03}.wav": b"" for n in range(400)})

    few, more = listed(folder.url, sample=10), listed(folder.url, sample=50)

    assert set(paths(few)) < set(paths(more))
    assert 15 < len(few.rows) < 70  # 40 expected, standard deviation 6
    assert 150 < len(more.rows) < 250  # 200 expected, standard deviation 10
    assert few.ignored["not sampled"] == 400 - len(few.rows)


def test_a_track_keeps_its_id_when_its_bytes_change(store: Store) -> None:
    store.write("x.wav", b"old")
    before = listed(store.url).table()
    store.write("x.wav", b"new")

    after = listed(store.url).table()

    assert after["track_id"] == before["track_id"]
    assert after["source_id"] != before["source_id"]


def test_ids_of_different_tracks_differ(folder: Store) -> None:
    tracks = listed(fill(folder).url).table()

    for name in ("track_id", "source_id"):
        assert len(set(tracks[name].to_pylist())) == len(TRACKS)


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({}, "", "nothing audible under .*found no objects at all"),
        ({"x.txt": b"", ".y": b""}, "", "found 2 objects: 1 hidden, 1 not audio"),
        ({}, "missing", "there is no folder, prefix or object"),
        ({}, "missing.csv", "there is no folder, prefix or object"),
        ({"t.csv": b"url,name\nx,y\n"}, "t.csv", "no column `uri`; its columns are url, name"),
        ({"t.csv": b""}, "t.csv", "cannot be read as a table"),
        ({"t.parquet": b"PAR1 not"}, "t.parquet", "cannot be read as a table"),
        ({"t.jsonl": b"{broken"}, "t.jsonl", "cannot be read as a table"),
        ({"t.csv": b"uri,n_bytes\nx.wav,many\n"}, "t.csv", "cannot be read as a table"),
        ({"t.csv": b"uri\n"}, "t.csv", "nothing audible"),
    ],
)
def test_a_source_without_tracks_is_explained(
    folder: Store, files: dict[str, bytes], source: str, message: str
) -> None:
    fill(folder, files)

    with pytest.raises(ConfigError, match=message):
        listed(folder.uri_of(source))


def test_a_missing_bucket_is_explained(bucket: str) -> None:
    with pytest.raises(ConfigError, match="there is no folder, prefix or object"):
        listed(f"{bucket}-missing/x")
    with pytest.raises(ConfigError, match="found no objects at all"):
        listed(bucket)


def test_folders_without_access_are_counted(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, {"x.wav": b"1", "lost+found/y.wav": b"1"})
    scan = os.scandir

    def scandir(path: Path) -> object:  # root, who may run this test, is refused nothing
        if path.name == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)

    found = listed(folder.url)

    assert paths(found) == ["x.wav"]
    assert found.ignored == {"no access": 1}


def test_a_link_to_the_destination_makes_no_track_of_a_stem(folder: Store, tmp_path: Path) -> None:
    fill(folder, {"x.wav": b"1"})
    out = fill(open_store(str(tmp_path / "out"), {}), {"model/x_vocals.wav": b"1"})
    (tmp_path / "alias").symlink_to(tmp_path / "out")
    (Path(folder.url) / "stems").symlink_to(tmp_path / "out")

    for destination in (out.url, f"file://{tmp_path}/alias"):
        found = list_tracks(folder.url, ALL, {}, destination=destination)

        assert paths(found) == ["x.wav"]
        assert found.ignored == {"destination": 1}


@pytest.mark.parametrize("destination", ["s3://bucket/stems", "/no/such/folder"])
def test_a_destination_elsewhere_hides_nothing(folder: Store, destination: str) -> None:
    fill(folder)

    assert paths(list_tracks(folder.url, ALL, {}, destination=destination)) == TRACKS


def test_names_that_are_no_text_are_counted(folder: Store) -> None:
    fill(folder, {"x.wav": b"1"})
    (Path(folder.url) / "\udcff.wav").write_bytes(b"1")

    found = listed(folder.url)

    assert paths(found) == ["x.wav"]
    assert found.ignored == {"name is not UTF-8": 1}


@pytest.mark.parametrize(
    "uri",
    [
        "s3://user:hunter2@bucket/x.wav",
        "https://bucket.s3.amazonaws.com/x.wav?X-Amz-Credential=AKIAhunter2&X-Amz-Signature=hunter2",
        "s3://bucket/x.wav?X-Amz-Signature=hunter2",
        "az://container/x.wav?sv=2024&sig=hunter2",
        "x.wav?X-Goog-Signature=hunter2",
    ],
)
def test_a_secret_in_a_row_is_refused_and_not_repeated(folder: Store, uri: str) -> None:
    folder.write("list.jsonl", json.dumps({"uri": uri, "source": f"see {uri}"}).encode())

    (row,) = listed(folder.uri_of("list.jsonl")).table().to_pylist()

    assert row["problem"].startswith("BAD_URI: found ")
    assert "hunter2" not in str(row)


def test_names_that_only_look_like_secrets_are_names(folder: Store) -> None:
    fill(folder, {"what?sign=7.wav": b"1", "a sig=b.wav": b"1", "AKIA0123456789ABCDEF.wav": b"1"})
    folder.write("list.csv", b"uri\nwhat?sign=7.wav\na sig=b.wav\nAKIA0123456789ABCDEF.wav\n")

    assert column(listed(folder.uri_of("list.csv")), "problem") == dict.fromkeys(
        ("what?sign=7.wav", "a sig=b.wav", "AKIA0123456789ABCDEF.wav")
    )


def test_an_endless_name_is_a_failed_row_and_no_longer_endless(folder: Store) -> None:
    fill(folder, {"good.wav": b"1"})
    folder.write("list.csv", f"uri\n{'x' * 900_000}.wav\ngood.wav\n".encode())

    rows = {row["path"]: row["problem"] for row in listed(folder.uri_of("list.csv")).table().to_pylist()}

    assert rows.pop("good.wav") is None
    ((path, problem),) = rows.items()
    assert len(path) <= 200
    assert "the limit is 4096 bytes" in problem


def test_a_link_below_the_root_is_followed_as_in_a_listing(folder: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.wav").write_bytes(b"123")
    fill(folder, {"good.wav": b"1"})
    Path(folder.url, "link").symlink_to(elsewhere)
    folder.write("list.csv", b"uri\nlink/x.wav\n")

    by_table, by_folder = listed(folder.uri_of("list.csv")), listed(folder.url)

    assert column(by_table, "n_bytes") == {"link/x.wav": 3}
    assert column(by_folder, "n_bytes")["link/x.wav"] == 3


def test_a_table_larger_than_the_limit_is_not_read(folder: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("list.csv", b"uri\nx.wav\n")
    monkeypatch.setattr("splitfire_batch.tables.MAX_BYTES", 5)
    monkeypatch.setattr(Store, "fetch", lambda *_: pytest.fail("it was fetched"))

    with pytest.raises(ConfigError, match="has 10 bytes, the limit is 5; split it"):
        listed(folder.uri_of("list.csv"))
