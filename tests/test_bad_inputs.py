"""A library full of bad files: each ends as its own row, with a message that helps, and that is all."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile

from cluster.on_ray import on_ray
from splitfire_batch import job as story
from splitfire_batch.audio import open_audio
from splitfire_batch.catalogue import Catalogue
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.errors import FAILURE_CODES, TrackError
from splitfire_batch.job import Job, RunShards
from splitfire_batch.manifest.ledger import read_parts
from splitfire_batch.report import Report
from splitfire_batch.storage import Store, open_store
from splitfire_batch.verify import Checks, verify
from tests.bad_inputs import bad_inputs, flac_bomb, good_inputs, patched
from tests.material import noise, write
from tests.small_library import COMMAND, environment
from tests.test_job import here

LIMITS = RuntimeConfig(max_duration_s=600, max_bytes=700_000, open_tracks=4)
INLINE = replace(LIMITS, codecs="inline")
"""For jobs of good files, which need no child."""
FLAGS = ("--max-duration-s", "600", "--max-bytes", "700000", "--workers", "1")
BAD = {item.name: item for item in bad_inputs()}
GOOD = good_inputs()
WHAT_TO_DO = re.compile(
    r"\b(fetch|leave it out|convert|export|raise|resample|correct|split|repair|set|run the job|decode it|"
    r"write it again|check|add|rename|bring it back)\b"
)


def fill(folder: Path) -> None:
    """Good files in one folder, bad ones in another."""
    for name, (data, _) in GOOD.items():
        (folder / "good").mkdir(parents=True, exist_ok=True)
        (folder / "good" / name).write_bytes(data)
    for item in BAD.values():
        (folder / "bad").mkdir(parents=True, exist_ok=True)
        (folder / "bad" / item.name).write_bytes(item.data)


def a_job(source: str, destination: str, **settings: Any) -> Job:
    settings.setdefault("runtime", LIMITS)
    return Job(source, destination, SeparationConfig(model="passthrough"), **settings)


def finish(job: Job, catalogue: Catalogue, run_shards: RunShards = here) -> Report:
    """The steps of the flow that come after the listing."""
    planned = story.make_plan(job, catalogue)
    story.save_plan(planned)
    return story.finalise(planned, story.separate(planned, run_shards, lambda _: None))


def rows_of(store: Store, tmp_path: Path) -> dict[str, dict[str, Any]]:
    view = store.fetch("_splitfire/views/tracks.parquet", tmp_path / "tracks.parquet")
    return {row["path"]: row for row in pq.read_table(view).to_pylist()}


def check_failed(row: dict[str, Any], codes: tuple[str, ...], words: tuple[str, ...] = ()) -> None:
    """The code that is due, and a message that names the track, what was found, and what to do."""
    assert row["status"] == "failed", row["path"]
    assert row["code"] in codes, (row["path"], row["code"], row["message"])
    assert row["code"] in FAILURE_CODES
    name, _, why = row["message"].partition(": ")
    assert name == row["path"]
    assert WHAT_TO_DO.search(why), why
    assert re.search(r"\d|it is |begin", why), f"{why}: what was found?"
    assert not re.search(r"Traceback|Error\(|0x[0-9a-f]{6}|does not exist|failed to|invalid", why), why
    for word in words:
        assert word in why, why
    assert row["stems"] == []


def check_good(row: dict[str, Any], n_frames: int, store: Store, tmp_path: Path) -> None:
    assert row["status"] == "done", row["message"]
    assert [stem["n_frames"] for stem in row["stems"]] == [n_frames] * 2
    for stem in row["stems"]:
        assert soundfile.info(str(store.fetch(stem["path"], tmp_path / "stem"))).frames == n_frames


def test_the_corpus_is_large_and_no_two_files_are_alike() -> None:
    assert len(bad_inputs()) >= 120
    assert len(BAD) == len({item.data for item in BAD.values()}) == len(bad_inputs())
    assert len(GOOD) >= 30
    assert not set(GOOD) & set(BAD)
    by_code = Counter(item.codes[0] for item in BAD.values())
    assert set(by_code) >= {
        *("EMPTY", "NOT_AUDIO", "UNSUPPORTED", "CORRUPT_HEADER", "CORRUPT_DATA", "TRUNCATED"),
        *("NO_SAMPLES", "BAD_RATE", "BAD_CHANNELS", "NON_FINITE", "TOO_LONG", "TOO_LARGE"),
    }


def test_every_bad_input_ends_as_its_one_row_and_kills_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In an actor of Ray: whoever died there would be replaced, and the log and the rows would tell."""
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source)
    write(source / "good/folder.wav/inside.wav", noise(700))  # a folder that is called like a file
    (source / "good/twin.wav").write_bytes(GOOD["plain.wav"][0])
    for name in ("changed", "gone"):
        write(source / f"bad/{name}.wav", noise(700))
    job = a_job(str(source), str(out))
    catalogue = story.list_tracks(job)
    (source / "bad/gone.wav").unlink()
    write(source / "other.wav", noise(700, seed=1)).replace(source / "bad/changed.wav")
    with on_ray(RuntimeConfig(workers=1), Event()) as run_shards:
        report = finish(job, catalogue, run_shards)

    n_bad, n_good = len(BAD) + 2, len(GOOD) + 2
    assert (report.n_done, report.n_failed, report.n_unsettled, report.exit_code) == (n_good, n_bad, 0, 3)
    store = open_store(str(out), {})
    rows = rows_of(store, tmp_path)
    assert len(rows) == n_bad + n_good
    written = read_parts(store, columns=["track_id", "attempts"])  # every row that was ever committed
    assert len(written) == len(set(written["track_id"].to_pylist())) == n_bad + n_good
    assert set(written["attempts"].to_pylist()) == {0}
    assert "worker_lost" not in caplog.text
    for name, item in BAD.items():
        check_failed(rows[f"bad/{name}"], item.codes, item.words)
    check_failed(rows["bad/changed.wav"], ("SOURCE_CHANGED",))
    check_failed(rows["bad/gone.wav"], ("SOURCE_MISSING",))
    for name, (_, n_frames) in GOOD.items():
        check_good(rows[f"good/{name}"], n_frames, store, tmp_path)
    check_good(rows["good/folder.wav/inside.wav"], 700, store, tmp_path)
    assert rows["good/twin.wav"]["content_id"] == rows["good/plain.wav"]["content_id"]
    found = verify(str(out), {}, Checks("deep"), lambda _: None)
    assert (found.findings, found.n_tracks, found.n_unreferenced) == ((), n_good, 0)


