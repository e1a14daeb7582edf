"""What FFmpeg reads: files that it wrote from known audio, cut, damaged and relabelled byte by byte."""

from __future__ import annotations

import struct
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from splitfire_batch.audio import codec_versions
from splitfire_batch.audio.codecs import name_subtype, to_samples
from splitfire_batch.audio.decode import open_audio, to_depth
from splitfire_batch.audio.mpeg4 import Edit, single_edit
from splitfire_batch.errors import TrackError
from tests import assets
from tests.ffmpeg_files import encode, packed_frames

RATE = 48_000
CHANNELS = {"mono": 1, "stereo": 2, "5.1": 6}


def noise(n_frames, n_channels=2, seed=0):
    """Low-passed, so that lossy codecs keep it."""
    white = np.random.default_rng(seed).uniform(-0.4, 0.4, (n_frames + 8, n_channels))
    return (sum(white[k : k + n_frames] for k in range(8)) / 4).astype(np.float32)


def integers(bits, n_frames, n_channels=2):
    """Noise of that depth over the whole range, as FFmpeg holds it."""
    least = -(1 << (bits - 1))
    x = np.random.default_rng(bits).integers(least, -least, (n_frames, n_channels))
    return x.astype(np.int16) if bits == 16 else (x << (32 - bits)).astype(np.int32)


def decoded(path, n_frames=65_536, **options):
    with open_audio(path, **options) as decoder:
        return np.concatenate(list(decoder.blocks(n_frames))), decoder


def refusal(path, **options):
    with pytest.raises(TrackError) as caught:
        decoded(path, **options)
    return caught.value


def delay(x, y):
    """Frames by which y is late, from the peak of their correlation."""
    n = min(len(x), len(y))
    size = 1 << (2 * n - 1).bit_length()
    product = np.conj(np.fft.rfft(x[:n, 0], size)) * np.fft.rfft(y[:n, 0].astype(float), size)
    found = int(np.fft.irfft(product).argmax())
    return found if found < size // 2 else found - size


GAPLESS = [("m4a", "aac"), ("mov", "aac"), ("mp4", "aac"), ("webm", "libopus"), ("mp4", "libopus")]


@pytest.mark.parametrize(("ext", "codec"), GAPLESS)
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
@pytest.mark.parametrize("n_frames", [1_000, 44_100, 100_001, 102_400])
def test_delay_and_padding_of_the_encoder_are_no_part_of_the_track(tmp_path, ext, codec, layout, n_frames):
    x = noise(n_frames, CHANNELS[layout])
    got, decoder = decoded(encode(tmp_path / f"x.{ext}", codec, x, RATE, layout))
    assert got.shape == x.shape
    assert got.dtype == np.float32
    assert decoder.format.sample_rate == RATE
    if n_frames > 1_000:
        assert delay(x, got) == 0


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 96_000])
def test_aac_of_every_rate_keeps_its_length(tmp_path, rate):
    x = noise(30_001)
    got, decoder = decoded(encode(tmp_path / "x.m4a", "aac", x, rate, "stereo"))
    assert got.shape == x.shape
    assert decoder.format.sample_rate == rate


LOSSLESS = [
    ("m4a", "alac", 16), ("m4a", "alac", 24), ("mov", "pcm_s16le", 16), ("mov", "pcm_s24le", 24),
    ("mov", "pcm_s32be", 32), ("mkv", "flac", 16), ("mkv", "flac", 24), ("mka", "pcm_s24le", 24),
]  # fmt: skip


@pytest.mark.parametrize(("ext", "codec", "bits"), LOSSLESS)
@pytest.mark.parametrize("n_frames", [1_000, 44_100])
def test_lossless_codecs_give_back_their_exact_integers(tmp_path, ext, codec, bits, n_frames):
    x = integers(bits, n_frames)
    got, decoder = decoded(encode(tmp_path / f"x.{ext}", codec, x, RATE, "stereo"))
    assert decoder.bits == bits
    assert got.dtype == (np.int16 if bits == 16 else np.int32)
    assert np.array_equal(to_depth(got, bits), x if bits == 16 else x >> (32 - bits))


@pytest.mark.parametrize(("codec", "dtype"), [("pcm_f32le", np.float32), ("pcm_f64le", np.float64)])
def test_floats_stay_floats(tmp_path, codec, dtype):
    x = noise(5_000).astype(dtype)
    got, decoder = decoded(encode(tmp_path / "x.mov", codec, x, RATE, "stereo"))
    assert np.array_equal(got, x.astype(np.float32))
    assert decoder.bits is None


