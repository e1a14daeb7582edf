"""Whatever a file's chunks and tags claim: no crash, bounded memory, and stems whose samples are right."""

from __future__ import annotations

import functools
import random
import struct
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from splitfire_batch.audio import StemWriter
from splitfire_batch.audio.formats import EXTENSIONS, OutputFormat
from splitfire_batch.metadata import SourceMetadata, describe, lost_warnings, make_inserts, read_metadata
from splitfire_batch.metadata.source import MAX_HELD_BYTES
from splitfire_batch.metadata.tags import read_tags
from splitfire_batch.settling import settle
from tests import chunked
from tests.material import noise, track_of, workbench
from tests.test_metadata import WAV_CHUNKS

N = 40
OUTPUTS = [
    OutputFormat(container, f"PCM_{bits}", EXTENSIONS[container], bits, 44_100, 1)
    for container, bits in (("WAV", 16), ("RF64", 24), ("AIFF", 16), ("FLAC", 16))
]
SAMPLES = np.arange(-N // 2, N // 2, dtype=np.int32)[:, None] * 700
KINDS = ("wav", "rf64", "w64", "aiff", "flac", "mp3", "ogg", "caf")


@functools.cache
def whole(kind: str, behind_samples: bool = False) -> bytes:
    """A small file with everything of its kind that we read."""
    tag = chunked.id3((b"TIT2", b"\0Song"), (b"TSRC", b"\0DEABC2400123"), (b"GEOB", bytes(40)))
    chunks = [
        *WAV_CHUNKS,
        (b"id3 ", tag),
        (b"inst", bytes(7)),
        (b"axml", b"ISRC:DEABC2400123"),
        (b"Xtra", b"x"),
    ]
    aiff = [
        (b"NAME", b"Song"), (b"MARK", chunked.mark(3, 9, 20)), (b"INST", chunked.inst(50, 1, 2)),
        (b"ID3 ", tag), (b"COMT", struct.pack(">HIHH", 1, 0, 1, 3) + b"abc\0"),
        (b"basc", struct.pack(">IIHHHHH", 1, 8, 60, 1, 4, 4, 1)),
    ]  # fmt: skip
    flac = [
        (b"\x06", chunked.picture(b"jpeg")), (b"\x04", chunked.comments("TITLE=Song", "BPM=120", "x=y")),
        (b"\x05", bytes(395) + b"\1" + bytes(35) + b"\1" + bytes(12)), (b"\x02", b"riffRIFF"),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        subtype = {"mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}.get(kind, "PCM_16")
        n_frames = 2_000 if kind in ("mp3", "ogg") else N
        with soundfile.SoundFile(path, "w", 44_100, 1, subtype, format=kind.upper()) as file:
            if kind == "ogg":
                file.title, file.artist = "Song", "Somebody"
            file.write(noise(n_frames, 1))
        if kind in ("wav", "rf64", "aiff", "flac"):
            where = "after" if behind_samples else "before"
            chunked.add(path, **{where: {"aiff": aiff, "flac": flac}.get(kind, chunks)})
        return (tag if kind == "mp3" else b"") + path.read_bytes()


@st.composite
def damaged(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS, behind_samples: bool = False) -> bytes:
    """A whole file with some bytes, lengths or pieces changed, if wanted only behind its samples."""
    kind = draw(st.sampled_from(kinds))
    data = bytearray(whole(kind, behind_samples))
    first = data.index(b"NAME" if kind == "aiff" else b"bext") if behind_samples else 0
    for _ in range(draw(st.integers(0, 8))):
        if len(data) < first + 8:
            break
        at = draw(st.integers(first, min(len(data) - 5, first + 2_500)))
        how = draw(st.sampled_from(["byte", "length", "cut out", "repeat", "cut off"]))
        if how == "byte":
            data[at] = draw(st.integers(0, 255))
        elif how == "length":
            length = draw(st.sampled_from([0, 1, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, len(data) - at]))
            data[at : at + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", length)
        elif how == "cut out":
            del data[at : at + draw(st.integers(1, 40))]
        elif how == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 200))] * draw(st.integers(1, 50))
        else:
            del data[at + 5 :]
    return bytes(data)


def some_bytes() -> st.SearchStrategy[bytes]:
    """Any bytes, most of them behind the first ones of a format."""
    magic = [
        b"RIFF\xff\xff\xff\xffWAVE",
        b"RF64\xff\xff\xff\xffWAVEds64",
        b"FORM\0\0\xff\xffAIFF",
        b"fLaC\0\0\0\x22",
        b"",
    ]
    magic += [
        b"ID3\x03\0\0\0\0\x7f\x7f",
        b"ID3\x04\0\0\0\0\x7f\x7f",
        b"OggS\0\2",
        b"\0\0\0\x20ftypM4A ",
        b"caff\0\1",
    ]
    names = st.sampled_from(
        [b"LIST", b"smpl", b"cue ", b"bext", b"id3 ", b"MARK", b"INST", b"COMT", b"data", b""]
    )
    piece = st.builds(lambda name, rest: name + rest, names, st.binary(max_size=60))
    return st.builds(
        lambda head, pieces: head + b"".join(pieces), st.sampled_from(magic), st.lists(piece, max_size=12)
    )


def check_stems_of(found: SourceMetadata, folder: Path) -> None:
    """Stems of every container hold the samples, and chunks with true lengths, whatever was found."""
    for out in OUTPUTS:
        inserts = make_inserts(found, out, "vocals", 44_100)
        lost_warnings(found, out)
        with StemWriter(folder / "stem", out, inserts) as writer:
            writer.write(SAMPLES)
            encoded = writer.close()
        assert bool(encoded.inserted) == bool(inserts)
        assert np.array_equal(
            soundfile.read(folder / "stem", dtype="int16", always_2d=True)[0],
            SAMPLES.astype(np.int16) if out.bits == 16 else SAMPLES >> 8,
        )
        before = chunked.before_samples(folder / "stem")
        assert len(before) >= len(inserts)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=damaged() | some_bytes())
