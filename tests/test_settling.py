"""One track, whatever happens to it, ends as one row: done with its stems, or failed with a code."""

from __future__ import annotations

import hashlib
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from splitfire_batch.config import OutputConfig, SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.errors import FAILURE_CODES, AccessDenied, CredentialsExpired
from splitfire_batch.records import Track, TrackRow
from splitfire_batch.separation import Limits
from splitfire_batch.settling import settle
from splitfire_batch.storage import Store, open_store
from splitfire_batch.transfer import DeviceLost
from tests.material import Shares, noise, read_wav, track_of, workbench, write


def a_wav(folder: Path, n_frames: int = 5_000) -> Path:
    return write(folder / "source" / "a.wav", noise(n_frames))


def settled(track: Track, folder: Path, **bench: object) -> TrackRow:
    """The row of `track`; its stems lie in folder/out. Checks what holds for every row."""
    scratch = folder / "scratch"
    scratch.mkdir()
    bench.setdefault("limits", Limits(scratch=scratch))
    with workbench(folder / "out", **bench) as made:  # type: ignore[arg-type]
        row = settle(track, made)
    assert row.track == track
    assert 0 < row.started_at <= row.finished_at
    assert not list(scratch.iterdir())
    return row


def stems_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").rglob("*") if path.is_file())


def check_failed(row: TrackRow, folder: Path, code: str, *words: str) -> None:
    """A failed row names the track, its reason and nothing else, and leaves no stem behind."""
    assert (row.status, row.code) == ("failed", code)
    assert row.code in FAILURE_CODES
    assert row.message is not None
    assert row.message.startswith(f"{row.track.path}: ")
    for word in words:
        assert word in row.message
    assert row.stems == ()
    assert stems_in(folder) == []


