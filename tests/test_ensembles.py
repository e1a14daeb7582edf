"""An ensemble is the weighted mean of its members, whatever their segments, blocks and neighbours."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from splitfire_batch import calibration
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.ensembles import EnsembleEngine, open_engine
from splitfire_batch.errors import ConfigError
from splitfire_batch.here import separate_files
from splitfire_batch.models import load_model, registry
from splitfire_batch.models.bag import Bag, Part
from splitfire_batch.models.cards import ModelCard
from splitfire_batch.models.ensemble import Ensemble
from splitfire_batch.models.user_registry import read_registry
from splitfire_batch.segments import Segment, uniform_segments
from splitfire_batch.stopwatch import Stopwatch
from tests.assets import audio_example
from tests.small_library import run_main

CPU = torch.device("cpu")


class Member:
    """Estimates depend on the place in the segment, so that a wrong alignment shows."""

    sample_rate, n_channels, device = 44_100, 2, CPU

    def __init__(
        self,
        stems: Sequence[str] = ("a", "b"),
        length: int = 100,
        stride: int = 75,
        before: Callable[[Tensor], object] = len,
        is_for_one_core: bool = False,
    ) -> None:
        self.stems, self._length, self._stride, self._before = tuple(stems), length, stride, before
        self.is_of_any_length = False
        self.name, self.is_for_one_core = f"member{length}", is_for_one_core

    def segments(self, n_frames: int) -> Sequence[Segment]:
        return uniform_segments(n_frames, self._length, self._stride)

    def window(self, segment: Segment) -> Tensor:
        ramp = torch.arange(1, segment.n_frames + 1, dtype=torch.float32)
        return torch.minimum(ramp, ramp.flip(0))

    def __call__(self, segments: Tensor) -> Tensor:
        self._before(segments)
        first = segments * torch.linspace(0, 1, segments.shape[-1])
        return torch.stack([first + number for number in range(len(self.stems))], dim=1)


def ensemble_of(
    *members: tuple[Member | Ensemble, Sequence[float]], stems: Sequence[str] = ("a", "b")
) -> Ensemble:
    parts = tuple(Part(model, dict(zip(model.stems, weights, strict=True))) for model, weights in members)
    return Ensemble("both", 44_100, 2, tuple(stems), CPU, parts)


def noise(n_frames: int, seed: int = 1, n_lanes: int = 1) -> Tensor:
    return torch.rand((n_lanes, 2, n_frames), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def separated(engine: object, mix: Tensor, block_frames: int = 64) -> Tensor:
    """(G, S, C, T)."""
    return torch.cat(list(engine.separate(mix.split(block_frames, dim=2))), dim=3)  # type: ignore[attr-defined]


def alone(member: object, mix: Tensor) -> Tensor:
    with open_engine(member) as engine:  # type: ignore[arg-type]
        return separated(engine, mix)


@pytest.mark.parametrize("n_frames", [1, 99, 100, 101, 1_699, 1_700, 1_701, 2_401, 9_999])
@pytest.mark.parametrize("block_frames", [1, 64, 20_000])
def test_members_of_very_different_segments_are_blended_frame_by_frame(n_frames, block_frames):
    short, long = Member(), Member(length=1_700, stride=700)
    mix = noise(n_frames, n_lanes=2)
    with EnsembleEngine(ensemble_of((short, (0.25, 1.0)), (long, (0.75, 0.0)))) as engine:
        found = separated(engine, mix, block_frames)
    one, other = alone(short, mix), alone(long, mix)
    assert found.shape == (2, 2, 2, n_frames)
    wanted = torch.stack([0.25 * one[:, 0] + 0.75 * other[:, 0], one[:, 1]], dim=1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)  # float32 rounding of a sum of two


@pytest.mark.parametrize("members", [(0, 1), (1, 0)])
def test_cuts_order_of_members_and_neighbours_do_not_change_a_bit(members):
    models = [Member(is_for_one_core=True), Member(length=1_700, stride=700)]
    both = ensemble_of(*((models[i], (0.5, 0.5)) for i in members))
    mixes = [noise(37 * i + 1, seed=i) for i in range(60)]
    with EnsembleEngine(both, batch=3) as engine:
        expected = [separated(engine, mix, 10**6) for mix in mixes]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda mix: separated(engine, mix, 33), mixes))
    assert all(map(torch.equal, expected, together))


def test_stems_that_not_all_members_have_come_from_those_that_do():
    one, other = Member(("a", "b")), Member(("c", "b"), length=300, stride=200)
    mix = noise(1_000)
    both = ensemble_of((one, (1.0, 0.5)), (other, (1.0, 0.5)), stems=("b", "c", "a"))
    found = alone(both, mix)
    first, second = alone(one, mix), alone(other, mix)
    wanted = torch.stack([0.5 * first[:, 1] + 0.5 * second[:, 1], second[:, 0], first[:, 0]], dim=1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_an_ensemble_may_be_in_another():
    inner = ensemble_of((Member(), (0.5, 0.5)), (Member(length=300, stride=200), (0.5, 0.5)))
    outer = ensemble_of((inner, (0.5, 0.5)), (Member(length=1_700, stride=700), (0.5, 0.5)))
    mix = noise(5_000)
    wanted = 0.5 * alone(inner, mix) + 0.5 * alone(Member(length=1_700, stride=700), mix)
    torch.testing.assert_close(alone(outer, mix), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(outer(mix), alone(outer, mix), rtol=0, atol=1e-6)


def test_no_blocks_give_nothing():
    with EnsembleEngine(ensemble_of((Member(), (1.0, 1.0)))) as engine:
        assert list(engine.separate([])) == []
        assert list(engine.separate([noise(0)])) == []


def test_what_a_member_raises_ends_its_track_only():
    def refuse(segments: Tensor) -> None:
        if (segments == 77).any():
            raise ArithmeticError("poison")

    both = ensemble_of((Member(), (0.5, 0.5)), (Member(length=1_700, stride=700, before=refuse), (0.5, 0.5)))
    with EnsembleEngine(both) as engine:
        expected = separated(engine, noise(4_000))
        with pytest.raises(ArithmeticError, match="poison"):
            separated(engine, torch.full((1, 2, 4_000), 77.0))
        assert torch.equal(separated(engine, noise(4_000)), expected)


def test_a_track_given_up_half_way_leaves_nothing_open():
    both = ensemble_of((Member(), (0.5, 0.5)), (Member(length=1_700, stride=700), (0.5, 0.5)))
    with EnsembleEngine(both, batch=2) as engine:
        abandoned = engine.separate(noise(50_000).split(64, dim=2))
        next(abandoned)
        abandoned.close()
        assert [member._requests.n_open for _, member in engine._parts] == [0, 0]
        assert separated(engine, noise(500)).shape[3] == 500


def bytes_in_tensors() -> int:
    """Memory of all tensors that anybody still holds."""
    tensors = [item for item in gc.get_objects() if type(item) is Tensor]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@pytest.mark.slow
@pytest.mark.parametrize("n_tracks", [1, 3])
def test_what_is_held_is_bounded_and_no_more_than_told(n_tracks):
    short, long = Member(length=2_000, stride=1_500), Member(length=60_000, stride=45_000)
    both = ensemble_of((short, (0.5, 0.5)), (long, (0.5, 0.5)))
    sizes, gate = [0], threading.Lock()
    gc.collect()
    before = bytes_in_tensors()

    def run(engine: EnsembleEngine) -> int:
        blocks = (torch.zeros((1, 2, 5_000)) for _ in range(500))
        n_frames = 0
        for number, frames in enumerate(engine.separate(blocks)):
            n_frames += frames.shape[3]
            if number % 150 == 149:
                with gate:
                    sizes.append(bytes_in_tensors() - before)
        return n_frames

    with EnsembleEngine(both, batch=2) as engine, ThreadPoolExecutor(n_tracks) as pool:
        assert (
            list(pool.map(run, [engine] * n_tracks))
            == [2_500_000] * n_tracks  # 60 MB of mix and estimates each
        )  # 14 MB of mix and estimates each
        limit = engine.queue_bytes + n_tracks * engine.track_bytes(0, 1)
    assert max(sizes) <= limit


def test_models_for_all_cores_take_turns_and_those_for_one_core_run_beside_each_other():
    now, most, seen = {"one": 0, "all": 0}, {"one": 0, "all": 0}, threading.Lock()
    overlaps = []

    def look(kind: str) -> Callable[[Tensor], None]:
        def enter(_: Tensor) -> None:
            with seen:
                now[kind] += 1
                most[kind] = max(most[kind], now[kind])
                overlaps.append(bool(now["one"] and now["all"]))
            time.sleep(0.004)
            with seen:
                now[kind] -= 1

        return enter

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        both = ensemble_of(
            (Member(before=look("one"), is_for_one_core=True), (0.5, 0.5)),
            (Member(length=300, stride=200, before=look("all")), (0.5, 0.5)),
        )
        with EnsembleEngine(both) as engine, ThreadPoolExecutor(4) as pool:
            assert engine.n_servers == 2
            list(pool.map(lambda seed: separated(engine, noise(2_000, seed)), range(4)))
    finally:
        torch.set_num_threads(before)
    assert most == {"one": 2, "all": 1}
    assert not any(overlaps)


def test_the_tracks_seconds_and_the_clock_are_the_ensembles():
    both = ensemble_of(
        (Member(before=lambda _: time.sleep(0.002)), (0.5, 0.5)),
        (Member(length=300, stride=200, before=lambda _: time.sleep(0.002)), (0.5, 0.5)),
    )
    with EnsembleEngine(both) as engine:
        usage, watch = engine.clock.usage(), Stopwatch(engine.clock)
        list(engine.separate([noise(2_000)], watch))
        wall_s, device = usage()
    assert watch.seconds().device == pytest.approx(engine.busy_s)
    assert 0.5 * engine.busy_s <= device.busy <= wall_s


def test_batches_and_warnings_name_the_member():
    def full(segments: Tensor) -> None:
        if len(segments) > 1:
            raise torch.OutOfMemoryError

    both = ensemble_of((Member(), (0.5, 0.5)), (Member(length=300, stride=200, before=full), (0.5, 0.5)))
    with EnsembleEngine(both, batch=2) as engine:
        separated(engine, noise(900))
        assert engine.batch_label == "member100(batch2)+member300(batch2/batch1@300)"
        (warning,) = engine.warnings
    assert warning.startswith("member300: batch halved to 1 for segments of 300 frames")


# From the registry to the stems

REGISTRY = """
[pair]
architecture = "ensemble"
stems = ["vocals", "accompaniment"]
code_license = "MIT"
weights_license = "MIT"
license_url = ""
is_commercial_ok = true
training_data = "that of its members"