@example(data=whole("wav"))
@example(data=b"")
def test_whatever_the_bytes_reading_ends_and_stems_come_out_right(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "source")
        path.write_bytes(data)
        found = read_metadata(path)
        assert sum(len(chunk.data) for chunk in found.chunks) <= min(len(data), MAX_HELD_BYTES)
        describe(found, "a_120bpm.wav", N)
        check_stems_of(found, Path(folder))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=damaged(("wav", "aiff", "rf64"), behind_samples=True))
def test_damage_behind_the_samples_never_fails_a_track(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.wav")
        path.write_bytes(data)
        with workbench(Path(folder, "out")) as bench:
            row = settle(track_of(path), bench)
        assert (row.status, row.message) == ("done", None)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=damaged())
def test_whatever_is_wrong_with_a_file_it_ends_as_a_row_and_never_as_a_bug(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.wav")
        path.write_bytes(data)
        with workbench(Path(folder, "out")) as bench:
            row = settle(track_of(path), bench)
        assert row.status == "done" or row.code not in (None, "INTERNAL", "OOM", "STORE_WRITE"), row.message


@settings(max_examples=300, deadline=None)
@given(data=damaged() | some_bytes())
def test_tags_of_any_bytes_are_pairs_of_text(data: bytes) -> None:
    for name, value in read_tags(data)[0]:
        assert name.isascii()
        assert "=" not in name
        assert value


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"RIFF", b"iXML"), (b"FORM", b"ANNO"), (b"RIFF", b"LIST"), (b"RIFF", b"id3 ")],
)
def test_a_chunk_of_four_gigabytes_takes_no_memory(tmp_path, head, name):
    n_bytes = 2**32 - 2
    order, form = (">", b"AIFF") if head == b"FORM" else ("<", b"WAVE")
    with (tmp_path / "a").open("wb") as file:
        file.write(
            head
            + b"\xff" * 4
            + form
            + name
            + struct.pack(f"{order}I", n_bytes)
            + b"INFOINAM"
            + struct.pack(f"{order}I", 2**31)
        )
        file.truncate(20 + n_bytes)
    found, peak = peak_of(tmp_path / "a")
    assert found.chunks == ()
    assert "8388608 bytes" in found.warnings[0]
    assert peak < 2**21


@pytest.mark.parametrize("kind", ["mp3", "flac", "mp4", "ogg"])
def test_tags_of_gigabytes_take_no_more_memory_than_they_may(tmp_path, kind):
    head = {
        "mp3": b"ID3\x04\0\0\x7f\x7f\x7f\x7fCOMM\x7f\x7f\x7f\x70\0\0\x03",
        "flac": b"fLaC\x00\0\0\x22" + bytes(34) + b"\x04\xff\xff\xff" + struct.pack("<III", 0, 9, 2**31),
        "mp4": b"\0\0\0\x10ftypM4A \0\0\0\0" + b"".join(
            struct.pack(">I", 2**32 - 1) + name + b"\0" * 4 * (name == b"meta")
            for name in (b"moov", b"udta", b"meta", b"ilst", b"\xa9nam", b"data")
        ),
        "ogg": whole("ogg")[:58] + b"OggS\0\0" + bytes(20) + b"\xff" + b"\xff" * 255,
    }[kind]  # fmt: skip
    with (tmp_path / "a").open("wb") as file:
        file.write(head)
        file.truncate(2**32)
    _, peak = peak_of(tmp_path / "a")
    assert peak < 6 * 2**23


def test_thousands_of_chunks_and_of_texts_end_where_they_may(tmp_path):
    chunk = b"note\x01\0\0\0a\0"
    text = b"ICMT\x02\0\0\0" + bytes([random.Random(0).randrange(65, 90)]) + b"\0"
    many = text * 50_000
    body = b"LIST" + struct.pack("<I", 4 + len(many)) + b"INFO" + many + chunk * 30_000
    (tmp_path / "a").write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body)
    found = read_metadata(tmp_path / "a")
    assert [chunk.name for chunk in found.chunks] == [b"LIST"]
    assert found.tags == (("COMMENT", text[8:9].decode()),)


def peak_of(path: Path) -> tuple[SourceMetadata, int]:
    """What was read of a file, and the most bytes that took at a time."""
    tracemalloc.start()
    try:
        found = read_metadata(path)
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
