"""Beyond 4 GiB, where sizes of 32 bits wrap. Sources are sparse files: zeros but for their last frames."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.decode import open_audio
from splitfire_batch.audio.encode import StemWriter
from splitfire_batch.audio.formats import MAX_WAV_BYTES, choose_output
from splitfire_batch.config import OutputConfig
from splitfire_batch.errors import TrackError
from splitfire_batch.records import AudioFormat

RATE, N_CHANNELS, FRAME_BYTES = 48_000, 8, 32
N_FRAMES = 2**32 // FRAME_BYTES + 12_345
ENDING = np.random.default_rng(0).integers(-(2**31), 2**31, (100, N_CHANNELS)).astype(np.int32)


def sparse(path: Path, container: str, n_frames: int = N_FRAMES) -> Path:
    """A PCM_32 file whose header libsndfile wrote for no frames, its sizes and its ending by hand."""
    soundfile.write(path, np.zeros((0, N_CHANNELS), np.int32), RATE, "PCM_32", format=container)
    header = bytearray(path.read_bytes())
    n_bytes = n_frames * FRAME_BYTES
    start = header.rindex(b"data") + (24 if container == "W64" else 8)
    del header[start:]
    if container == "W64":
        struct.pack_into("<Q", header, 16, start + n_bytes)
        struct.pack_into("<Q", header, start - 8, 24 + n_bytes)
    else:
        at = header.index(b"ds64") + 8
        struct.pack_into("<QQQ", header, at, start - 8 + n_bytes, n_bytes, n_frames)
        struct.pack_into("<I", header, start - 4, 0xFFFFFFFF)
        struct.pack_into("<I", header, 4, 0xFFFFFFFF)
    with path.open("wb") as file:
        file.write(header)
        file.seek(start + n_bytes - ENDING.nbytes)
        file.write(ENDING.astype("<i4").tobytes())
    assert path.stat().st_blocks * 512 < 2**20
    return path


@pytest.mark.parametrize("container", ["RF64", "W64"])
def test_a_source_beyond_4_gib_has_all_its_frames(tmp_path, container):
    with open_audio(sparse(tmp_path / "x", container)) as decoder:
        assert decoder.format.n_frames == N_FRAMES
        assert next(decoder.blocks()).shape == (65_536, N_CHANNELS)


@pytest.mark.slow
@pytest.mark.parametrize("container", ["RF64", "W64"])
def test_a_source_beyond_4_gib_is_read_to_its_last_frames(tmp_path, container):
    last, n_frames, loud = np.zeros((0, N_CHANNELS), np.int32), 0, 0
    with open_audio(sparse(tmp_path / "x", container)) as decoder:
        assert decoder.format.n_frames == N_FRAMES
        for block in decoder.blocks(1_000_000):
            n_frames += len(block)
            loud += bool(block.any())
            last = np.concatenate([last, block])[-len(ENDING) :]
    assert n_frames == N_FRAMES
    assert np.array_equal(last, ENDING)
    assert loud == 1


@pytest.mark.parametrize("container", ["RF64", "W64"])
@pytest.mark.parametrize("missing", [1, 2**32])
def test_a_cut_source_beyond_4_gib_is_truncated(tmp_path, container, missing):
    path = sparse(tmp_path / "x", container)
    os.truncate(path, path.stat().st_size - missing)
    with pytest.raises(TrackError, match="TRUNCATED"):
        open_audio(path)


@pytest.mark.parametrize("depth", ["16", "24", "32", "float"])
def test_long_stems_become_rf64_in_time(depth):
    """The header and whatever is written before the samples must fit below 4 GiB too."""
    frame_bytes = 2 * {"16": 2, "24": 3, "32": 4, "float": 4}[depth]
    config = OutputConfig(format="wav", depth=depth)
    for n_frames in (MAX_WAV_BYTES // frame_bytes, MAX_WAV_BYTES // frame_bytes + 1):
        out = choose_output(AudioFormat("WAV", "PCM_16", RATE, 2, n_frames), config)
        assert (out.container == "RF64") == (n_frames * frame_bytes > MAX_WAV_BYTES)
        assert out.container == "RF64" or n_frames * frame_bytes + 64 * 2**20 < 2**32


def test_a_lossy_stem_may_be_as_long_as_it_likes():
    out = choose_output(AudioFormat("WAV", "PCM_16", RATE, 2, 2**33), OutputConfig(format="mp3"))
    assert out.container == "MP3"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stem_beyond_4_gib_is_written_whole(tmp_path):
    if shutil.disk_usage(tmp_path).free < 20 * 10**9:
        pytest.skip("less than 20 GB free")
    source = AudioFormat("RF64", "FLOAT", RATE, N_CHANNELS, N_FRAMES, 0x63F)
    out = choose_output(source, OutputConfig())
    assert (out.container, out.bits) == ("RF64", None)
    block = np.random.default_rng(0).random((2**20, N_CHANNELS), np.float32)
    path = tmp_path / "x.wav"
    with StemWriter(path, out) as writer:
        for start in range(0, N_FRAMES, len(block)):
            writer.write(block[: N_FRAMES - start])
        encoded = writer.close()
    assert encoded.n_frames == N_FRAMES
    assert encoded.n_bytes == path.stat().st_size > 2**32
    with soundfile.SoundFile(path) as file:
        assert file.frames == N_FRAMES
        file.seek(N_FRAMES - 1)
        assert np.array_equal(file.read(1, dtype="float32")[0], block[(N_FRAMES - 1) % len(block)])
    with open_audio(path) as decoder:
        assert decoder.format.n_frames == N_FRAMES
        assert decoder.format.channel_mask == 0x63F
