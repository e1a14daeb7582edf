"""What each container's stems hold, read back by other eyes than those that wrote it."""

from __future__ import annotations

import io
import struct
from dataclasses import replace

import pytest
from tinytag import TinyTag

from splitfire_batch.audio import Insert
from splitfire_batch.audio.formats import OutputFormat
from splitfire_batch.metadata import SourceMetadata, lost_warnings, make_inserts
from splitfire_batch.metadata.id3 import make_id3, retitled_id3
from splitfire_batch.metadata.tags import Cover
from tests import chunked

TAGS = (
    ("TITLE", "Tïtle"), ("ARTIST", "One"), ("ARTIST", "Two"), ("ALBUM", "Album"), ("TRACKNUMBER", "3"),
    ("TRACKTOTAL", "12"), ("DATE", "2001-02-03"), ("COMMENT", "first"), ("COMMENT", "second"),
    ("ISRC", "DEABC2400123"), ("BPM", "120.5"), ("INITIALKEY", "Am"), ("COPYRIGHT", "me"), ("MOOD", "calm"),
    ("REPLAYGAIN_TRACK_GAIN", "-6.00 dB"),
)  # fmt: skip


def out(container: str, sample_rate: int = 44_100) -> OutputFormat:
    return OutputFormat(container, "PCM_16", "x", 16, sample_rate, 2)


def inserts(
    metadata: SourceMetadata, container: str, stem: str = "vocals", rate: int = 44_100
) -> dict[bytes, bytes]:
    found = make_inserts(metadata, out(container, rate), stem, 44_100)
    assert len({insert.name for insert in found}) == len(found)
    return {insert.name: insert.data for insert in found}


def tiny(data: bytes) -> TinyTag:
    return TinyTag.get(file_obj=io.BytesIO(data), duration=False)


def test_an_id3_tag_holds_every_tag():
    found = tiny(make_id3(TAGS))
    assert (found.title, found.artist, found.album, found.year) == ("Tïtle", "One", "Album", "2001-02-03")
    assert (found.track, found.track_total, found.comment) == (3, 12, "first")
    assert found.other == {
        "artist": ["Two"], "comment": ["second"], "isrc": ["DEABC2400123"], "bpm": ["120.5"],
        "initial_key": ["Am"], "copyright": ["me"], "mood": ["calm"], "replaygain_track_gain": ["-6.00 dB"],
    }  # fmt: skip


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(
    "text",
    [b"\0S\xf6ng", b"\0S\xf6ng\0", b"\x01" + "Söng".encode("utf-16"),
     b"\x02" + "Söng".encode("utf-16-be"), b"\x03" + "Söng".encode()],
)  # fmt: skip
def test_only_the_title_of_an_id3_tag_changes(version, text):
    frames = [(b"PRIV", b"x\0\x80" * 90), (b"TIT2", text), (b"TPE1", b"\0Them"), (b"GEOB", bytes(300))]
    data = retitled_id3(chunked.id3(*frames, version=version), lambda title: f"{title}!")
    assert data is not None
    assert (tiny(data).title, tiny(data).artist) == ("Söng!", "Them")
    for name, content in (frames[0], *frames[2:]):
        assert name in data
        assert content in data


@pytest.mark.parametrize("change", [{3: 2}, {5: 0x80}, {5: 0x40}, {9: 0x7F}, {17: 0x70}])
def test_an_id3_tag_of_a_rare_kind_or_with_damage_is_not_touched(change):
    data = bytearray(chunked.id3((b"TIT2", b"\0Song")))
    for at, value in change.items():
        data[at] = value
    assert retitled_id3(bytes(data), str.upper) is None


def test_a_rare_id3_chunk_of_a_wav_is_made_anew_from_its_tags():
    chunk = bytearray(chunked.id3((b"TIT2", b"\0Song")))
    chunk[5] = 0x80
    found = inserts(SourceMetadata("WAV", (Insert(b"id3 ", bytes(chunk)),), (("TITLE", "Song"),)), "WAV")
    assert tiny(found[b"id3 "]).title == "Song (vocals)"


