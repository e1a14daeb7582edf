"""Codecs in children: a crash, a hang or a flood costs one track, and that only if it comes twice.

A child that is lost is replaced once, and the job begun anew: decoding goes on where it was, encoding starts
from the spools. What a limit of memory or computing has ended would end so again, and is not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path

import numpy as np

from splitfire_batch.audio import Insert, OutputFormat
from splitfire_batch.audio.readback import Heard
from splitfire_batch.children.chances import CodecLimits, encode_error, twice
from splitfire_batch.children.child import Child, ChildLost
from splitfire_batch.children.codecs import Made, MakeMix, OpenStems
from splitfire_batch.children.inline import InlineStems
from splitfire_batch.children.pool import Children
from splitfire_batch.children.records import made, packed_inserts, plain, unpacked_metadata
from splitfire_batch.children.remote_audio import RemoteAudio
from splitfire_batch.children.remote_stems import RemoteStems
from splitfire_batch.children.wire import WireError
from splitfire_batch.metadata import SourceMetadata


class InChildren:
    """Implements `codecs.Codecs`."""

    def __init__(self, limits: CodecLimits) -> None:
        """Start what children are forked from; raises ConfigError if that cannot be."""
        self._limits = limits
        self._children = Children(limits.memory_mb * 2**20, limits.codec_s)
        self._name = ""

    def open_audio(self, path: Path, max_duration_s: float, scratch: Path | None) -> RemoteAudio:
        """See `Codecs.open_audio`."""
        request = {
            "path": str(path),
            "max_duration_s": max_duration_s,
            "scratch": str(scratch) if scratch else None,
        }
        return RemoteAudio(self._children, request, self._name or str(path), self._limits)

    def open_stems(
        self,
        files: Mapping[str, Path],
        out: OutputFormat,
        inserts: Mapping[str, Sequence[Insert]],
        n_frames: int,
        has_md5: bool = True,
    ) -> OpenStems:
        """See `Codecs.open_stems`; where there is nothing to write, no child is needed."""
        if not files:
            return InlineStems(files, out, inserts, has_md5)
        listed, data = packed_inserts({stem: inserts.get(stem, ()) for stem in files})
        request = {
            "files": {stem: str(file) for stem, file in files.items()},
            "out": plain(out),
            "inserts": listed,
            "has_md5": has_md5,
            "n_frames": n_frames,
        }
        stems = RemoteStems(self._children, files, out, self._name or "stems")
        stems.begin(request, data)
        return stems

    def encode(self, attempt: Callable[[], Made]) -> Made:
        """See `Codecs.encode`."""
        try:
            return twice(attempt, self._name or "stems")
        except ChildLost as error:
            raise encode_error(error, self._limits) from error

    def read_back(self, files: Mapping[str, Path], mix: MakeMix, summed: frozenset[str]) -> Heard:
        """See `Codecs.read_back`."""
        return self.encode(partial(self._read_back, files, mix, summed))

    def read_metadata(self, path: Path) -> SourceMetadata:
        """See `Codecs.read_metadata`; none, and a warning, if reading them is not survived."""
        try:
            return twice(partial(self._read_metadata, path), self._name or str(path))
        except ChildLost as error:
            return SourceMetadata(warnings=(f"not carried over: all metadata; their reader {error}",))

    def named(self, name: str) -> InChildren:
        """See `Codecs.named`."""
        named = copy(self)
        named._name = name
        return named

    def close(self) -> None:
        """See `Codecs.close`."""
        self._children.close()

    def _read_back(self, files: Mapping[str, Path], mix: MakeMix, summed: frozenset[str]) -> Heard:
        request = {"files": {stem: str(file) for stem, file in files.items()}, "summed": sorted(summed)}
        with self._job("read_back", request) as child:
            for block in mix():
                child.send_block(np.ascontiguousarray(block, np.float32))
            child.send("close")
            return made(Heard, child.receive("heard").fields.get("heard"))

    def _read_metadata(self, path: Path) -> SourceMetadata:
        with self._job("metadata", {"path": str(path)}) as child:
            return unpacked_metadata(child.receive("metadata"))

    @contextmanager
    def _job(self, kind: str, request: Mapping[str, object]) -> Iterator[Child]:
        """A child that has got the request; whatever is raised inside the block ends it."""
        what = self._name or str(request.get("path", kind))
        child = self._children.take()
        try:
            child.send(kind, request)
            yield child
        except WireError as error:
            lost = child.forged(error)
            self._children.discard(child, what)
            raise lost from error
        except BaseException:
            self._children.discard(child, what)
            raise
        self._children.give_back(child, what)
