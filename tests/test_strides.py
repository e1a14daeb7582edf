"""Settings that a model does not obey are refused; an overlap makes a track as dear as its segments."""

from __future__ import annotations

from dataclasses import replace

import pytest
import soundfile
import torch

from splitfire_batch import job as story
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.here import card_here, separate_files
from splitfire_batch.job import Job
from splitfire_batch.models import ModelCard, find_card
from splitfire_batch.models.strides import OVERLAPS, check_obeyed, segment_s
from splitfire_batch.rows import rows_of
from tests.demucs_networks import SMALL
from tests.roformers import make_small

WORDS = r"^overlap: found 0\.5, which spleeter-2stems \(spleeter\) does not obey.*htdemucs_ft.*roformer-kim"


@pytest.mark.parametrize("model", ["spleeter-2stems", "spleeter-5stems", "passthrough"])
@pytest.mark.parametrize("settings", [{"overlap": 0.5}, {"overlap": 0.0}, {"tail": "reference"}])
def test_a_setting_that_a_model_does_not_obey_is_refused(model, settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=f"^{name}: found .* {model} .*does not obey"):
        check_obeyed(find_card(model), SeparationConfig(model=model, **settings))


@pytest.mark.parametrize("model", ["htdemucs", "htdemucs_ft", "hdemucs_mmi", "melband-roformer-kim"])
def test_models_that_obey_are_let_through(model):
    check_obeyed(find_card(model), SeparationConfig(model=model, overlap=0.5, tail="reference"))


def test_models_without_such_settings_go_on_without_them():
    check_obeyed(find_card("spleeter-2stems"), SeparationConfig())


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "in" / "song.wav"
    path.parent.mkdir()
    soundfile.write(path, torch.zeros((200, 2)).numpy(), 44_100)
    return path


def test_a_job_a_command_and_the_python_api_refuse_them(song, tmp_path):
    separation, runtime = SeparationConfig(overlap=0.5), RuntimeConfig()
    with pytest.raises(ConfigError, match=WORDS):
        story.check(Job(str(song.parent), str(tmp_path / "out"), separation, runtime=runtime))
    with pytest.raises(ConfigError, match=WORDS):
        next(separate_files([song], str(tmp_path / "out"), separation, OutputConfig(), runtime))
    with pytest.raises(ConfigError, match=WORDS):
        card_here(separation, runtime)


@pytest.mark.parametrize(
    ("model", "overlap", "factor"),
    [
        *(
            ("htdemucs", None, 1),
            ("htdemucs", 0.25, 1),
            ("htdemucs", 0.75, 1 / 3),
            ("htdemucs_ft", 0.0, 4 / 3),
        ),
        *(("melband-roformer-kim", 0.5, 1), ("melband-roformer-kim", 0.75, 1 / 2), ("passthrough", None, 1)),
    ],
)
def test_a_segment_is_as_long_as_what_it_has_of_its_own(model, overlap, factor):
    card = find_card(model)
    found = segment_s(card, SeparationConfig(model=model, overlap=overlap))
    assert found == pytest.approx(card.segment_s * factor)


def test_the_plan_costs_a_track_by_its_segments(song, tmp_path):
    def cost(overlap: float | None) -> float:
        separation = SeparationConfig(model="htdemucs", overlap=overlap)
        job = Job(str(song.parent), str(tmp_path / "out"), separation, runtime=RuntimeConfig())
        tracks = story.list_tracks(job)
        column = tracks.rows.schema.get_field_index("duration_s")
        longer = tracks.table().set_column(column, "duration_s", [[5_850.0]])
        rows = rows_of(longer.to_batches(), longer.schema)
        return story.make_plan(job, replace(tracks, rows=rows)).plan.rows.table()["cost"][0].as_py()

    assert cost(0.75) == pytest.approx(3 * cost(None), rel=1e-3)


def test_the_overlaps_are_those_of_the_models():
    """What is not set is what the models do: else the plan would be off by it."""

    def found(model: object, card: ModelCard) -> float:
        first, second = model.segments(2**40)[0:2]  # type: ignore[attr-defined]
        assert OVERLAPS[card.architecture](card) == pytest.approx(
            1 - (second.start - first.start) / (first.lands.stop - first.lands.start), abs=0.001
        )
        return segment_s(card, SeparationConfig())

    found(SMALL.model(), SMALL.card)
    for n in (2, 4):
        model, _ = make_small(sections={"inference": {"num_overlap": n}})
        card = find_card("bs-roformer-viperx-1297")
        found(model, replace(card, options={"inference": {"num_overlap": n}}))