[[pair.members]]
model = "spleeter-2stems"
weights = {{ vocals = 3.0, accompaniment = {accompaniment} }}

[[pair.members]]
model = "{other}"
weights = {weights}
"""


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds the ensemble `pair` of spleeter and another to the models that this process knows."""
    monkeypatch.setattr(registry, "_added", {})

    def add(
        other: str = "passthrough", weights: str = "{}", accompaniment: float = 1.0, **changes: object
    ) -> None:
        text = REGISTRY.format(other=other, weights=weights, accompaniment=accompaniment)
        for name, value in changes.items():
            text = text.replace("[pair]", f"[pair]\n{name} = {value}")
        registry.add_cards(read_registry(text, "mine.toml"), "mine.toml")

    return add


def settings(**changes: object) -> SeparationConfig:
    return SeparationConfig(model="pair", **changes)  # type: ignore[arg-type]


def test_only_members_that_the_stems_are_made_of_are_loaded_with_weights_that_sum_to_one(added):
    added(weights="{ vocals = 1.0, accompaniment = 0.0 }")
    whole = load_model(settings(residual="drop"), "cpu")
    assert [part.model.name for part in whole.parts] == ["spleeter-2stems", "passthrough"]
    assert [part.weights for part in whole.parts] == [
        {"vocals": 0.75, "accompaniment": 1.0},
        {"vocals": 0.25},
    ]
    accompaniment = load_model(settings(stems=("accompaniment",), residual="drop"), "cpu")
    assert isinstance(accompaniment, Bag)
    assert [part.model.name for part in accompaniment._parts] == ["spleeter-2stems"]
    vocals = load_model(settings(), "cpu")
    assert (vocals.stems, [part.model.stems for part in vocals.parts]) == (("vocals",), [("vocals",)] * 2)


