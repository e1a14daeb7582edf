"""A file that a child decodes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from splitfire_batch.audio.formats import Samples
from splitfire_batch.children.chances import Chances, CodecLimits, decode_error
from splitfire_batch.children.child import Child, ChildLost
from splitfire_batch.children.pool import Children
from splitfire_batch.children.records import audio_format
from splitfire_batch.children.wire import WireError, block_of
from splitfire_batch.errors import SplitfireError
from splitfire_batch.records import AudioFormat


class RemoteAudio:
    """Implements `codecs.OpenAudio`. A lost child is replaced, see `Chances`, and goes on where it was."""

    def __init__(
        self,
        children: Children,
        request: Mapping[str, Any],
        what: str,
        limits: CodecLimits,
    ) -> None:
        """Read the header, see `serving`; raises what `open_audio` does."""
        self._children, self._limits = children, limits
        self._request, self._what = request, what
        self._n_bytes = Path(request["path"]).stat().st_size
        self._child: Child | None = None
        self._chances = Chances(what)
        self._is_reading = False
        self._busy_s = self._waited_s = 0.0
        self.n_frames = 0
        """Frames that came so far."""
        self.format: AudioFormat = self._open()

    @property
    def extra_s(self) -> float:
        """See `OpenAudio.extra_s`; known at the end."""
        return max(0.0, self._busy_s - self._waited_s)

    def blocks(self, n_frames: int) -> Iterator[Samples]:
        """See `OpenAudio.blocks`."""
        while True:
            try:
                yield from self._blocks(n_frames)
                return
            except ChildLost as error:
                self._note_loss(error)
            if self._open() != self.format:
                raise decode_error(ChildLost("found another header"), self._where(), self._limits)

    def close(self) -> None:
        """See `OpenAudio.close`."""
        if self._child and not self._is_reading:
            try:
                self._child.send("stop")
            except (ChildLost, SplitfireError):
                self._let_go(is_done=False)
        self._let_go(is_done=not self._is_reading)

    def __enter__(self) -> RemoteAudio:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> AudioFormat:
        while True:
            try:
                return self._ask()
            except ChildLost as error:
                self._note_loss(error)

    def _ask(self) -> AudioFormat:
        """The header, from a fresh or rested child."""
        self._is_reading = False
        self._child = child = self._children.take()
        try:
            child.send("decode", self._request)
            child.be_patient(self._n_bytes)  # some files are copied, or walked through, for their length
            found = audio_format(child.receive("format").fields)
            child.be_patient()
            return found
        except WireError as error:
            raise child.forged(error) from error
        except SplitfireError:  # a child comes back clean from a file that cannot be decoded
            self._let_go(is_done=True)
            raise

    def _blocks(self, n_frames: int) -> Iterator[Samples]:
        child = self._child
        assert child  # noqa: S101 - `_open` made it
        self._is_reading = True
        n_most = self._request["max_duration_s"] * self.format.sample_rate + n_frames
        n_done = 0.0
        try:
            child.send("read", {"n_frames": n_frames, "n_before": self.n_frames})
            while True:
                begin = time.perf_counter()
                message = child.receive("block", "busy", "end")
                self._waited_s += time.perf_counter() - begin
                if message.kind == "end":
                    self._busy_s = message.number("busy_s")
                    break
                n_done += max(1, message.number("n_frames"))
                if n_done > n_most:
                    raise WireError(f"found {n_done:.0f} frames, wanted at most {n_most:.0f}")
                if message.kind == "block":
                    block = block_of(message, self.format.n_channels, n_frames)
                    self.n_frames += len(block)
                    yield block
        except WireError as error:
            raise child.forged(error) from error
        except SplitfireError:
            self._let_go(is_done=True)
            raise
        self._let_go(is_done=True)

    def _note_loss(self, error: ChildLost) -> None:
        """Forgive what may be bad luck."""
        self._let_go(is_done=False)
        if not self._chances.take(error):
            raise decode_error(error, self._where(), self._limits) from error

    def _where(self) -> str:
        return f"after {self.n_frames} frames" if self._is_reading else "before it had read the header"

    def _let_go(self, is_done: bool) -> None:
        child, self._child = self._child, None
        if child and is_done:
            self._children.give_back(child, self._what)
        elif child:
            self._children.discard(child, self._what)
