"""A hash of the audio alone: tags do not change it, samples and formats do; shapes from the first bytes."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from splitfire_batch.audio import HEAD_BYTES, audio_id, shape_of
from tests.assets import audio_example
from tests.material import noise

FORMATS = [
    *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    *(("RF64", subtype) for subtype in ("PCM_16", "FLOAT")),
    *(("AIFF", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT")),
    *(("FLAC", subtype) for subtype in ("PCM_16", "PCM_24")),
]
ID3V2 = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + b"TIT2\x00\x00\x00\x00\x00\x00"
ID3V1 = b"TAG" + b"a title".ljust(125, b"\x00")


def made(path: Path, kind: str, subtype: str, seed: int = 0, n_channels: int = 2, rate: int = 44_100) -> Path:
    soundfile.write(path, noise(3_001, n_channels, seed=seed), rate, subtype, format=kind)
    return path


def tagged(path: Path, kind: str) -> Path:
    """The same file with a chunk or block more, before the samples."""
    data = bytearray(path.read_bytes())
    if kind == "FLAC":
        block = b"\x02" + (8).to_bytes(3, "big") + b"test1234"  # APPLICATION, behind STREAMINFO
        data[42:42] = block
    else:
        order = ">" if kind == "AIFF" else "<"
        first = {"RF64": 12 + 36}.get(kind, 12)  # ds64 must come first
        data[first:first] = struct.pack(f"{order}4sI", b"note", 6) + b"a tag!"
        if kind != "RF64":
            struct.pack_into(f"{order}I", data, 4, len(data) - 8)
    other = path.with_name(f"tagged-{path.name}")
    other.write_bytes(data)
    return other


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_tags_do_not_change_the_id_and_one_sample_does(kind: str, subtype: str, tmp_path: Path) -> None:
    file = made(tmp_path / "a", kind, subtype)
    other = tagged(file, kind)
    assert soundfile.info(other).frames == 3_001
    assert np.array_equal(soundfile.read(file)[0], soundfile.read(other)[0])
    assert audio_id(other) == audio_id(file)
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    (tmp_path / "flipped").write_bytes(data)
    assert audio_id(tmp_path / "flipped") != audio_id(file)


def test_every_format_rate_and_channel_count_has_an_id_of_its_own(tmp_path: Path) -> None:
    files = [made(tmp_path / f"{kind}-{subtype}", kind, subtype) for kind, subtype in FORMATS]
    files += [made(tmp_path / f"{rate}", "WAV", "PCM_16", rate=rate) for rate in (8_000, 48_000)]
    files += [made(tmp_path / f"x{n}", "WAV", "PCM_16", n_channels=n) for n in (1, 4)]
    assert len({audio_id(file) for file in files}) == len(files)


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
@pytest.mark.parametrize("rate", [4_000, 11_025, 44_100, 192_000])
def test_the_shape_is_what_a_second_library_says(kind: str, subtype: str, rate: int, tmp_path: Path) -> None:
    file = made(tmp_path / "a", kind, subtype, n_channels=3, rate=rate)
    data = file.read_bytes()
    found = shape_of(data[:HEAD_BYTES], len(data))
    if kind == "RF64":  # its header says that the length is elsewhere
        assert found in (None, (rate, 3, 3_001))
    else:
        assert found == (rate, 3, 3_001)


@pytest.mark.parametrize("n_bytes", [0, 3, 12, 20, 30, 43])
@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC"])
def test_a_head_that_is_too_short_tells_no_wrong_shape(n_bytes: int, kind: str, tmp_path: Path) -> None:
    data = made(tmp_path / "a", kind, "PCM_16").read_bytes()
    assert shape_of(data[:n_bytes], len(data)) in (None, (44_100, 2, 3_001))


def test_the_tags_around_an_mp3_do_not_change_its_id(tmp_path: Path) -> None:
    song = audio_example()
    data = song.read_bytes()
    for name, with_tags in (("v2", ID3V2 + data), ("v1", data + ID3V1), ("both", ID3V2 + data + ID3V1)):
        (tmp_path / name).write_bytes(with_tags)
        assert audio_id(tmp_path / name) == audio_id(song), name
    (tmp_path / "other").write_bytes(data[:-1])
    assert audio_id(tmp_path / "other") != audio_id(song)


def test_a_file_that_is_cut_off_or_no_audio_is_hashed_whole(tmp_path: Path) -> None:
    whole = made(tmp_path / "a.wav", "WAV", "PCM_16").read_bytes()
    for name, data in (("cut", whole[:900]), ("text", b"no audio"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        shutil.copy(tmp_path / name, tmp_path / "copy")
        assert audio_id(tmp_path / "copy") == audio_id(tmp_path / name)
    assert len({audio_id(tmp_path / name) for name in ("a.wav", "cut", "text", "empty")}) == 4
    longer = whole[:900] + b"LIST\x02\x00\x00\x00ab"
    (tmp_path / "other tail").write_bytes(longer)
    assert audio_id(tmp_path / "other tail") != audio_id(tmp_path / "cut")