def test_tags_in_a_wav_are_in_its_info_and_all_of_them_in_an_id3_chunk():
    found = inserts(SourceMetadata(tags=TAGS), "WAV")
    assert set(found) == {b"LIST", b"id3 "}
    body = b"LIST" + struct.pack("<I", len(found[b"LIST"])) + found[b"LIST"]
    info = tiny(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
    assert (info.title, info.artist, info.album, info.track) == ("Tïtle (vocals)", "One", "Album", 3)
    assert tiny(found[b"id3 "]).other["isrc"] == ["DEABC2400123"]


def test_tags_in_an_aiff_are_in_its_texts_and_all_of_them_in_an_id3_chunk():
    found = inserts(SourceMetadata(tags=TAGS), "AIFF")
    assert found.pop(b"ID3 ") == make_id3((("TITLE", "Tïtle (vocals)"), *TAGS[1:]))
    assert found == {b"NAME": "Tïtle (vocals)".encode(), b"AUTH": b"One", b"(c) ": b"me", b"ANNO": b"first"}


def test_tags_in_a_flac_are_comments():
    (found,) = make_inserts(SourceMetadata(tags=TAGS), out("FLAC"), "vocals", 44_100)
    wanted = [f"{name}={value}" for name, value in (("TITLE", "Tïtle (vocals)"), *TAGS[1:])]
    assert found == Insert(b"VORBIS_COMMENT", chunked.comments(*wanted, vendor=b"")[4:])


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "AIFF", "FLAC", "MP3", "OGG"])
def test_a_source_with_nothing_gives_stems_with_nothing(container):
    assert make_inserts(SourceMetadata("WAV"), out(container), "vocals", 44_100) == ()
    assert lost_warnings(SourceMetadata("WAV"), out(container)) == ()


@pytest.mark.parametrize("name", [b"INAM", b"IART"])
@pytest.mark.parametrize("text", [b"Song\0", b"Song", b"S\xf6ng\0\0\0", b""])
def test_a_title_in_info_changes_whatever_its_encoding_and_nothing_else_does(name, text):
    chunk = Insert(b"LIST", chunked.listed(b"INFO", (b"ICMT", b"odd\0\0"), (name, text)))
    found = inserts(SourceMetadata("WAV", (chunk,)), "WAV")[b"LIST"]
    if name == b"INAM":
        text = text.rstrip(b"\0") + b" (vocals)\0"
    assert found == chunked.listed(b"INFO", (b"ICMT", b"odd\0\0"), (name, text))


def test_loop_points_follow_a_change_of_rate():
    found = inserts(SourceMetadata("WAV", (Insert(b"smpl", chunked.smpl((100, 199))),)), "WAV", rate=88_200)
    assert struct.unpack_from("<II", found[b"smpl"], 44) == (200, 399)


@pytest.mark.parametrize(("version", "loudness"), [(1, -2_300), (2, 0x7FFF)])
def test_the_loudness_of_the_mix_is_not_said_of_a_stem(version, loudness):
    chunk = Insert(b"bext", chunked.bext(version=version, loudness=-2_300))
    found = inserts(SourceMetadata("WAV", (chunk,)), "WAV")[b"bext"]
    assert struct.unpack_from("<5h", found, 412) == (loudness,) * 5
    assert (found[:412], found[422:]) == (chunk.data[:412], chunk.data[422:])


def test_the_warning_names_what_is_lost_and_not_what_arrives_as_text():
    chunks = (Insert(b"smpl", b""), Insert(b"LIST", b"INFO"), Insert(b"LIST", b"adtl"), Insert(b"id3 ", b""))
    (warning,) = lost_warnings(SourceMetadata("WAV", chunks), out("FLAC"))
    assert warning.startswith("not carried over: smpl, adtl; FLAC stems")
    for container in ("WAV", "AIFF", "FLAC", "OGG", "MP3"):
        assert lost_warnings(SourceMetadata(tags=TAGS), out(container)) == ()


def test_the_cover_of_a_flac_reaches_other_containers_and_is_in_its_own_once():
    picture = Insert(b"PICTURE", chunked.picture(b"jpeg"))
    metadata = SourceMetadata("FLAC", (picture,), cover=Cover("image/jpeg", b"jpeg"))
    assert make_inserts(metadata, out("FLAC"), "vocals", 44_100) == (picture,)
    cover = TinyTag.get(file_obj=io.BytesIO(inserts(metadata, "WAV")[b"id3 "]), duration=False, image=True)
    assert cover.images.front_cover is not None
    assert cover.images.front_cover.data == b"jpeg"
    assert lost_warnings(metadata, out("WAV")) == ()


@pytest.mark.parametrize("told", [SourceMetadata(), SourceMetadata(tags=TAGS), SourceMetadata("FLAC")])
def test_a_flac_keeps_a_channel_mask_that_is_not_the_default(told):
    quad = replace(out("FLAC"), n_channels=4, channel_mask=0x107)
    (found,) = [one for one in make_inserts(told, quad, "vocals", 44_100) if one.name == b"VORBIS_COMMENT"]
    assert found.data.count(b"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x0107") == 1
    default = replace(out("FLAC"), n_channels=6, channel_mask=0x3F)
    assert b"MASK" not in b"".join(one.data for one in make_inserts(told, default, "vocals", 44_100))
