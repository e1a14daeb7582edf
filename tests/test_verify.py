"""Damage done to a real destination, in a folder and in a bucket: each is found, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soundfile

from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError, NoSpace, ObjectMissing
from splitfire_batch.findings import Finding
from splitfire_batch.job import Job
from splitfire_batch.manifest.ledger import part_paths, read_parts, write_part
from splitfire_batch.manifest.schema import SCHEMA
from splitfire_batch.storage import Store, open_store
from splitfire_batch.verify import Checks, Progress, Verification, verify
from tests.material import noise, write
from tests.s3_server import S3Server
from tests.small_library import run_main, tree
from tests.test_job import here

DEPTHS = ("fast", "full", "deep")
GOOD = {"a.wav": "PCM_16", "sub/b.flac": "PCM_24", "sub/c.wav": "FLOAT"}


@dataclass(frozen=True)
class Library:
    """A source and a destination of the same kind, both open."""

    source: Store
    out: Store

    def row(self, path: str) -> dict[str, Any]:
        return next(row for row in read_parts(self.out).to_pylist() if row["path"] == path)

    def stem(self, path: str, stem: str = "vocals") -> str:
        return next(item["path"] for item in self.row(path)["stems"] if item["stem"] == stem)

    def forge(self, path: str, **stems: dict[str, Any]) -> None:
        """Rewrite the one part of the manifest so that it says these values of these stems of a track."""
        (part,) = part_paths(self.out)
        table = read_parts(self.out)
        rows = table.to_pylist()
        for row in rows:
            for item in row["stems"] if row["path"] == path else []:
                item.update(stems.get(item["stem"], {}))
        self.out.delete(part)
        write_part(self.out, table.from_pylist(rows, schema=SCHEMA))


INLINE = RuntimeConfig(open_tracks=2, codecs="inline")


def run(source: str, destination: str, **settings: Any) -> None:
    separation = settings.pop("separation", SeparationConfig(model="passthrough"))
    job = Job(source, destination, separation, runtime=INLINE, **settings)
    planned = story.make_plan(job, story.list_tracks(job))
    story.save_plan(planned)
    story.finalise(planned, story.separate(planned, here, lambda _: None))


def make_library(root: str, folder: Path) -> Library:
    """Three tracks done and one failed, all in one part."""
    made = Library(open_store(f"{root}/in", {}), open_store(f"{root}/out", {}))
    for number, (path, subtype) in enumerate(GOOD.items()):
        made.source.write(path, write(folder / path, noise(9_000, seed=number), subtype=subtype))
    made.source.write("bad.wav", b"no audio at all")
    run(made.source.url, made.out.url)
    return made


@pytest.fixture(scope="module")
def library_in_s3(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, dict[str, bytes]]:
    """One for all tests, because a run on S3 takes seconds; and its objects as they were."""
    name = f"test-{secrets.token_hex(6)}"
    s3.make_bucket(name)
    made = make_library(f"s3://{name}", tmp_path_factory.mktemp("made"))
    whole = open_store(f"s3://{name}", {})
    return made, {item.path: whole.read(item.path) for item in whole.list()}


@pytest.fixture(params=["folder", "s3"])
def library(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Library]:
    """A library of the test's own, or the shared one, put back afterwards."""
    if request.param == "folder":
        yield make_library(str(tmp_path), tmp_path / "made")
        return
    made, before = request.getfixturevalue("library_in_s3")
    yield made
    whole = open_store(made.out.url.removesuffix("/out"), {})
    found = {item.path: item.etag for item in whole.list()}
    for path in found.keys() - before.keys():
        whole.delete(path)
    for path, data in before.items():
        if found.get(path) != hashlib.md5(data, usedforsecurity=False).hexdigest():
            whole.write(path, data)


def look(library: Library, depth: str = "full", **checks: Any) -> Verification:
    return verify(library.out.url, {}, Checks(depth, **checks), lambda _: None)  # type: ignore[arg-type]


def told(found: Verification) -> list[tuple[str, str, str]]:
    for item in found.findings:
        assert all([item.found, item.wanted, item.remedy, item.path]), item
    return [(item.kind, item.track, item.stem) for item in found.findings]


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_untouched_destination_is_all_right(library: Library, depth: str) -> None:
    found = look(library, depth)
    assert told(found) == []
    assert (found.n_tracks, found.n_stems, found.n_unreferenced) == (3, 6, 0)
    assert found.n_summed == (3 if depth == "deep" else 0)
    n_bytes = sum(stem["n_bytes"] for path in GOOD for stem in library.row(path)["stems"])
    assert found.n_bytes == (0 if depth == "fast" else n_bytes)


