"""Headers are read from every kind of store; what cannot be read costs nothing but the knowledge."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import soundfile

from splitfire_batch.headers import NO_AUDIO, read_headers
from splitfire_batch.records import AudioFormat
from splitfire_batch.storage import open_store


def test_headers_come_from_any_store_in_the_order_they_were_asked_for(url: str, tmp_path: Path) -> None:
    store = open_store(url, {})
    objects, wanted = [], []
    for number, (name, rate) in enumerate((("a b.wav", 44_100), ("c?d.flac", 48_000), ("e.ogg", 22_050))):
        file = tmp_path / f"{number}.{name.rpartition('.')[2]}"
        soundfile.write(file, np.zeros((90_000 + number, 2)), rate)
        store.write(f"music/{name}", file)
        objects.append((store.uri_of(f"music/{name}"), file.stat().st_size))
        wanted.append((rate, 90_000 + number))
    found = read_headers(objects, {})
    assert [(seen.sample_rate, seen.n_frames) for seen in found if seen] == wanted


def test_what_is_missing_is_not_known_and_what_is_no_audio_has_none(url: str) -> None:
    store = open_store(url, {})
    store.write("text.wav", b"this is no audio at all")
    store.write("empty.wav", b"")
    objects = [("text.wav", 23), ("empty.wav", 0), ("gone.wav", 100)]
    found = read_headers([(store.uri_of(name), n_bytes) for name, n_bytes in objects], {})
    assert found == [NO_AUDIO, NO_AUDIO, None]


def test_an_object_that_shrank_since_it_was_listed_is_read_as_it_is(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros((1_000, 2)), 44_100, "PCM_16")
    (seen,) = read_headers([(str(tmp_path / "x.wav"), 10**6)], {})
    assert seen == AudioFormat("WAV", "PCM_16", 44_100, 2, 1_000)


def test_a_store_that_does_not_answer_is_not_asked_for_everything() -> None:
    options = {"s3://": {"endpoint_url": "http://127.0.0.1:1", "anon": "true"}}
    begin = time.monotonic()
    found = read_headers([(f"s3://bucket/{number}.wav", 1_000) for number in range(500)], options)
    assert found == [None] * 500
    assert time.monotonic() - begin < 30  # each of them takes two tries, and a wait between
