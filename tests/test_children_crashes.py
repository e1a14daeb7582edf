"""Codecs that crash, hang, flood or lie: each costs its own track, and nothing else, in a real worker."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from splitfire_batch import worker as worker_module
from splitfire_batch.audio import Encoded, OutputFormat, choose_output
from splitfire_batch.children import Codecs, starting
from splitfire_batch.config import OutputConfig
from splitfire_batch.errors import StorageError
from splitfire_batch.manifest.ledger import read_parts
from splitfire_batch.metadata import SourceMetadata
from splitfire_batch.records import AudioFormat, Committed, Shard, Track
from splitfire_batch.storage import open_store
from tests.children import below, in_children, wait_until
from tests.hostile_codecs import FLOODING, IN_METADATA
from tests.material import Shares, noise, track_of, write
from tests.test_worker import spec

LIMITS = {"codec_s": 4, "codec_mb": 300}


@dataclass(frozen=True)
class Case:
    """A hostile rate, and what its row must say; no code where the track is done all the same."""

    rate: int
    code: str | None
    words: str = ""


CASES = {
    "a decoder that segfaults": Case(11_001, "DECODE_CRASH", r"SIGSEGV after 65536 frames.*leave it out"),
    "a decoder that aborts": Case(11_002, "DECODE_CRASH", "SIGABRT after 65536 frames"),
    "a decoder that leaves": Case(11_003, "DECODE_CRASH", "exit code 3"),
    "a decoder that hangs": Case(11_004, "DECODE_LIMIT", r"said nothing for 4 s.*raise codec_s"),
    "a decoder that computes": Case(11_005, "DECODE_LIMIT", r"(computed|said nothing) for.*raise codec_s"),
    "a decoder that eats memory": Case(11_006, "DECODE_LIMIT", r"the 300 MB.*raise codec_mb"),
    "a decoder with bad luck": Case(11_007, None),
    "a decoder that talks": Case(11_008, None),
    "a decoder that sends garbage": Case(11_009, "DECODE_CRASH", "nonsense"),
    "a decoder that forges a block": Case(11_010, "DECODE_CRASH", "nonsense"),
    "a decoder that is killed": Case(11_011, "OOM", r"killed from outside.*after 65536 frames.*more"),
    "an encoder that segfaults": Case(12_001, "ENCODE_CRASH", "SIGSEGV.*set another format"),
    "an encoder that hangs": Case(12_002, "ENCODE_CRASH", "said nothing for 4 s"),
    "libvorbis on a long write": Case(12_003, "ENCODE_CRASH", "SIGSEGV"),
    "an encoder that eats memory": Case(12_004, "ENCODE_CRASH", "300 MB"),
    "an encoder that leaves": Case(12_005, "ENCODE_CRASH", "exit code 3"),
    "an encoder that is killed": Case(12_007, "OOM", r"encoder.*killed from outside"),
    "an encoder that floods": Case(FLOODING, "ENCODE_CRASH", "longer than its samples"),
}


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "MODULES", [*starting.MODULES, "tests.hostile_zygote"])


def tracks_in(folder: Path) -> dict[str, Track]:
    """One for each case, and good ones between them, of two blocks each."""
    tracks = {}
    for number, (name, case) in enumerate(CASES.items()):
        for kind, rate in (("good", 8_000), (name, case.rate)):
            file = write(folder / f"{number}-{kind}.wav", noise(70_000, seed=number), rate)
            track_id = f"{len(tracks):016x}"
            tracks[track_id] = track_of(file, track_id, target=f"{track_id}_{{stem}}.{{ext}}")
    return tracks


@pytest.mark.usefixtures("hostile")
def test_each_hostile_file_of_a_shard_costs_itself_and_leaves_no_process(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(worker_module, "load_model", lambda *_: Shares())
    caplog.set_level(logging.INFO, "splitfire_batch")
    tracks = tracks_in(tmp_path / "in")
    before = set(below())
    worker = spec(tmp_path, open_tracks=8, **LIMITS)()
    events = list(worker.run_shard(Shard("s", tuple(tracks.values()))))
    assert set(below()) - before
    worker.close()
    wait_until(lambda: not set(below()) - before, within_s=5)
    assert not list((tmp_path / "scratch").iterdir())

    assert sum(len(event.outcomes) for event in events if isinstance(event, Committed)) == len(tracks)
    rows = read_parts(open_store(str(tmp_path / "out"), {})).to_pylist()
    assert sorted(row["track_id"] for row in rows) == sorted(tracks)
    for row in rows:
        kind = row["path"].partition("-")[2].removesuffix(".wav")
        case = CASES.get(kind, Case(8_000, None))
        assert (row["code"], row["status"]) == (case.code, "failed" if case.code else "done"), row["message"]
        assert re.search(case.words, row["message"] or ""), row["message"]
        assert [stem["n_frames"] for stem in row["stems"]] == ([] if case.code else [70_000] * 2)
    note = r"codec_note track=\d+-a decoder that talks.wav says='\[parse.c:42\] warning: what an odd frame'"
    assert re.search(note, caplog.text)


@pytest.mark.usefixtures("hostile")
def test_metadata_that_kill_their_reader_cost_a_warning(tmp_path):
    """Nothing of them fails a track, see `metadata`."""
    with in_children() as codecs:
        found = codecs.read_metadata(write(tmp_path / "a.wav", noise(300), IN_METADATA))
    why = "not carried over: all metadata; their reader was ended by SIGSEGV"
    assert found == SourceMetadata(warnings=(why,))


def test_what_an_encoder_found_wrong_with_the_disk_stays_what_it_is(tmp_path):
    output = choose_output(AudioFormat("WAV", "PCM_16", 44_100, 1, 10), OutputConfig())
    files = {"vocals": tmp_path / "missing" / "a.wav"}
    with in_children() as codecs, pytest.raises(StorageError, match="could not be written"):
        write_all(codecs, files, output)
    (tmp_path / "missing").mkdir()
    with in_children() as codecs:
        assert write_all(codecs, files, output)["vocals"].n_frames == 10


def write_all(codecs: Codecs, files: dict[str, Path], output: OutputFormat) -> dict[str, Encoded]:
    with codecs.open_stems(files, output, {}, 10) as stems:
        stems.write({stem: np.zeros((10, 1), np.int32) for stem in files})
        return stems.close()
