"""SNR per stem against known errors, and the gate against models that are off by a known amount."""

from __future__ import annotations

import math

import pytest
import torch

from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models import load_model
from splitfire_batch.models.fidelity import QUIET_DB, Fidelity, check_fidelity, excerpt, measure
from tests.material import Shares


def test_an_error_of_a_hundredth_is_40_db():
    exact, ours = Shares(0.5, 0.5), Shares(0.505, 0.5)
    first, second = measure(ours, exact, excerpt(20_000, 44_100))
    assert first.snr_db == pytest.approx(40, abs=0.01)  # float32: 0.505 - 0.5 is 0.005 to 6 digits
    assert first.level_db == pytest.approx(-20 * math.log10(2), abs=0.01)
    assert second.snr_db == math.inf


def test_a_model_below_its_floor_is_refused_with_the_stem_and_both_figures():
    with pytest.raises(
        ConfigError, match=r"bf16 on cpu keeps only 34\.0 dB of fp32 in vocals.* 40 dB; use fp32"
    ):
        check_fidelity(Shares(0.51, 0.5), Shares(0.5, 0.5), "bf16")


@pytest.mark.parametrize(
    ("precision", "error"), [("fp32", 2e-5), ("tf32", 5e-4), ("fp16", 5e-4), ("bf16", 5e-3)]
)
def test_each_precision_may_err_as_much_as_its_floor_allows(precision, error):
    exact = Shares(1.0, 1.0)
    check_fidelity(Shares(1 + error, 1.0), exact, precision)
    with pytest.raises(ConfigError):
        check_fidelity(Shares(1 + 4 * error, 1.0), exact, precision)


def test_a_stem_that_the_mix_hides_is_measured_against_the_mix():
    floor_db, below = 40.0, -QUIET_DB - 5
    assert Fidelity("vocals", floor_db + below, below).keeps(floor_db)
    assert not Fidelity("vocals", floor_db + below - 1, below).keeps(floor_db)
    assert not Fidelity("vocals", floor_db - 1, -QUIET_DB).keeps(floor_db)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_estimates_that_are_no_numbers_keep_no_floor(broken):
    with pytest.raises(ConfigError, match=r"only (nan|-inf) dB"):
        check_fidelity(Shares(broken, 0.5), Shares(0.5, 0.5), "bf16")


def test_the_made_music_is_the_same_each_time_and_both_stems_are_loud_in_it():
    model = load_model(SeparationConfig(), "cpu")
    music = excerpt(3 * 44_100, model.sample_rate)
    assert torch.equal(music, excerpt(3 * 44_100, model.sample_rate))
    assert float(music.abs().max()) == 0.5
    n_frames = model.segments(music.shape[-1])[0].n_frames
    for stem in measure(model, model, excerpt(n_frames, model.sample_rate)):
        assert stem.level_db > -12
