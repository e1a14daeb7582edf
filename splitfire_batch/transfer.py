"""The way of a batch to the device and of its estimates back: at once on a CPU, in the background on CUDA.

On CUDA three streams run side by side: while batch n is computed, n + 1 is copied in and n - 1 copied out.
The host buffers are pinned, and PyTorch's own allocator of pinned memory is their ring: it hands a buffer
out again once its last tensor is gone and the copies that it saw are over. So an estimate may be kept as
long as a track likes, and no later batch can write over it.

Axes: B batch, S stems, C channels, L frames of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from splitfire_batch.segments import Model

Receive = Callable[[], Sequence[Tensor]]
"""Waits for a batch; its estimates (S, C, L), one per segment, complete and on the CPU."""


class DeviceLost(RuntimeError):
    """The model raised on an accelerator, which may be unusable from then on: only a new process helps."""


class Transfer(Protocol):
    """How batches get to a model and back. Used by one thread, `Direct` by several."""

    @property
    def depth(self) -> int:
        """Batches that may be under way at once."""

    def launch(self, segments: Sequence[Tensor], size: int) -> Receive:
        """Start on a batch of `size`, of which these segments (C, L) are the first and the rest silence.

        Raises:
            torch.OutOfMemoryError: it does not fit, beside what else is under way.
            DeviceLost: something else, on an accelerator; there `receive` may raise it, too.
            ValueError: the model's estimates have another shape than its stems and segments.
        """


def open_transfer(model: Model) -> Transfer:
    """The way to the model's device."""
    return Overlapped(model) if model.device.type == "cuda" else Direct(model)


class Direct:
    """Computes while it is launched."""

    depth = 1

    def __init__(self, model: Model) -> None:
        self._model = model

    def launch(self, segments: Sequence[Tensor], size: int) -> Receive:
        """See `Transfer.launch`."""
        batch = segments[0][None]
        if size > 1:
            batch = torch.zeros((size, *segments[0].shape))
            torch.stack(list(segments), out=batch[: len(segments)])
        with _guarded(self._model):
            estimates = self._model(batch.to(self._model.device))
        ours = _checked(self._model, estimates, batch)[: len(segments)]
        with _guarded(self._model):  # each in memory of its own, so that a slow track keeps no other's
            copies = [estimate.to("cpu", copy=size > 1) for estimate in ours]
        return lambda: copies


class Overlapped:
    """Copies on streams of their own, and never waits before `receive`."""

    depth = 2

    def __init__(self, model: Model) -> None:
        self._model = model
        self._copying_in = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]
        self._copying_out = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]

    def launch(self, segments: Sequence[Tensor], size: int) -> Receive:
        """See `Transfer.launch`."""
        with _guarded(self._model), torch.cuda.device(self._model.device):
            computing = torch.cuda.current_stream()
            batch = self._copy_in(segments, size)
            computing.wait_stream(self._copying_in)
            batch.record_stream(computing)  # or its memory could be taken again while it is read
            estimates = self._model(batch)
        estimates = _checked(self._model, estimates, batch)[: len(segments)]
        with _guarded(self._model), torch.cuda.device(self._model.device):
            self._copying_out.wait_stream(computing)
            return self._copy_out(estimates)

    def _copy_in(self, segments: Sequence[Tensor], size: int) -> Tensor:
        host = torch.empty((len(segments), *segments[0].shape), pin_memory=True)
        torch.stack(list(segments), out=host)
        with torch.cuda.stream(self._copying_in):
            batch = torch.zeros((size, *segments[0].shape), device=self._model.device)
            batch[: len(segments)].copy_(host, non_blocking=True)
        return batch

    def _copy_out(self, estimates: Tensor) -> Receive:
        """Each estimate has a buffer of its own, so that a slow track keeps no other's."""
        with torch.cuda.stream(self._copying_out):
            copies = [
                torch.empty(estimate.shape, pin_memory=True).copy_(estimate, non_blocking=True)
                for estimate in estimates
            ]
            estimates.record_stream(self._copying_out)
            # A blocking event lets the waiting thread sleep, and leaves its core to the codecs.
            copied = self._copying_out.record_event(torch.cuda.Event(blocking=True))  # type: ignore[no-untyped-call]

        def receive() -> Sequence[Tensor]:
            with _guarded(self._model):
                copied.synchronize()
            return copies

        return receive


@contextmanager
def _guarded(model: Model) -> Iterator[None]:
    """What an accelerator raises, but for want of memory, every later call may raise again."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if model.device.type == "cpu":
            raise
        raise DeviceLost(f"{model.name} on {model.device}: {type(error).__name__}: {error}") from error


def _checked(model: Model, estimates: Tensor, batch: Tensor) -> Tensor:
    wanted = (len(batch), len(model.stems), *batch.shape[1:])
    if estimates.shape != wanted:
        raise ValueError(f"{model.name} gave shape {tuple(estimates.shape)}, wanted {wanted}")
    return estimates
