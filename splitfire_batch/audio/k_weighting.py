"""The K-weighting of ITU-R BS.1770-5, Annex 1: a high shelf, then a high pass, at any sample rate.

A recursive filter goes frame by frame, which numpy cannot do fast. But the output of a row of frames is
linear in the row and in the filter's state before it, and so is the state behind it: with the states known,
all rows are one matrix product. The states follow a law of the same kind, so they come from groups of rows in
the same way, and those from groups of groups. The result is the recursion's, to rounding: states are float64,
because rounding in them would ring on, and what comes out is float32.

Axes: C channels, n frames, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Reals = NDArray[np.floating]
Real = TypeVar("Real", bound=np.floating)
Section = tuple[float, float, float, float, float]

_ROW, _GROUP, _SUPERGROUP = 32, 16, 8
_N_STATES = 4
STEP_FRAMES = _ROW * _GROUP * _SUPERGROUP
"""Blocks are whole multiples of it."""

_TABLE_RATE = 48_000
_SHELF = (1.53512485958697, -2.69169618940638, 1.19839281085285, -1.69065929318241, 0.73248077421585)
_HIGH_PASS = (1.0, -2.0, 1.0, -1.99004745483398, 0.99007225036621)
"""b0, b1, b2, a1, a2 at 48 kHz: tables 1 and 2 of Annex 1."""
_MAX_PRODUCT = 2**18  # multiplications; for a larger matrix product OpenBLAS wakes threads of its own


class KWeighting:
    """The filter for one signal; it remembers what went before."""

    def __init__(self, sample_rate: int, n_channels: int) -> None:
        self._stages = _stages(sample_rate)
        self._state: Doubles = np.zeros((n_channels, _N_STATES))

    def weigh(self, block: Floats) -> Floats:
        """The next block (C, n), weighted; n is a multiple of STEP_FRAMES."""
        if block.shape[1] % STEP_FRAMES:
            raise ValueError(f"found {block.shape[1]} frames, wanted a multiple of {STEP_FRAMES}")
        weighted, self._state = _run(self._stages, block, self._state)
        return weighted.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A linear system over a fixed number of steps at a time."""

    outputs: Reals
    """From the inputs of the steps to their outputs, if the state was zero."""
    behind: Doubles
    """From them to the state behind the steps, if it was zero."""
    outer: Reals
    """From the state before them to their outputs."""
    over: Doubles
    """From the state before them to the state behind them, as a left factor."""


@lru_cache(maxsize=16)
def _stages(sample_rate: int) -> tuple[_Stage, ...]:
    """Over frames, over rows, over groups of rows; kept, because making them takes as long as a one-shot."""
    a, b, c, d = _in_series(_at_rate(_SHELF, sample_rate), _at_rate(_HIGH_PASS, sample_rate))
    frames = _stage(a, b, c, d, _ROW)
    frames = replace(frames, outputs=frames.outputs.astype(np.float32), outer=frames.outer.astype(np.float32))
    one, nothing = np.eye(_N_STATES), np.zeros((_N_STATES, _N_STATES))
    rows = _stage(frames.over, one, one, nothing, _GROUP)
    return frames, rows, _stage(rows.over, one, one, nothing, _SUPERGROUP)


def _run(stages: Sequence[_Stage], inputs: Reals, state: Doubles) -> tuple[Reals, Doubles]:
    """The outputs (C, ...) for the inputs (C, ...) of a system in that state (C, 4), and its state behind."""
    stage, *above = stages
    n_channels = len(inputs)
    rows = inputs.reshape(-1, len(stage.outputs))
    ends: Doubles = _product(rows, stage.behind).reshape(n_channels, -1, _N_STATES)
    starts: Reals
    starts, state = _run(above, ends, state) if above else _in_turn(stage.over, ends, state)
    outputs = _product(rows, stage.outputs)
    outputs += _product(starts.reshape(-1, _N_STATES), stage.outer)
    return outputs.reshape(n_channels, -1), state


