"""Files that a library may hold and should not, made from bytes, each with the row it must end as.

The classes follow the matrix of what libsndfile does with damaged files: what it reads without a word must be
found out by us, and what it refuses with a misleading word must be called by its name.
"""

from __future__ import annotations

import gzip
import io
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from tests.material import noise

RATE = 44_100
FOREIGN = ("UNSUPPORTED", "CORRUPT_HEADER", "CORRUPT_DATA", "TRUNCATED", "NO_SAMPLES", "NOT_AUDIO")
"""Formats for which a decoder may or may not be installed; what is given of them is damaged for that one."""


UNTRUSTED = {
    **dict.fromkeys(("AVR", "HTK", "IRCAM", "MAT4", "MAT5", "MPC2K", "NIST", "PAF", "PVF"), "PCM_16"),
    "SDS": "PCM_16",
    "SVX": "PCM_16",
    "VOC": "PCM_16",
    "XI": "DPCM_16",
}
"""Whole, sound files that libsndfile reads with code that has known faults: it must not get to see them."""


@dataclass(frozen=True)
class BadInput:
    """One file. `codes` are those its row may have; `words` are found in its message."""

    name: str
    data: bytes
    codes: tuple[str, ...]
    words: tuple[str, ...] = ()


def encoded(
    container: str, subtype: str | None = None, n_frames: int = 20_000, n_channels: int = 2, rate: int = RATE
) -> bytes:
    """A whole file of noise."""
    sink = io.BytesIO()
    soundfile.write(sink, noise(n_frames, n_channels), rate, subtype, format=container)
    return sink.getvalue()


