"""What passes between a worker and its codec children, and what is refused: our code never sends it."""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from splitfire_batch.audio import Encoded, Insert
from splitfire_batch.audio.readback import Heard
from splitfire_batch.children.child import Child, ChildLost
from splitfire_batch.children.records import (
    audio_format,
    made,
    packed_inserts,
    packed_metadata,
    plain,
    unpacked_inserts,
    unpacked_metadata,
)
from splitfire_batch.children.serving import _send_error, _TooLong
from splitfire_batch.children.wire import (
    MAX_BODY_BYTES,
    Message,
    WireError,
    block_of,
    receive,
    send,
    send_block,
)
from splitfire_batch.errors import NoSpace, SplitfireError, StorageError, TrackError
from splitfire_batch.metadata import SourceMetadata
from splitfire_batch.metadata.tags import Cover
from splitfire_batch.records import AudioFormat

Ends = tuple[socket.socket, socket.socket]
FORMAT = AudioFormat("WAV", "PCM_24", 44_100, 2, 1_000, 3)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        yield ours, theirs


@pytest.mark.parametrize("body", [b"", bytes(range(256)) * 10, b"x" * 60_000])
def test_a_message_arrives_as_it_was_sent(ends, body):
    send(ends[1], "kind", {"text": "ü\udc80\0", "none": None, "list": [1, 2.5]}, body)
    message = receive(ends[0])
    assert (message.kind, message.body.tobytes()) == ("kind", body)
    assert message.fields == {"text": "ü\udc80\0", "none": None, "list": [1, 2.5]}


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_a_block_arrives_as_it_was_sent(ends, dtype):
    block = np.arange(600, dtype=dtype).reshape(200, 3)
    send_block(ends[1], block)
    found = block_of(receive(ends[0]), 3, 200)
    assert found.dtype == dtype
    assert np.array_equal(found, block)


def test_the_end_of_the_other_side_is_no_message(ends):
    ends[1].sendall(struct.pack("<IQ", 10, 10) + b"12345")
    ends[1].close()
    assert receive(ends[0]) is None


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff" * 12,
        struct.pack("<IQ", 2**20 + 1, 0),
        struct.pack("<IQ", 2, MAX_BODY_BYTES + 1),
        struct.pack("<IQ", 2, 0) + b"{}",
        struct.pack("<IQ", 2, 0) + b"[]",
        struct.pack("<IQ", 4, 0) + b"\x80\4N.",  # a pickle
        struct.pack("<IQ", 100_000, 0) + b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused_before_it_takes_memory(ends, sent):
    ends[1].sendall(sent)
    with pytest.raises(WireError):
        receive(ends[0])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"dtype": "object", "n_frames": 10},
        {"dtype": "float32", "n_frames": 0},
        {"dtype": "float32", "n_frames": -10},
        {"dtype": "float32", "n_frames": 11},
        {"dtype": "float32", "n_frames": 10.0},
        {"dtype": "float32", "n_frames": 9},
        {"dtype": ["float32"], "n_frames": 10},
    ],
)
def test_a_block_that_is_none_is_refused(fields):
    with pytest.raises(WireError):
        block_of(Message("block", fields, np.zeros(4 * 10 * 2, np.uint8)), 2, 10)