def flip(library: Library, path: str) -> None:
    data = bytearray(library.out.read(path))
    data[len(data) // 2] ^= 4
    library.out.write(path, bytes(data))


def cut(library: Library, path: str) -> None:
    library.out.write(path, library.out.read(path)[:-100])


def replace(library: Library, path: str, to: Path) -> None:
    """By another recording of the same length, and as many bytes."""
    library.out.write(path, write(to, noise(9_000, seed=99)))


DAMAGE = {
    "flip": (flip, ("", "SHA256", "SHA256")),
    "cut": (cut, ("SIZE", "SIZE", "SIZE")),
    "delete": (lambda library, path: library.out.delete(path), ("MISSING", "MISSING", "MISSING")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_is_found_and_nothing_else(library: Library, damage: str) -> None:
    do, kinds = DAMAGE[damage]
    do(library, library.stem("sub/b.flac"))
    for depth, kind in zip(DEPTHS, kinds, strict=True):
        wanted = [(kind, "sub/b.flac", "vocals")] if kind else []
        assert told(look(library, depth)) == wanted, depth


def test_another_recording_of_the_same_length_is_found_by_its_bytes(library: Library, tmp_path: Path) -> None:
    replace(library, library.stem("a.wav"), tmp_path / "other.wav")
    assert told(look(library, "fast")) == []
    assert told(look(library, "full")) == told(look(library, "deep")) == [("SHA256", "a.wav", "vocals")]


def test_several_damages_are_each_found(library: Library) -> None:
    flip(library, library.stem("sub/b.flac", "accompaniment"))
    cut(library, library.stem("sub/c.wav"))
    library.out.delete(library.stem("a.wav"))
    library.out.write("spleeter/lost.wav", b"of a run that was cut off")
    found = look(library, "deep")
    assert told(found) == [
        ("MISSING", "a.wav", "vocals"),
        ("SHA256", "sub/b.flac", "accompaniment"),
        ("SIZE", "sub/c.wav", "vocals"),
    ]
    assert found.n_unreferenced == 1


def one_step_off(library: Library, path: str, to: Path) -> dict[str, Any]:
    """Put back a stem with one sample one step higher; what a forger would write of it."""
    file = to.with_suffix("." + path.rpartition(".")[2])
    file.write_bytes(library.out.read(path))
    info = soundfile.info(file)
    samples, rate = soundfile.read(file, dtype="int32")
    samples[4_321, 1] += 1 << (32 - int(info.subtype.removeprefix("PCM_")))
    soundfile.write(file, samples, rate, info.subtype)
    library.out.write(path, file)
    data = file.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "n_bytes": len(data)}


def test_a_sample_off_by_one_step_is_found_though_its_sha256_is_forged(
    library: Library, tmp_path: Path
) -> None:
    for path in ("a.wav", "sub/b.flac"):
        forged = one_step_off(library, library.stem(path), tmp_path / "forged")
        library.forge(path, vocals=forged)
    assert told(look(library, "full")) == []
    assert told(look(library, "deep")) == [("PCM_MD5", path, "vocals") for path in ("a.wav", "sub/b.flac")]


def test_a_sample_off_by_one_step_is_found_by_the_sum_though_all_hashes_are_forged(
    library: Library, tmp_path: Path
) -> None:
    for path, bits in (("a.wav", 16), ("sub/b.flac", 24)):
        forged = one_step_off(library, library.stem(path), tmp_path / "forged")
        file = tmp_path / f"forged.{path.rpartition('.')[2]}"
        samples = soundfile.read(file, dtype="int32")[0] >> (32 - bits)
        octets = samples.astype("<i4").reshape(-1).view("u1").reshape(-1, 4)[:, : bits // 8]
        library.forge(
            path,
            vocals={**forged, "pcm_md5": hashlib.md5(octets.tobytes(), usedforsecurity=False).hexdigest()},
        )
    assert told(look(library, "full")) == []
    found = look(library, "deep")
    assert told(found) == [("SUM", path, "accompaniment + vocals") for path in ("a.wav", "sub/b.flac")]
    assert {item.found for item in found.findings} == {"sum off by 1 at frame 4321"}


def test_a_stem_of_other_frames_is_found_though_its_hashes_are_forged(
    library: Library, tmp_path: Path
) -> None:
    path = library.stem("a.wav")
    library.out.write(path, write(tmp_path / "long.wav", noise(9_001)))
    data = library.out.read(path)
    library.forge("a.wav", vocals={"sha256": hashlib.sha256(data).hexdigest(), "n_bytes": len(data)})
    (finding,) = look(library, "deep").findings
    assert (finding.kind, finding.stem) == ("FORMAT", "vocals")
    assert "9001 frames" in finding.found
    assert "9000 frames" in finding.wanted


def test_an_unreadable_stem_is_found_though_its_hashes_are_forged(library: Library) -> None:
    path = library.stem("sub/b.flac")
    data = library.out.read(path)[:10_000]
    library.out.write(path, data)
    forged = {"sha256": hashlib.sha256(data).hexdigest(), "n_bytes": len(data)}
    library.forge("sub/b.flac", vocals=forged)
    assert told(look(library, "full")) == []
    (finding,) = look(library, "deep").findings
    assert (finding.kind, finding.track) == ("UNREADABLE", "sub/b.flac")
    assert "TRUNCATED" in finding.found


def test_sources_that_changed_or_went_are_findings_of_their_own(library: Library, tmp_path: Path) -> None:
    library.source.write("a.wav", write(tmp_path / "new.wav", noise(9_000, seed=5)))
    library.source.delete("sub/b.flac")
    assert told(look(library, "full")) == []
    found = look(library, "deep")
    assert told(found) == [("SOURCE_CHANGED", "a.wav", ""), ("SOURCE_MISSING", "sub/b.flac", "")]
    assert found.n_summed == 1
    assert [item.path for item in found.findings] == [
        library.source.uri_of(p) for p in ("a.wav", "sub/b.flac")
    ]


def test_what_a_later_run_separated_again_counts(library: Library, tmp_path: Path) -> None:
    old = library.stem("a.wav")
    library.source.write("a.wav", write(tmp_path / "new.wav", noise(8_000, seed=5)))
    run(library.source.url, library.out.url)
    found = look(library, "deep")
    assert told(found) == []
    assert found.n_tracks == 3
    is_plain = library.out.is_local
    assert found.n_unreferenced == (0 if is_plain else 2)  # the old stems lie beside the new ones
    assert library.out.exists(old)


def test_what_the_remedy_says_helps(library: Library, tmp_path: Path) -> None:
    library.out.delete(library.stem("a.wav"))
    assert "touch its source" in look(library).findings[0].remedy
    if library.source.is_local:
        os.utime(Path(library.source.url) / "a.wav")
    else:  # the same bytes have the same etag there
        library.source.write("a.wav", write(tmp_path / "again.wav", noise(9_000, seed=0, peak=0.4)))
    run(library.source.url, library.out.url)
    assert told(look(library, "deep")) == []


@pytest.mark.parametrize(
    "separation",
    [
        SeparationConfig(model="passthrough", stems=("vocals",)),
        SeparationConfig(model="passthrough", residual="drop"),
        SeparationConfig(model="passthrough", residual="stem"),
        SeparationConfig(model="passthrough", stems=("vocals", "instrumental")),
    ],
    ids=["vocals", "drop", "stem", "instrumental"],
)
def test_every_choice_of_stems_can_be_verified(tmp_path: Path, separation: SeparationConfig) -> None:
    write(tmp_path / "in/a.wav", noise(9_000), subtype="PCM_24")
    run(str(tmp_path / "in"), str(tmp_path / "out"), separation=separation, output=OutputConfig(depth="16"))
    found = verify(str(tmp_path / "out"), {}, Checks("deep"), lambda _: None)
    assert told(found) == []
    assert found.n_summed == (0 if separation.stems == ("vocals",) else 1)


def test_a_stem_that_was_left_out_as_silent_is_not_missed(tmp_path: Path) -> None:
    """What was in it is in the stem that is the mix minus the others: here that is the mix."""
    write(tmp_path / "in/a.wav", noise(9_000))
    run(str(tmp_path / "in"), str(tmp_path / "out"))
    library = Library(open_store(str(tmp_path / "in"), {}), open_store(str(tmp_path / "out"), {}))
    library.out.delete(library.stem("a.wav"))
    mix = library.source.read("a.wav")
    library.out.write(library.stem("a.wav", "accompaniment"), mix)
    samples = soundfile.read(tmp_path / "in/a.wav", dtype="int16")[0]
    hashes = {
        "sha256": hashlib.sha256(mix).hexdigest(),
        "n_bytes": len(mix),
        "pcm_md5": hashlib.md5(samples.astype("<i2").tobytes(), usedforsecurity=False).hexdigest(),
    }
    library.forge("a.wav", vocals={"path": None, "sha256": None}, accompaniment=hashes)
    found = look(library, "deep")
    assert told(found) == []
    assert (found.n_stems, found.n_summed) == (1, 1)
    assert told(look(library, "fast")) == []


def test_a_sample_is_the_same_tracks_that_a_job_would_take(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / f"in/{number}.wav", noise(50, seed=number))
    run(str(tmp_path / "in"), str(tmp_path / "out"))
    few = CatalogueConfig(sample=20)
    taken = story.list_tracks(Job(str(tmp_path / "in"), str(tmp_path / "out"), catalogue=few)).table()
    names = {path.removesuffix(".wav") for path in taken["path"].to_pylist()}
    for file in (tmp_path / "out/passthrough").iterdir():
        file.unlink()
    found = verify(str(tmp_path / "out"), {}, Checks("fast", percent=20), lambda _: None)
    assert {item.track.removesuffix(".wav") for item in found.findings} == names
    assert 0 < len(names) < 20
    assert found.n_tracks == len(names)


def test_progress_counts_every_track(library: Library) -> None:
    flip(library, library.stem("a.wav"))
    told_progress: list[Progress] = []
    verify(library.out.url, {}, Checks(n_threads=1), told_progress.append)
    assert [(now.n_checked, now.n_tracks) for now in told_progress] == [(1, 3), (2, 3), (3, 3)]
    assert told_progress[-1].n_findings == 1


def test_looking_changes_nothing_and_leaves_no_temporary_file(library: Library, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = {item.path: item.etag for item in library.out.list()}
    look(library, "deep", scratch=scratch)
    assert {item.path: item.etag for item in library.out.list()} == before
    assert not list(scratch.iterdir())


def test_a_scratch_folder_that_cannot_be_used_is_named(library: Library, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scratch_dir: no file can be made in"):
        look(library, scratch=tmp_path / "gone")


def test_a_full_scratch_folder_is_no_damage(
    library_in_s3: tuple[Library, dict[str, bytes]], tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(NoSpace):
            look(library_in_s3[0], scratch=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_destination_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no manifest"):
        verify(str(tmp_path), {}, Checks(), lambda _: None)
    with pytest.raises(ObjectMissing):
        verify(str(tmp_path / "gone"), {}, Checks(), lambda _: None)


Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Main:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return lambda *args: run_main(monkeypatch, capsys, *args)


@pytest.fixture
def separated(tmp_path: Path) -> Path:
    write(tmp_path / "in/a\nb.wav", noise(9_000))
    run(str(tmp_path / "in"), str(tmp_path / "out"))
    return tmp_path / "out"


def test_the_command_ends_with_0_when_all_is_right(separated: Path, main: Main) -> None:
    read = {
        "--fast": "sizes only",
        "--quiet": "0.1 MiB hashed",
        "--deep": "0.1 MiB hashed and decoded, 1 tracks",
    }
    for flag, words in read.items():
        code, out, err = main("verify", separated, flag)
        assert code == 0, err
        assert out.startswith(f"2 stems of 1 tracks checked ({words}")
        assert out.endswith("nothing differs\n")
        size = "0.0" if flag == "--fast" else "0.1"
        assert err == ("" if flag == "--quiet" else f"verifying 1/1 tracks, {size} MiB\n")


def test_the_command_ends_with_6_and_a_table_of_what_differs(separated: Path, main: Main) -> None:
    (stem,) = separated.glob("passthrough/*_vocals.wav")
    stem.unlink()
    code, out, _ = main("verify", separated, "--quiet")
    head, row, summary = out.splitlines()
    assert code == 6
    assert head.split("  ")[0] == "kind"
    assert row.startswith("MISSING  passthrough/a_b_vocals.wav")
    assert all(words in row for words in ("no such object", "36044 bytes", "run the job again"))
    assert summary.endswith("1 differs")
    code, out, err = main("verify", separated, "--json", "-q")
    answer = json.loads(out)
    assert (code, err) == (6, "")
    assert answer["findings"] == [
        {
            "kind": "MISSING",
            "track": "a\nb.wav",
            "stem": "vocals",
            "path": "passthrough/a_b_vocals.wav",
            "found": "no such object",
            "wanted": "36044 bytes",
            "remedy": answer["findings"][0]["remedy"],
        }
    ]
    assert set(answer["findings"][0]) == set(Finding.__dataclass_fields__)


@pytest.mark.parametrize(
    ("args", "words"),
    [(("--fast", "--deep"), "both --fast and --deep"), (("--sample", "0"), "--sample: found 0")],
)
def test_flags_that_cannot_be_are_usage(
    separated: Path, main: Main, args: tuple[str, ...], words: str
) -> None:
    before = tree(separated)
    code, out, err = main("verify", separated, *args)
    assert (code, out) == (2, "")
    assert words in err
    assert tree(separated) == before


def test_no_manifest_and_no_destination_are_usage(tmp_path: Path, main: Main) -> None:
    for place in (tmp_path, tmp_path / secrets.token_hex(3)):
        code, out, err = main("verify", place)
        assert (code, out) == (2, "")
        assert str(place) in err


def test_a_store_that_does_not_answer_is_temporary(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        endpoint = {"s3://": {"endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}"}}
        monkeypatch.setenv("SPLITFIRE_RUNTIME__STORAGE", json.dumps(endpoint))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        code, out, err = main("verify", "s3://stems/masters")
    assert (code, out) == (75, "")
    assert "s3://stems" in err
