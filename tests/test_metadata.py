"""What a source carries besides samples arrives in its stems and in its row, through `settle`."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tinytag import TinyTag

from splitfire_batch.config import LOSSY_FORMATS, OutputConfig
from splitfire_batch.manifest.schema import RunContext, to_table
from splitfire_batch.records import TrackRow
from splitfire_batch.settling import settle
from tests import chunked
from tests.material import noise, track_of, workbench, write

RATE, N = 48_000, 9_001  # odd, so that PCM_24 mono data need padding
ISRC = "DEABC2400123"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100) + b"\0IEND"
CONTEXT = RunContext("run", "settings", "catalogue", "passthrough", "weights", "fp32")
WAV_CHUNKS = [
    (b"bext", chunked.bext(time_reference=172_800_000)),
    (b"iXML", b"<BWFXML><PROJECT>p</PROJECT></BWFXML>"),  # odd length
    (b"smpl", chunked.smpl((1_000, 8_000), note=57)),
    (b"acid", chunked.acid(123.5, 8, flags=2, note=57)),
    (b"cue ", chunked.cue(0, 4_000)),
    (b"LIST", chunked.labels({1: "one", 2: "slice two"})),
    (b"LIST", chunked.info(INAM="Song", IART="Somebody", IPRD="Album")),
]


def settled(file: Path, folder: Path, **output: object) -> TrackRow:
    with workbench(folder / "out", output=OutputConfig(**output)) as bench:  # type: ignore[arg-type]
        row = settle(track_of(file), bench)
    assert (row.status, row.message) == ("done", None)
    return row


def check_stems(row: TrackRow, folder: Path, file: Path) -> dict[str, Path]:
    """Paths of the stems by name; their bytes are those of the row, and their samples sum to the source's."""
    paths = {stem.stem: folder / "out" / stem.path for stem in row.stems}
    for stem in row.stems:
        data = paths[stem.stem].read_bytes()
        assert (stem.n_bytes, stem.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    read = {name: soundfile.read(path, dtype="int32", always_2d=True) for name, path in paths.items()}
    mix, rate = soundfile.read(file, dtype="int32", always_2d=True)
    assert {r for _, r in read.values()} == {rate}
    if row.source and row.source.subtype.startswith("PCM"):
        assert np.array_equal(sum(samples.astype(np.int64) for samples, _ in read.values()), mix)
    return paths


@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("container", ["WAV", "RF64"])
@pytest.mark.parametrize("is_before", [True, False])
def test_chunks_of_a_wav_are_before_the_samples_of_its_stems(tmp_path, n_channels, container, is_before):
    file = tmp_path / "a.wav"
    soundfile.write(file, noise(N, n_channels), RATE, "PCM_24", format=container)
    chunks = WAV_CHUNKS
    if container == "RF64" and is_before:  # libsndfile cannot read such sources with chunks of odd length
        chunks = [(name, data + b" " * (len(data) % 2)) for name, data in WAV_CHUNKS]
    chunked.add(file, **{"before" if is_before else "after": chunks})
    row = settled(file, tmp_path)
    for stem, path in check_stems(row, tmp_path, file).items():
        found = [part for part in chunked.before_samples(path) if part[0] != b"fmt "]
        assert found[:-1] == chunks[:-1]
        assert found[-1] == (b"LIST", chunked.info(INAM=f"Song ({stem})", IART="Somebody", IPRD="Album"))
    assert row.warnings == ()
    assert {stem.preserved_chunks for stem in row.stems} == {("bext", "iXML", "smpl", "acid", "cue", "LIST")}


def test_libsndfile_finds_loop_and_tempo_in_a_stem(tmp_path):
    file = chunked.add(write(tmp_path / "a.wav", noise(N), RATE, "PCM_24"), before=WAV_CHUNKS)
    row = settled(file, tmp_path)
    with soundfile.SoundFile(tmp_path / "out" / row.stems[0].path) as stem:
        log = stem.extra_info
    for words in ("Tempo : 123.5", "Start : 1000 End : 8000", "Midi Note : 57", "labl : 2 : slice two"):
        assert words in " ".join(log.split())


def test_the_row_says_what_chunks_say(tmp_path):
    file = chunked.add(write(tmp_path / "a.wav", noise(N), RATE, "PCM_24"), before=WAV_CHUNKS)
    (row,) = to_table([settled(file, tmp_path)], CONTEXT, "shard").to_pylist()
    wanted = {
        "title": "Song", "artist": "Somebody", "album": "Album", "isrc": None, "bpm": 123.5,
        "bpm_source": "acid", "key": "A", "key_source": "acid", "sample_type": "loop", "beats": 8,
        "root_note": 57, "loop_start": 1_000, "loop_end": 8_000,
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    assert row["stems"][0]["preserved_chunks"] == ["bext", "iXML", "smpl", "acid", "cue", "LIST"]


def test_an_aiff_keeps_markers_instrument_and_texts(tmp_path):
    chunks = [
        (b"NAME", b"Song"), (b"AUTH", b"Somebody"), (b"MARK", chunked.mark(100, 5_100)),
        (b"INST", chunked.inst(50, 1, 2)), (b"APPL", b"stocnothing"), (b"(c) ", b"1999 S"),
    ]  # fmt: skip
    file = chunked.add(write(tmp_path / "a.aiff", noise(N, 1), RATE, "PCM_24"), after=chunks)
    row = settled(file, tmp_path)
    for stem, path in check_stems(row, tmp_path, file).items():
        found = [part for part in chunked.before_samples(path) if part[0] != b"COMM"]
        assert found == [(b"NAME", f"Song ({stem})".encode()), *chunks[1:]]
        assert TinyTag.get(path).title == f"Song ({stem})"
    told = row.description
    assert (told.title, told.root_note, told.loop_start, told.loop_end) == ("Song", 50, 100, 5_099)


def test_a_flac_keeps_every_comment_and_its_picture(tmp_path):
    entries = [
        "Title=Söng",
        f"ISRC={ISRC}",
        "BPM=98",
        "INITIALKEY=8A",
        "my own key=x=y",
        "ARTIST=A",
        "ARTIST=B",
    ]
    file = write(tmp_path / "a.flac", noise(N), RATE, "PCM_24")
    data = file.read_bytes()
    (_, (_, libsndfiles)) = chunked.read_chunks(file)
    frames = data[42 + 4 + len(libsndfiles) :]
    blocks = [
        (b"\x06", chunked.picture(b"jpeg")),
        (b"\x04", chunked.comments(*entries)),
        (b"\x01", bytes(99)),
    ]
    file.write_bytes(data[:42])
    chunked.add(file, before=blocks)
    file.write_bytes(file.read_bytes() + bytes([0x81, 0, 0, 0]) + frames)
    row = settled(file, tmp_path)
    for stem, path in check_stems(row, tmp_path, file).items():
        vendor = libsndfiles[4 : 4 + libsndfiles[0]]
        wanted = chunked.comments(f"Title=Söng ({stem})", *entries[1:], vendor=vendor)
        assert chunked.before_samples(path)[1:] == [blocks[0], (b"\x04", wanted)]
        tags = TinyTag.get(path)
        assert (tags.title, tags.other["isrc"]) == (f"Söng ({stem})", [ISRC])
    told = row.description
    assert (told.title, told.artist, told.isrc, told.bpm, told.bpm_source) == ("Söng", "A", ISRC, 98, "tag")
    assert (told.key, told.key_source) == ("Am", "tag")


@pytest.fixture
def mp3(tmp_path: Path) -> Path:
    file = write(tmp_path / "a.mp3", noise(30_000), RATE, "MPEG_LAYER_III")
    tag = chunked.id3(
        (b"TIT2", b"\x01" + "Sång".encode("utf-16")), (b"TPE1", b"\0Somebody"), (b"TALB", b"\0Album"),
        (b"TSRC", b"\0DE-ABC-24-00123"), (b"TBPM", b"\x00124"), (b"TKEY", b"\0F#m"), (b"TRCK", b"\x003/9"),
        (b"TXXX", b"\0MOOD\0calm"), (b"COMM", b"\0eng\0a comment"), (b"TYER", b"\x001999"),
        (b"APIC", b"\0image/png\0\3\0" + PNG),
    )  # fmt: skip
    file.write_bytes(tag + file.read_bytes())
    return file


@pytest.mark.parametrize("format", ["source", "flac", "wav", "aiff", "ogg", "opus", "mp3"])
def test_tags_of_an_mp3_reach_stems_of_any_container(tmp_path, mp3, format):
    row = settled(mp3, tmp_path, format=format)
    for stem, path in check_stems(row, tmp_path, mp3).items():
        if format not in LOSSY_FORMATS:
            chunked.before_samples(path)
        tags = TinyTag.get(path)
        assert (tags.title, tags.artist, tags.album) == (f"Sång ({stem})", "Somebody", "Album")
        cover = TinyTag.get(path, image=True).images.front_cover
        assert cover is not None
        assert (cover.data, cover.mime_type) == (PNG, "image/png")
        assert (tags.track, tags.track_total, tags.year, tags.comment) == (3, 9, "1999", "a comment")
        found = {name: tags.other[name] for name in ("isrc", "bpm", "initial_key", "mood")}
        assert found == {
            "isrc": ["DE-ABC-24-00123"],
            "bpm": ["124"],
            "initial_key": ["F#m"],
            "mood": ["calm"],
        }
    told = row.description
    assert (told.isrc, told.bpm, told.key, told.title) == (ISRC, 124, "F#m", "Sång")
    assert row.warnings == ()


def test_tags_of_an_ogg_reach_its_stems(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.ogg", "w", 44_100, 2, format="OGG") as file:
        file.title, file.artist = "Song", "Somebody"
        file.write(noise(30_000))
    row = settled(tmp_path / "a.ogg", tmp_path)
    for stem, path in check_stems(row, tmp_path, tmp_path / "a.ogg").items():
        assert (TinyTag.get(path).title, TinyTag.get(path).artist) == (f"Song ({stem})", "Somebody")


@pytest.mark.parametrize(("format", "tags"), [("flac", "FLAC"), ("aiff", "AIFF")])
def test_a_container_that_cannot_hold_a_chunk_is_a_warning_and_the_texts_still_arrive(tmp_path, format, tags):
    file = chunked.add(write(tmp_path / "a.wav", noise(N), RATE, "PCM_16"), before=WAV_CHUNKS)
    row = settled(file, tmp_path, format=format)
    (warning,) = row.warnings
    assert warning == (
        f'not carried over: bext, iXML, smpl, acid, cue, adtl; {tags} stems cannot hold them; format = "wav" '
        "keeps them"
    )
    for stem, path in check_stems(row, tmp_path, file).items():
        found = TinyTag.get(path)
        assert (found.title, found.artist, found.album) == (f"Song ({stem})", "Somebody", "Album")


def test_without_metadata_stems_hold_samples_only_and_the_row_still_tells(tmp_path):
    file = chunked.add(write(tmp_path / "a.wav", noise(N), RATE, "PCM_24"), before=WAV_CHUNKS)
    row = settled(file, tmp_path, metadata=False)
    for path in check_stems(row, tmp_path, file).values():
        assert [name for name, _ in chunked.before_samples(path)] == [b"fmt "]
    assert {stem.preserved_chunks for stem in row.stems} == {()}
    assert (row.description.title, row.warnings) == ("Song", ())


def test_damaged_and_unknown_chunks_are_warnings_and_the_others_arrive(tmp_path):
    chunks = [
        (b"smpl", chunked.smpl((0, 5))[:-4]), (b"acid", b"short"), (b"Xtra", b"?"), (b"cue ", chunked.cue(7)),
        (b"LGWV", bytes(60)),
    ]  # fmt: skip
    file = chunked.add(write(tmp_path / "a.wav", noise(N)), after=chunks)
    row = settled(file, tmp_path)
    for path in check_stems(row, tmp_path, file).values():
        assert chunked.before_samples(path)[1:] == [chunks[3]]
    assert row.warnings == (
        "not carried over: smpl, acid; they are damaged",
        "not carried over: Xtra; it is not known whether they are true of a stem",
    )


@pytest.mark.parametrize("claim", [2**31 - 1, 2**32 - 1, 5_000])
def test_a_chunk_that_claims_more_than_there_is_costs_only_itself(tmp_path, claim):
    file = chunked.add(
        write(tmp_path / "a.wav", noise(N)), after=[(b"cue ", chunked.cue(7)), (b"smpl", bytes(40))]
    )
    data = bytearray(file.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"smpl") + 4, claim)
    file.write_bytes(data)
    row = settled(file, tmp_path)
    assert {stem.preserved_chunks for stem in row.stems} == {("cue",)}
    assert row.warnings == ("not carried over: smpl; they are cut off",)


def test_stems_with_metadata_come_out_the_same_each_time(tmp_path):
    file = chunked.add(write(tmp_path / "a.wav", noise(N), RATE, "PCM_24"), before=WAV_CHUNKS)
    one, two = (settled(file, tmp_path / name) for name in "12")
    assert one.stems == two.stems


def test_tempo_and_key_of_a_name_are_in_the_row(tmp_path):
    row = settled(write(tmp_path / "Synth_Loop_120bpm_C#m.wav", noise(N)), tmp_path)
    told = row.description
    assert (told.bpm, told.bpm_source, told.key, told.key_source) == (120, "filename", "C#m", "filename")
    assert told.sample_type == "loop"


def test_metadata_for_which_there_is_no_space_are_no_space(tmp_path):
    from tests.test_settling import check_failed, files_of_at_most

    file = chunked.add(write(tmp_path / "a.wav", noise(200_000)), before=[(b"iXML", b"<" * 300_000)])
    track = track_of(file)
    with files_of_at_most(200_000 * 4 + 100_000), workbench(tmp_path / "out") as bench:
        row = settle(track, bench)
    check_failed(row, tmp_path, "NO_SPACE", "free")
