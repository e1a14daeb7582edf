"""A FLAC file that goes on where its header says it ends is refused; every other one is left alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from splitfire_batch.audio.flac import check_total
from splitfire_batch.errors import TrackError
from tests.bad_inputs import encoded, flac_bomb, flac_with_total


def check(data: bytes, offset: int = 0) -> None:
    check_total(io.BytesIO(data), offset, len(data))


@pytest.mark.parametrize("n_frames", [1, 15, 16, 191, 192, 4_095, 4_096, 4_097, 20_000, 4_096 * 130])
@pytest.mark.parametrize("rate", [8_000, 44_100, 192_000])
def test_the_last_frame_of_a_true_file_agrees_with_its_header(n_frames: int, rate: int) -> None:
    check(encoded("FLAC", "PCM_24", n_frames, rate=rate))


@pytest.mark.parametrize(
    ("n_frames", "total"), [(20_000, 5_000), (20_000, 19_999), (4_096 * 3, 4_096 * 2), (2, 1)]
)
def test_a_header_that_says_less_is_refused_with_both_numbers(n_frames: int, total: int) -> None:
    with pytest.raises(TrackError, match=f"says {total} frames, .* goes on to frame {n_frames}") as caught:
        check(flac_with_total(total, n_frames))
    assert caught.value.code == "CORRUPT_HEADER"


def test_tags_before_the_file_do_not_hide_it() -> None:
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    with pytest.raises(TrackError, match="goes on to frame 20000"):
        check(tag + flac_with_total(5_000), len(tag))


@pytest.mark.parametrize("total", [0, 20_000, 30_000, 2**36 - 1])
def test_unknown_right_and_greater_lengths_are_not_its_business(total: int) -> None:
    check(flac_with_total(total))


def test_a_file_with_something_behind_its_audio_is_left_alone() -> None:
    check(encoded("FLAC", "PCM_16") + b"TAG" + bytes(125))


def test_frames_of_65535_with_a_long_number_are_read() -> None:
    bomb = flac_bomb(65_535 * 300, 2)
    check(bomb)
    fields = int.from_bytes(bomb[18:26], "big")
    shorter = bomb[:18] + (fields - 1).to_bytes(8, "big") + bomb[26:]
    with pytest.raises(TrackError, match=f"goes on to frame {65_535 * 300}"):
        check(shorter)


FLAC = encoded("FLAC", "PCM_16", 9_000)


@settings(max_examples=300)
@given(st.integers(0, len(FLAC) - 1), st.binary(min_size=1, max_size=30))
def test_damage_is_no_reason_to_call_the_header_wrong(at: int, junk: bytes) -> None:
    start = max(at, 42)
    check(FLAC[:start] + junk + FLAC[start + len(junk) :])


def test_the_bomb_is_what_libsndfile_reads() -> None:
    samples, rate = soundfile.read(io.BytesIO(flac_bomb(65_535 * 3)))
    assert (samples.shape, rate) == ((65_535 * 3, 8), 44_100)
    assert not np.any(samples)
