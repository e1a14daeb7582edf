"""The laws of segmentation: identity in, identity out; the cut into blocks cannot be heard."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from splitfire_batch.blending import MixBuffer, OverlapAdd
from splitfire_batch.segments import Segment, uniform_segments

LENGTH, STRIDE = 100, 75
# one frame; below, at and above one segment, its overlap, and two segments; many segments, uneven
TRACKS = [1, 2, 24, 25, 26, 74, 75, 76, 99, 100, 101, 174, 175, 176, 250, 1037]


def noise(n_frames: int, seed: int = 1) -> Tensor:
    return torch.rand((2, n_frames), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def ramp(n_frames: int) -> Tensor:
    return torch.arange(1, n_frames + 1, dtype=torch.float32)


def blended(mix: Tensor, segments: Sequence[Segment], window: Tensor | None) -> Tensor:
    """The identity model's estimate of the whole mix, (C, T)."""
    buffer, blend = MixBuffer(2), OverlapAdd(1, 2)
    buffer.push(mix)
    for segment in segments:
        blend.add(segment, buffer.read(segment)[None], window)
    return blend.take(mix.shape[1])[0]


def streamed(blocks: Sequence[Tensor], window: Tensor) -> Tensor:
    """The same with every frame read as early, and dropped and taken as early, as the contract allows."""
    buffer, blend, out, n_done = MixBuffer(2), OverlapAdd(1, 2), [], 0
    for block in [*blocks, None]:
        if block is not None:
            buffer.push(block)
        segments = uniform_segments(buffer.n_frames, LENGTH, STRIDE)
        while n_done < len(segments) and (block is None or segments[n_done].stop <= buffer.n_frames):
            blend.add(segments[n_done], buffer.read(segments[n_done])[None], window)
            n_done += 1
            buffer.drop_before(n_done * STRIDE)
            out.append(blend.take(min(n_done * STRIDE, buffer.n_frames)))
    out.append(blend.take(buffer.n_frames))
    return torch.cat(out, dim=2)[0]


@pytest.mark.parametrize("n_frames", TRACKS)
def test_the_identity_model_gives_the_mix_back(n_frames):
    mix = noise(n_frames)
    out = blended(mix, uniform_segments(n_frames, LENGTH, STRIDE), ramp(LENGTH))
    torch.testing.assert_close(out, mix, rtol=0, atol=1e-6)  # float32 rounding of a weighted mean


@pytest.mark.parametrize("n_frames", TRACKS)
@pytest.mark.parametrize("block_frames", [1, 7, 75, 100, 333])
def test_streamed_in_blocks_equals_whole_bit_for_bit(n_frames, block_frames):
    mix = noise(n_frames)
    whole = blended(mix, uniform_segments(n_frames, LENGTH, STRIDE), ramp(LENGTH))
    assert torch.equal(streamed(mix.split(block_frames, dim=1), ramp(LENGTH)), whole)


@given(st.integers(1, 400), st.integers(0, 400), st.integers(1, 60), st.data())
def test_a_segment_that_ends_within_a_prefix_is_the_same_for_longer_tracks(n_frames, more, length, data):
    stride = data.draw(st.integers(1, length))
    short, long = (
        uniform_segments(n_frames, length, stride),
        uniform_segments(n_frames + more, length, stride),
    )
    settled = [segment for segment in short if segment.stop <= n_frames]
    assert settled == list(long)[: len(settled)]


@given(st.integers(1, 400), st.integers(1, 60), st.data())
def test_uniform_segments_cover_every_frame_with_no_segment_to_spare(n_frames, length, data):
    stride = data.draw(st.integers(1, length))
    segments = list(uniform_segments(n_frames, length, stride))
    covered = {frame for segment in segments for frame in range(segment.start, segment.stop)}
    assert covered >= set(range(n_frames))
    assert len(segments) == 1 or segments[-2].stop < n_frames
    assert all(later.start - earlier.start == stride for earlier, later in itertools.pairwise(segments))


def test_uniform_segments_are_lazy_and_behave_like_a_list():
    segments = uniform_segments(2**62, LENGTH, STRIDE)
    assert segments[10**15].start == STRIDE * 10**15
    assert segments[1:3] == [Segment(75, 100), Segment(150, 100)]
    with pytest.raises(IndexError):
        segments[len(segments)]


def test_estimates_that_carry_their_window_are_summed():
    mix, halves = noise(80), [Segment(0, 50), Segment(40, 40)]
    out = blended(mix, halves, None)
    expected = mix.clone()
    expected[:, 40:50] *= 2
    assert torch.equal(out, expected)


