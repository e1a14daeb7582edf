"""The default model through the whole chain: as good as the original, and as good as its name.

Bounds are those of the original Spleeter: its very output, and its signal-to-distortion ratio on a song
whose true stems are known. SDR is 10 log10(|s|^2 / |s - s'|^2) over the whole signal.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.here import separate_files
from splitfire_batch.records import TrackRow
from tests.assets import audio_example, musdb_song
from tests.material import read_wav

PARITY = Path(__file__).parent / "data" / "parity_audio_example.npz"
RAW = OutputConfig(format="wav", depth="float")
STREAMS = ("mix", "drums", "bass", "other", "vocals")

Array = NDArray[np.float64]


def ratio_db(wanted: Array, found: Array) -> float:
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((wanted - found) ** 2)))


def separated(file: Path, out: Path, output: OutputConfig, **settings: str) -> TrackRow:
    separation = SeparationConfig(**settings)  # type: ignore[arg-type]
    (row,) = separate_files([file], str(out), separation, output, RuntimeConfig())
    assert row.status == "done", row.message
    return row


def raw_stems(file: Path, out: Path, **settings: str) -> dict[str, Array]:
    """The model's own output, nothing added."""
    row = separated(file, out, RAW, residual="drop", **settings)
    return {stem.stem: read_wav(out / stem.path)[0] for stem in row.stems}


def test_the_whole_chain_gives_what_the_original_gives(tmp_path):
    """MP3 in, files out; float32 rounding of the same formulas comes to 100 dB, a wrong STFT to 30."""
    reference = np.load(PARITY)
    stems = raw_stems(audio_example(), tmp_path, short_clip="reference")
    for stem in ("vocals", "accompaniment"):
        found = ratio_db(reference[stem].astype(np.float64), stems[stem][reference["frames"]])
        print(f"{stem}: {found:.1f} dB against the original")
        assert found >= 90


@pytest.fixture(scope="module")
def song() -> dict[str, Array]:
    """A song's mix and true stems, (n, 2) at 44,100 Hz, of equal lengths."""
    signals = {}
    for index, name in enumerate(STREAMS):
        with av.open(str(musdb_song())) as container:
            assert container.streams.audio[index].rate == 44_100
            frames = [frame.to_ndarray() for frame in container.decode(audio=index)]
        signals[name] = np.concatenate(frames, axis=1).T.astype(np.float64)
    n_frames = min(map(len, signals.values()))
    signals = {name: signal[:n_frames] for name, signal in signals.items()}
    signals["accompaniment"] = signals["drums"] + signals["bass"] + signals["other"]
    return signals


def test_the_songs_true_stems_lie_in_time_with_its_mix(song):
    """Or every number below would measure a delay; the sum is not the mix, which was mastered."""
    mix, total = (x.mean(axis=1) for x in (song["mix"], song["vocals"] + song["accompaniment"]))
    n_fft = 2 * len(mix)
    correlation = np.fft.irfft(np.fft.rfft(mix, n_fft) * np.conj(np.fft.rfft(total, n_fft)))
    assert int(correlation.argmax()) == 0


@pytest.mark.parametrize("mask_extension", ["zeros", "average"])
@pytest.mark.parametrize("short_clip", ["reference", "adaptive"])
def test_stems_of_a_song_are_as_close_to_the_true_ones_as_the_originals(
    tmp_path, song, short_clip, mask_extension
):
    file = tmp_path / "mix.wav"
    soundfile.write(file, song["mix"], 44_100, "FLOAT")
    stems = raw_stems(file, tmp_path, short_clip=short_clip, mask_extension=mask_extension)
    for stem, floor in {"vocals": 5.2, "accompaniment": 11.2}.items():
        sdr_db = ratio_db(song[stem], stems[stem])
        print(f"{short_clip}, {mask_extension}: {stem} {sdr_db:.2f} dB")
        assert sdr_db >= floor


def test_stems_of_a_loud_lossy_song_sum_to_it_under_their_recorded_gain(tmp_path):
    row = separated(audio_example(), tmp_path, OutputConfig())
    assert row.gain_db < 0
    read = [soundfile.read(tmp_path / stem.path, dtype="float64") for stem in row.stems]
    mix, sample_rate = soundfile.read(audio_example(), dtype="float32")
    assert {rate for _, rate in read} == {sample_rate}
    total = sum(stem for stem, _ in read) / 10 ** (row.gain_db / 20)
    assert [stem.subtype for stem in row.stems] == ["PCM_24", "PCM_24"]
    assert_allclose(total, mix, rtol=0, atol=2**-23)  # half a step of 24 bit, made larger by the gain
    assert max(stem.levels.peak_db for stem in row.stems) == pytest.approx(0, abs=0.001)
    assert row.sum_residual_db < -140