@pytest.mark.slow
def test_the_command_line_says_which_tracks_failed_and_ends_with_3(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    command = [*COMMAND, "run", str(tmp_path / "in"), str(tmp_path / "out"), "--model", "passthrough", *FLAGS]
    variables = environment(tmp_path / "prefect")
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=variables)
    assert done.returncode == 3, done.stderr
    assert f"{len(GOOD)} done, {len(BAD)} failed" in done.stdout
    told = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  ")]
    named = {text.partition(": ")[0]: code for code, text in told if code in FAILURE_CODES}
    assert len(named) == 100  # the manifest has the others
    for path, code in named.items():
        assert code in BAD[path.removeprefix("bad/")].codes
    assert "Traceback" not in done.stdout + done.stderr
    assert "worker_lost" not in done.stderr


MEMORY = """
import resource, sys
from pathlib import Path
from splitfire_batch.audio import open_audio
from splitfire_batch.errors import TrackError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n_frames = 0
try:
    with open_audio(Path(sys.argv[1]), float(sys.argv[2])) as decoder:
        for block in decoder.blocks():
            n_frames += len(block)
        end = "whole"
except TrackError as error:
    end = error.code
print(end, n_frames, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("says", "limit_s", "wanted"),
    [
        (True, 600, ("TOO_LONG", 0)),
        (False, 600, ("TOO_LONG", 403 * 65_536)),
        pytest.param(True, 86_400, ("whole", 65_535 * 1_495), marks=pytest.mark.slow),
    ],
    ids=["its header says", "it does not say", "it is allowed"],
)
def test_a_bomb_of_52_kb_is_refused_or_read_in_flat_memory(
    tmp_path: Path, says: bool, limit_s: float, wanted: tuple[str, int]
) -> None:
    """98 million frames of 8 channels, 3.1 GB as floats."""
    bomb = flac_bomb(98_000_000)
    assert len(bomb) < 80_000
    if not says:
        bomb = patched(bomb, 18, (int.from_bytes(bomb[18:26], "big") >> 36 << 36).to_bytes(8, "big"))
    (tmp_path / "bomb.flac").write_bytes(bomb)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "bomb.flac"), str(limit_s)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    end, n_frames, grown_mb = done.stdout.split()
    assert (end, int(n_frames)) == wanted
    assert int(grown_mb) < 50


def test_a_wav_whose_length_has_wrapped_at_4_gib_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    """Recorders without RF64 write on, and their headers count from 0 again."""
    file = write(tmp_path / "a.wav", noise(5_000))
    header = file.read_bytes()
    with file.open("r+b") as stream:
        stream.truncate(2**32 + len(header))  # sparse
    with pytest.raises(TrackError, match=r"CORRUPT_HEADER: .* convert it to RF64"):
        open_audio(file)


HOSTILE_KEYS = [
    "a b/ü/日本語 🎸.wav",
    "e\u0301.wav",
    "é.wav",
    "Case.wav",
    "case.wav",
    "#1 100% [set]{x}*.wav",
    "%2e%2e%2f%2e%2e%2fetc.wav",
    "x::y.wav",
    "q?versionId=1.wav",
    "q?versionId=2.wav",
    "rtl\u202egnp.wav",
    "bell\x07.wav",
    "con.live/nul.wav",
    "dots./x.wav",
    "x.wav",
    "x.wav/y.wav",
    "a.wav",
    "a_vocals.wav/b.wav",
    "-rf.wav",
    "=eq.wav",
    "+plus.wav",
    "new\nline.wav",
    "tab\t.wav",
    "ctrl\x01\x7f.wav",
    "q\"uo'te,.wav",
    "&amp;<b>.wav",
    f"{'long' * 30}/{'name' * 50}.wav",
]


@pytest.mark.parametrize("kind", ["bucket", "folder"])
def test_hostile_keys_of_a_bucket_are_tracks_with_objects_of_their_own(
    bucket: str, tmp_path: Path, kind: str
) -> None:
    source = open_store(f"{bucket}/in", {})
    out = open_store(f"{bucket}/out" if kind == "bucket" else str(tmp_path / "out"), {})
    keys = []
    for number, key in enumerate(HOSTILE_KEYS):
        file = write(tmp_path / "made.wav", noise(300 + number, seed=number))
        source.write(key, file)
        keys.append(key)
    job = a_job(source.url, out.url, runtime=INLINE)
    report = finish(job, story.list_tracks(job))
    assert (report.n_done, report.n_failed) == (len(keys), 0), report.failures
    rows = rows_of(out, tmp_path)
    assert set(rows) == set(keys)
    for number, key in enumerate(keys):
        check_good(rows[key], 300 + number, out, tmp_path)
    paths = [stem["path"] for row in rows.values() for stem in row["stems"]]
    assert len(set(paths)) == len(paths)
    assert {item.path for item in source.list()} == set(keys)
    assert {item.path for item in out.list() if not item.path.startswith("_splitfire/")} == set(paths)
    everything = {item.path for item in open_store(bucket, {}).list()}
    assert all(path.startswith(("in/", "out/")) for path in everything)
    found = verify(out.url, {}, Checks("deep"), lambda _: None)
    assert (found.findings, found.n_tracks) == ((), len(keys))