def test_blocks_do_not_depend_on_their_size(tmp_path):
    path = encode(tmp_path / "x.m4a", "aac", noise(50_000), RATE, "stereo")
    assert np.array_equal(decoded(path, 999)[0], decoded(path, 200_000)[0])


def test_a_song_is_decoded_as_ffmpeg_does_and_its_mix_is_the_first_stream():
    got, decoder = decoded(assets.musdb_song())
    wanted = packed_frames(assets.musdb_song())
    assert len(got) == decoder.format.n_frames == 268_288
    assert np.array_equal(got, wanted)


def with_last_duration(data, n_frames):
    """The last packet's duration replaced, in the table of durations: Apple's encoders leave it whole."""
    at = data.index(b"stts") + 4
    n_entries = struct.unpack_from(">I", data, at + 4)[0]
    struct.pack_into(">I", data, at + 8 * n_entries + 4, n_frames)


def test_an_edit_list_with_a_fine_clock_is_believed(tmp_path):
    path = tmp_path / "x.m4a"
    with av.open(str(path), "w", options={"movie_timescale": str(RATE)}) as output:
        stream = output.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(noise(30_001).reshape(1, -1), "flt", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        packer = av.AudioResampler("fltp", "stereo", RATE, frame_size=1024)
        for part in (*packer.resample(frame), *packer.resample(None), None):
            output.mux(stream.encode(part))
    data = bytearray(path.read_bytes())
    with_last_duration(data, 1024)
    path.write_bytes(data)
    assert single_edit(path) == Edit(Fraction(30_001, RATE), Fraction(1, RATE), is_whole=True)
    assert decoded(path)[1].n_frames == 30_001


@pytest.mark.parametrize("n_frames", [4_097, 5_130, 40_961])
def test_a_last_packet_of_few_frames_is_not_lost(tmp_path, n_frames):
    """FFmpeg alone drops the last packet: the edit list, in milliseconds, ends before it begins."""
    path = encode(tmp_path / "x.m4a", "aac", noise(n_frames), RATE, "stereo")
    assert decoded(path)[1].n_frames == n_frames


@pytest.mark.parametrize(("start", "n_frames"), [(2048, 9_600), (-1, 4_800)])
def test_edits_that_are_not_simple_are_left_to_ffmpeg(tmp_path, start, n_frames):
    """Two of 0.1 s each: one after the other, or one behind silence, which FFmpeg leaves out."""
    path = encode(tmp_path / "x.mov", "pcm_s16le", integers(16, 30_000), RATE, "stereo")
    data = bytearray(path.read_bytes())
    at = data.index(b"edts") - 4
    assert data[at : at + 4] == struct.pack(">I", 36)  # its only edit
    edits = struct.pack(">IIIii", 0, 2, 100, start, 1 << 16) + struct.pack(">IiI", 100, 0, 1 << 16)
    data[at : at + 36] = struct.pack(">I4sI4s", 48, b"edts", 40, b"elst") + edits
    for name in (b"trak", b"moov"):
        place = data.index(name) - 4
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + 12)
    path.write_bytes(data)
    assert single_edit(path) is None
    got, wanted = decoded(path)[0], packed_frames(path)
    assert len(got) == n_frames
    assert np.array_equal(got, wanted[:n_frames])


@pytest.mark.parametrize(("ext", "codec"), [("mov", "pcm_s16le"), ("m4a", "alac")])
def test_a_cut_made_in_a_player_is_kept(tmp_path, ext, codec):
    """One edit that plays 0.1 s from the middle, as QuickTime's trimming leaves it."""
    x = integers(16, 90_000)
    path = encode(tmp_path / f"x.{ext}", codec, x, RATE, "stereo")
    data = bytearray(path.read_bytes())
    struct.pack_into(">II", data, data.index(b"elst") + 12, 100, 40_000)
    path.write_bytes(data)
    edit = single_edit(path)
    assert edit is not None
    assert not edit.is_whole
    assert np.array_equal(decoded(path)[0], x[40_000:44_800])


def test_itunes_comment_is_believed_first(tmp_path):
    path = encode(tmp_path / "x.m4a", "aac", noise(30_000), RATE, "stereo")
    data = bytearray(path.read_bytes())

    def box(name, *parts):
        content = b"".join(parts)
        return struct.pack(">I", 8 + len(content)) + name + content

    text = b" 00000000 00000400 00000000 0000000000007123 00000000"
    custom = box(
        b"----",
        box(b"mean", bytes(4), b"com.apple.iTunes"),
        box(b"name", bytes(4), b"iTunSMPB"),
        box(b"data", bytes([0, 0, 0, 1, 0, 0, 0, 0]), text),
    )
    handler = box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    tags = box(b"udta", box(b"meta", bytes(4), handler, box(b"ilst", custom)))
    at = data.rindex(b"moov") - 4
    size = struct.unpack_from(">I", data, at)[0]
    assert at + size == len(data)  # FFmpeg puts it last
    struct.pack_into(">I", data, at, size + len(tags))
    path.write_bytes(data + tags)
    assert decoded(path)[1].n_frames == 0x7123


