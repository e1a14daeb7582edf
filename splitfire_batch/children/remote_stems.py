"""Stems that a child writes, all of a track side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from splitfire_batch.audio import Encoded, OutputFormat, fits, sample_dtype
from splitfire_batch.audio.formats import Samples
from splitfire_batch.children.child import Child, ChildLost
from splitfire_batch.children.pool import Children
from splitfire_batch.children.records import made
from splitfire_batch.children.wire import WireError
from splitfire_batch.errors import SplitfireError


class RemoteStems:
    """Implements `codecs.OpenStems`."""

    def __init__(self, children: Children, files: Mapping[str, Path], out: OutputFormat, what: str) -> None:
        self._children, self._files, self._out, self._what = children, files, out, what
        self._busy_s = self._waited_s = 0.0
        self._n_samples = 0
        self._joint: Samples | None = None
        self._child: Child | None = None

    def begin(self, request: Mapping[str, Any], data: bytes) -> None:
        """Open the files, see `serving`; raises ChildLost."""
        self._child = self._children.take()
        try:
            self._child.send("encode", request, data)
        except (ChildLost, SplitfireError):
            self._let_go(is_done=False)
            raise

    @property
    def extra_s(self) -> float:
        """See `OpenStems.extra_s`; known at the end."""
        return max(0.0, self._busy_s - self._waited_s)

    def write(self, blocks: Mapping[str, np.ndarray]) -> None:
        """See `OpenStems.write`."""
        joined = self._joined([blocks[stem] for stem in self._files])
        begin = time.perf_counter()
        self._busy().send_block(joined)
        self._n_samples += joined.size
        self._waited_s += time.perf_counter() - begin

    def close(self) -> dict[str, Encoded]:
        """See `OpenStems.close`."""
        child = self._busy()
        begin = time.perf_counter()
        child.send("close")
        child.be_patient(self._n_samples * 4 * 3)  # read back, hashed, and perhaps copied behind its chunks
        message = child.receive("written")
        child.be_patient()
        self._waited_s += time.perf_counter() - begin
        try:
            self._busy_s = message.number("busy_s")
            told = [made(Encoded, values) for values in message.fields.get("files", ())]
            if len(told) != len(self._files):
                raise WireError(f"found {len(told)} files, wanted {len(self._files)}")
        except WireError as error:
            raise child.forged(error) from error
        self._let_go(is_done=True)
        return dict(zip(self._files, told, strict=True))

    def __enter__(self) -> RemoteStems:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child and kind is None:  # not closed: its files will be written anew
            with suppress(ChildLost, SplitfireError):
                self._child.send("stop")
                self._child.receive("stopped")
                self._let_go(is_done=True)
        self._let_go(is_done=False)
        if kind is not None:
            for file in self._files.values():
                file.unlink(missing_ok=True)

    def _busy(self) -> Child:
        assert self._child  # noqa: S101 - nobody writes after the end
        return self._child

    def _joined(self, blocks: Sequence[np.ndarray]) -> Samples:
        """Blocks (n, C) one behind the other as one of the wire's: (n, C times their number).

        What does not fit into 24 bit is found out by `StemWriter`.
        """
        dtype = np.dtype(sample_dtype(self._out.bits))
        shape = (len(blocks[0]), self._out.n_channels)
        if self._joint is None or self._joint.shape != (len(blocks), *shape):
            self._joint = np.empty((len(blocks), *shape), dtype)
        joined = self._joint  # the same memory each time: what is sent has been copied
        for part, block in zip(joined, blocks, strict=True):
            if block.shape != shape or block.dtype.kind != dtype.kind:
                raise ValueError(
                    f"a block has shape {block.shape} of {block.dtype}, wanted {shape} of {dtype}"
                )
            if block.dtype.itemsize > dtype.itemsize and not fits(block, 8 * dtype.itemsize):
                raise ValueError(f"samples from {block.min()} to {block.max()} do not fit into {dtype}")
            np.copyto(part, block, casting="unsafe")
        return joined.reshape(shape[0], -1)

    def _let_go(self, is_done: bool) -> None:
        child, self._child = self._child, None
        if child and is_done:
            self._children.give_back(child, self._what)
        elif child:
            self._children.discard(child, self._what)
