"""The way to a device and back: padded, complete and untouched by later batches, whatever the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from splitfire_batch.config import SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.models import load_model
from splitfire_batch.models.fidelity import excerpt
from splitfire_batch.transfer import DeviceLost, Direct, Overlapped, open_transfer
from tests.material import Shares

SEGMENTS = [torch.full((2, 50), float(n)) for n in (1, 2)]


def test_a_batch_is_padded_with_silence_and_only_what_was_sent_comes_back():
    seen: list[Tensor] = []
    estimates = Direct(Shares(0.25, 0.75, before=seen.append)).launch(SEGMENTS, 4)()
    assert torch.equal(seen[0], torch.stack([*SEGMENTS, torch.zeros(2, 50), torch.zeros(2, 50)]))
    assert [float(estimate[1, 0, 0]) for estimate in estimates] == [0.75, 1.5]


def test_a_cpu_computes_directly():
    assert isinstance(open_transfer(Shares()), Direct)


class _Stream:
    """Stands for `torch.cuda.Stream`; work counts as ordered after what was waited for."""

    log: list[tuple[str, ...]]

    def __init__(self, name: str) -> None:
        self.name = name

    def wait_stream(self, other: _Stream) -> None:
        self.log.append(("wait", self.name, other.name))

    def record_event(self, event: _Event) -> _Event:
        self.log.append(("record", self.name))
        return event


class _Event:
    log: list[tuple[str, ...]]
    error: Exception | None = None

    def __init__(self, blocking: bool) -> None:
        assert blocking

    def synchronize(self) -> None:
        self.log.append(("synchronize",))
        if self.error:
            raise self.error


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A CUDA of streams without a GPU: memory is the host's, and the order of everything is written down."""
    log: list[tuple[str, ...]] = []
    current, names = [_Stream("computing")], iter(["copying in", "copying out"])
    monkeypatch.setattr(_Stream, "log", log, raising=False)
    monkeypatch.setattr(_Event, "log", log, raising=False)

    @contextmanager
    def within(stream: _Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    @contextmanager
    def on_device(_: torch.device) -> Iterator[None]:
        yield

    real_empty, real_copy = torch.empty, Tensor.copy_

    def copy(self: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        assert non_blocking
        log.append(("copy", current[-1].name))
        return real_copy(self, source)

    def empty(shape: tuple[int, ...], pin_memory: bool) -> Tensor:
        assert pin_memory  # else the copies would not run in the background
        return real_empty(shape)

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: _Stream(next(names)))
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "device", on_device)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(Tensor, "copy_", copy)
    monkeypatch.setattr(Tensor, "record_stream", lambda _, stream: log.append(("keep for", stream.name)))
    return log


def test_each_stream_waits_for_the_one_before_and_nobody_waits_on_the_host(streams):
    model = Shares(0.25, 0.75, before=lambda _: streams.append(("compute",)))
    receive = Overlapped(model).launch(SEGMENTS, 3)
    assert streams == [
        ("copy", "copying in"),
        ("wait", "computing", "copying in"),
        ("keep for", "computing"),
        ("compute",),
        ("wait", "copying out", "computing"),
        ("copy", "copying out"),
        ("copy", "copying out"),
        ("keep for", "copying out"),
        ("record", "copying out"),
    ]
    streams.clear()
    assert [float(estimate[1, 0, 0]) for estimate in receive()] == [0.75, 1.5]
    assert streams == [("synchronize",)]


def test_an_error_that_shows_only_when_waiting_is_a_lost_device(streams, monkeypatch):
    model = Shares()
    receive = Overlapped(model).launch(SEGMENTS, 2)
    model.device = torch.device("meta")
    monkeypatch.setattr(_Event, "error", RuntimeError("CUDA error: an illegal memory access"))
    with pytest.raises(DeviceLost, match="shares on meta: RuntimeError: CUDA error: an illegal"):
        receive()
    assert streams[-1] == ("synchronize",)


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 3])
def test_on_a_gpu_overlapped_estimates_are_those_of_plain_calls(batch):
    """Many batches in a row, kept until the end: one that was written over would differ."""
    gpu, cpu = (load_model(SeparationConfig(), device) for device in ("cuda", "cpu"))
    n_frames = gpu.segments(2**62)[0].n_frames
    mix = excerpt(7 * n_frames, gpu.sample_rate)
    segments = list(mix.split(n_frames, dim=-1))
    transfer = open_transfer(gpu)
    waiting = [transfer.launch(segments[i : i + batch], batch) for i in range(0, len(segments), batch)]
    found = [estimate for receive in waiting for estimate in receive()]
    assert all(estimate.is_pinned() for estimate in found)
    for segment, estimate in zip(segments, found, strict=True):
        wanted = cpu(segment[None])[0]
        error = (estimate - wanted).square().mean((-1, -2))
        assert (10 * torch.log10(wanted.square().mean((-1, -2)) / error) > 90).all()


@pytest.mark.gpu
def test_on_a_gpu_the_engine_gives_what_it_gives_on_a_cpu():
    mix = excerpt(60 * 44_100, 44_100)[None]
    with (
        Engine(load_model(SeparationConfig(), "cuda"), batch=2) as gpu,
        Engine(load_model(SeparationConfig(), "cpu")) as cpu,
    ):
        found, wanted = (
            torch.cat(list(engine.separate(mix.split(65_536, dim=-1))), dim=-1) for engine in (gpu, cpu)
        )
    assert 10 * torch.log10(wanted.square().mean() / (found - wanted).square().mean()) > 90
