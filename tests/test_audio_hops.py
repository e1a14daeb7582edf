"""One number per 100 ms, whatever blocks the values came in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from splitfire_batch.audio.hops import Hops, hop_frames


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 768_000])
def test_a_hop_is_100_ms_to_the_nearest_frame(rate):
    assert abs(hop_frames(rate) - rate / 10) <= 0.5


@pytest.mark.parametrize("fold", [np.add, np.maximum])
@given(st.lists(st.integers(0, 25), max_size=8), st.integers(1, 9))
def test_hops_are_those_of_the_whole_folded_one_by_one(fold, sizes, n_frames):
    values = np.random.default_rng(0).uniform(0, 1, sum(sizes))
    hops = Hops(n_frames, fold)
    start = 0
    for size in sizes:
        hops.add(values[start : start + size])
        start += size
    n_closed = len(values) // n_frames
    wanted = [fold.reduce(values[i * n_frames : (i + 1) * n_frames]) for i in range(n_closed)]
    assert_allclose(hops.closed(), wanted, rtol=1e-12)
    rest = values[n_closed * n_frames :]
    assert hops.last() == (pytest.approx(fold.reduce(rest, initial=0.0)), len(rest))
