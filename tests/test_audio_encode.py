import hashlib
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.encode import StemWriter
from splitfire_batch.audio.formats import EXTENSIONS, OutputFormat
from splitfire_batch.errors import StorageError


def output(container, bits, n_channels=2):
    subtype = "FLOAT" if bits is None else f"PCM_{bits}"
    return OutputFormat(container, subtype, EXTENSIONS[container], bits, 44_100, n_channels)


def integers(bits, n_frames=100_000, n_channels=2):
    """Noise over the whole range, both ends included; more than one piece long."""
    x = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (n_frames, n_channels))
    x[0], x[1] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return x.astype(np.int32)


def written(path, out, x, block=30_000):
    with StemWriter(path, out) as writer:
        for start in range(0, len(x), block):
            writer.write(x[start : start + block])
        return writer.close()


INTEGERS = [("WAV", 16), ("WAV", 24), ("WAV", 32), ("RF64", 24), ("AIFF", 16), ("AIFF", 24), ("AIFF", 32),
            ("FLAC", 16), ("FLAC", 24)]  # fmt: skip


@pytest.mark.parametrize(("container", "bits"), INTEGERS)
@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_integers_are_stored_exactly(tmp_path, container, bits, n_channels):
    x = integers(bits, n_channels=n_channels)
    encoded = written(tmp_path / "x", output(container, bits, n_channels), x, block=100_000)
    got, _ = soundfile.read(tmp_path / "x", dtype="int32", always_2d=True)
    assert np.array_equal(got >> (32 - bits), x)
    assert encoded.n_frames == len(x)


@pytest.mark.parametrize("container", ["WAV", "AIFF", "RF64"])
def test_floats_are_stored_exactly(tmp_path, container):
    x = np.random.default_rng(0).standard_normal((100_000, 2)).astype(np.float32)  # beyond full scale too
    encoded = written(tmp_path / "x", output(container, None), x)
    assert np.array_equal(soundfile.read(tmp_path / "x", dtype="float32")[0], x)
    assert encoded.pcm_md5 == hashlib.md5(x.astype("<f4").tobytes()).hexdigest()  # noqa: S324


@pytest.mark.parametrize(("container", "bits"), INTEGERS)
def test_two_writes_give_the_same_bytes_however_the_blocks_were_cut(tmp_path, container, bits):
    one = written(tmp_path / "1", output(container, bits), integers(bits), block=1_000)
    two = written(tmp_path / "2", output(container, bits), integers(bits), block=99_999)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert one == two


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_the_pcm_md5_is_what_flac_itself_stores(tmp_path, bits, n_channels):
    encoded = written(tmp_path / "x", output("FLAC", bits, n_channels), integers(bits, 10_000, n_channels))
    streaminfo = (tmp_path / "x").read_bytes()[8:42]
    assert encoded.pcm_md5 == streaminfo[18:].hex()


def test_the_pcm_md5_of_a_wav_is_that_of_its_data_chunk(tmp_path):
    encoded = written(tmp_path / "x", output("WAV", 24), integers(24, 1000))
    data = (tmp_path / "x").read_bytes()
    start = data.index(b"data") + 8
    assert encoded.pcm_md5 == hashlib.md5(data[start : start + 6000]).hexdigest()  # noqa: S324


@pytest.mark.parametrize(("container", "bits"), [("WAVEX", 16), ("WAVEX", None), ("RF64", 24)])
@pytest.mark.parametrize("mask", [0x107, 0x33])
def test_the_channel_mask_is_written(tmp_path, container, bits, mask):
    x = integers(bits, 1000, 4) if bits else np.random.default_rng(0).random((1000, 4), np.float32)
    encoded = written(tmp_path / "x", replace(output(container, bits, 4), channel_mask=mask), x)
    data = (tmp_path / "x").read_bytes()
    assert int.from_bytes(data[(at := data.index(b"fmt ") + 28) : at + 4], "little") == mask
    assert encoded.sha256 == hashlib.sha256(data).hexdigest()
    with av.open(str(tmp_path / "x")) as file:  # a second opinion
        assert file.streams.audio[0].layout.name == {0x107: "4.0", 0x33: "quad"}[mask]


def test_size_and_hash_are_those_of_the_file(tmp_path):
    encoded = written(tmp_path / "x", output("FLAC", 16), integers(16))
    data = (tmp_path / "x").read_bytes()
    assert (encoded.n_bytes, encoded.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    "block",
    [np.zeros((5, 1), np.int32), np.zeros(5, np.int32), np.zeros((5, 2), np.float32),
     np.full((5, 2), 2**15, np.int32), np.full((5, 2), -(2**15) - 1, np.int32)],
)  # fmt: skip
def test_blocks_that_do_not_belong_in_the_file_are_refused(tmp_path, block):
    with StemWriter(tmp_path / "x", output("WAV", 16)) as writer:
        with pytest.raises(ValueError, match=r"wanted|do not fit"):
            writer.write(block)
        writer.close()


def test_wider_integers_that_fit_are_stored_alike(tmp_path):
    x = integers(24)
    assert written(tmp_path / "x", output("WAV", 24), x) == written(
        tmp_path / "y", output("WAV", 24), x.astype(np.int64)
    )


def test_floats_that_are_no_numbers_are_refused(tmp_path):
    with StemWriter(tmp_path / "x", output("WAV", None)) as writer:
        with pytest.raises(ValueError, match="NaN"):
            writer.write(np.full((5, 2), np.nan, np.float32))
        writer.close()


def test_an_exception_removes_the_unfinished_file(tmp_path):
    with pytest.raises(ValueError, match="wanted"), StemWriter(tmp_path / "x", output("WAV", 16)) as writer:
        writer.write(np.zeros(1, np.int32))
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="could not be written"):
        StemWriter(tmp_path / "no" / "x", output("WAV", 16))


FULL_DISK = """
import resource, sys, numpy as np
from pathlib import Path
from splitfire_batch.audio.encode import StemWriter
from splitfire_batch.audio.formats import OutputFormat
from splitfire_batch.errors import NoSpace
container, bits, limit, n_frames = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
x = np.random.default_rng(0).integers(-(2**15), 2**15, (n_frames, 2)).astype(np.int32)
try:
    out = OutputFormat(container, f"PCM_{bits}", "x", bits, 44_100, 2)
    with StemWriter(Path(sys.argv[5]), out) as writer:
        writer.write(x)
        print(writer.close())
except NoSpace:
    print("no space")
"""


@pytest.mark.parametrize("container", ["WAV", "AIFF", "FLAC"])
@pytest.mark.parametrize("missing", [1, 100, 10_000, 300_000])
def test_a_full_disk_is_no_space_even_if_only_the_last_byte_does_not_fit(tmp_path, container, missing):
    encoded = written(tmp_path / "whole", output(container, 16), integers(16))
    limit = encoded.n_bytes - missing
    command = [sys.executable, "-c", FULL_DISK, container, "16", str(limit), "100000", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "no space\n", done.stdout + done.stderr
    assert not (tmp_path / "x").exists()
