"""Columns of the row: who wins where several speak, and what is no code."""

from __future__ import annotations

import pytest

from splitfire_batch.audio import Insert
from splitfire_batch.metadata import SourceMetadata, describe, read_metadata
from splitfire_batch.metadata.tags import parse_isrc, read_tags
from tests import assets, chunked

ACID = Insert(b"acid", chunked.acid(100, 8, flags=2, note=62))


@pytest.mark.parametrize(
    ("tags", "chunks", "path", "bpm", "key"),
    [
        ((("BPM", "90"), ("INITIALKEY", "8B")), (ACID,), "a_120bpm_Am.wav", (90, "tag"), ("C", "tag")),
        ((), (ACID,), "a_120bpm_Am.wav", (100, "acid"), ("D", "acid")),
        ((), (), "a_120bpm_Am.wav", (120, "filename"), ("Am", "filename")),
        ((("BPM", "0"), ("INITIALKEY", "o")), (), "a.wav", (None, None), (None, None)),
        ((("TBPM", "128,5"),), (), "a_Cmin.wav", (128.5, "tag"), ("Cm", "filename")),
        ((("BPM", "fast"),), (ACID,), "a.wav", (100, "acid"), ("D", "acid")),
    ],
)
def test_a_tag_wins_over_a_chunk_and_a_chunk_over_a_name(tags, chunks, path, bpm, key):
    told = describe(SourceMetadata("WAV", chunks, tags), f"folder 77bpm/{path}", 1_000)
    assert (told.bpm, told.bpm_source) == bpm
    assert (told.key, told.key_source) == key


@pytest.mark.parametrize(
    "text", ["DEABC2400123", "de-abc-24-00123", " DE ABC 24 00123 ", "ISRC:DEABC2400123"]
)
def test_a_code_is_written_in_one_way(text):
    assert parse_isrc(text) == "DEABC2400123"


@pytest.mark.parametrize(
    "text", ["", None, "DEABC240012", "DEABC24001234", "1EABC2400123", "John Doe", "DEABC24O0123"]
)
def test_what_is_no_code_is_none(text):
    assert parse_isrc(text) is None


def test_the_code_of_a_broadcast_file_is_found():
    xml = b"<ebuCoreMain><dc:identifier>ISRC:GBAYE0601498</dc:identifier></ebuCoreMain>"
    assert describe(SourceMetadata("WAV", (Insert(b"axml", xml),)), "a.wav", 1).isrc == "GBAYE0601498"


def test_the_source_in_an_info_chunk_is_no_code(tmp_path):
    for text, tag in (("the label", "SOURCE"), ("DEABC2400123", "ISRC")):
        body = b"LIST" + (len(chunked.info(ISRC=text))).to_bytes(4, "little") + chunked.info(ISRC=text)
        path = tmp_path / "a.wav"
        path.write_bytes(b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WAVE" + body)
        found = read_metadata(path)
        assert found.tags == ((tag, text),)
        assert describe(found, "a.wav", 1).isrc == (text if tag == "ISRC" else None)


def test_tags_of_an_mp4_are_read(tmp_path):
    def atom(name: bytes, data: bytes) -> bytes:
        return (len(data) + 8).to_bytes(4, "big") + name + data

    def text(name: bytes, value: str) -> bytes:
        return atom(name, atom(b"data", b"\0\0\0\1\0\0\0\0" + value.encode()))

    free = b"".join(
        atom(part, b"\0\0\0\0" + value)
        for part, value in ((b"mean", b"com.apple.iTunes"), (b"name", b"ISRC"))
    ) + atom(b"data", b"\0\0\0\1\0\0\0\0DEABC2400123")
    tags = text(b"\xa9nam", "Song") + text(b"\xa9ART", "Them") + atom(b"----", free)
    tags += atom(b"tmpo", atom(b"data", b"\0\0\0\x15\0\0\0\0\0\x7b"))
    moov = atom(b"moov", atom(b"udta", atom(b"meta", b"\0\0\0\0" + atom(b"ilst", tags))))
    path = tmp_path / "a.m4a"
    path.write_bytes(atom(b"ftyp", b"M4A \0\0\0\0") + moov)
    told = describe(read_metadata(path), "a.m4a", 1)
    assert (told.title, told.artist, told.isrc, told.bpm) == ("Song", "Them", "DEABC2400123", 123)


def test_tags_say_nothing_of_the_file_itself(tmp_path):
    data = chunked.comments("ENCODER=x", "title=T", "A=1", "A=2", "A=1", "=empty", "none", "BAD=\0")
    (tmp_path / "a").write_bytes(b"fLaC\x84" + len(data).to_bytes(3, "big") + data)
    assert read_tags(tmp_path / "a") == ((("TITLE", "T"), ("A", "1"), ("A", "2")), None)


@pytest.mark.slow
@pytest.mark.apt
def test_real_samples_keep_their_loops():
    kits = assets.hydrogen_drumkits() / "Audiophob"
    told = describe(read_metadata(kits / "122557__anillogic__trimo-c3.wav"), "trimo-c3.wav", 10**6)
    assert (told.root_note, told.loop_start, told.loop_end) == (60, 3_570, 20_435)
    unpadded = read_metadata(kits / "124382__cubix__8bit-snare.wav")
    assert unpadded.chunks[0].name == b"smpl"  # its samples have an odd length, and no padding
