"""What a codec child does: one job after the other, each a request and its answers, until its owner is gone.

    decode    -> format; then `read` -> blocks, or `busy` where one is not wanted, end; or `stop`
    encode    then blocks and `close` -> written, or `stop` -> stopped
    read_back then blocks and `close` -> heard
    metadata  -> metadata

`error` can come instead of any answer. A job that reads only can fail without harm to the next one; after
any other failure the process ends, for what its owner is about to send belongs to a job that is no more.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfire_batch.audio import OutputFormat, StemWriter, open_audio, read_back, to_float
from splitfire_batch.children import limits
from splitfire_batch.children.records import made, packed_metadata, plain, unpacked_inserts
from splitfire_batch.children.wire import MAX_REQUEST_BYTES, Message, block_of, receive, send, send_block
from splitfire_batch.errors import NoSpace, SplitfireError, StorageError, TrackError
from splitfire_batch.metadata import read_metadata

_HEAD_BYTES = 2**20
"""What a stem's file may have beside samples and chunks."""
_ROOM = 1.25
"""FLAC of noise is longer than its samples, and chunks are put in by a second file."""


def serve(link: socket.socket, codec_s: float) -> None:
    """Do jobs until the other end is gone, or one fails half way.

    Args:
        link: to the owner; blocking.
        codec_s: CPU-seconds that a job may take, beside what its samples and bytes allow.
    """
    send(link, "hello", {"pid": os.getpid()})
    while request := receive(link, MAX_REQUEST_BYTES):
        job = _Job(link, request, codec_s)
        try:
            getattr(job, f"do_{request.kind}")()
        except (ConnectionError, EOFError):  # the owner has lost interest, or its life
            return
        except Exception as error:  # noqa: BLE001 - whatever it is ends as a row, which the owner writes
            job.is_clean &= not _is_out_of_memory(error)
            _send_error(link, error)
        else:
            continue
        finally:
            sys.stderr.flush()
        if not job.is_clean:
            return


def _is_out_of_memory(error: BaseException) -> bool:
    """Also where that came from the system, and was taken for a failing disk."""
    causes = (error, error.__cause__)
    return any(
        isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        for cause in causes
    )


def _send_error(link: socket.socket, error: Exception) -> None:
    if _is_out_of_memory(error):
        send(link, "error", {"limit": "memory"})
    elif isinstance(error, _TooLong):
        send(link, "error", {"limit": "size"})
    elif isinstance(error, TrackError):
        send(link, "error", {"code": error.code, "why": error.why})
    elif isinstance(error, StorageError):
        send(link, "error", {"uri": error.uri, "why": error.why, "is_full": isinstance(error, NoSpace)})
    elif isinstance(error, SplitfireError):
        send(link, "error", {"code": "INTERNAL", "why": str(error)})
    else:
        traceback.print_exception(error)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}, {frame.name}"
        send(link, "error", {"code": "INTERNAL", "why": f"{type(error).__name__}: {error} ({where})"})


class _TooLong(SplitfireError):
    """A file met its limit of length, not the end of a disk."""


