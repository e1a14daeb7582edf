"""Chunks before the samples of a finished file: true lengths, the same samples, and none lost for a chunk."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from splitfire_batch.audio import Insert, StemWriter
from splitfire_batch.audio.insert import insert_before_samples
from tests import chunked
from tests.test_audio_encode import integers, output, written

SOME = (
    Insert(b"smpl", chunked.smpl((1, 2))),
    Insert(b"iXML", b"<odd></odd>"),
    Insert(b"LIST", chunked.info(INAM="x")),
)
CONTAINERS = [
    ("WAV", 16),
    ("WAV", 24),
    ("RF64", 24),
    ("AIFF", 24),
    ("WAV", None),
    ("RF64", None),
    ("AIFF", None),
]


def samples(bits: int | None, n_channels: int = 1) -> np.ndarray:
    if bits is not None:
        return integers(bits, 10_001, n_channels)
    return np.random.default_rng(0).standard_normal((10_001, n_channels)).astype(np.float32)


@pytest.mark.parametrize(("container", "bits"), CONTAINERS)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_chunks_come_right_before_the_samples_and_all_lengths_are_true(tmp_path, container, bits, n_channels):
    x = samples(bits, n_channels)
    plain = written(tmp_path / "plain", output(container, bits, n_channels), x)
    with StemWriter(tmp_path / "x", output(container, bits, n_channels), SOME) as writer:
        writer.write(x)
        encoded = writer.close()
    found = chunked.before_samples(tmp_path / "x")  # checks the lengths
    assert [name for name, _ in found[-3:]] == [b"smpl", b"iXML", b"LIST"]
    assert [data.rstrip(b" ") for _, data in found[-3:]] == [insert.data for insert in SOME]
    got, _ = soundfile.read(tmp_path / "x", dtype="float32" if bits is None else "int32", always_2d=True)
    assert np.array_equal(got if bits is None else got >> (32 - bits), x)
    data = (tmp_path / "x").read_bytes()
    assert (encoded.n_bytes, encoded.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (encoded.inserted, encoded.pcm_md5) == (("smpl", "iXML", "LIST"), plain.pcm_md5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "x"]


def test_a_chunk_of_odd_length_in_rf64_does_not_hide_the_samples(tmp_path):
    """libsndfile 1.2 looks for the next chunk in the padding; with an even length there is none."""
    for data in (b"1", b"22", b"333"):
        with StemWriter(
            tmp_path / "x", output("RF64", 16), [Insert(b"bext", chunked.bext() + data)]
        ) as writer:
            writer.write(integers(16, 100))
            assert writer.close().inserted


def test_blocks_of_flac_follow_streaminfo_and_keep_the_vendor(tmp_path):
    blocks = (
        Insert(b"PICTURE", chunked.picture(b"p" * 70_000)),
        Insert(b"VORBIS_COMMENT", chunked.comments("A=b")[10:]),
    )
    with StemWriter(tmp_path / "x", output("FLAC", 24), blocks) as writer:
        writer.write(integers(24))
        encoded = writer.close()
    assert encoded.inserted == ("PICTURE", "VORBIS_COMMENT")
    (_, info), (_, picture), (_, comments) = chunked.read_chunks(tmp_path / "x")
    assert picture == blocks[0].data
    assert comments[4:].startswith(b"reference libFLAC")
    assert comments.endswith(b"A=b")
    assert np.array_equal(soundfile.read(tmp_path / "x", dtype="int32")[0] >> 8, integers(24))
    assert info[18:].hex() == encoded.pcm_md5


def test_flac_without_comments_of_ours_keeps_its_own(tmp_path):
    with StemWriter(
        tmp_path / "x", output("FLAC", 16), [Insert(b"PICTURE", chunked.picture(b"p"))]
    ) as writer:
        writer.write(integers(16))
        writer.close()
    assert [name for name, _ in chunked.read_chunks(tmp_path / "x")] == [b"\x00", b"\x04", b"\x06"]


def test_an_id3_tag_comes_before_an_mp3(tmp_path):
    soundfile.write(tmp_path / "a.mp3", np.zeros((5_000, 2)), 44_100)
    insert_before_samples(
        tmp_path / "a.mp3", tmp_path / "b.mp3", [Insert(b"ID3 ", chunked.id3((b"TIT2", b"\0t")))]
    )
    assert (tmp_path / "b.mp3").read_bytes().endswith((tmp_path / "a.mp3").read_bytes())
    assert len(soundfile.read(tmp_path / "b.mp3")[0]) == 5_000


def test_chunks_that_libsndfile_stumbles_over_are_left_out_and_the_samples_stay(tmp_path):
    broken = Insert(b"data", bytes(10))  # it takes the first chunk of that name for the samples
    plain = written(tmp_path / "plain", output("WAV", 16), integers(16))
    with StemWriter(tmp_path / "x", output("WAV", 16), [broken]) as writer:
        writer.write(integers(16))
        encoded = writer.close()
    assert encoded == plain
    assert encoded.inserted == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "x"]


def test_a_large_chunk_is_no_trouble(tmp_path):
    """libsndfile itself would hold no more than 100 kB before the samples."""
    with StemWriter(tmp_path / "x", output("WAV", 16), [Insert(b"axml", b"<" * 5_000_001)]) as writer:
        writer.write(integers(16))
        assert writer.close().inserted
    assert np.array_equal(soundfile.read(tmp_path / "x", dtype="int16")[0], integers(16))


FULL_DISK = """
import resource, sys, numpy as np
from pathlib import Path
from splitfire_batch.audio import Insert, StemWriter
from splitfire_batch.audio.formats import OutputFormat
from splitfire_batch.errors import NoSpace
limit, folder = int(sys.argv[1]), Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    out = OutputFormat("WAV", "PCM_16", "wav", 16, 44_100, 2)
    with StemWriter(folder / "x", out, [Insert(b"iXML", bytes(5000))]) as w:
        w.write(np.zeros((100_000, 2), np.int32))
        w.close()
except NoSpace:
    print("no space")
print(*folder.iterdir())
"""


@pytest.mark.parametrize("missing", [1, 100, 5_000])
def test_a_disk_too_full_for_the_chunks_is_no_space(tmp_path: Path, missing: int) -> None:
    limit = 44 + 400_000 + 5_008 - missing
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(limit), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "no space\n\n", done.stdout + done.stderr