def test_a_good_track_becomes_a_done_row_with_its_stems(tmp_path):
    file = a_wav(tmp_path)
    row = settled(track_of(file), tmp_path)
    assert (row.status, row.code, row.message) == ("done", None, None)
    assert row.content_id == hashlib.sha256(file.read_bytes()).hexdigest()
    assert row.source is not None
    assert (row.source.n_frames, row.source.sample_rate, row.source.n_channels) == (5_000, 44_100, 2)
    assert (row.gain_db, row.sum_residual_db) == (0, None)
    assert stems_in(tmp_path) == sorted(stem.path for stem in row.stems)
    for stem in row.stems:
        data = (tmp_path / "out" / stem.path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == stem.sha256
        assert len(read_wav(tmp_path / "out" / stem.path)[0]) == 5_000
    assert row.seconds.device > 0
    assert row.seconds.encode > 0


def test_a_message_names_the_path_as_it_is_and_hides_what_opens_a_door(tmp_path):
    track = track_of(a_wav(tmp_path), path="x/password=Swordfish.wav", problem="BAD_URI: s3://me:hunter2@b/x")
    row = settled(track, tmp_path)
    check_failed(row, tmp_path, "BAD_URI")
    assert row.message == "x/password=Swordfish.wav: s3://***@b/x"


def test_stems_go_where_the_target_says(tmp_path):
    row = settled(track_of(a_wav(tmp_path), target="m/x/{stem}/a.{ext}"), tmp_path)
    assert [stem.path for stem in row.stems] == ["m/x/vocals/a.wav", "m/x/accompaniment/a.wav"]


def test_a_job_for_vocals_writes_only_vocals(tmp_path):
    row = settled(track_of(a_wav(tmp_path)), tmp_path, separation=SeparationConfig(stems=("vocals",)))
    assert [stem.path for stem in row.stems] == stems_in(tmp_path) == ["a_vocals.wav"]


def test_an_empty_object_is_empty(tmp_path):
    file = tmp_path / "a.wav"
    file.touch()
    check_failed(settled(track_of(file), tmp_path), tmp_path, "EMPTY")


def test_a_text_is_not_audio(tmp_path):
    file = tmp_path / "a.wav"
    file.write_text("the lyrics of the song, not the song " * 100)
    check_failed(settled(track_of(file), tmp_path), tmp_path, "NOT_AUDIO")


@pytest.mark.parametrize("ext", ["wav", "flac"])
def test_a_file_that_ends_early_is_truncated(tmp_path, ext):
    file = write(tmp_path / f"a.{ext}", noise(200_000))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    check_failed(settled(track_of(file), tmp_path), tmp_path, "TRUNCATED")


def test_an_object_that_is_gone_is_missing(tmp_path):
    file = a_wav(tmp_path)
    track = track_of(file)
    file.unlink()
    check_failed(settled(track, tmp_path), tmp_path, "SOURCE_MISSING")


@pytest.mark.parametrize("n_frames", [5_000, 4_000])
def test_an_object_replaced_after_listing_has_changed(tmp_path, n_frames):
    file = a_wav(tmp_path)
    track = track_of(file)
    write(tmp_path / "other.wav", noise(n_frames, seed=1)).replace(file)
    check_failed(settled(track, tmp_path), tmp_path, "SOURCE_CHANGED")


def test_an_object_without_a_known_etag_is_taken_as_it_is(tmp_path):
    assert settled(track_of(a_wav(tmp_path), etag=""), tmp_path).status == "done"


@pytest.mark.parametrize("n_bytes", [0, -1, 7])
def test_a_size_that_a_table_has_wrong_is_held_against_no_object(tmp_path, bucket, n_bytes):
    file, store = a_wav(tmp_path), open_store(bucket, {})
    store.write("a.wav", file)
    track = track_of(file, uri=f"{bucket}/a.wav", etag=store.stat("a.wav").etag, n_bytes=n_bytes)
    assert settled(track, tmp_path).status == "done"


def test_an_object_of_a_bucket_that_was_replaced_after_listing_has_changed(tmp_path, bucket):
    file, store = a_wav(tmp_path), open_store(bucket, {})
    store.write("a.wav", file)
    track = track_of(file, uri=f"{bucket}/a.wav", etag="0" * 32)
    wanted = (f"found etag {store.stat('a.wav').etag}", f"wanted {track.etag}", "run the job again")
    check_failed(settled(track, tmp_path), tmp_path, "SOURCE_CHANGED", *wanted)


def test_an_object_above_the_limit_is_too_large_and_not_fetched(tmp_path):
    track = track_of(a_wav(tmp_path))
    row = settled(track, tmp_path, max_bytes=track.n_bytes - 1)
    check_failed(row, tmp_path, "TOO_LARGE", str(track.n_bytes), str(track.n_bytes - 1), "max_bytes")
    assert row.content_id is None


def test_a_track_above_the_limit_is_too_long(tmp_path):
    track = track_of(a_wav(tmp_path, 45_000))
    row = settled(track, tmp_path, limits=Limits(max_duration_s=1))
    check_failed(row, tmp_path, "TOO_LONG", "max_duration_s")


def test_a_problem_found_while_listing_fails_the_track_without_a_fetch(tmp_path):
    problem = "BAD_URI: s3://elsewhere/a.wav is outside the allowed roots: add it to allow_root"
    track = track_of(a_wav(tmp_path), problem=problem, uri="s3://elsewhere/a.wav")
    row = settled(track, tmp_path)
    check_failed(row, tmp_path, "BAD_URI", "s3://elsewhere/a.wav is outside the allowed roots: add it")
    assert row.seconds.fetch == 0


@pytest.mark.parametrize(
    ("sample_rate", "config", "words"),
    [
        (44_100, OutputConfig(format="flac", depth="32"), "depth"),
        (44_100, OutputConfig(format="flac", depth="float"), "depth"),
        (66_001, OutputConfig(format="flac"), "66001 Hz"),
    ],
)
def test_a_format_that_cannot_carry_the_stems_is_an_unsupported_output(tmp_path, sample_rate, config, words):
    file = write(tmp_path / "a.wav", noise(3_000), sample_rate)
    check_failed(settled(track_of(file), tmp_path, output=config), tmp_path, "UNSUPPORTED_OUTPUT", words)


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """The kernel refuses to make files of this process longer, as a full disk or quota would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("audio_bytes", [2**30, 0], ids=["the stems", "the spools"])
def test_a_full_disk_is_no_space(tmp_path, audio_bytes):
    track = track_of(a_wav(tmp_path, 400_000))  # 1.6 MB; each stem as much, each spool 3.2 MB
    scratch = tmp_path / "scratch"
    with files_of_at_most(2**20):
        row = settled(track, tmp_path, audio_bytes=audio_bytes, limits=Limits(scratch=scratch))
    check_failed(row, tmp_path, "NO_SPACE", "free", "scratch_dir")


def test_a_destination_that_takes_no_stem_is_a_failed_write(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "taken").write_text("a file where a folder should be")
    row = settled(track_of(a_wav(tmp_path), target="taken/{stem}.{ext}"), tmp_path)
    assert (row.status, row.code, row.stems) == ("failed", "STORE_WRITE", ())
    assert row.message.startswith("a.wav: ")


def test_a_scratch_folder_that_is_missing_is_no_bug_of_ours(tmp_path):
    missing = tmp_path / "missing"
    row = settled(track_of(a_wav(tmp_path)), tmp_path, limits=Limits(scratch=missing))
    check_failed(row, tmp_path, "STORE_WRITE", f"scratch folder {missing}")


def test_an_input_output_error_of_the_local_disk_is_no_bug_of_ours(tmp_path):
    row = settled(track_of(a_wav(tmp_path)), tmp_path, model=raising(OSError(5, "Input/output error")))
    check_failed(row, tmp_path, "STORE_WRITE", f"scratch folder {tmp_path / 'scratch'}", "Input/output error")


def test_a_kind_of_store_that_this_worker_lacks_is_no_bug_of_ours(tmp_path):
    row = settled(track_of(a_wav(tmp_path), uri="gopher://host/a.wav"), tmp_path)
    check_failed(row, tmp_path, "SOURCE_READ", "gopher")


@pytest.mark.parametrize(
    ("refusal", "code"), [(CredentialsExpired, "SOURCE_READ"), (AccessDenied, "SOURCE_DENIED")]
)
def test_expired_credentials_are_held_against_no_track(tmp_path, monkeypatch, refusal, code):
    def refuse(store: Store, path: str, to: Path, **_: object) -> Path:
        raise refusal(store.uri_of(path), f"{to.name} is refused")

    monkeypatch.setattr(Store, "fetch", refuse)
    row = settled(track_of(a_wav(tmp_path)), tmp_path)
    check_failed(row, tmp_path, code, "source is refused")
    assert FAILURE_CODES[code].is_retryable is (refusal is CredentialsExpired)


def raising(error: BaseException) -> Shares:
    def before(_: Tensor) -> None:
        raise error

    return Shares(before=before)


def test_a_bug_costs_one_track_and_is_internal(tmp_path, caplog):
    row = settled(track_of(a_wav(tmp_path)), tmp_path, model=raising(ZeroDivisionError("a bug of ours")))
    check_failed(row, tmp_path, "INTERNAL", "ZeroDivisionError", "a bug of ours")
    assert "a bug of ours" in caplog.text  # with its traceback, for the report we ask for
    assert "(test_settling.py:" in row.message  # the actor's log may be out of reach


def test_a_lost_device_is_no_fault_of_the_track_and_makes_no_row(tmp_path):
    model = raising(RuntimeError("illegal memory access"))
    model.device = torch.device("meta")
    with pytest.raises(DeviceLost, match="illegal memory access"):
        settled(track_of(a_wav(tmp_path)), tmp_path, model=model)


def test_a_halved_batch_is_a_warning_in_the_row(tmp_path):
    def refuse_two(segments: Tensor) -> None:
        if len(segments) > 1:
            raise torch.OutOfMemoryError

    with workbench(tmp_path / "out") as bench, Engine(Shares(before=refuse_two), batch=2) as engine:
        row = settle(track_of(a_wav(tmp_path)), replace(bench, engine=engine))
    assert row.status == "done"
    assert row.warnings == engine.warnings
    assert len(row.warnings) == 1


def test_full_memory_is_oom(tmp_path):
    check_failed(settled(track_of(a_wav(tmp_path)), tmp_path, model=raising(MemoryError())), tmp_path, "OOM")


def test_a_model_that_gives_nan_writes_no_stem(tmp_path):
    row = settled(track_of(a_wav(tmp_path)), tmp_path, model=Shares(float("nan"), 1.0))
    check_failed(row, tmp_path, "INTERNAL", "NaN")


def test_the_track_after_a_failed_one_is_as_if_it_were_alone(tmp_path):
    good, bad = a_wav(tmp_path), tmp_path / "bad.wav"
    bad.write_bytes(good.read_bytes()[:-1_000])
    alone = settled(track_of(good), tmp_path)
    with workbench(tmp_path / "again") as bench:
        rows = [settle(track_of(file), bench) for file in (bad, good)]
    assert [row.code for row in rows] == ["TRUNCATED", None]
    assert rows[1].stems == alone.stems


def test_a_workbench_serves_several_threads(tmp_path):
    files = [write(tmp_path / f"{i}.wav", noise(30_000, seed=i)) for i in range(6)]
    tracks = [track_of(file, f"{i:016x}") for i, file in enumerate(files)]
    with workbench(tmp_path / "alone") as bench:
        alone = [settle(track, bench) for track in tracks]
    together: dict[int, TrackRow] = {}
    with workbench(tmp_path / "together") as bench:
        threads = [
            threading.Thread(target=lambda i=i, t=t: together.__setitem__(i, settle(t, bench)))
            for i, t in enumerate(tracks)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [together[i].stems for i in range(6)] == [row.stems for row in alone]
    assert all(row.status == "done" for row in alone)
