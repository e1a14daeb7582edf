"""Files that decoders in children copy, leave behind, or take long for."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.mpeg import parse_header
from splitfire_batch.children import CodecLimits, starting
from splitfire_batch.errors import TrackError
from splitfire_batch.separation import Limits
from splitfire_batch.settling import settle
from tests.children import in_children, newer_than_now
from tests.hostile_codecs import SLOW
from tests.material import noise, track_of, workbench, write


@pytest.mark.parametrize("says_length", [True, False])
def test_an_mp3_longer_than_the_memory_of_its_decoder_is_decoded(tmp_path, says_length):
    """Ten hours at 320 kbit/s are 1.4 GB, and the default of codec_mb is 1024; here both are less."""
    data = io.BytesIO()
    soundfile.write(data, noise(100_000), 44_100, "MPEG_LAYER_III", format="MP3")
    header = parse_header(data.getvalue()[:4])
    assert header is not None
    file = tmp_path / "a.mp3"
    file.write_bytes(data.getvalue()[0 if says_length else header.n_bytes :])
    os.truncate(file, 160 * 2**20)  # zeros, which take no room
    with in_children(CodecLimits(110, 60)) as codecs, codecs.open_audio(file, 86_400, tmp_path) as decoder:
        assert 100_000 <= sum(map(len, decoder.blocks(65_536))) < 103_000


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "MODULES", [*starting.MODULES, "tests.hostile_zygote"])


@pytest.mark.usefixtures("hostile")
def test_a_decoder_that_crashes_leaves_no_copy_of_its_file(tmp_path):
    """A WAV file whose recorder was cut off is copied, and the copy's header finished."""
    file = write(tmp_path / "in" / "a.wav", noise(70_000), 11_001)
    cut_off(file)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (
        in_children() as codecs,
        workbench(tmp_path / "out", limits=Limits(scratch=scratch, codecs=codecs)) as bench,
    ):
        row = settle(track_of(file), bench)
    assert row.code == "DECODE_CRASH"
    assert not list(scratch.iterdir())


@pytest.mark.usefixtures("hostile")
def test_what_is_decoded_anew_after_a_loss_does_not_pass_for_a_hang(tmp_path, caplog):
    """A FLAC file of hours takes minutes to come to where it was; here the bounds are a second and more."""
    file = write(tmp_path / "a.wav", noise(8_000), SLOW)
    ours = newer_than_now()
    with in_children(CodecLimits(1024, 1)) as codecs, codecs.open_audio(file, 86_400, None) as decoder:
        blocks = decoder.blocks(1_000)
        found = [next(blocks) for _ in range(7)]
        os.kill(ours()[-1], signal.SIGKILL)
        found += blocks
    assert np.array_equal(np.concatenate(found), soundfile.read(file, dtype="int16")[0])
    assert caplog.text.count("codec_lost") == 1


@pytest.mark.usefixtures("hostile")
def test_a_long_file_with_bad_samples_is_said_to_have_them(tmp_path):
    """They are counted to the end, and no block comes out meanwhile."""
    samples = noise(8_000)
    samples[0] = np.nan
    file = write(tmp_path / "a.wav", samples, SLOW, "FLOAT")
    ours = newer_than_now()
    with in_children(CodecLimits(1024, 1)) as codecs, codecs.open_audio(file, 86_400, None) as decoder:
        with pytest.raises(TrackError, match="NON_FINITE: 2 samples"):
            list(decoder.blocks(1_000))
        assert len(ours()) == 2  # the child is of use


def cut_off(file: Path) -> None:
    """As its recorder left it, whose header says nothing yet."""
    data = bytearray(file.read_bytes())
    at = data.index(b"data")
    data[4:8] = data[at + 4 : at + 8] = bytes(4)
    file.write_bytes(data)