def test_raw_aac_is_read_whole_with_what_its_encoder_added(tmp_path):
    x = noise(44_100)
    got, decoder = decoded(encode(tmp_path / "x.aac", "aac", x, RATE, "stereo", "adts"))
    assert len(got) >= len(x)
    assert delay(x, got) == 1024
    assert decoder.format.n_frames == 0  # the file does not say


def test_wma_is_read(tmp_path):
    path = encode(tmp_path / "x.wma", "wmav2", noise(100_000), RATE, "stereo", "asf")
    assert np.array_equal(decoded(path)[0], packed_frames(path))


def test_the_audio_of_a_film_is_read(tmp_path):
    path, x = tmp_path / "x.mp4", noise(30_000)
    with av.open(str(path), "w") as output:
        film = output.add_stream("mpeg4", rate=25)
        film.width = film.height = 32
        sound = output.add_stream("aac", rate=RATE, layout="stereo")
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        for _ in range(100):  # longer than the sound
            output.mux(film.encode(picture))
        output.mux(film.encode(None))
        frame = av.AudioFrame.from_ndarray(x.reshape(1, -1), "flt", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        packer = av.AudioResampler("fltp", "stereo", RATE, frame_size=1024)
        for part in (*packer.resample(frame), *packer.resample(None), None):
            output.mux(sound.encode(part))
    assert decoded(path)[0].shape == x.shape


def test_a_film_without_sound_has_no_samples(tmp_path):
    with av.open(str(tmp_path / "x.mp4"), "w") as output:
        film = output.add_stream("mpeg4", rate=25)
        film.width = film.height = 32
        for _ in range(3):
            output.mux(film.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        output.mux(film.encode(None))
    assert refusal(tmp_path / "x.mp4").code == "NO_SAMPLES"


def test_a_codec_that_is_not_on_the_list_is_named(tmp_path):
    path = encode(tmp_path / "x.mkv", "tta", integers(16, 5_000), RATE, "stereo")
    error = refusal(path)
    assert error.code == "UNSUPPORTED"
    assert "tta" in error.why


HEADS = [b"\0\0\0\x20ftypM4A \0\0", b"\0\0\0\x08wide\0\0\0\0", b"\x1a\x45\xdf\xa3\x9f",
         b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9"]  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_a_header_without_a_file_is_corrupt(tmp_path, head):
    (tmp_path / "x").write_bytes(head)
    assert refusal(tmp_path / "x").code == "CORRUPT_HEADER"


def test_a_raw_aac_header_without_a_frame_has_no_samples(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xf1\x50\x80\x2e\x7f\xfc")
    assert refusal(tmp_path / "x").code == "NO_SAMPLES"


def test_an_mp4_without_its_index_is_corrupt(tmp_path):
    path = encode(tmp_path / "x.m4a", "aac", noise(100_000), RATE, "stereo")
    path.write_bytes(path.read_bytes()[:-3_000])
    assert refusal(path).code == "CORRUPT_HEADER"


@pytest.mark.parametrize(
    ("ext", "codec"), [("m4a", "alac"), ("m4a", "aac"), ("mkv", "flac"), ("wma", "wmav2")]
)
def test_a_cut_file_is_truncated(tmp_path, ext, codec):
    x = noise(200_000) if codec in ("aac", "wmav2") else integers(16, 200_000)
    path = tmp_path / f"x.{ext}"
    encode(path, codec, x, RATE, "stereo", "asf" if ext == "wma" else None)
    data = path.read_bytes()
    if ext == "m4a":  # the index first, as players want it, and the samples later by as much
        at = data.rindex(b"moov") - 4
        moov, start = bytearray(data[at:]), data.index(b"mdat") - 4
        table = moov.index(b"stco") + 8
        for entry in range(struct.unpack_from(">I", moov, table)[0]):
            place = table + 4 + 4 * entry
            struct.pack_into(">I", moov, place, struct.unpack_from(">I", moov, place)[0] + len(moov))
        data = data[:start] + bytes(moov) + data[start:at]
        path.write_bytes(data)
        assert len(decoded(path)[0]) == 200_000
    path.write_bytes(data[: len(data) * 2 // 3])
    assert refusal(path).code in ("TRUNCATED", "CORRUPT_DATA")


def test_damage_inside_is_corrupt(tmp_path):
    path = encode(tmp_path / "x.mkv", "flac", integers(16, 100_000), RATE, "stereo")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2_000] = np.random.default_rng(0).bytes(2_000)
    path.write_bytes(data)
    assert refusal(path).code in ("CORRUPT_DATA", "TRUNCATED")


def test_a_limit_on_duration_holds_here_too(tmp_path):
    path = encode(tmp_path / "x.m4a", "aac", noise(100_000), RATE, "stereo")
    assert refusal(path, max_duration_s=1).code == "TOO_LONG"


def test_without_pyav_the_row_says_what_to_install(tmp_path, monkeypatch):
    path = encode(tmp_path / "x.m4a", "aac", noise(5_000), RATE, "stereo")
    monkeypatch.setitem(sys.modules, "av", None)
    error = refusal(path)
    assert error.code == "UNSUPPORTED"
    assert "M4A" in error.why
    assert "pip install 'splitfire-batch[decode]'" in error.why


DAMAGED = [("m4a", "aac"), ("m4a", "alac"), ("mkv", "flac"), ("webm", "libopus")]


@pytest.mark.parametrize(("ext", "codec"), DAMAGED)
def test_whatever_is_damaged_only_our_errors_come_out(tmp_path, ext, codec):
    x = noise(20_000) if codec in ("aac", "libopus") else integers(16, 20_000)
    good = encode(tmp_path / f"x.{ext}", codec, x, RATE, "stereo").read_bytes()
    draw, n_refused = np.random.default_rng(3), 0
    for _ in range(60):
        data = bytearray(good)
        for place in (
            *draw.integers(0, 600, 4),
            *(-draw.integers(1, 800, 4)),
            *draw.integers(0, len(good), 2),
        ):
            data[place] = draw.integers(256)
        (tmp_path / "y").write_bytes(data)
        try:
            decoded(tmp_path / "y", max_duration_s=60)
        except TrackError:
            n_refused += 1
    assert n_refused > 10


def test_the_doctor_can_say_which_ffmpeg_there_is(monkeypatch):
    assert f"PyAV {av.__version__}" in codec_versions()
    monkeypatch.setitem(sys.modules, "av", None)
    assert "splitfire-batch[decode]" in codec_versions()


def test_no_more_is_decoded_than_is_asked_for(tmp_path):
    path = encode(tmp_path / "x.m4a", "aac", noise(400_000), RATE, "stereo")
    with open_audio(path) as decoder:
        next(decoder.blocks(1_000))
        assert decoder._reader._n_held < 20_000


def test_a_reference_to_another_file_is_not_followed(tmp_path):
    """A playlist in place of audio could otherwise name any file or address."""
    (tmp_path / "x.m4a").write_bytes(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n")
    assert refusal(tmp_path / "x.m4a").code == "NOT_AUDIO"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_samples_of_every_width_keep_full_scale(dtype):
    bounds = np.iinfo(dtype)
    block = np.array([[bounds.min, bounds.max]], dtype)
    least = -(2**31)
    wide = to_samples(block, np.int32)
    assert wide[0, 0] == least
    assert wide[0, 1] == (-least) - (1 << (32 - bounds.bits))
    assert to_samples(block, np.int16).tolist() == (wide >> 16).tolist()
    assert to_samples(block, np.int16).dtype == np.int16
    assert to_samples(block, np.float32)[0, 0] == -1


def test_codecs_have_libsndfiles_names():
    names = ["pcm_s16le", "pcm_s24be", "pcm_u8", "pcm_f32le", "pcm_f64be", "pcm_alaw", "aac", "mp3float"]
    wanted = ["PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ALAW", "AAC", "MP3"]
    assert [name_subtype(name, b"", "s16") for name in names] == wanted


@pytest.mark.parametrize("size", [2**63 - 8, 2**63 - 1, 2**64 - 1, 2**62])
def test_a_box_that_claims_more_than_any_file_holds_is_damage_and_no_bug(tmp_path, size):
    path = encode(tmp_path / "a.m4a", "aac", noise(20_000), RATE, "stereo")
    data = path.read_bytes()
    at = data.index(b"moov") - 4
    path.write_bytes(data[:at] + struct.pack(">I4sQ", 1, b"free", size) + data[at:])
    assert refusal(path).code in ("CORRUPT_HEADER", "CORRUPT_DATA", "TRUNCATED", "NO_SAMPLES")
