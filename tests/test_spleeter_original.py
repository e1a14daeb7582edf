"""The Spleeter family against the original package, TensorFlow and all, with checkpoints that it writes.

The weights of 4 and 5 stems are not in any package index. So the original builds its networks from its own
configurations, fills every variable it has made with random numbers, writes a checkpoint, and separates music
with it, as its `Separator` does; what we make of the same checkpoint must be the same. Its environment is the
benchmarks' and is made on first use: half a gigabyte of packages.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models.cards import ModelCard, WeightsFile
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.spleeter import Spleeter
from splitfire_batch.models.unet_on_cpu import UNetOnCpu
from splitfire_batch.models.weights import load_weights
from tests.assets import audio_example, original_spleeter
from tests.benchmarks.original import original_python
from tests.spleeter_networks import CARDS, variables
from tests.test_spleeter import snr_db, stems_of

CASES = [
    ("spleeter-4stems", "4stems", "zeros"),
    ("spleeter-5stems", "5stems", "zeros"),
    ("spleeter-2stems-16khz", "2stems-16kHz", "zeros"),
    ("spleeter-4stems-16khz", "4stems-16kHz", "zeros"),
    ("spleeter-5stems-16khz", "5stems-16kHz", "zeros"),
    ("spleeter-5stems", "5stems", "average"),
]
CHILD = """
import json, sys
import numpy as np, tensorflow as tf
from spleeter.model import EstimatorSpecBuilder, InputProviderFactory, model_fn

config, extension, mix, folder = sys.argv[1:]
params = {**json.load(open(config)), "MWF": False, "mask_extension": extension}
numbers = np.random.default_rng(7)

def values(name, shape):
    found = numbers.standard_normal(shape).astype(np.float32)
    if name.endswith("kernel:0"):
        is_first, is_last = shape[2] == 2, shape[0] == 4
        fan_in = 25 * shape[3] / 4 if "transpose" in name else np.prod(shape[:3])
        return found / np.sqrt(fan_in) * (0.05 if is_first else 2.0 if is_last else 1.0)
    if name.endswith("variance:0"):
        return 0.5 + 1 / (1 + np.exp(-found))
    return 0.2 * found + 0.8 * np.sign(found) if name.endswith("gamma:0") else 0.3 * found

with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    tf.compat.v1.train.get_or_create_global_step()
    features = InputProviderFactory.get(params).get_input_dict_placeholders()
    EstimatorSpecBuilder(features, params).build_predict_model()
    session.run(tf.compat.v1.global_variables_initializer())
    for variable in tf.compat.v1.global_variables():
        if variable.shape.rank:
            variable.load(values(variable.name, variable.shape.as_list()), session)
    tf.compat.v1.train.Saver().save(session, folder + "/model")

estimator = tf.estimator.Estimator(model_fn=model_fn, model_dir=folder, params=params)
data = {"waveform": np.load(mix), "audio_id": np.array("")}
estimates = next(estimator.predict(lambda: tf.data.Dataset.from_tensors(data), yield_single_examples=False))
np.savez(folder + "/estimates.npz", **{stem: estimates[stem] for stem in params["instrument_list"]})
"""


@pytest.fixture(scope="module")
def mix() -> NDArray[np.float32]:
    """(frames, 2), 20 s: two blocks of STFT columns, the second not full."""
    song, _ = soundfile.read(audio_example(), dtype="float32")
    return np.concatenate((song, song[::-1]))[:900_000]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "configuration", "extension"), CASES)
def test_stems_agree_with_the_original(name, configuration, extension, mix, tmp_path, monkeypatch):
    ask_original(original_spleeter() / "resources" / f"{configuration}.json", extension, mix, tmp_path)
    card = archived(CARDS[name], tmp_path)
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path))
    weights = load_weights(card)
    shapes = {key: tuple(value.shape) for key, value in weights.items() if key != "global_step"}
    assert shapes == dict(variables(len(card.stems)))
    separation = SeparationConfig(short_clip="reference", residual="drop", mask_extension=extension)
    model = Spleeter(card, weights, separation, Arithmetic("fp32", torch.device("cpu")))
    assert all(isinstance(net, UNetOnCpu) for net in model._nets)
    found = stems_of(model, torch.from_numpy(mix.T.copy())).numpy()
    with np.load(tmp_path / "estimates.npz") as wanted:
        assert tuple(wanted) == card.stems
        for stem, estimate in zip(card.stems, found, strict=True):
            share = float(np.sum(wanted[stem] ** 2) / np.sum(mix**2))
            assert 0.001 < share < 0.9, f"{stem} is {share:.5f} of the mix: that makes it no test"
            agreement_db = snr_db(wanted[stem].T, estimate)
            print(f"{name} {extension} {stem}: {agreement_db:.1f} dB, {share:.3f} of the mix's energy")
            assert agreement_db >= 90, stem


def archived(card: ModelCard, folder: Path) -> ModelCard:
    """A model of the registry with this checkpoint for its weights, packed as the releases are."""
    archive = folder / "release.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for part in ("checkpoint", "model.data-00000-of-00001", "model.index", "model.meta"):
            tar.add(folder / part, f"./{part}")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    return dataclasses.replace(card, files=(WeightsFile(archive.name, sha256, sources=(str(archive),)),))


def ask_original(config: Path, extension: str, mix: NDArray[np.float32], folder: Path) -> None:
    """Have it write its checkpoint and its estimates into a folder."""
    np.save(folder / "mix.npy", mix)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [original_python(), "-c", CHILD, str(config), extension, str(folder / "mix.npy"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_original_that_computes_here_is_the_one_whose_configurations_it_reads():
    """The environment has the package with the weights of 2 stems in it; its networks are those of 2.4.2."""
    where = "import spleeter; print(spleeter.__path__[0])"
    shown = subprocess.run([original_python(), "-c", where], capture_output=True, text=True, check=True)
    for module in ("model/__init__.py", "model/functions/__init__.py", "model/functions/unet.py"):
        assert (Path(shown.stdout.strip()) / module).read_bytes() == (
            original_spleeter() / module
        ).read_bytes()
