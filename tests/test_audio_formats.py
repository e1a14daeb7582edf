import itertools

import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.formats import MAX_WAV_BYTES, choose_output, source_bits
from splitfire_batch.config import OutputConfig
from splitfire_batch.errors import TrackError
from splitfire_batch.records import AudioFormat


def source(container="WAV", subtype="PCM_16", sample_rate=44_100, n_channels=2, n_frames=1000):
    return AudioFormat(container, subtype, sample_rate, n_channels, n_frames)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (("WAV", "PCM_16"), ("WAV", "PCM_16", "wav", 16)),
        (("WAV", "PCM_U8"), ("WAV", "PCM_16", "wav", 16)),
        (("WAV", "PCM_32"), ("WAV", "PCM_32", "wav", 32)),
        (("WAV", "FLOAT"), ("WAV", "FLOAT", "wav", None)),
        (("WAV", "DOUBLE"), ("WAV", "FLOAT", "wav", None)),
        (("WAV", "ULAW"), ("FLAC", "PCM_24", "flac", 24)),
        (("WAVEX", "PCM_24"), ("WAV", "PCM_24", "wav", 24)),
        (("MP4", "AAC"), ("FLAC", "PCM_24", "flac", 24)),
        (("MP4", "ALAC_16"), ("FLAC", "PCM_16", "flac", 16)),
        (("MP4", "ALAC_24"), ("FLAC", "PCM_24", "flac", 24)),
        (("MP4", "ALAC_32"), ("WAV", "PCM_32", "wav", 32)),
        (("MP4", "FLOAT"), ("WAV", "FLOAT", "wav", None)),
        (("MATROSKA", "PCM_16"), ("FLAC", "PCM_16", "flac", 16)),
        (("ASF", "WMAV2"), ("FLAC", "PCM_24", "flac", 24)),
        (("RF64", "PCM_24"), ("WAV", "PCM_24", "wav", 24)),
        (("W64", "PCM_24"), ("WAV", "PCM_24", "wav", 24)),
        (("CAF", "ALAC_20"), ("WAV", "PCM_24", "wav", 24)),
        (("AIFF", "PCM_24"), ("AIFF", "PCM_24", "aiff", 24)),
        (("FLAC", "PCM_24"), ("FLAC", "PCM_24", "flac", 24)),
        (("OGG", "VORBIS"), ("FLAC", "PCM_24", "flac", 24)),
        (("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_24", "flac", 24)),
    ],
)
def test_stems_are_like_their_source(found, wanted):
    out = choose_output(source(*found), OutputConfig())
    assert (out.container, out.subtype, out.ext, out.bits) == wanted


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_32"])
def test_flac_takes_what_it_can_hold_of_deeper_sources(subtype):
    assert choose_output(source(subtype=subtype), OutputConfig(format="flac")).bits == 24


@pytest.mark.parametrize("depth", ["32", "float"])
def test_a_depth_that_flac_cannot_hold_is_refused_when_asked_for(depth):
    with pytest.raises(TrackError, match=r"UNSUPPORTED_OUTPUT.*FLAC holds"):
        choose_output(source(), OutputConfig(format="flac", depth=depth))


@pytest.mark.parametrize("rate", [96_001, 655_360, 768_000])
def test_a_rate_that_flac_cannot_hold_is_refused(rate):
    with pytest.raises(TrackError, match=f"UNSUPPORTED_OUTPUT.*{rate} Hz"):
        choose_output(source(sample_rate=rate), OutputConfig(format="flac"))
    assert choose_output(source(sample_rate=rate), OutputConfig(format="wav")).sample_rate == rate


MASKS = [(1, 0x4, "WAV"), (2, 0x3, "WAV"), (2, 0x30, "WAVEX"), (6, 0, "WAV"), (6, 0x3F, "WAVEX")]


@pytest.mark.parametrize(("n_channels", "mask", "container"), MASKS)
def test_a_mask_that_says_something_makes_an_extensible_wav(n_channels, mask, container):
    out = choose_output(AudioFormat("WAVEX", "PCM_24", 48_000, n_channels, 10, mask), OutputConfig())
    assert (out.container, out.ext) == (container, "wav")


def test_what_plain_wav_cannot_hold_becomes_rf64():
    most = MAX_WAV_BYTES // 4
    assert choose_output(source(n_frames=most), OutputConfig()).container == "WAV"
    out = choose_output(source(n_frames=most + 1), OutputConfig())
    assert (out.container, out.ext) == ("RF64", "wav")


def test_what_aiff_cannot_hold_is_refused():
    with pytest.raises(TrackError, match=r"UNSUPPORTED_OUTPUT.*AIFF holds"):
        choose_output(source("AIFF", n_frames=MAX_WAV_BYTES), OutputConfig())


RATES = (4_000, 44_101, 65_535, 65_537, 96_001, 192_000, 655_350, 655_360, 768_000)


@pytest.mark.parametrize("container", ["wav", "flac", "aiff"])
@pytest.mark.parametrize("depth", ["16", "24", "32", "float"])
def test_what_is_chosen_libsndfile_can_write_and_what_is_refused_it_cannot(tmp_path, container, depth):
    for rate, n_channels in itertools.product(RATES, (1, 2, 8)):
        config = OutputConfig(format=container, depth=depth)
        try:
            out = choose_output(source(sample_rate=rate, n_channels=n_channels), config)
        except TrackError:
            subtype = "FLOAT" if depth == "float" else f"PCM_{depth}"
            with pytest.raises((soundfile.LibsndfileError, ValueError)):
                write(tmp_path / "x", container.upper(), subtype, rate, n_channels)
        else:
            write(tmp_path / "x", out.container, out.subtype, rate, n_channels)
            assert soundfile.info(tmp_path / "x").samplerate == rate


def write(path, container, subtype, rate, n_channels):
    with soundfile.SoundFile(path, "w", rate, n_channels, subtype, format=container) as file:
        file.write(np.zeros((10, n_channels), np.int32))


def test_only_integer_samples_have_a_depth():
    assert [source_bits(name) for name in ("PCM_U8", "PCM_24", "ALAC_20", "FLOAT", "VORBIS", "n/a")] == [
        8, 24, 20, None, None, None,
    ]  # fmt: skip
