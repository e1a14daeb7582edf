"""A chunk beside the samples never costs the samples."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from splitfire_batch.audio import open_audio
from splitfire_batch.audio.bare import bare_copy
from splitfire_batch.audio.sniff import sniff
from splitfire_batch.errors import TrackError
from tests import chunked
from tests.material import noise


def decoded(path: Path) -> np.ndarray:
    with open_audio(path) as decoder:
        return np.concatenate(list(decoder.blocks())) >> 8


@pytest.fixture(params=[1, 2])
def mix(request: pytest.FixtureRequest) -> np.ndarray:
    return (noise(5_001, request.param) * 2**23).astype(np.int32)


def written(path: Path, mix: np.ndarray, container: str) -> Path:
    soundfile.write(path, mix << 8, 44_100, "PCM_24", format=container)
    return path


@pytest.mark.parametrize("size", [1, 2, 37])
def test_an_rf64_file_with_a_chunk_of_odd_length_before_its_samples_is_read(tmp_path, mix, size):
    path = chunked.add(written(tmp_path / "a", mix, "RF64"), before=[(b"iXML", b"x" * size)])
    if size % 2:
        with pytest.raises(soundfile.LibsndfileError):
            soundfile.read(path)
    assert np.array_equal(decoded(path), mix)


def test_an_aiff_file_with_a_damaged_text_behind_its_samples_is_read(tmp_path, mix):
    path = chunked.add(written(tmp_path / "a", mix, "AIFF"), after=[(b"NAME", b"Song")])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"NAME" + struct.pack(">I", 4), b"NAME" + struct.pack(">I", 2**24)))
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(path)
    assert np.array_equal(decoded(path), mix)


@pytest.mark.parametrize("container", ["WAV", "RF64", "AIFF"])
def test_a_bare_copy_is_what_libsndfile_writes_without_chunks(tmp_path, mix, container):
    plain = written(tmp_path / "a", mix, container).read_bytes()
    path = chunked.add(tmp_path / "a", before=[(b"NAME", b"abc")], after=[(b"cue ", chunked.cue(1))])
    copy = bare_copy(path, sniff(path), tmp_path)
    assert copy is not None
    with copy:
        assert Path(copy.name).read_bytes() == plain
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_file_with_nothing_to_leave_out_or_of_another_family_has_no_bare_copy(tmp_path, mix):
    for container in ("WAV", "FLAC", "W64"):
        path = written(tmp_path / container, mix, container)
        assert bare_copy(path, sniff(path), tmp_path) is None


def test_a_header_that_makes_no_sense_is_still_corrupt_and_leaves_nothing_behind(tmp_path):
    path = chunked.add(written(tmp_path / "a", noise(100, 1).astype(np.int32), "WAV"), after=[(b"cue ", b"")])
    data = bytearray(path.read_bytes())
    data[20:24] = b"\xee\xee\0\0"  # a codec and a number of channels that do not exist
    path.write_bytes(data)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(TrackError) as caught, open_audio(path, scratch_dir=scratch):
        pass
    assert caught.value.code in ("CORRUPT_HEADER", "UNSUPPORTED")
    assert not list(scratch.iterdir())
