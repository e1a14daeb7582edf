"""Which channels of a track go through a stereo model together.

A layout is cut into groups of one or two channels; each group becomes a lane of two channels, a single
one twice. The order of channels is that of WAVE (and FLAC): L R C LFE, then back and side pairs.

Axes: G lanes, S stems, C channels, n frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Groups = tuple[tuple[int, ...], ...]

_LAYOUTS: dict[int, Groups] = {
    1: ((0,),),
    2: ((0, 1),),
    3: ((0, 1), (2,)),  # L R C
    4: ((0, 1), (2, 3)),  # L R Lb Rb
    5: ((0, 1), (2,), (3, 4)),  # L R C Lb Rb
    6: ((0, 1), (2,), (3,), (4, 5)),  # L R C LFE Lb Rb
    7: ((0, 1), (2,), (3,), (4,), (5, 6)),  # L R C LFE Cb Ls Rs
    8: ((0, 1), (2,), (3,), (4, 5), (6, 7)),  # L R C LFE Lb Rb Ls Rs
}


def channel_groups(n_channels: int) -> Groups:
    """The channels that are separated together: pairs of left and right, and single ones.

    Raises:
        ValueError: there is no WAVE default layout for that many channels.
    """
    if n_channels not in _LAYOUTS:
        raise ValueError(f"found {n_channels} channels, wanted 1 to {max(_LAYOUTS)}")
    return _LAYOUTS[n_channels]


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
