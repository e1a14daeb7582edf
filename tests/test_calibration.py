"""What is measured, what is chosen of it, and what a machine that cannot do something leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from splitfire_batch import calibration
from splitfire_batch.calibration import Tuned, tune
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models.fidelity import excerpt
from splitfire_batch.tuning import Trial, Tuning
from tests.material import Shares

SETTINGS = (SeparationConfig(model="passthrough"), RuntimeConfig(), "cpu")


@pytest.fixture(autouse=True)
def _two_cores_and_two_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "n_cores", lambda: 2)
    monkeypatch.setattr(calibration, "precisions", lambda _: ("fp32", "bf16"))


def use(monkeypatch: pytest.MonkeyPatch, **models: Shares | ConfigError) -> None:
    """Models by precision instead of real ones."""

    def load(separation: SeparationConfig, *_: object, **__: object) -> Shares:
        found = models[separation.precision]
        if isinstance(found, ConfigError):
            raise found
        return found

    monkeypatch.setattr(calibration, "load_model", load)


def test_every_batch_and_number_of_threads_is_measured_in_one_layout(monkeypatch):
    use(monkeypatch, fp32=Shares(), bf16=Shares())
    fp32, bf16 = tune(*SETTINGS)
    assert (fp32.precision, bf16.precision) == ("fp32", "bf16")
    for tuned in (fp32, bf16):
        ways = [(trial.tuning.threads, trial.tuning.batch) for trial in tuned.trials]
        assert ways == [(threads, batch) for threads in (1, 2) for batch in (1, 2, 3, 4)]
        assert len({trial.tuning.is_channels_last for trial in tuned.trials}) == 1
        assert all(trial.x_real_time > 0 for trial in tuned.trials)


@pytest.mark.parametrize(("wins", "wanted"), [(5, False), (4, True), (0, True)])
def test_channels_first_has_to_win_every_round_to_be_chosen(wins, wanted, monkeypatch):
    took = {True: [9.0] + 5 * [2.0], False: [9.0] + wins * [1.0] + (5 - wins) * [3.0]}

    def one_call(_: object, way: Tuning, __: object) -> float:
        return took[way.is_channels_last].pop(0) if took[way.is_channels_last] else 1.0

    use(monkeypatch, fp32=Shares(), bf16=Shares())
    monkeypatch.setattr(calibration, "_one_call", one_call)
    assert {trial.tuning.is_channels_last for trial in next(tune(*SETTINGS)).trials} == {wanted}


def test_torch_has_its_threads_back_afterwards(monkeypatch):
    seen, before = set(), torch.get_num_threads()
    use(monkeypatch, fp32=Shares(before=lambda _: seen.add(torch.get_num_threads())), bf16=Shares())
    list(tune(*SETTINGS))
    assert seen >= {1, 2}
    assert torch.get_num_threads() == before


def test_a_batch_that_does_not_fit_the_device_is_left_out(monkeypatch):
    def refuse(segments: Tensor) -> None:
        if len(segments) > 2:
            raise torch.OutOfMemoryError

    use(monkeypatch, fp32=Shares(before=refuse), bf16=Shares())
    tuned = next(tune(*SETTINGS))
    assert {trial.tuning.batch for trial in tuned.trials} == {1, 2}


def test_fidelity_is_that_of_the_precision_against_fp32_on_the_given_music(monkeypatch):
    use(monkeypatch, fp32=Shares(0.5, 0.5), bf16=Shares(0.505, 0.5))
    music = excerpt(1_000, 44_100)  # shorter than a segment: it is repeated
    _, bf16 = tune(*SETTINGS, music)
    assert [stem.stem for stem in bf16.fidelity] == ["vocals", "accompaniment"]
    assert bf16.fidelity[0].snr_db == pytest.approx(40, abs=0.01)


def test_a_refused_precision_is_told_and_the_others_are_measured(monkeypatch):
    use(monkeypatch, fp32=Shares(), bf16=ConfigError("bf16 keeps only 3 dB"))
    fp32, bf16 = tune(*SETTINGS)
    assert fp32.trials
    assert (bf16.trials, bf16.best, bf16.refusal) == ((), (), "bf16 keeps only 3 dB")


def test_the_smallest_batch_that_is_nearly_the_fastest_is_chosen_for_each_number_of_threads():
    speeds = {(1, 1): 97.5, (1, 2): 99.0, (1, 4): 100.0, (2, 1): 96.0, (2, 2): 98.0, (2, 4): 100.0}
    trials = tuple(Trial(Tuning(batch, threads), x) for (threads, batch), x in speeds.items())
    best = Tuned("fp32", (), trials).best
    assert [(trial.tuning.threads, trial.tuning.batch) for trial in best] == [(1, 1), (2, 2)]
