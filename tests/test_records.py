"""Records travel between processes and must not change on the way or later."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from splitfire_batch import records
from splitfire_batch.observations import Description, Levels
from splitfire_batch.records import (
    AudioFormat,
    Beat,
    Committed,
    DeviceSeconds,
    Draining,
    Outcome,
    Quarantined,
    Returned,
    Shard,
    ShardDone,
    StageSeconds,
    Started,
    StemFile,
    Suspected,
    Track,
    TrackRow,
)
from splitfire_batch.staff import Staff, WorkerState

TRACK = Track(
    "t", "s", "/in/a.wav", "a.wav", 9, "e", "m/a_{stem}.{ext}", 2.5, problem="EMPTY: x", meta=(("k", "v"),)
)
FORMAT = AudioFormat("WAV", "PCM_24", 48_000, 2, 100)
STEM = StemFile(
    "vocals", "m/a_vocals.wav", "WAV", "PCM_24", 48_000, 2, 100, 644, "0" * 64, "1" * 32, Levels(rms_db=-3.0)
)
SECONDS = StageSeconds(1, 2, 3, 4, 5)
EXAMPLES = [
    TRACK,
    Shard("x", (TRACK, TRACK)),
    FORMAT,
    STEM,
    Description(bpm=120.0, bpm_source="tag"),
    Levels(peak_db=-0.1, clipped_samples=2),
    SECONDS,
    DeviceSeconds(1, 2, 3),
    TrackRow(TRACK, "done", warnings=("w",), source=FORMAT, gain_db=0.0, stems=(STEM,), seconds=SECONDS),
    Started("x", "t"),
    Outcome("t", "a.wav", "failed", "EMPTY", "no bytes", 0.0, 0),
    Committed("x", (Outcome("t", "a.wav", "done", None, None, 1.0, 2),)),
    Draining("x"),
    Returned("x", ("t",)),
    Staff((WorkerState("a1b2c3d4", 7, "working"),)),
    Beat("x"),
    ShardDone("x", 1.5, SECONDS),
    Suspected((TRACK,), "why"),
    Quarantined(TRACK, "why", "OOM"),
]


def test_there_is_an_example_of_every_record():
    classes = {
        cls for cls in vars(records).values() if isinstance(cls, type) and dataclasses.is_dataclass(cls)
    }
    assert {type(example) for example in EXAMPLES} == classes


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_every_record_survives_pickle_and_is_frozen(record):
    assert pickle.loads(pickle.dumps(record)) == record  # noqa: S301 - our own bytes
    assert hash(record) == hash(pickle.loads(pickle.dumps(record)))  # noqa: S301
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, None)


def test_a_shard_costs_what_its_tracks_cost():
    assert Shard("x", (TRACK, TRACK)).cost == 5.0
