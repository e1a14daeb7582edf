"""What becomes of children and their jobs when the process that they are forked from is in trouble."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from splitfire_batch.children import Inline, pool, starting
from splitfire_batch.errors import TrackError
from tests.children import in_children, is_alive, newer_than_now, wait_until
from tests.material import noise, write
from tests.test_children import decoded

N_FRAMES = 1_800_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("source") / "a.wav", noise(N_FRAMES))


def test_a_fork_that_fails_costs_nobody_his_child(file, monkeypatch):
    monkeypatch.setattr(starting, "MODULES", [*starting.MODULES, "tests.poor_zygote"])
    ours = newer_than_now()
    with in_children() as codecs, codecs.open_audio(file, 86_400, None) as decoder:
        blocks = decoder.blocks(65_536)
        found = [next(blocks)]
        before = ours()
        assert len(before) == 2
        with codecs.open_audio(file, 86_400, None):  # its first fork fails
            assert ours()[:2] == before
        found += blocks
    assert np.array_equal(np.concatenate(found), decoded(Inline(), file))


def test_the_end_of_a_zygote_is_no_fault_of_the_tracks(file, caplog):
    ours = newer_than_now()
    with in_children() as codecs, codecs.open_audio(file, 86_400, None) as decoder:
        blocks = decoder.blocks(20_000)
        found = []
        for _ in range(2):
            found.append(next(blocks))
            zygote, child = ours()
            os.kill(zygote, signal.SIGKILL)
            wait_until(lambda lost=child: not is_alive(lost))
            while not ours():  # what had been sent before comes first
                found.append(next(blocks))
        found += blocks
    assert np.array_equal(np.concatenate(found), decoded(Inline(), file))
    assert caplog.text.count("codec_lost") == 2


def test_a_zygote_that_hangs_is_replaced(file, monkeypatch):
    make = pool.Zygote
    ours = newer_than_now()
    with in_children() as codecs:
        codecs.open_audio(file, 86_400, None).close()
        monkeypatch.setattr(starting, "_START_S", 0.2)
        monkeypatch.setattr(starting, "END_S", 0.1)

        def patient(memory_bytes: int, codec_s: float) -> starting.Zygote:
            monkeypatch.setattr(starting, "_START_S", 60)
            return make(memory_bytes, codec_s)

        monkeypatch.setattr(pool, "Zygote", patient)
        zygote = ours()[0]
        os.kill(zygote, signal.SIGSTOP)
        opened = [codecs.open_audio(file, 86_400, None) for _ in range(2)]  # one child had been idle
        assert zygote not in ours()
        for decoder in opened:
            assert sum(map(len, decoder.blocks(65_536))) == N_FRAMES
            decoder.close()


def test_an_owner_with_more_than_a_thousand_open_files_has_children(file):
    with open_files(1_200), all_open_but(50), in_children() as codecs:
        assert len(decoded(codecs, file)) == N_FRAMES


@pytest.mark.parametrize("n_free", [1, 3, 4])
def test_whoever_cannot_ask_for_a_child_leaves_no_file_open(file, monkeypatch, n_free):
    monkeypatch.setattr(pool, "FORK_PAUSES_S", (0.0, 0.0))
    wanted = r"INTERNAL: no process .*Too many open files"
    ours = newer_than_now()
    with in_children() as codecs, codecs.open_audio(file, 86_400, None) as busy:
        before, processes = numbers(), ours()
        with open_files(max(before) + 8), all_open_but(n_free), pytest.raises(TrackError, match=wanted):
            codecs.open_audio(file, 86_400, None)
        assert numbers() == before
        assert ours() == processes
        assert sum(map(len, busy.blocks(65_536))) == N_FRAMES


def numbers() -> set[int]:
    """Of the open files."""
    return {int(link.name) for link in Path("/proc/self/fd").iterdir() if link.exists() or link.is_symlink()}


@contextmanager
def open_files(n_soft: int) -> Iterator[None]:
    """So many files may be open inside the block, those above that already are among them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def all_open_but(n_free: int) -> Iterator[None]:
    """Inside the block no more than so many files can be opened."""
    held: list[int] = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(n_free):
            os.close(held.pop())
        yield
    finally:
        for number in held:
            os.close(number)