def wav(fmt: bytes | None, data: bytes | None, form: bytes = b"WAVE", before: bytes = b"") -> bytes:
    """A RIFF file of these chunks' contents."""
    body = form + before
    for name, content in ((b"fmt ", fmt), (b"data", data)):
        if content is not None:
            body += name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def fmt(tag: int = 1, channels: int = 2, rate: int = RATE, bits: int = 16, align: int | None = None) -> bytes:
    block = channels * bits // 8 if align is None else align
    return struct.pack("<HHIIHH", tag, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def flac_streaminfo(rate: int, channels: int, bits: int, total: int, block: int = 4096) -> bytes:
    """A FLAC header with one metadata block."""
    fields = rate << 44 | (channels - 1) << 41 | (bits - 1) << 36 | total
    info = struct.pack(">HH", block, block) + bytes(6) + fields.to_bytes(8, "big") + bytes(16)
    return b"fLaC" + bytes([0x80]) + len(info).to_bytes(3, "big") + info


def flac_with_total(total: int, n_frames: int = 20_000) -> bytes:
    data = encoded("FLAC", "PCM_16", n_frames)
    fields = int.from_bytes(data[18:26], "big")
    return patched(data, 18, (fields >> 36 << 36 | total).to_bytes(8, "big"))


def flac_bomb(n_frames: int, n_channels: int = 8) -> bytes:
    """Silence in frames of 65,535 samples whose channels are constants: some 45 bytes each."""
    block = 65_535
    frames = b"".join(_silent_flac_frame(number, block, n_channels) for number in range(n_frames // block))
    return flac_streaminfo(RATE, n_channels, 16, n_frames // block * block, block) + frames


def _silent_flac_frame(number: int, block: int, n_channels: int) -> bytes:
    """RFC 9639 §9: header with CRC-8, one constant subframe of 0 a channel, CRC-16."""
    head = (
        bytes([0xFF, 0xF8, 0x79, (n_channels - 1) << 4 | 0x08]) + _utf8(number) + struct.pack(">H", block - 1)
    )
    body = head + bytes([_crc(head, 8, 0x07)]) + b"\0\0\0" * n_channels
    return body + _crc(body, 16, 0x8005).to_bytes(2, "big")


def _utf8(number: int) -> bytes:
    return chr(number).encode() if number < 0xD800 else chr(number + 0x800).encode()


def _crc(data: bytes, width: int, polynomial: int) -> int:
    crc, top, mask = 0, 1 << (width - 1), (1 << width) - 1
    for byte in data:
        crc ^= byte << (width - 8)
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & top else crc << 1) & mask
    return crc


def floats(*values: float, n_frames: int = 20_000) -> bytes:
    """A float WAV of noise with these samples in its middle."""
    x = noise(n_frames).astype(np.float32)
    x[n_frames // 2 : n_frames // 2 + len(values), 0] = values
    sink = io.BytesIO()
    soundfile.write(sink, x, RATE, "FLOAT", format="WAV")
    return sink.getvalue()


def bad_inputs() -> list[BadInput]:
    """All of them, the names all different; sizes from 0 bytes to a few hundred kB."""
    return [
        *_no_audio(),
        *_foreign(),
        *_headers(),
        *_cut(),
        *_damaged(),
        *_empty(),
        *_out_of_range(),
    ]


def _no_audio() -> Iterator[BadInput]:
    yield BadInput("empty.wav", b"", ("EMPTY",))
    chance = np.random.default_rng(1)
    contents = {
        "one_byte.wav": b"x",
        "text.mp3": b"Dear all, please find the stems attached. " * 30,
        "html_404.flac": b"<!DOCTYPE html><html><title>404 Not Found</title></html>",
        "xml_denied.wav": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "json.ogg": b'{"error": "quota exceeded"}',
        "lfs_pointer.wav": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
        "playlist.mp3": b"#EXTM3U\n#EXTINF:123,Song\nsong.mp3\n",
        "utf16.mp3": "track list\n".encode("utf-16") * 400,
        "zeros.wav": bytes(20_000),
        "ones.mp3": b"\xff" * 20_000,
        "random.flac": chance.bytes(100_000),
        "jpeg.mp3": b"\xff\xd8\xff\xe0\0\x10JFIF" + chance.bytes(5_000),
        "png.wav": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "pdf.wav": b"%PDF-1.7\n" + bytes(500),
        "zip.wav": b"PK\x03\x04" + bytes(500),
        "gzip.wav": gzip.compress(bytes(500)),
        "elf.wav": b"\x7fELF" + bytes(500),
        "sqlite.flac": b"SQLite format 3\0" + bytes(500),
        "midi.wav": b"MThd\0\0\0\6\0\1\0\1\0`MTrk\0\0\0\4\0\xff\x2f\0",
        "avi.wav": b"RIFF\x40\0\0\0AVI LIST" + bytes(60),
        "webp.wav": b"RIFF\x40\0\0\0WEBPVP8 " + bytes(60),
        "iff_picture.aiff": b"FORM\0\0\0\x40ILBMBMHD" + bytes(60),
        "junk_before_riff.wav": b"junk" + encoded("WAV", "PCM_16", 500),
        "flac_in_small.flac": b"flac" + encoded("FLAC", "PCM_16", 500)[4:],
        "tag_alone.mp3": b"ID3\x04\0\0\0\0\0\x0a" + bytes(10),
        "tag_that_lies.mp3": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(300),
        "tag_and_text.mp3": b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + b"no audio follows " * 50,
        "reversed.wav": encoded("WAV", "PCM_16", 500)[::-1],
        "sds.wav": b"\xf0\x7e\0\1" + bytes(500),
        "voc.wav": b"Creative Voice File\x1a" + bytes(500),
        "nist.wav": b"NIST_1A\n   1024\n" + bytes(2_000),
    }
    wave = (np.sin(np.arange(20_000) * 0.05) * 9_000).astype("<i2")
    contents["raw_pcm.wav"] = wave.tobytes()
    for name, data in contents.items():
        yield BadInput(name, data, ("NOT_AUDIO",))
    for container, subtype in UNTRUSTED.items():
        yield BadInput(
            f"real_{container.lower()}.wav", encoded(container, subtype, n_channels=1), ("NOT_AUDIO",)
        )
    yield BadInput("real_au.wav", encoded("AU", "PCM_16"), ("UNSUPPORTED",), ("AU",))


def _foreign() -> Iterator[BadInput]:
    heads = {
        "damaged.m4a": b"\0\0\0\x20ftypM4A \0\0\2\0isomiso2",
        "damaged.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
        "damaged.wma": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c",
        "webm.ogg": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1",
        "adts.aac": b"\xff\xf1\x50\x80\x2e\x7f\xfc",
        "ape.wav": b"MAC \x96\x0f\0\0",
        "wavpack.wav": b"wvpk\x40\0\0\0",
        "dsd.wav": b"DSD \x1c\0\0\0\0\0\0\0",
        "amr.wav": b"#!AMR\n",
        "au.wav": b".snd\0\0\0\x18\0\0\0\x08\0\0\0\x63",
    }
    for name, head in heads.items():
        yield BadInput(name, head + bytes(2_000), FOREIGN)
    pcm = bytes(2_000)
    yield BadInput("mp3_in.wav", wav(fmt(tag=0x55, bits=0, align=1), pcm), FOREIGN)
    yield BadInput("wma_in.wav", wav(fmt(tag=0x161, bits=16), random.Random(1).randbytes(2_000)), FOREIGN)
    yield BadInput("unknown_codec.wav", wav(fmt(tag=0x1234), pcm), FOREIGN)
    guid = struct.pack("<HHI", 22, 16, 3) + bytes(range(16))
    yield BadInput("unknown_guid.wav", wav(fmt(tag=0xFFFE) + guid, pcm), FOREIGN)


def _headers() -> Iterator[BadInput]:
    header = ("CORRUPT_HEADER",)
    pcm = bytes(4_000)
    yield BadInput("riff_alone.wav", b"RIFF\4\0\0\0WAVE", header)
    yield BadInput("fmt_alone.wav", wav(fmt(), None), header)
    yield BadInput("data_without_fmt.wav", wav(None, pcm), header)
    yield BadInput("data_before_fmt.wav", wav(None, pcm) + b"fmt " + struct.pack("<I", 16) + fmt(), header)
    yield BadInput("short_fmt.wav", wav(fmt()[:8], pcm), header)
    yield BadInput("no_channels.wav", wav(fmt(channels=0, align=4), pcm), header)
    yield BadInput("no_bits.wav", wav(fmt(bits=0, align=4), pcm), ("CORRUPT_HEADER", "UNSUPPORTED"))
    yield BadInput("99_bits.wav", wav(fmt(bits=99), pcm), ("CORRUPT_HEADER", "UNSUPPORTED"))
    yield BadInput("float_of_16_bits.wav", wav(fmt(tag=3, bits=16), pcm), ("CORRUPT_HEADER", "UNSUPPORTED"))
    yield BadInput("aiff_without_comm.aiff", b"FORM\0\0\0\x0cAIFFSSND\0\0\0\0", header)
    yield BadInput("caf_alone.caf", b"caff\0\1\0\0", header)
    yield BadInput(
        "flac_of_4_bits.flac",
        flac_streaminfo(RATE, 2, 4, 4096) + pcm,
        FOREIGN,
    )
    yield BadInput("ogg_of_noise.ogg", _ogg_page(b"\1noise!" + bytes(23)), (*header, "UNSUPPORTED"))
    yield BadInput("theora.ogg", _ogg_page(b"\x80theora\3\2\1" + bytes(40)), (*header, "UNSUPPORTED"))


def _ogg_page(packet: bytes) -> bytes:
    """One page that begins and ends a stream (RFC 3533 §6), with its CRC."""
    page = b"OggS\0\6" + bytes(8) + struct.pack("<III", 1, 0, 0) + bytes([1, len(packet)]) + packet
    return patched(page, 22, struct.pack("<I", _crc(page, 32, 0x04C11DB7)))


def _cut() -> Iterator[BadInput]:
    kinds = {
        "wav": ("WAV", "PCM_16"),
        "24_bit.wav": ("WAV", "PCM_24"),
        "float.wav": ("WAV", "FLOAT"),
        "rf64.wav": ("RF64", "PCM_16"),
        "w64": ("W64", "PCM_16"),
        "aiff": ("AIFF", "PCM_16"),
        "caf": ("CAF", "PCM_16"),
        "flac": ("FLAC", "PCM_16"),
        "ogg": ("OGG", "VORBIS"),
        "opus": ("OGG", "OPUS"),
        "mp3": ("MP3", "MPEG_LAYER_III"),
    }
    for name, (container, subtype) in kinds.items():
        rate = 48_000 if subtype == "OPUS" else RATE
        data = encoded(container, subtype, 30_000, rate=rate)
        yield BadInput(f"half.{name}", data[: len(data) // 2], ("TRUNCATED",), ("fetch",))
    flac, ogg = encoded("FLAC", "PCM_16"), encoded("OGG", "VORBIS")
    yield BadInput("cut_by_one_byte.wav", encoded("WAV", "PCM_16")[:-1], ("TRUNCATED",))
    yield BadInput("cut_by_one_byte.flac", flac[:-1], ("TRUNCATED",))
    yield BadInput("cut_in_header.flac", flac[:30], ("TRUNCATED",))
    yield BadInput("cut_between_pages.ogg", ogg[: ogg.rindex(b"OggS")], ("TRUNCATED",))
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    yield BadInput("cut_behind_a_tag.flac", tag + flac[: len(flac) // 2], ("TRUNCATED",))
    promised = patched(encoded("WAV", "PCM_16"), 40, struct.pack("<I", 1_000_000))
    yield BadInput("promises_more.wav", promised, ("TRUNCATED",), ("1000000 bytes",))
    aiff = encoded("AIFF", "PCM_16")
    promised = patched(aiff, aiff.index(b"COMM") + 10, struct.pack(">I", 1_000_000))
    yield BadInput("promises_more.aiff", promised, ("TRUNCATED",), ("1000000 frames", "4000000 bytes"))
    far = patched(encoded("WAV", "PCM_24"), 40, struct.pack("<I", 2**31))
    yield BadInput("promises_2_gib.wav", far, ("TRUNCATED",), ("2147483648 bytes",))
    opus = encoded("OGG", "OPUS", rate=48_000)
    yield BadInput("cut_in_header.opus", opus[:100], ("TRUNCATED",))
    for ext, subtype, rate in (("ogg", "VORBIS", RATE), ("opus", "OPUS", 48_000)):
        links = [encoded("OGG", subtype, n_frames, rate=rate) for n_frames in (20_000, 9_000)]
        yield BadInput(f"chained.{ext}", b"".join(links), ("UNSUPPORTED",), (f"byte {len(links[0])} ",))
    yield BadInput("promises_more.flac", flac_with_total(40_000), ("TRUNCATED",), ("40000 frames",))


def _damaged() -> Iterator[BadInput]:
    flac = encoded("FLAC", "PCM_16", 50_000)
    yield BadInput("flipped.flac", patched(flac, len(flac) // 2, b"\0\xff\0\xff"), ("CORRUPT_DATA",))
    yield BadInput("hole.flac", patched(flac, 50_000, bytes(20_000)), ("CORRUPT_DATA",))
    yield BadInput(
        "random_behind_header.flac",
        flac[:42] + np.random.default_rng(2).bytes(9_000),
        ("CORRUPT_DATA", "TRUNCATED"),
    )
    yield BadInput(
        "promises_less.flac", flac_with_total(5_000), ("CORRUPT_HEADER", "TRUNCATED", "CORRUPT_DATA")
    )
    mp3 = encoded("MP3", "MPEG_LAYER_III", 100_000)
    yield BadInput(
        "junk_inside.mp3", patched(mp3, len(mp3) // 2, bytes(8_000)), ("CORRUPT_DATA", "TRUNCATED")
    )
    ogg = encoded("OGG", "VORBIS", 200_000)
    yield BadInput("hole.ogg", patched(ogg, len(ogg) // 2, bytes(30_000)), ("CORRUPT_DATA", "TRUNCATED"))
    for name, value in {"nan": np.nan, "inf": np.inf, "minus_inf": -np.inf, "1e30": 1e30}.items():
        yield BadInput(f"{name}.wav", floats(value), ("NON_FINITE",), ("frame 10000",))
    yield BadInput("all_nan.wav", floats(*[np.nan] * 10_000), ("NON_FINITE",), ("10000 samples",))


def _empty() -> Iterator[BadInput]:
    yield BadInput("no_frames.wav", wav(fmt(), b""), ("NO_SAMPLES",))
    denies = patched(encoded("WAV", "PCM_16", 9_000), 40, bytes(4))
    yield BadInput("denies_its_data.wav", denies, ("NO_SAMPLES",), ("repair the header",))
    yield BadInput("no_frames.aiff", encoded("AIFF", "PCM_16", 0), ("NO_SAMPLES",))
    yield BadInput("no_frames.caf", encoded("CAF", "PCM_16", 0), ("NO_SAMPLES",))
    yield BadInput("no_frames.w64", encoded("W64", "PCM_16", 0), ("NO_SAMPLES",))
    yield BadInput("no_frames.flac", flac_streaminfo(RATE, 2, 16, 0), ("NO_SAMPLES",))
    yield BadInput("no_frames.ogg", encoded("OGG", "VORBIS", 0), ("NO_SAMPLES",))
    yield BadInput("less_than_a_frame.wav", wav(fmt(), b"\1\2\3"), ("NO_SAMPLES", "TRUNCATED"))


def _out_of_range() -> Iterator[BadInput]:
    pcm = bytes(4_000)
    for rate in (0, 1, 3_999, 768_001, 2_000_000_000, 2**32 - 1):
        is_rate = 0 < rate < 2**31
        codes = ("BAD_RATE",) if is_rate else ("BAD_RATE", "CORRUPT_HEADER")
        yield BadInput(f"{rate}_hz.wav", wav(fmt(rate=rate), pcm), codes)
    yield BadInput("9_channels.wav", wav(fmt(channels=9), bytes(1_800)), ("BAD_CHANNELS",), ("9 channels",))
    yield BadInput("1024_channels.wav", wav(fmt(channels=1024), bytes(20_480)), ("BAD_CHANNELS",))
    yield BadInput(
        "65535_channels.wav", wav(fmt(channels=65535), bytes(4_000)), ("BAD_CHANNELS", "CORRUPT_HEADER")
    )
    yield BadInput("bomb.flac", flac_bomb(98_000_000), ("TOO_LONG",), ("max_duration_s",))
    yield BadInput("endless.flac", flac_with_total(2**36 - 1), ("TOO_LONG", "TRUNCATED"))
    slow = io.BytesIO()
    soundfile.write(slow, np.zeros((4_000 * 700, 1), np.int16), 4_000, "PCM_16", format="FLAC")
    yield BadInput("long_at_4_khz.flac", slow.getvalue(), ("TOO_LONG",), ("700 s",))
    yield BadInput("large.wav", encoded("WAV", "PCM_24", 130_000), ("TOO_LARGE",), ("max_bytes",))


def good_inputs() -> dict[str, tuple[bytes, int]]:
    """Files that look suspicious and are not, or that no decoder can know to be, each with its frames."""
    wav16, flac = encoded("WAV", "PCM_16"), encoded("FLAC", "PCM_16")
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    everything = b"\xff\xff\xff\xff"
    n = 20_000
    return {
        "plain.wav": (wav16, n),
        "one_frame.wav": (encoded("WAV", "PCM_24", 1), 1),
        "two_frames.flac": (encoded("FLAC", "PCM_16", 2), 2),
        "eight_bits.wav": (encoded("WAV", "PCM_U8"), n),
        "double.wav": (encoded("WAV", "DOUBLE"), n),
        "mu_law.wav": (encoded("WAV", "ULAW"), n),
        "streamed.wav": (patched(patched(wav16, 4, everything), 40, everything), n),
        "unfinished_header.wav": (patched(patched(wav16, 4, bytes(4)), 40, bytes(4)), n),
        "junk_behind.wav": (wav16 + b"id3 \x04\0\0\0TAGX" + bytes(9), n),
        "flac_by_content.wav": (flac, n),
        "mp3_by_content.flac": (encoded("MP3", "MPEG_LAYER_III"), n),
        "tag_before.flac": (tag + flac, n),
        "tag_before.wav": (tag + wav16, n),
        "length_unknown.flac": (flac_with_total(0), n),
        "id3_behind.flac": (flac + b"TAG" + bytes(125), n),
        "eight_channels.w64": (encoded("W64", "PCM_16", n_channels=8), n),
        "rf64_without_ds64.wav": (b"RF64" + everything + wav16[8:], n),
        "opus.opus": (encoded("OGG", "OPUS", rate=48_000), n),
        "silent.aiff": (silence(), n),
        "denormal.wav": (floats(*[1e-40, -1e-42] * 100), n),
        **_other_depths(n),
        **_tagged_mp3s(),
        # what only a hash could tell: samples of PCM that are others, and a FLAC's own sum of them
        "flipped.wav": (patched(wav16, 5_000, b"\xff\0\xff"), n),
        "wrong_md5.flac": (patched(flac, 26, bytes([1]) * 16), n),
        "promises_less.wav": (patched(wav16, 40, struct.pack("<I", 40_000)), n // 2),
        "offset.wav": (levelled(noise(n, peak=0.1) + 0.8), n),
        "clipped.wav": (levelled(np.clip(noise(n) * 10, -1, 1)), n),
    }


def _other_depths(n: int) -> dict[str, tuple[bytes, int]]:
    """Encodings of WAV that still come along; those in blocks are filled up to whole ones."""
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    twelve = wav(fmt(tag=0xFFFE) + struct.pack("<HHI", 22, 12, 3) + guid, bytes(4 * n))
    blocks = {"IMA_ADPCM": 20_445, "MS_ADPCM": 20_420, "GSM610": 20_480}
    plain = {"PCM_32": n, "ALAW": n}
    made = {f"{name.lower()}.wav": (encoded("WAV", name, n, 1), k) for name, k in {**plain, **blocks}.items()}
    return {"12_in_16.wav": (twelve, n), **made}


def _tagged_mp3s() -> dict[str, tuple[bytes, int]]:
    mp3, n = encoded("MP3", "MPEG_LAYER_III", 50_000), 50_000
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0x80000000) + bytes(8)
    return {
        "id3_before.mp3": (tag + mp3, n),
        "id3_behind.mp3": (mp3 + b"TAG" + bytes(125), n),
        "ape_behind.mp3": (mp3 + ape, n),
    }


def levelled(samples: NDArray[np.float64]) -> bytes:
    """These samples as a WAV of 16 bits."""
    sink = io.BytesIO()
    soundfile.write(sink, samples, RATE, "PCM_16", format="WAV")
    return sink.getvalue()


def silence() -> bytes:
    """Digital silence, AIFF."""
    sink = io.BytesIO()
    soundfile.write(sink, np.zeros((20_000, 1), np.int16), RATE, "PCM_16", format="AIFF")
    return sink.getvalue()
