"""Messages between a worker and its codec children: a JSON header and raw bytes, over a Unix socket.

Nothing is ever unpickled: a child may have been taken over by the file that it reads, so its words are data
of known kinds and bounded lengths, and whoever receives them checks them. The socket's buffer is the whole
queue: who is too fast waits in `send`.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfire_batch.audio.formats import Samples

MAX_BODY_BYTES = 64 * 2**20
"""More than all chunks and tags that are read of one file."""
MAX_REQUEST_BYTES = 512 * 2**20
"""More than they are in all its stems."""
_MAX_HEAD_BYTES = 2**20
_SIZES = struct.Struct("<IQ")
_DTYPES = {np.dtype(kind).name: np.dtype(kind) for kind in (np.int16, np.int32, np.float32)}
_JOIN_BYTES = 32 * 1024
"""A short body goes with its header in one call."""


class WireError(Exception):
    """What came cannot have been sent by our own code."""


@dataclass(frozen=True, slots=True)
class Message:
    """What was received: its kind, named values, and bytes."""

    kind: str
    fields: dict[str, Any]
    body: NDArray[np.uint8]

    def number(self, name: str) -> float:
        """A value that is a number from 0 up; 0 where it is not named.

        Raises:
            WireError: it is none.
        """
        value = self.fields.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise WireError(f"found {name} = {value!r:.200}, wanted a number")
        return value


def send(
    link: socket.socket, kind: str, fields: Mapping[str, Any] | None = None, body: bytes | memoryview = b""
) -> None:
    """Send one message, whole.

    Raises:
        OSError: the other end is gone, or took nothing within the socket's timeout.
    """
    head = json.dumps({**(fields or {}), "kind": kind}).encode()
    start = _SIZES.pack(len(head), len(body)) + head
    if len(body) <= _JOIN_BYTES:
        link.sendall(start + body)
        return
    link.sendall(start)
    link.sendall(body)


def receive(link: socket.socket, max_bytes: int = MAX_BODY_BYTES) -> Message | None:
    """The next message, with a body of at most `max_bytes`; None once the other end is gone.

    Raises:
        WireError: it is no message, or too large.
        OSError: nothing came within the socket's timeout.
    """
    sizes = _read(link, _SIZES.size)
    if sizes is None:
        return None
    n_head, n_body = _SIZES.unpack(sizes.tobytes())
    if n_head > _MAX_HEAD_BYTES or n_body > max_bytes:
        raise WireError(f"found a message of {n_head} and {n_body} bytes")
    head, body = _read(link, n_head), _read(link, n_body)
    if head is None or body is None:
        return None
    try:
        fields = json.loads(head.tobytes())
        return Message(str(fields.pop("kind")), fields, body)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise WireError(f"found a header that is none: {error}") from error


def send_block(link: socket.socket, block: Samples, kind: str = "block") -> None:
    """Send samples (n, C), C-contiguous, int16, int32 or float32."""
    fields = {"dtype": block.dtype.name, "n_frames": len(block)}
    send(link, kind, fields, block.reshape(-1).data.cast("B"))


def block_of(message: Message, n_channels: int, max_frames: int) -> Samples:
    """The samples (n, n_channels) of a message, 0 < n <= max_frames; they lie in its body.

    Raises:
        WireError: they are not.
    """
    dtype, n_frames = _DTYPES.get(str(message.fields.get("dtype"))), message.fields.get("n_frames")
    if dtype is None or not isinstance(n_frames, int) or not 0 < n_frames <= max_frames:
        raise WireError(f"found a block of {n_frames} frames of {message.fields.get('dtype')}")
    if message.body.nbytes != dtype.itemsize * n_frames * n_channels:
        raise WireError(f"found {message.body.nbytes} bytes for {n_frames} frames of {n_channels} channels")
    samples: Samples = message.body.view(dtype)
    return samples.reshape(n_frames, n_channels)


def _read(link: socket.socket, n_bytes: int) -> NDArray[np.uint8] | None:
    """So many bytes; None if the other end is gone before."""
    found = np.empty(n_bytes, np.uint8)
    rest = found.data
    while rest:
        n_read = link.recv_into(rest)
        if not n_read:
            return None
        rest = rest[n_read:]
    return found
