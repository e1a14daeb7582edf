"""The Python API: a file in, arrays out, nothing lost; and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

import splitfire_batch
from splitfire_batch import Separator, Stems
from splitfire_batch.errors import ConfigError, TrackError
from tests.material import noise, read_wav, write


@pytest.mark.parametrize("n_channels", [1, 2])
def test_stems_are_arrays_of_the_mixs_shape_that_sum_to_it(tmp_path, n_channels):
    file = write(tmp_path / "mix.wav", noise(60_000, n_channels), 48_000, "FLOAT")
    stems = splitfire_batch.separate(file)  # the default model, with its published weights
    assert list(stems) == ["vocals", "accompaniment"]
    assert stems.sample_rate == 48_000
    mix, _ = read_wav(file)
    for array in stems.values():
        assert array.shape == (60_000, n_channels)
        assert array.dtype == np.float32
    assert_allclose(sum(stems.values()), mix, rtol=0, atol=1e-6)
    assert np.abs(stems["vocals"]).max() > 0


def test_passthrough_gives_a_quarter_to_the_vocals(tmp_path):
    file = write(tmp_path / "mix.wav", noise(150_000), 44_100, "PCM_16")
    mix, _ = read_wav(file)
    stems = splitfire_batch.separate(str(file), model="passthrough")
    assert_allclose(stems["vocals"], mix * 0.25 / 2**15, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"stems": ["vocals"]}, ["vocals"]),
        ({"stems": ["instrumental"]}, ["instrumental"]),
        ({"residual": "stem"}, ["vocals", "accompaniment", "residual"]),
        ({"residual": "drop"}, ["vocals", "accompaniment"]),
    ],
)
def test_the_stems_are_those_asked_for(tmp_path, settings, wanted):
    file = write(tmp_path / "mix.wav", noise(2_000))
    with Separator("passthrough", **settings) as separator:
        assert list(separator.separate(file)) == wanted


def test_nothing_is_clipped_or_scaled(tmp_path):
    file = write(tmp_path / "mix.wav", noise(2_000, peak=8.0), 44_100, "FLOAT")
    stems = splitfire_batch.separate(file, model="passthrough")
    assert np.abs(stems["accompaniment"]).max() > 4
    assert_allclose(sum(stems.values()), read_wav(file)[0], rtol=0, atol=1e-6)


def test_save_writes_files_that_read_back_the_same(tmp_path):
    file = write(tmp_path / "mix.flac", noise(100_000), 48_000)
    stems = splitfire_batch.separate(file, model="passthrough")
    paths = stems.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["vocals.wav", "accompaniment.wav"]
    for path, array in zip(paths, stems.values(), strict=True):
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == 48_000
        assert_array_equal(samples, array)


def test_stems_behave_like_a_mapping():
    stems = Stems({"vocals": np.zeros((3, 1), np.float32)}, 44_100)
    assert ("vocals" in stems, "drums" in stems, len(stems)) == (True, False, 1)
    with pytest.raises(KeyError):
        stems["drums"]


def test_one_separator_serves_several_threads(tmp_path):
    files = [write(tmp_path / f"{i}.wav", noise(50_000, seed=i)) for i in range(4)]
    found: dict[int, Stems] = {}
    with Separator("passthrough") as separator:
        threads = [
            threading.Thread(target=lambda i=i, f=f: found.__setitem__(i, separator.separate(f)))
            for i, f in enumerate(files)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i, file in enumerate(files):
            assert_array_equal(found[i]["vocals"], separator.separate(file)["vocals"])


def test_a_missing_file_says_so(tmp_path):
    with Separator("passthrough") as separator, pytest.raises(FileNotFoundError, match="missing"):
        separator.separate(tmp_path / "missing.wav")


def test_a_damaged_file_says_why_and_the_next_one_works(tmp_path):
    file = write(tmp_path / "mix.wav", noise(9_000))
    cut = tmp_path / "cut.wav"
    cut.write_bytes(file.read_bytes()[:-100])
    with Separator("passthrough") as separator:
        with pytest.raises(TrackError) as caught:
            separator.separate(cut)
        assert caught.value.code == "TRUNCATED"
        assert len(separator.separate(file)["vocals"]) == 9_000


@pytest.mark.parametrize(
    "settings",
    [{"model": "spleeter"}, {"stems": ["drums"]}, {"residual": "throw"}, {"device": "tpu"}],
)
def test_what_cannot_be_had_is_a_config_error(settings):
    with pytest.raises(ConfigError):
        Separator(**{"model": "passthrough", **settings})


def test_importing_the_package_costs_no_torch():
    code = (
        "import splitfire_batch, sys; heavy = {'torch', 'ray', 'prefect', 'pyarrow', 'soundfile'}; "
        "print(sorted(heavy & set(sys.modules)), splitfire_batch.__version__ != '')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"