def test_segments_that_begin_before_the_track_read_zeros_there_and_lose_them():
    mix = noise(90)
    segments = [Segment(start, 40) for start in range(-30, 90, 10)]
    buffer, blend, out = MixBuffer(2), OverlapAdd(1, 2), []
    buffer.push(mix)
    assert torch.equal(buffer.read(segments[0])[:, :30], torch.zeros((2, 30)))
    for segment, following in itertools.pairwise([*segments, None]):
        blend.add(segment, buffer.read(segment)[None], ramp(40))
        out.append(blend.take(following.start if following else 90))
    torch.testing.assert_close(torch.cat(out, dim=2)[0], mix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_frames", [1, 3, 7, 30, 44])
@pytest.mark.parametrize("block_frames", [1, 7, 50])
def test_tile_fill_reads_the_track_in_a_circle(n_frames, block_frames):
    mix, buffer = noise(n_frames), MixBuffer(2)
    for block in mix.split(block_frames, dim=1):
        buffer.push(block)
    frames = buffer.read(Segment(-5, 50, fill="tile"))
    for position in range(50):
        assert torch.equal(frames[:, position], mix[:, (position - 5) % n_frames])


@pytest.mark.parametrize("n_frames", [45, 60])
def test_tile_fill_changes_nothing_where_the_track_goes_on_past_the_segment(n_frames):
    buffer = MixBuffer(2)
    buffer.push(noise(n_frames))
    assert torch.equal(buffer.read(Segment(-5, 50, fill="tile")), buffer.read(Segment(-5, 50)))


def test_an_empty_track_fills_with_zeros_either_way():
    assert not MixBuffer(2).read(Segment(0, 9, fill="tile")).any()
    assert not MixBuffer(2).read(Segment(-4, 9)).any()


def test_tiling_a_track_whose_beginning_was_dropped_is_refused():
    buffer = MixBuffer(2)
    buffer.push(noise(60))
    buffer.drop_before(20)
    assert buffer.read(Segment(20, 40, fill="tile")).shape == (2, 40)  # ends within the track
    with pytest.raises(ValueError, match="20 frames were dropped"):
        buffer.read(Segment(40, 40, fill="tile"))


@pytest.mark.parametrize("n_frames", [1, 2, 3, 40, 60, 61, 130])
@pytest.mark.parametrize("block_frames", [1, 7, 1000])
def test_reflect_fill_mirrors_the_track_at_both_ends(n_frames, block_frames):
    mix, buffer = noise(n_frames), MixBuffer(2)
    for block in mix.split(block_frames, dim=1):
        buffer.push(block)
    found = buffer.read(Segment(-30, n_frames + 75, "reflect"))
    expected = np.pad(mix.numpy(), ((0, 0), (30, 45)), "reflect" if n_frames > 1 else "edge")
    assert np.array_equal(found.numpy(), expected)


def test_frames_that_a_mirrored_segment_goes_back_to_are_still_wanted():
    buffer = MixBuffer(2)
    buffer.push(noise(100))
    segment = Segment(95, 20, "reflect", n_back=11)
    buffer.drop_before(segment.start - segment.n_back)
    assert torch.equal(buffer.read(segment)[:, 5:], noise(100)[:, 84:99].flip(1))
    buffer.drop_before(85)
    with pytest.raises(ValueError, match="mirrored back to frame 84"):
        buffer.read(segment)


@pytest.mark.parametrize("n_frames", [101, 180, 250])
def test_of_a_segment_with_a_lead_only_the_landing_is_blended(n_frames):
    """The last segment ends with the track and reads what came before it as context."""
    mix = noise(n_frames)
    last = Segment(n_frames - LENGTH, LENGTH, n_lead=LENGTH - 26, n_landing=26)
    starts = range(0, last.lands.start, STRIDE)
    segments = [*(Segment(start, LENGTH) for start in starts), last]
    assert (last.lands, last.landing) == (slice(n_frames - 26, n_frames), slice(LENGTH - 26, LENGTH))
    buffer, blend = MixBuffer(2), OverlapAdd(1, 2)
    buffer.push(mix)
    for segment in segments:
        estimate = buffer.read(segment)[None].clone()
        estimate[..., : segment.landing.start] = 1e9  # must land nowhere
        blend.add(segment, estimate, ramp(segment.landing.stop - segment.landing.start))
    torch.testing.assert_close(blend.take(n_frames)[0], mix, rtol=0, atol=1e-6)


def test_what_a_segment_reads_is_a_copy():
    buffer = MixBuffer(2)
    buffer.push(noise(50))
    buffer.read(Segment(0, 50)).zero_()
    assert torch.equal(buffer.read(Segment(0, 50)), noise(50))


def test_reading_dropped_frames_is_refused():
    buffer = MixBuffer(2)
    buffer.push(noise(60))
    buffer.drop_before(20)
    with pytest.raises(ValueError, match="begins before frame 20"):
        buffer.read(Segment(19, 10))


@pytest.mark.parametrize("shape", [(1, 10), (3, 10), (2, 10, 1), (10,)])
def test_a_block_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"wanted \(2, n\)"):
        MixBuffer(2).push(torch.zeros(shape))


@pytest.mark.parametrize("window", [None, ramp(20)], ids=["sum", "mean"])
@pytest.mark.parametrize(
    ("starts", "uncovered"),
    [([5], "0 to 5"), ([0, 30], "20 to 30"), ([0, 20], "40 to 45"), ([], "0 to 45")],
    ids=["before the first", "between two", "after the last", "no segment"],
)
def test_a_frame_in_no_segment_is_refused(starts, uncovered, window):
    with pytest.raises(ValueError, match=f"frames {uncovered} are in no segment"):
        blended(noise(45), [Segment(start, 20) for start in starts], window)