def _in_turn(over: Doubles, ends: Doubles, state: Doubles) -> tuple[Doubles, Doubles]:
    """The states (C, R, 4) before each row, one after the other, and the last one behind."""
    starts = np.empty_like(ends)
    for row in range(ends.shape[1]):
        starts[:, row] = state
        state = state @ over.T + ends[:, row]
    return starts, state


def _product(rows: Reals, matrix: NDArray[Real]) -> NDArray[Real]:
    """The matrix product in the matrix's precision, on this thread alone: cores belong to the networks."""
    inputs: NDArray[Real] = rows.astype(matrix.dtype, copy=False)
    n_rows = max(1, _MAX_PRODUCT // matrix.size)
    n_whole = len(inputs) // n_rows * n_rows
    product = np.empty((len(inputs), matrix.shape[1]), matrix.dtype)
    if n_whole:  # in one call, for threads that wait for each other after each
        pieces = inputs[:n_whole].reshape(-1, n_rows, len(matrix))
        np.matmul(pieces, matrix, out=product[:n_whole].reshape(*pieces.shape[:2], -1))
    np.matmul(inputs[n_whole:], matrix, out=product[n_whole:])
    return product


def _stage(a: Doubles, b: Doubles, c: Doubles, d: Doubles, n_steps: int) -> _Stage:
    """n steps at a time of: output = c state + d input, next state = a state + b input."""
    powers = [np.linalg.matrix_power(a, n) for n in range(n_steps + 1)]
    responses = [d, *(c @ power @ b for power in powers)]
    n_out, n_in = d.shape
    outputs = np.zeros((n_steps, n_in, n_steps, n_out))
    for begin in range(n_steps):
        for end in range(begin, n_steps):
            outputs[begin, :, end] = responses[end - begin].T
    behind = np.stack([(powers[n_steps - 1 - step] @ b).T for step in range(n_steps)])
    outer = np.concatenate([(c @ power).T for power in powers[:-1]], axis=1)
    behind = behind.reshape(n_steps * n_in, -1)
    return _Stage(outputs.reshape(n_steps * n_in, -1), behind, np.ascontiguousarray(outer), powers[-1])


def _in_series(first: Section, second: Section) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Two sections (transposed direct form II) behind each other, as a, b, c, d of `_stage`."""
    (a1, b1, c1, d1), (a2, b2, c2, d2) = _system(first), _system(second)
    a = np.block([[a1, np.zeros((2, 2))], [b2 @ c1, a2]])
    return a, np.concatenate([b1, b2 * d1]), np.concatenate([d2 * c1, c2], axis=1), d2 * d1


def _system(section: Section) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    b0, b1, b2, a1, a2 = section
    a = np.array([[-a1, 1.0], [-a2, 0.0]])
    return a, np.array([[b1 - a1 * b0], [b2 - a2 * b0]]), np.array([[1.0, 0.0]]), np.array([[b0]])


def _at_rate(section: Section, sample_rate: int) -> Section:
    """The same filter at another rate: its analogue original, found from the table, transformed anew.

    A bilinear transform that keeps the section's frequency f turns (n2 s^2 + n1 s + n0) / (s^2 + s/q + 1),
    where |s| = 1 is f, into the section with k = tan(pi f / rate); solved here for k, q and the n.
    """
    b0, b1, b2, a1, a2 = section
    scale = 4 / (1 - a1 + a2)  # the denominator's 1 + k/q + k^2
    k = math.sqrt((1 + a1 + a2) / (1 - a1 + a2))
    damping = (1 - a2) * scale / 2 / k
    n2, n1, n0 = (b0 - b1 + b2) * scale / 4, (b0 - b2) * scale / 2 / k, (b0 + b1 + b2) * scale / 4 / k**2
    k = math.tan(math.atan(k) * _TABLE_RATE / sample_rate)
    scale = 1 + damping * k + k**2
    numerator = (n2 + n1 * k + n0 * k**2, 2 * (n0 * k**2 - n2), n2 - n1 * k + n0 * k**2)
    denominator = (2 * (k**2 - 1), 1 - damping * k + k**2)
    b0, b1, b2, a1, a2 = (value / scale for value in (*numerator, *denominator))
    return b0, b1, b2, a1, a2