class _Job:
    """One request, and how its answers are made."""

    def __init__(self, link: socket.socket, request: Message, codec_s: float) -> None:
        self._link, self._request = link, request
        self.is_clean = False
        """Whether the next message on the link will be a request, whatever has happened."""
        self._begin_s = time.process_time()
        self._allowed_s = codec_s
        limits.allow_cpu(codec_s)

    def do_decode(self) -> None:
        """Send a file's header, then, if it is wanted, its samples."""
        fields = self._request.fields
        self.is_clean = True
        path, scratch = self._read_file()
        with open_audio(path, fields["max_duration_s"], scratch) as decoder:
            send(self._link, "format", plain(decoder.format))
            wanted = self._next()
            if wanted.kind == "stop":
                return
            n_before = wanted.fields["n_before"]
            for block in decoder.blocks(wanted.fields["n_frames"], self._tell_busy):
                if decoder.n_frames <= n_before:
                    self._tell_busy(block)
                    continue
                self._allow(block.size)
                send_block(self._link, np.ascontiguousarray(block[-(decoder.n_frames - n_before) :]))
        self._answer("end")

    def _tell_busy(self, block: NDArray[Any]) -> None:
        """A block was decoded that the owner has, or shall not have: else this would pass for a hang."""
        self._allow(block.size)
        send(self._link, "busy", {"n_frames": len(block)})

    def do_metadata(self) -> None:
        """Send what a file carries besides samples."""
        self.is_clean = True
        path, _ = self._read_file()
        self._answer("metadata", *packed_metadata(read_metadata(path)))

    def do_encode(self) -> None:
        """Write stems side by side."""
        fields = self._request.fields
        out = made(OutputFormat, fields["out"])
        inserts = unpacked_inserts(fields["inserts"], self._request.body.tobytes())
        files = {stem: Path(file) for stem, file in fields["files"].items()}
        n_most = fields["n_frames"] * out.frame_bytes + 2 * self._request.body.nbytes
        limits.allow_files(int(_ROOM * n_most) + _HEAD_BYTES)
        with ExitStack() as stack:
            writers = [
                stack.enter_context(StemWriter(file, out, inserts.get(stem, ()), fields["has_md5"]))
                for stem, file in files.items()
            ]
            try:
                while (message := self._next()).kind == "block":
                    blocks = block_of(message, len(writers) * out.n_channels, message.body.nbytes)
                    self._allow(blocks.size)
                    for writer, part in zip(writers, _parts(blocks, len(writers)), strict=True):
                        writer.write(part)
                if message.kind != "close":
                    stack.pop_all()  # whoever stops half way deletes or overwrites the files
                    self.is_clean = True
                    self._answer("stopped")
                    return
                written = [plain(writer.close()) for writer in writers]
            except NoSpace as error:
                if any(_is_full_length(file) for file in files.values()):
                    raise _TooLong from error
                raise
        self._answer("written", {"files": written})

    def do_read_back(self) -> None:
        """Decode stems beside the mix."""
        fields = self._request.fields
        files = {stem: Path(file) for stem, file in fields["files"].items()}
        n_most = max(file.stat().st_size for file in files.values())
        limits.allow_files(2 * n_most + _HEAD_BYTES)  # decoders copy MP3 files
        heard = read_back(files, self._mix(), frozenset(fields["summed"]))
        self._answer("heard", {"heard": plain(heard)})

    def _mix(self) -> Iterator[NDArray[np.float32]]:
        while (message := self._next()).kind == "block":
            n_frames = message.fields["n_frames"]
            block = block_of(message, message.body.nbytes // (4 * n_frames), n_frames)
            self._allow(block.size)
            yield to_float(block)

    def _read_file(self) -> tuple[Path, Path | None]:
        """The file to read, and where copies of it may lie; each may be as long as it is."""
        path, scratch = Path(self._request.fields["path"]), self._request.fields.get("scratch")
        n_bytes = path.stat().st_size
        self._allowed_s += n_bytes / limits.BYTES_PER_CPU_S
        self._allow(0)
        limits.allow_files(2 * n_bytes + _HEAD_BYTES)
        return path, Path(scratch) if scratch else None

    def _allow(self, n_samples: int) -> None:
        """More CPU time, as more has been done."""
        self._allowed_s += n_samples / limits.SAMPLES_PER_CPU_S
        limits.allow_cpu(self._allowed_s - (time.process_time() - self._begin_s))

    def _next(self) -> Message:
        """The owner's next message."""
        message = receive(self._link)
        if message is None:
            raise EOFError
        return message

    def _answer(self, kind: str, fields: dict[str, Any] | None = None, body: bytes = b"") -> None:
        """The last message of a job."""
        used = {"busy_s": time.process_time() - self._begin_s, "peak_bytes": limits.grown_bytes()}
        send(self._link, kind, {**(fields or {}), **used}, body)


def _parts(blocks: NDArray[Any], n: int) -> list[NDArray[Any]]:
    """Blocks (n frames, C) that lie one behind the other, each whole."""
    return list(blocks.reshape(n, -1, blocks.shape[1] // n))


def _is_full_length(file: Path) -> bool:
    return file.exists() and file.stat().st_size >= limits.max_file_bytes() > 0
