"""Codecs in children give what codecs in this process give, within what they may take, and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from splitfire_batch.children import CodecLimits, Codecs, Inline, pool
from splitfire_batch.children.child import MAX_PEAK_BYTES
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import TrackError
from splitfire_batch.here import separate_files
from splitfire_batch.records import StageSeconds, TrackRow
from tests.bad_inputs import flac_bomb
from tests.children import below, in_children, is_alive, peak_mb, wait_until
from tests.ffmpeg_files import encode
from tests.material import noise, write

PASSTHROUGH = SeparationConfig(model="passthrough")


def decoded(codecs: Codecs, file: Path, n_frames: int = 65_536) -> np.ndarray:
    with codecs.open_audio(file, 86_400, None) as decoder:
        return np.concatenate(list(decoder.blocks(n_frames)))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A file of each decoder, some of several blocks, with loops and tags, and one that clips its stems."""
    folder = tmp_path_factory.mktemp("sources")
    samples = noise(150_000)
    files = [
        write(folder / name, samples[: 150_000 if name == "long.wav" else 20_000], rate, subtype)
        for name, rate, subtype in [
            ("long.wav", 44_100, "PCM_24"),
            ("float.wav", 48_000, "FLOAT"),
            ("eight.wav", 44_100, "PCM_U8"),
            ("a.aiff", 44_100, "PCM_16"),
            ("a.flac", 44_100, "PCM_24"),
            ("a.mp3", 44_100, "MPEG_LAYER_III"),
            ("a.ogg", 44_100, "VORBIS"),
        ]
    ]
    files.append(write(folder / "loud.wav", noise(20_000, peak=0.999), subtype="PCM_16"))
    files.append(write(folder / "six.wav", noise(9_000, 6), 48_000))
    files.append(encode(folder / "a.m4a", "aac", samples[:20_000].astype(np.float32), 44_100, "stereo"))
    with (folder / "loops.wav").open("wb") as looped:
        plain = (folder / "loud.wav").read_bytes()
        chunk = b"LIST\x1a\0\0\0INFOINAM\x0d\0\0\0A name\0or two\0\0" + b"cue \4\0\0\0\0\0\0\0"
        looped.write(plain[:4] + (len(plain) - 8 + len(chunk)).to_bytes(4, "little") + plain[8:] + chunk)
    return [*files, folder / "loops.wav"]


@pytest.mark.parametrize("format", ["source", "ogg", "mp3"])
def test_rows_and_stems_are_the_same_in_children_as_in_one_process(tmp_path, sources, format):
    files = sources if format == "source" else sources[-3:]
    output = OutputConfig(format=format)
    rows = {
        codecs: [
            comparable(row)
            for row in separate_files(
                files, str(tmp_path / codecs), PASSTHROUGH, output, RuntimeConfig(codecs=codecs)
            )
        ]
        for codecs in ("inline", "children")
    }
    assert rows["children"] == rows["inline"]
    done = [row for row in rows["inline"] if row.status == "done"]
    assert len(done) >= len(files) - 1  # an MP3 has no six channels
    for row in done:
        for stem in row.stems:
            inline, child = (tmp_path / codecs / stem.path for codecs in rows)
            assert np.array_equal(*(soundfile.read(path)[0] for path in (inline, child)))
            assert inline.read_bytes() == child.read_bytes() or stem.subtype == "FLOAT"


def comparable(row: TrackRow) -> TrackRow:
    """Without times; libsndfile writes one into each float WAV."""
    stems = [replace(stem, sha256=None) if stem.subtype == "FLOAT" else stem for stem in row.stems]
    return replace(row, seconds=StageSeconds(), started_at=0, finished_at=0, stems=tuple(stems))


def test_samples_and_metadata_are_the_same_whatever_the_block(sources):
    inline = Inline()
    with in_children() as codecs:
        for file in sources:
            for n_frames in (999, 65_536):
                found, wanted = decoded(codecs, file, n_frames), decoded(inline, file, n_frames)
                assert found.dtype == wanted.dtype
                assert np.array_equal(found, wanted)
            assert codecs.read_metadata(file) == inline.read_metadata(file)
    assert inline.read_metadata(sources[-1]).chunks


