"""A sign of life is given for work that gets on and for waits that end by themselves; for nothing else."""

from __future__ import annotations

import pytest

from splitfire_batch.pulse import STORE_S, Pulse
from splitfire_batch.stopwatch import DeviceClock, Stopwatch


class Machine:
    """A worker's clock with hands that the test moves."""

    def __init__(self) -> None:
        self.now, self.cpu_s = 100.0, 5.0
        self.clock = DeviceClock(2)
        self.pulse = Pulse(self.clock, lambda: self.now, lambda: self.cpu_s)

    def beats_after(self, seconds: float) -> bool:
        self.now += seconds
        return self.pulse.beats()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_worker_in_which_nothing_happens_has_no_pulse(machine: Machine) -> None:
    machine.cpu_s += 0.1  # what Ray's own threads need
    assert not machine.beats_after(10)
    assert not machine.beats_after(10)


def test_a_stage_that_ends_is_a_beat(machine: Machine) -> None:
    watch = Stopwatch(machine.clock)
    with watch.measure("decode"):
        assert machine.beats_after(10)
        assert not machine.beats_after(10)  # it hangs in there
    assert machine.beats_after(10)


def test_a_batch_that_takes_minutes_of_arithmetic_beats(machine: Machine) -> None:
    with machine.clock.busy():
        machine.beats_after(10)
        machine.cpu_s += 8
        assert machine.beats_after(10)


@pytest.mark.parametrize("stage", ["fetch", "store"])
def test_a_store_is_waited_for_as_long_as_its_own_retries_may_take(machine: Machine, stage: str) -> None:
    with machine.clock.at_work(stage):  # type: ignore[arg-type]
        machine.beats_after(10)
        assert machine.beats_after(STORE_S - 1)
        assert not machine.beats_after(2)


def test_a_wait_for_a_store_does_not_hide_a_decoder_that_hangs(machine: Machine) -> None:
    with machine.clock.at_work("fetch"), machine.clock.at_work("decode"):
        machine.beats_after(10)
        assert not machine.beats_after(10)
