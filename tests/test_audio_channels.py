import numpy as np
import pytest

from splitfire_batch.audio.channels import channel_groups, from_lanes, to_lanes


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("n_channels", range(1, 9))
def test_every_channel_is_in_exactly_one_group_of_one_or_two(n_channels):
    groups = channel_groups(n_channels)
    assert sorted(channel for group in groups for channel in group) == list(range(n_channels))
    assert {len(group) for group in groups} <= {1, 2}


def test_centre_and_lfe_of_five_one_stay_alone():
    assert channel_groups(6) == ((0, 1), (2,), (3,), (4, 5))


@pytest.mark.parametrize("n_channels", [0, 9])
def test_a_layout_that_wave_does_not_know_is_refused(n_channels):
    with pytest.raises(ValueError, match=f"found {n_channels} channels"):
        channel_groups(n_channels)


@pytest.mark.parametrize("n_channels", range(1, 9))
def test_lanes_of_every_stem_go_back_to_the_channels_they_came_from(n_channels):
    groups = channel_groups(n_channels)
    stems = noise(3, 50, n_channels)
    lanes = np.stack([to_lanes(stem, groups) for stem in stems], axis=1)
    assert np.array_equal(from_lanes(lanes, groups), stems)


def test_mono_fills_both_sides_and_comes_back_as_their_mean():
    block = noise(10, 1)
    lanes = to_lanes(block, channel_groups(1))
    assert np.array_equal(lanes[0, 0], lanes[0, 1])
    lanes[0, 0] += 1
    np.testing.assert_allclose(from_lanes(lanes[:, None], channel_groups(1))[0], block + 0.5, atol=1e-6)


def test_lanes_do_not_share_memory_with_the_block():
    block = noise(10, 2)
    to_lanes(block, channel_groups(2))[:] = 0
    assert block.any()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"wanted \(n, 2\)"):
        to_lanes(noise(2, 10), channel_groups(2))
    with pytest.raises(ValueError, match=r"wanted \(1, S, 2, n\)"):
        from_lanes(noise(2, 1, 2, 10), channel_groups(2))