def test_many_threads_have_a_child_each_and_children_are_used_again(sources):
    with in_children() as codecs:
        wanted = decoded(Inline(), sources[0])
        found = []

        def decode() -> None:
            for _ in range(5):
                found.append(np.array_equal(decoded(codecs, sources[0], 5_000), wanted))

        threads = [threading.Thread(target=decode) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [True] * 30
        assert 2 <= len(below()) <= 7  # the zygote among them


def test_a_child_comes_back_clean_from_files_that_cannot_be_decoded(tmp_path):
    cut = tmp_path / "cut.flac"
    cut.write_bytes(write(tmp_path / "a.flac", noise(200_000)).read_bytes()[:-5_000])
    text = tmp_path / "text.wav"
    text.write_bytes(b"no audio" * 100)
    with in_children() as codecs:
        for file, code in ((cut, "TRUNCATED"), (text, "NOT_AUDIO"), (cut, "TRUNCATED")):
            with pytest.raises(TrackError) as found:
                decoded(codecs, file)
            assert found.value.code == code
            codecs.open_audio(tmp_path / "a.flac", 86_400, None).close()  # the header alone was wanted
        assert len(below()) == 2
        assert len(decoded(codecs, tmp_path / "a.flac")) == 200_000


def test_whoever_stops_half_way_leaves_no_child_behind(tmp_path):
    file = write(tmp_path / "a.wav", noise(500_000))
    with in_children() as codecs:
        with codecs.open_audio(file, 86_400, None) as decoder:
            next(decoder.blocks(1_000))
        assert len(below()) == 1
        assert len(decoded(codecs, file)) == 500_000


def test_children_are_replaced_before_they_have_leaked_much(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "MAX_JOBS", 3)
    file = write(tmp_path / "a.wav", noise(300))
    with in_children() as codecs:
        pids = []
        for _ in range(7):
            decoded(codecs, file)
            pids += [pid for pid in below() if pid not in pids]
    assert len(pids) == 1 + 3


def test_a_bomb_is_decoded_with_a_child_that_stays_small(tmp_path):
    """16 million frames of 8 channels: 0.5 GB pass through, and neither process holds them."""
    (tmp_path / "bomb.flac").write_bytes(flac_bomb(16_000_000))
    before = peak_mb(os.getpid())
    with in_children() as codecs:
        n_frames = 0
        with codecs.open_audio(tmp_path / "bomb.flac", 86_400, None) as decoder:
            for block in decoder.blocks(65_536):
                n_frames += len(block)
        assert n_frames == 65_535 * 244
        assert max(map(peak_mb, below())) < 150 < MAX_PEAK_BYTES / 2**20
    assert peak_mb(os.getpid()) - before < 50


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_processes_hold_neither_torch_nor_credentials(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-7f3a")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary-7f3a")
    with in_children() as codecs:
        decoded(codecs, write(tmp_path / "a.wav", noise(300)))
        processes = below()
        assert len(processes) == 2
        for pid in processes:
            told = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline")]
            assert b"canary-7f3a" not in b"".join(told)
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert "libsndfile" in maps
            assert "torch" not in maps
            assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        limits = Path(f"/proc/{processes[-1]}/limits").read_text()
    words = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    assert words["Max core file size"] == "0"
    assert words["Max open files"] == "64"
    assert 2**30 < int(words["Max address space"]) < 2**31


def test_nothing_heavy_is_imported_for_codecs():
    code = "import sys, splitfire_batch.children.serving as _; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "soundfile" in loaded
    assert not loaded & {"torch", "ray", "prefect", "fsspec", "s3fs", "botocore", "pyarrow", "pydantic"}


OWNER = """
import signal, sys, time
from pathlib import Path
from splitfire_batch.children import CodecLimits, InChildren
if sys.argv[2] == "goes on":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # an ignored signal would stay so in children
codecs = InChildren(CodecLimits(1024, 60))
opened = [codecs.open_audio(Path(sys.argv[1]), 86_400, None) for _ in range(3)]
blocks = opened[0].blocks(65_536)
next(blocks)  # one child is busy, one waits, and one is idle
opened[1].close()
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[2] == "exit":
    sys.exit()
print(sum(map(len, blocks)), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def owner_of(tmp_path):
    """Starts a process that has codec children, and is about to end as it is told."""
    file = write(tmp_path / "a.wav", noise(900_000))
    started = []

    def start(end: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OWNER, str(file), end]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, start_new_session=True, **pipes))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGSEGV"])
def test_no_child_survives_its_owner(owner_of, end):
    owner = owner_of(end)
    processes = below(owner.pid)
    assert len(processes) == 4
    owner.send_signal(getattr(signal, end))
    owner.wait(20)
    wait_until(lambda: not any(map(is_alive, processes)), within_s=5)


def test_no_child_survives_an_owner_that_ends_without_closing(owner_of):
    owner = owner_of("exit")
    processes = below(owner.pid)
    assert len(processes) == 4
    owner.stdin.write("end\n")
    owner.stdin.flush()
    owner.wait(20)
    assert owner.returncode == 0
    wait_until(lambda: not any(map(is_alive, processes)), within_s=5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_at_once_leaves_the_children_at_work(owner_of, number):
    """As of Ctrl-C at a terminal, or of systemd and Slurm to a control group."""
    owner = owner_of("goes on")
    processes = below(owner.pid)
    for pid in (*processes, owner.pid):
        os.kill(pid, number)
    owner.stdin.write("go on\n")
    owner.stdin.flush()
    assert int(owner.stdout.readline()) == 900_000 - 65_536
    assert set(below(owner.pid)) == set(processes)
    owner.kill()
    wait_until(lambda: not any(map(is_alive, processes)), within_s=5)


def test_a_frozen_child_is_replaced_and_its_track_goes_on_where_it_was(tmp_path, caplog):
    file = write(tmp_path / "a.wav", noise(900_000))
    with in_children(CodecLimits(1024, 3)) as codecs, codecs.open_audio(file, 86_400, None) as decoder:
        blocks = decoder.blocks(65_536)
        found = [next(blocks)]
        os.kill(below()[-1], signal.SIGSTOP)
        found += blocks
    assert np.array_equal(np.concatenate(found), decoded(Inline(), file))
    assert "said nothing for 3 s" in caplog.text


def test_seconds_that_nobody_waits_for_are_told_at_the_end(tmp_path):
    """Else a row's decode_s would be next to nothing where decoding is well ahead of the model."""
    file = write(tmp_path / "a.mp3", noise(900_000), subtype="MPEG_LAYER_III")  # slower than FLAC
    with in_children() as codecs, codecs.open_audio(file, 86_400, None) as decoder:
        for _ in decoder.blocks(65_536):
            assert decoder.extra_s == 0
            time.sleep(0.05)
        assert 0 < decoder.extra_s < 5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_job_sets_the_limit_of_what_it_may_write(tmp_path):
    """Decoders copy files that do not say their length, after a child has read shorter ones too."""
    short, long = write(tmp_path / "a.wav", noise(300)), write(tmp_path / "b.wav", noise(65_536))
    mix = [noise(65_536).astype(np.float32)]
    with in_children() as codecs:
        codecs.read_metadata(short)
        assert max_file_bytes(below()[-1]) == 2 * short.stat().st_size + 2**20
        for job in (
            lambda: decoded(codecs, long),
            lambda: codecs.read_back({"vocals": long}, lambda: iter(mix), frozenset()),
        ):
            codecs.read_metadata(short)
            job()
            assert max_file_bytes(below()[-1]) == 2 * long.stat().st_size + 2**20


def max_file_bytes(pid: int) -> int:
    limits = Path(f"/proc/{pid}/limits").read_text()
    return int(limits.partition("Max file size")[2].split()[0])


def test_a_killed_zygote_is_replaced(tmp_path):
    file = write(tmp_path / "a.wav", noise(300))
    with in_children() as codecs:
        decoded(codecs, file)
        zygote, child = below()
        os.kill(zygote, signal.SIGKILL)
        wait_until(lambda: not is_alive(child))
        for _ in range(2):
            assert len(decoded(codecs, file)) == 300
        assert zygote not in below()


def test_where_no_process_starts_the_message_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    wanted = r'INTERNAL: no process .* set codecs = "inline"'
    with in_children() as codecs, pytest.raises(TrackError, match=wanted):
        codecs.open_audio(write(tmp_path / "a.wav", noise(300)), 86_400, None)