@pytest.mark.parametrize(
    ("other", "weights", "why"),
    [
        ("passthrough", "{ drums = 1.0 }", "a weight for drums of passthrough, which gives vocals, acc"),
        ("passthrough", "{ vocals = -1.0 }", "vocals of passthrough has weight -1.0, wanted 0 or more"),
        ("passthrough", "{ vocals = inf }", "vocals of passthrough has weight inf"),
        ("passthrough", "{ vocals = nan }", "vocals of passthrough has weight nan"),
        ("passthrough", "{ vocal = 0.0 }", r"mine.toml: pair.members: a weight for vocal of passthrough"),
    ],
)
def test_weights_that_make_no_mean_are_refused(added, other, weights, why):
    with pytest.raises(ConfigError, match=why):
        added(other, weights)


def test_a_stem_that_nobody_gives_is_refused(added):
    with pytest.raises(ConfigError, match="no member gives accompaniment with a weight"):
        added(weights="{ accompaniment = 0.0 }", accompaniment=0.0)


def test_shipped_bags_would_pass_as_those_of_a_user(monkeypatch):
    monkeypatch.setattr(registry, "_added", {})
    registry.add_cards(registry.shipped_cards(), "mine.toml")
    assert registry.added_cards() == ()


@pytest.mark.parametrize(("name", "value"), [("sample_rate", 48_000), ("n_channels", 1)])
def test_members_that_differ_in_rate_or_channels_are_refused(added, name, value):
    with pytest.raises(ConfigError, match="spleeter-2stems has 44100 Hz and 2 channels, pair "):
        added(**{name: value})


