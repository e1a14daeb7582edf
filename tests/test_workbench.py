"""What a track is expected to hold, and a scratch folder that can be used."""

from __future__ import annotations

import resource

import pytest

from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models import load_model
from splitfire_batch.records import AudioFormat
from splitfire_batch.workbench import GPU_AUDIO_MB, Need, check_scratch, expected_need, need_of, open_bench
from tests.material import noise, track_of, workbench, write

MB = 2**20


def stereo(seconds: float, n_channels: int = 2) -> AudioFormat:
    return AudioFormat("WAV", "PCM_16", 44_100, n_channels, round(44_100 * seconds))


def test_a_gpu_worker_holds_two_hundred_one_shots_or_many_recordings_of_ten_hours(tmp_path):
    model = load_model(SeparationConfig(), "cpu")
    runtime = RuntimeConfig(batch=8, audio_mb=GPU_AUDIO_MB, scratch_dir=str(tmp_path))
    bench = open_bench(model, str(tmp_path), SeparationConfig(), OutputConfig(), runtime, is_immutable=False)
    with bench.engine as engine:
        free = GPU_AUDIO_MB * MB - engine.queue_bytes
        one_shot, long = need_of(stereo(0.5), bench), need_of(stereo(36_000), bench)
        assert one_shot.spools > 0
        assert 200 * one_shot.n_bytes <= free
        assert long.spools == 0
        assert 16 * long.n_bytes <= free
        assert long == need_of(stereo(1_200), bench) == need_of(stereo(0), bench)


def test_a_longer_track_needs_more_up_to_what_is_kept_on_disk(tmp_path):
    with workbench(tmp_path, audio_bytes=100 * MB) as bench:
        needs = [need_of(stereo(seconds), bench) for seconds in (0.01, 1, 5, 12, 30, 1_000)]
    whole = [need.n_bytes for need in needs[:4]]
    assert whole == sorted(set(whole))
    assert needs[3].spools <= 100 * MB / 8 < (2 + 4) * 2 * 44_100 * 30
    assert [need.spool for need in needs[4:]] == [0, 0]


def test_channels_that_are_separated_apart_need_their_memory_each(tmp_path):
    with workbench(tmp_path) as bench:
        stereo_need, surround = need_of(stereo(10), bench), need_of(stereo(10, 6), bench)
    assert surround == Need(4 * stereo_need.engine, 3 * stereo_need.spool, 3 * stereo_need.spools)


def test_the_plan_s_cost_tells_what_to_expect_before_the_file_is_here(tmp_path):
    file = write(tmp_path / "a.wav", noise(100))
    with workbench(tmp_path) as bench:
        found = [expected_need(track_of(file, cost=cost), bench).n_bytes for cost in (0.02, 1.0, 3.0)]
        assert found == sorted(set(found))
        segment = AudioFormat("WAV", "FLOAT", 44_100, 2, 20_000)
        assert found[1] == need_of(segment, bench).n_bytes


def test_a_workbench_may_have_many_files_open(tmp_path):
    """A track of a GPU worker takes four and more, 256 are in hand, and a shell gives 1024."""
    model = load_model(SeparationConfig(model="passthrough"), "cpu")
    separation, runtime = SeparationConfig(model="passthrough"), RuntimeConfig(codecs="inline")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))
    try:
        bench = open_bench(model, str(tmp_path), separation, OutputConfig(), runtime, is_immutable=False)
        bench.close()
        wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_usable_scratch_folder_is_left_as_it_was(tmp_path):
    check_scratch(tmp_path)
    check_scratch(None)
    assert not list(tmp_path.iterdir())


def test_an_unusable_scratch_folder_is_a_config_error_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"scratch_dir: .*missing"):
        check_scratch(tmp_path / "missing")
