"""Which channels of a track go through a stereo model together.

A layout is cut into groups of one or two channels: a left speaker and its right one together, all others
alone. Each group becomes a lane of two channels, a single one twice. Speakers are bits of a WAVE channel
mask (`dwChannelMask`); channels are in the order of the bits, which `speakers` sees to.

Axes: G lanes, S stems, C channels, n frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Groups = tuple[tuple[int, ...], ...]

FL, FR, FC, LFE, BL, BR, FLC, FRC, BC, SL, SR = (1 << bit for bit in range(11))
"""Speakers: front left and right, centre, low frequencies, back, beside the centre, back centre, sides."""

DEFAULT_MASKS = {
    1: FC,
    2: FL | FR,
    3: FL | FR | FC,
    4: FL | FR | BL | BR,
    5: FL | FR | FC | BL | BR,
    6: FL | FR | FC | LFE | BL | BR,
    7: FL | FR | FC | LFE | BC | SL | SR,
    8: FL | FR | FC | LFE | BL | BR | SL | SR,
}
"""What a count of channels means in WAVE and FLAC (RFC 9639 §9.1.3) where no mask says otherwise."""

_PAIRS = ((0, 1), (4, 5), (6, 7), (9, 10), (12, 14), (15, 17))
"""Bits of a left speaker and its right one; the last two pairs are at the ceiling."""


def speaker_bits(mask: int) -> list[int]:
    """The bits that are set, lowest first: the speaker of each channel."""
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


def is_default(mask: int, n_channels: int) -> bool:
    """Whether a format without a mask says as much; surrounds at the sides or behind are one to it."""
    if mask & (SL | SR) and not mask & (BL | BR | BC):
        mask = mask & ~(SL | SR) | BL | BR
    return mask in (0, DEFAULT_MASKS[n_channels])


def channel_groups(n_channels: int, channel_mask: int = 0) -> Groups:
    """The channels that are separated together: pairs of left and right, and single ones.

    Args:
        n_channels: 1 to 8.
        channel_mask: the speakers; the default layout counts if they are not as many as the channels.

    Raises:
        ValueError: there is no default layout for that many channels.
    """
    if n_channels not in DEFAULT_MASKS:
        raise ValueError(f"found {n_channels} channels, wanted 1 to {max(DEFAULT_MASKS)}")
    is_mask = channel_mask.bit_count() == n_channels
    channels = {
        bit: channel
        for channel, bit in enumerate(speaker_bits(channel_mask if is_mask else DEFAULT_MASKS[n_channels]))
    }
    pairs = [(channels[a], channels[b]) for a, b in _PAIRS if a in channels and b in channels]
    paired = {channel for pair in pairs for channel in pair}
    return tuple(sorted([*pairs, *((channel,) for channel in range(n_channels) if channel not in paired)]))


def to_lanes(block: NDArray[np.float32], groups: Groups) -> NDArray[np.float32]:
    """A block (n, C) as lanes (G, 2, n), float32, a copy; a single channel fills both sides of its lane."""
    n_channels = sum(map(len, groups))
    if block.ndim != 2 or block.shape[1] != n_channels:
        raise ValueError(f"a block has shape {block.shape}, wanted (n, {n_channels})")
    pairs = [[group[0], group[-1]] for group in groups]
    return np.ascontiguousarray(block.T[np.array(pairs)], dtype=np.float32)


def from_lanes(lanes: NDArray[np.float32], groups: Groups) -> NDArray[np.float32]:
    """Estimates in lanes (G, S, 2, n) as blocks (S, n, C), float32: the inverse of `to_lanes` per stem.

    A single channel is the mean of the two sides of its lane.
    """
    if lanes.ndim != 4 or lanes.shape[0] != len(groups) or lanes.shape[2] != 2:
        raise ValueError(f"lanes have shape {lanes.shape}, wanted ({len(groups)}, S, 2, n)")
    _, n_stems, _, n_frames = lanes.shape
    out = np.empty((n_stems, n_frames, sum(map(len, groups))), dtype=np.float32)
    for lane, group in zip(lanes, groups, strict=True):
        if len(group) == 1:
            out[:, :, group[0]] = (lane[:, 0] + lane[:, 1]) * np.float32(0.5)
        else:
            out[:, :, group[0]], out[:, :, group[1]] = lane[:, 0], lane[:, 1]
    return out
