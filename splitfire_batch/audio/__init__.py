"""Audio files to samples and back: the only place that knows codecs and sample rates.

A mix goes `open_audio` -> `to_lanes` -> `Resampler` to the model; stems come back through `Resampler`,
`from_lanes`, `Spool`, `quantise` and `StemWriter`, at the rate, the length and the depth of the source. A
`LevelMeter` says what either measures.
"""

import soundfile
import soxr

from splitfire_batch.audio.channels import channel_groups, from_lanes, is_default, to_lanes
from splitfire_batch.audio.decode import Decoder, decoded_scale, open_audio, to_depth, to_float
from splitfire_batch.audio.encode import Encoded, StemWriter, pcm_bytes
from splitfire_batch.audio.essence import HEAD_BYTES, Shape, audio_id, shape_of
from splitfire_batch.audio.ffmpeg import ffmpeg_version
from splitfire_batch.audio.formats import (
    OutputFormat,
    choose_output,
    losses,
    sample_dtype,
    source_bits,
    spool_frame_bytes,
)
from splitfire_batch.audio.insert import VORBIS_COMMENT, Insert
from splitfire_batch.audio.levels import SILENT_DB, LevelMeter, PeakMeter, peak_levels, sample_peak
from splitfire_batch.audio.quantise import Dither, fits, full_scale, quantise
from splitfire_batch.audio.readback import read_back
from splitfire_batch.audio.resample import Resampler
from splitfire_batch.audio.spool import Spool

__all__ = [
    "HEAD_BYTES",
    "SILENT_DB",
    "VORBIS_COMMENT",
    "Decoder",
    "Dither",
    "Encoded",
    "Insert",
    "LevelMeter",
    "OutputFormat",
    "PeakMeter",
    "Resampler",
    "Shape",
    "Spool",
    "StemWriter",
    "audio_id",
    "channel_groups",
    "choose_output",
    "codec_versions",
    "decoded_scale",
    "fits",
    "from_lanes",
    "full_scale",
    "is_default",
    "losses",
    "open_audio",
    "pcm_bytes",
    "peak_levels",
    "quantise",
    "read_back",
    "sample_dtype",
    "sample_peak",
    "shape_of",
    "source_bits",
    "spool_frame_bytes",
    "to_depth",
    "to_float",
    "to_lanes",
]


def codec_versions() -> str:
    """The versions of the libraries that do the work, in words, for `doctor`."""
    return (
        f"libsndfile {soundfile.__libsndfile_version__}, soundfile {soundfile.__version__}, "
        f"soxr {soxr.__version__}, {ffmpeg_version()}"
    )