@pytest.mark.parametrize("value", ["1", None, True, -1, [], float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(WireError):
        Message("end", {"busy_s": value}, np.zeros(0, np.uint8)).number("busy_s")


@pytest.mark.parametrize(
    "record",
    [
        FORMAT,
        Encoded(1, 2, "a", "b", ("smpl", "cue")),
        Heard(0.5, None),
        Heard(1, -90.5),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_comes_back_from_json(record):
    assert made(type(record), json.loads(json.dumps(plain(record)))) == record


@pytest.mark.parametrize(
    "forged",
    [
        None,
        {**plain(FORMAT), "sample_rate": "44100"},
        {**plain(FORMAT), "sample_rate": True},
        {**plain(FORMAT), "n_frames": 1e9},
        {**plain(FORMAT), "container": ["WAV"]},
        {**plain(FORMAT), "extra": 1},
        {**plain(FORMAT), "sample_rate": 10**9},
        {**plain(FORMAT), "n_channels": 0},
        {**plain(FORMAT), "n_channels": 9},
        {**plain(FORMAT), "n_frames": -1},
        {"container": "WAV"},
    ],
)
def test_a_format_that_no_decoder_finds_is_refused(forged):
    with pytest.raises(WireError):
        audio_format(forged)


METADATA = SourceMetadata(
    "WAV",
    (Insert(b"smpl", bytes(range(256))), Insert(b"(c) ", b""), Insert(b"LIST", b"\0\xff")),
    (("TITLE", "ü\udcff\0"), ("TITLE", "")),
    Cover("image/png", b"\x89PNG"),
    ("not carried over: x",),
)


@pytest.mark.parametrize("metadata", [METADATA, SourceMetadata()])
def test_metadata_arrive_as_they_were_read(ends, metadata):
    send(ends[1], "metadata", *packed_metadata(metadata))
    assert unpacked_metadata(receive(ends[0])) == metadata


def test_metadata_of_megabytes_leave_the_header_short():
    tags = (("LYRICS", "la \0" * 10**6),)
    fields, body = packed_metadata(replace(METADATA, tags=tags))
    assert len(json.dumps(fields)) < 1_000
    found = unpacked_metadata(Message("metadata", fields, np.frombuffer(body, np.uint8)))
    assert found.tags == tags


@pytest.mark.parametrize(
    "told",
    [
        None,
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b'{"tags": null, "mime_type": null}',
        b'{"tags": [["A"]], "mime_type": null}',
        b'{"tags": [["A", 1]], "mime_type": null}',
        b'{"tags": [], "mime_type": null, "chunks": ["x"]}',
        b'{"tags": [], "mime_type": null, "family": 1}',
        b'{"tags": [], "mime_type": null, "warnings": "x"}',
    ],
)
def test_metadata_that_are_none_are_refused(told):
    inserts = {} if told is None else {"told": [Insert(b"told", told)]}
    listed, body = packed_inserts(inserts)
    with pytest.raises(WireError):
        unpacked_metadata(Message("metadata", {"chunks": listed}, np.frombuffer(body, np.uint8)))


@pytest.mark.parametrize(
    "listed",
    [
        None,
        7,
        [["chunks", "smpl", 10**9]],
        [["chunks", "smpl", -1]],
        [["chunks", "smpl", "x"]],
        [["chunks", "smpl"]],
        [["chunks", "\u1234", 1]],
        [["chunks", "smpl", 1]],
    ],
)
def test_a_list_of_chunks_that_is_none_is_refused(listed):
    with pytest.raises(WireError):
        unpacked_inserts(listed, b"12345")


def test_chunks_keep_their_stems():
    inserts = {"vocals": [Insert(b"a", b"1"), Insert(b"b", b"")], "bass": [Insert(b"a", b"22")]}
    assert unpacked_inserts(*packed_inserts(inserts)) == inserts


@pytest.mark.parametrize(
    "error",
    [TrackError("CORRUPT_DATA", "x"), NoSpace("a", "b"), StorageError("a", "b")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_type_on_the_way(ends, error: SplitfireError):
    _send_error(ends[1], error)
    with pytest.raises(type(error)) as found:
        Child(ends[0], None, -1, lambda: False).receive("end")  # type: ignore[arg-type]
    assert type(found.value) is type(error)
    assert found.value.args == error.args


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no map"), "caused"])
def test_memory_that_is_not_given_is_a_limit_and_no_failing_disk(ends, error):
    if error == "caused":
        error = StorageError("/scratch", "could not be written")
        error.__cause__ = OSError(errno.ENOMEM, "no map")
    _send_error(ends[1], error)
    with pytest.raises(ChildLost) as found:
        Child(ends[0], None, -1, lambda: False).receive("end")  # type: ignore[arg-type]
    assert found.value.limit == "memory"


def test_a_file_at_its_limit_is_told_from_a_full_disk(ends):
    _send_error(ends[1], _TooLong())
    with pytest.raises(ChildLost) as found:
        Child(ends[0], None, -1, lambda: False).receive("end")  # type: ignore[arg-type]
    assert found.value.limit == "size"
