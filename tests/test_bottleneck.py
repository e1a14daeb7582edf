"""One sentence about what a run waited for, and a setting that exists."""

from __future__ import annotations

import dataclasses
import re

import pytest

from splitfire_batch.bottleneck import bottleneck
from splitfire_batch.config import RuntimeConfig
from splitfire_batch.records import DeviceSeconds

CAUSES = [field.name for field in dataclasses.fields(DeviceSeconds) if field.name != "busy"]


def verdict(device: DeviceSeconds, worker_s: float = 100.0) -> str:
    """The first word."""
    return re.split(r"[ -]", bottleneck(device, worker_s))[0]


@pytest.mark.parametrize("busy", [90.0, 93.0, 100.0, 100.4])
def test_a_busy_device_is_the_bottleneck_whatever_else_there_was(busy):
    device = DeviceSeconds(busy=busy, fetch=5.0, store=4.0)
    assert bottleneck(device, 100.0) == f"device {min(busy, 100):.0f} % busy"


@pytest.mark.parametrize("cause", CAUSES)
def test_an_idle_device_waits_for_what_took_the_most_of_its_idle_time(cause):
    idle = dict.fromkeys(CAUSES, 5.0) | {cause: 30.0}
    text = bottleneck(DeviceSeconds(busy=41.0, **idle), 100.0)
    assert text.startswith(f"{cause}-bound: the device was busy 41 %; ")


@pytest.mark.parametrize("cause", CAUSES)
def test_the_advice_names_a_setting_that_exists(cause):
    settings = {field.name for field in dataclasses.fields(RuntimeConfig)}
    advice = bottleneck(DeviceSeconds(**{cause: 50.0}), 100.0).partition("; ")[2]
    (raised,) = re.findall(r"raise (\w+)", advice)
    assert raised in settings
    assert set(re.findall(r"lower (\w+)", advice)) <= settings


@pytest.mark.parametrize("cause", CAUSES)
def test_more_of_a_cause_never_turns_the_verdict_away_from_it(cause):
    """From none to all of the idle time: other verdicts first, then this one and no other any more."""
    others = {name: 1.0 + number for number, name in enumerate(CAUSES) if name != cause}
    verdicts = [verdict(DeviceSeconds(busy=20.0, **others, **{cause: s / 2})) for s in range(40)]
    assert verdicts[-1] == cause
    first = verdicts.index(cause)
    assert set(verdicts[first:]) == {cause}
    assert cause not in verdicts[:first]


def test_a_busier_device_never_turns_the_verdict_away_from_the_device():
    verdicts = [verdict(DeviceSeconds(busy=float(s), fetch=3.0)) for s in range(101)]
    assert verdicts == ["fetch"] * 90 + ["device"] * 11


@pytest.mark.parametrize("worker_s", [0.0, 100.0])
def test_an_idle_device_without_open_tracks_has_no_cause_and_no_advice(worker_s):
    assert bottleneck(DeviceSeconds(), worker_s) == "device 0 % busy"