def test_members_with_the_same_segments_are_one_model(added):
    added(other="spleeter-2stems")
    assert isinstance(load_model(settings(), "cpu"), Bag)


def test_an_ensemble_of_itself_is_refused(added):
    with pytest.raises(ConfigError, match="is made of itself"):
        added(other="pair")


def test_an_ensemble_without_members_is_refused(monkeypatch):
    card = ModelCard("none", "ensemble", ("vocals",), 44_100, 2, (), "", "", "", True, "", "")
    monkeypatch.setattr(registry, "_added", {"none": ("mine.toml", card)})
    with pytest.raises(ConfigError, match="an ensemble without members"):
        load_model(SeparationConfig(model="none"), "cpu")


def stems_in(folder: Path) -> dict[str, np.ndarray]:
    return {
        path.stem.rpartition("_")[2]: soundfile.read(path, dtype="float64")[0]
        for path in folder.rglob("*.wav")
    }


def music(folder: Path, seconds: float = 14) -> Path:
    """Real music, longer than a segment of each."""
    samples, rate = soundfile.read(audio_example(), dtype="float32")
    samples = np.tile(samples, (-(-int(seconds * rate) // len(samples)), 1))[: int(seconds * rate)]
    folder.mkdir()
    soundfile.write(folder / "song.wav", 0.5 * samples, rate, "FLOAT")
    return folder / "song.wav"


def test_stems_are_the_weighted_mean_of_two_runs_and_sum_to_the_mix(added, tmp_path):
    added()
    song = music(tmp_path / "songs")
    output, found = OutputConfig(format="wav", depth="float"), {}
    for model in ("spleeter-2stems", "passthrough", "pair"):
        separation = SeparationConfig(model=model, residual="drop")
        (row,) = separate_files([song], str(tmp_path / model), separation, output, RuntimeConfig())
        assert (row.status, row.warnings) == ("done", ())
        found[model] = stems_in(tmp_path / model)
    for stem, weight in (("vocals", 0.75), ("accompaniment", 0.5)):
        wanted = weight * found["spleeter-2stems"][stem] + (1 - weight) * found["passthrough"][stem]
        np.testing.assert_allclose(found["pair"][stem], wanted, rtol=0, atol=2.0**-23)
        assert np.abs(found["pair"][stem] - found["spleeter-2stems"][stem]).max() > 0.01
    (row,) = separate_files([song], str(tmp_path / "fold"), settings(), output, RuntimeConfig())
    folded = stems_in(tmp_path / "fold")
    mix = soundfile.read(song, dtype="float64")[0]
    np.testing.assert_allclose(folded["vocals"] + folded["accompaniment"], mix, rtol=0, atol=2.0**-22)


def test_doctor_tells_how_far_an_ensemble_is_from_fp32(tmp_path, monkeypatch, capsys):
    both = ensemble_of((Member(), (0.5, 0.5)), (Member(length=1_700, stride=700), (0.5, 0.5)))
    monkeypatch.setattr(calibration, "load_model", lambda *_, **__: both)
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPLITFIRE_SEPARATION__MODEL", "passthrough")
    monkeypatch.chdir(tmp_path)
    code, out, err = run_main(monkeypatch, capsys, "doctor", "--tune", "--device", "cpu", "--json")
    (found,) = [item for item in json.loads(out)["results"] if item["precision"] == "fp32"]
    assert (code, err) == (0, "")
    assert [stem["stem"] for stem in found["fidelity"]] == ["a", "b"]
    _, out, _ = run_main(monkeypatch, capsys, "doctor", "--tune", "--device", "cpu")
    assert "of an ensemble only the distance from fp32 is measured" in out
