"""The engine of an ensemble: its members' engines side by side, and the weighted mean of what they give.

All members of a track are driven by the track's own thread. Whoever is furthest behind goes on next, with the
blocks that the others had, too: so what the others are ahead by, of blocks and of finished frames, is bounded
by the look-ahead of the members, whatever the track's length, and nobody waits for anybody. Meanwhile the
segments that all of them have in flight are computed.

Axes: G lanes, S stems, C channels, n frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TypeAlias

import torch
from torch import Tensor

from splitfire_batch.batching import torch_threads
from splitfire_batch.engine import Engine
from splitfire_batch.models.bag import Part
from splitfire_batch.models.ensemble import Ensemble, Loaded, add_part
from splitfire_batch.stopwatch import Stopwatch
from splitfire_batch.turns import Turns


class EnsembleEngine:
    """Has the interface of `Engine`.

    Args:
        model: the ensemble.
        batch: as in `Engine`, for each member.
        packs_short: as in `Engine`.
        in_turn: of an ensemble that this one is in.
    """

    def __init__(
        self,
        model: Ensemble,
        batch: int | None = None,
        packs_short: bool | None = None,
        in_turn: Turns | None = None,
    ) -> None:
        self.model = model
        turns = in_turn or Turns(torch_threads() if model.device.type == "cpu" else None)
        self.clock = turns.clock
        """Where the device's seconds go; the stopwatches of all tracks should tell it of their stages."""
        self._parts = [(part, open_engine(part.model, batch, packs_short, turns)) for part in model.parts]
        self.n_servers: int = max(engine.n_servers for engine in self._engines)
        """Tracks at a time that keep the device busy."""
        self.full_frames: int = max(engine.full_frames for engine in self._engines)
        """Frames of the longest segment that is not cut short by its track's end."""

    def __enter__(self) -> EnsembleEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the device's threads once their queues are empty."""
        for engine in self._engines:
            engine.close()

    @property
    def _engines(self) -> list[AnyEngine]:
        return [engine for _, engine in self._parts]

    @property
    def busy_s(self) -> float:
        """Seconds the device has computed."""
        return sum(engine.busy_s for engine in self._engines)

    @property
    def queue_bytes(self) -> int:
        """Bytes of audio in the batches that all tracks fill together."""
        return sum(engine.queue_bytes for engine in self._engines)

    def track_bytes(self, n_frames: int, n_lanes: int) -> int:
        """Bytes of audio that an open track holds at most, besides those of `queue_bytes`; see `Engine`.

        What the members hold; what some are ahead by, a few segments of the longest; and a blended piece.
        """
        held = [engine.track_bytes(n_frames, n_lanes) for engine in self._engines]
        return sum(held) + max(held)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator should know of the members' batches so far."""
        return tuple(
            f"{part.model.name}: {warning}" for part, engine in self._parts for warning in engine.warnings
        )

    @property
    def batch_label(self) -> str:
        """The members' batches, `spleeter-2stems(batch1)+htdemucs(batch1)`."""
        return "+".join(f"{part.model.name}({engine.batch_label})" for part, engine in self._parts)

    def separate(
        self, blocks: Iterable[Tensor], watch: Stopwatch | None = None
    ) -> Generator[Tensor, None, None]:
        """Finished frames of every stem; see `Engine.separate`."""
        watch = watch or Stopwatch()
        shared = _SharedBlocks(blocks, len(self._parts))
        with ExitStack() as stack:
            streams = []
            for number, (part, engine) in enumerate(self._parts):
                frames = engine.separate(shared.of(number), watch)
                stack.callback(frames.close)
                streams.append(_Stream(part, frames))
            while not all(stream.is_over for stream in streams):
                _next(streams, shared).advance()
                n_frames = min(stream.n_held for stream in streams)
                if n_frames:
                    with watch.measure("blend"):
                        blended = self._blended(streams, n_frames)
                    yield blended

    def _blended(self, streams: list[_Stream], n_frames: int) -> Tensor:
        """The next `n_frames` of all streams, (G, S, C, n)."""
        n_lanes = streams[0].held[0].shape[0]
        total = torch.zeros((n_lanes, len(self.model.stems), self.model.n_channels, n_frames))
        for stream in streams:
            start = 0
            for piece in stream.take(n_frames):
                stop = start + piece.shape[-1]
                add_part(stream.part, self.model.stems, piece, total[..., start:stop])
                start = stop
        return total


AnyEngine: TypeAlias = Engine | EnsembleEngine


def open_engine(
    model: Loaded, batch: int | None = None, packs_short: bool | None = None, in_turn: Turns | None = None
) -> AnyEngine:
    """The engine for a model or an ensemble, with the arguments of `Engine`."""
    if isinstance(model, Ensemble):
        return EnsembleEngine(model, batch, packs_short, in_turn)
    return Engine(model, batch, packs_short, in_turn.of(model.is_for_one_core) if in_turn else None)


class _SharedBlocks:
    """The blocks of a track for several readers, each kept until the last one has it."""

    def __init__(self, blocks: Iterable[Tensor], n_readers: int) -> None:
        self._source = iter(blocks)
        self._kept: deque[Tensor] = deque()
        self._n_dropped = 0
        self._n_read = [0] * n_readers
        self.is_over = [False] * n_readers
        """By reader, whether it has read all."""

    def of(self, reader: int) -> Iterator[Tensor]:
        """Every block, for one of the readers."""
        while True:
            place = self._n_read[reader] - self._n_dropped
            if place == len(self._kept):
                block = next(self._source, None)
                if block is None:
                    self.is_over[reader] = True
                    return
                self._kept.append(block)
            block = self._kept[place]
            self._n_read[reader] += 1
            while self._n_dropped < min(self._n_read):
                self._kept.popleft()
                self._n_dropped += 1
            yield block
            del block


class _Stream:
    """A member's finished frames, and how many of them wait for the other members'."""

    def __init__(self, part: Part[Loaded], frames: Iterator[Tensor]) -> None:
        self.part, self._frames = part, frames
        self.held: deque[Tensor] = deque()
        """Pieces (G, S, C, n)."""
        self.n_held = self.n_frames = 0
        """Frames in them, and in all that there were."""
        self.is_over = False

    def advance(self) -> None:
        """Wait for the next piece."""
        piece = next(self._frames, None)
        if piece is None:
            self.is_over = True
            return
        self.held.append(piece)
        self.n_held += piece.shape[-1]
        self.n_frames += piece.shape[-1]

    def take(self, n_frames: int) -> Iterator[Tensor]:
        """The first `n_frames` of what is held, which are not held any longer."""
        self.n_held -= n_frames
        while n_frames:
            piece = self.held.popleft()
            if piece.shape[-1] > n_frames:
                self.held.appendleft(piece[..., n_frames:])
                piece = piece[..., :n_frames]
            n_frames -= piece.shape[-1]
            yield piece


def _next(streams: Sequence[_Stream], shared: _SharedBlocks) -> _Stream:
    """The one furthest behind; but one that has read the whole track is finished first.

    While it is open its engine takes it for a track that may send more, and lets others wait for that.
    """
    open_ones = [number for number, stream in enumerate(streams) if not stream.is_over]
    return streams[min(open_ones, key=lambda number: (not shared.is_over[number], streams[number].n_frames))]
