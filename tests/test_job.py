"""The story of a job over several runs: what is done, what is redone, and whose name is whose.

Workers run in this process with the passthrough model; stems and manifest are real files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from splitfire_batch import job as story
from splitfire_batch.catalogue import LISTING
from splitfire_batch.config import CatalogueConfig, OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import AccessDenied, ConfigError, CredentialsExpired
from splitfire_batch.job import Job
from splitfire_batch.lease import unheld
from splitfire_batch.models import find_card
from splitfire_batch.records import Shard, ShardEvent
from splitfire_batch.report import Report
from splitfire_batch.rows import rows_of
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.storage import open_store
from splitfire_batch.vacuum import vacuum

PASSTHROUGH = SeparationConfig(model="passthrough")


def tone(path: Path, frequency: float, seconds: float = 0.2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(44_100 * seconds)) / 44_100)
    soundfile.write(path, x, 44_100, "PCM_24" if path.suffix == ".flac" else "PCM_16")
    return path


def here(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
    worker = spec()
    for shard in shards:
        yield from worker.run_shard(shard)
    worker.close()


def run(job: Job) -> Report:
    """The four steps of the flow, in this process."""
    story.check(job)
    planned = story.make_plan(job, story.list_tracks(job))
    if planned.plan.n_tracks:
        story.save_plan(planned)
    tally = story.separate(planned, here, lambda _: None)
    return story.finalise(planned, tally)


def make_job(source: Path, out: Path, **settings: Any) -> Job:
    runtime = RuntimeConfig(open_tracks=2, codecs="inline")
    return Job(str(source), str(out), settings.pop("separation", PASSTHROUGH), runtime=runtime, **settings)


def view(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "_splitfire/views/tracks.parquet").to_pylist()
    return rows


def check_stems(out: Path, n_tracks: int) -> None:
    """Every row's stems exist with the bytes that the row says."""
    rows = view(out)
    assert len(rows) == n_tracks
    for row in rows:
        for stem in row["stems"]:
            assert hashlib.sha256((out / stem["path"]).read_bytes()).hexdigest() == stem["sha256"], stem
    paths = [stem["path"] for row in rows for stem in row["stems"]]
    assert len(set(paths)) == len(paths)


def test_a_second_run_has_nothing_to_do(tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    job = make_job(tmp_path / "in", tmp_path / "out")
    assert (run(job).n_done, run(job).n_planned) == (1, 0)
    check_stems(tmp_path / "out", 1)


def test_two_catalogues_in_one_destination_do_not_overwrite_each_other(tmp_path):
    tone(tmp_path / "one/kick.wav", 220)
    tone(tmp_path / "two/kick.wav", 330)
    out = tmp_path / "out"
    run(make_job(tmp_path / "one", out))
    run(make_job(tmp_path / "two", out))
    check_stems(out, 2)
    assert run(make_job(tmp_path / "one", out)).n_planned == 0


def test_a_neighbour_that_comes_in_a_later_run_does_not_take_a_name(tmp_path):
    tone(tmp_path / "in/x.flac", 220)
    tone(tmp_path / "in/x.wav", 330)
    out, as_wav = tmp_path / "out", OutputConfig(format="wav", depth="24")
    flac = make_job(tmp_path / "in", out, output=as_wav, catalogue=CatalogueConfig(include=("*.flac",)))
    run(flac)
    run(replace(flac, catalogue=CatalogueConfig(include=("*.wav",))))
    check_stems(out, 2)
    assert run(replace(flac, catalogue=CatalogueConfig())).n_planned == 0


def test_views_that_a_killed_run_did_not_make_are_made_by_the_next(tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    job = make_job(tmp_path / "in", tmp_path / "out")
    planned = story.make_plan(job, story.list_tracks(job))
    story.save_plan(planned)
    story.separate(planned, here, lambda _: None)  # and killed before finalise
    assert run(job).n_planned == 0
    check_stems(tmp_path / "out", 1)


def test_a_changed_file_is_redone_and_so_is_the_old_one_that_comes_back(tmp_path):
    first = tone(tmp_path / "first.wav", 220)
    second = tone(tmp_path / "second.wav", 330)
    source = tmp_path / "in/a.wav"
    source.parent.mkdir()
    os.link(first, source)  # the link keeps the first file's time and inode
    job = make_job(source.parent, tmp_path / "out")
    assert run(job).n_done == 1
    source.unlink()
    os.link(second, source)
    assert run(job).n_done == 1
    source.unlink()
    os.link(first, source)
    assert run(job).n_done == 1
    check_stems(tmp_path / "out", 1)
    stems = [
        soundfile.read(tmp_path / "out" / stem["path"])[0] for stem in view(tmp_path / "out")[0]["stems"]
    ]
    np.testing.assert_allclose(np.sum(stems, axis=0), soundfile.read(first)[0], atol=1e-9)
    assert run(job).n_planned == 0


def test_other_settings_are_refused_with_plain_names_and_lie_beside_with_immutable_ones(tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    plain, immutable = tmp_path / "plain", tmp_path / "immutable"
    other = SeparationConfig(model="passthrough", residual="drop")
    run(make_job(tmp_path / "in", plain))
    with pytest.raises(ConfigError, match="residual was 'fold' and is now 'drop'"):
        run(make_job(tmp_path / "in", plain, separation=other))
    assert run(make_job(tmp_path / "in", plain, separation=other, replace=True)).n_done == 1
    check_stems(plain, 1)
    names = OutputConfig(names="immutable")
    for separation in (PASSTHROUGH, other):
        run(make_job(tmp_path / "in", immutable, separation=separation, output=names))
    assert len(view(immutable)) == 2


def test_another_model_does_not_write_over_stems_where_the_template_names_no_model(tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    output = OutputConfig(template="{name}_{stem}.{ext}")
    run(make_job(tmp_path / "in", tmp_path / "out", output=output))
    spleeter = make_job(tmp_path / "in", tmp_path / "out", output=output, separation=SeparationConfig())

    def targets(job: Job) -> list[str]:
        found = story.make_plan(job, story.list_tracks(job)).plan.rows.table()["target"].to_pylist()
        return [str(target) for target in found]

    assert targets(spleeter) == ["a.wav_{stem}.{ext}"]
    immutable = replace(spleeter, output=replace(output, names="immutable"))  # hashes tell them apart
    assert targets(immutable) == ["a_{stem}.{ext}"]


@pytest.mark.parametrize("where", ["in", "in/stems", "link"])
def test_a_destination_in_the_source_is_refused(tmp_path, where):
    tone(tmp_path / "in/a.wav", 220)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(ConfigError, match="lies in the source"):
        story.check(make_job(tmp_path / "in", tmp_path / where))
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.wav"]


def test_a_link_from_the_source_to_the_destination_makes_no_tracks_of_stems(tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "in/stems").symlink_to(out)
    job = make_job(tmp_path / "in", out)
    assert (run(job).n_done, run(job).n_planned) == (1, 0)


def test_every_planned_track_has_a_row_also_the_bad_ones(tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    (tmp_path / "in/empty.wav").write_bytes(b"")
    shutil.copy(tmp_path / "in/a.wav", tmp_path / "in/cut.wav")
    (tmp_path / "in/cut.wav").write_bytes((tmp_path / "in/cut.wav").read_bytes()[:5_000])
    report = run(make_job(tmp_path / "in", tmp_path / "out"))
    assert (report.n_done, report.n_failed, report.exit_code) == (1, 2, 3)
    assert report.failures_by_code == {"EMPTY": 1, "TRUNCATED": 1}
    failures = pq.read_table(tmp_path / "out/_splitfire/runs" / report.run_id / "failures.parquet")
    assert sorted(failures["path"].to_pylist()) == ["cut.wav", "empty.wav"]
    again = run(make_job(tmp_path / "in", tmp_path / "out"))
    assert (again.n_planned, again.n_failed_before, again.exit_code) == (0, 2, 0)


def test_a_track_with_stems_stays_as_it_is_while_its_source_cannot_be_looked_at(tmp_path):
    for name, frequency in (("a", 220), ("b", 330)):
        tone(tmp_path / f"in/{name}.wav", frequency)
    catalogue, out = tmp_path / "in/list.csv", tmp_path / "out"
    catalogue.write_text("uri\na.wav\nb.wav\n")
    assert run(make_job(catalogue, out)).n_done == 2
    before = view(out)
    (tmp_path / "in/a.wav").rename(tmp_path / "a.wav")
    catalogue.write_text("uri\na.wav\nb.wav\nnever.wav\n")
    report = run(make_job(catalogue, out))
    assert (report.n_planned, report.n_failed, report.n_done_before, report.n_unseen) == (1, 1, 2, 1)
    assert [row for row in view(out) if row["path"] != "never.wav"] == before
    (tmp_path / "a.wav").rename(tmp_path / "in/a.wav")
    report = run(make_job(catalogue, out))
    assert (report.n_planned, report.n_failed_before, report.n_unseen) == (0, 1, 0)
    (tmp_path / "in/a.wav").unlink()
    report = run(replace(make_job(catalogue, out), catalogue=CatalogueConfig(overwrite="always")))
    assert (report.n_planned, report.n_failed, report.n_unseen) == (3, 2, 0)  # as it was asked for
    assert vacuum(open_store(str(out), {}), unheld(), 0.0, is_dry=True).garbage == ()


def test_a_problem_of_a_row_hides_no_stems(tmp_path):
    tone(tmp_path / "elsewhere/a.wav", 220)
    catalogue = tmp_path / "in/list.csv"
    catalogue.parent.mkdir()
    catalogue.write_text(f"uri\n{tmp_path}/elsewhere/a.wav\n")
    job = make_job(catalogue, tmp_path / "out")
    allowed = replace(job, catalogue=replace(job.catalogue, allow_root=(f"{tmp_path}/elsewhere",)))
    assert run(allowed).n_done == 1
    report = run(job)
    assert (report.n_planned, report.n_unseen, report.exit_code) == (0, 1, 3)  # nothing could be looked at
    assert run(allowed).n_unseen == 0
    check_stems(tmp_path / "out", 1)


def test_a_changed_source_in_an_archive_is_told_of_and_its_stems_stay(tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    catalogue, out = tmp_path / "in/list.csv", tmp_path / "out"
    catalogue.write_text("uri\na.wav\n")
    job = make_job(catalogue, out)
    assert run(job).n_done == 1
    listing = story.list_tracks(job)
    rows = listing.rows.table()
    rows = rows.set_column(rows.schema.get_field_index("source_id"), "source_id", pa.array(["new"]))
    rows = rows.set_column(rows.schema.get_field_index("problem"), "problem", pa.array(["ARCHIVED: GLACIER"]))
    archived = replace(listing, rows=rows_of(rows.cast(LISTING).to_batches(), LISTING))
    plan = story.make_plan(job, archived).plan
    assert (plan.n_tracks, plan.n_unseen, plan.codes.without_stems) == (1, 0, {"ARCHIVED": 1})


@pytest.mark.parametrize("refusal", [AccessDenied, CredentialsExpired])
def test_a_refusal_to_list_is_for_the_operator_unless_new_credentials_will_do(tmp_path, monkeypatch, refusal):
    def refuse(*_: object) -> None:
        raise refusal("s3://in", "refused")

    job = make_job(tmp_path / "in", tmp_path / "out")
    wanted = refusal if refusal is CredentialsExpired else ConfigError
    monkeypatch.setattr(story, "list_source", lambda *_, **__: refuse())
    with pytest.raises(wanted, match="refused"):
        story.list_tracks(job)
    monkeypatch.setattr(story, "check_source", refuse)
    with pytest.raises(wanted, match="refused"):
        story.check(job)


def test_columns_of_a_table_reach_the_manifest_and_the_names(tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    (tmp_path / "in/list.csv").write_text("uri,isrc\na.wav,USRC17607839\n")
    output = OutputConfig(template="{isrc}/{stem}.{ext}")
    run(make_job(tmp_path / "in/list.csv", tmp_path / "out", output=output))
    (row,) = view(tmp_path / "out")
    assert row["meta"] == [("isrc", "USRC17607839")]
    assert (tmp_path / "out/USRC17607839/vocals.wav").is_file()


def test_skipped_tracks_are_settled_and_no_failures(tmp_path):
    """The vocals of the passthrough model hold -10 dB of every track's energy, in one channel or two."""
    tone(tmp_path / "in/a.wav", 220)
    tone(tmp_path / "in/b.wav", 440)
    (tmp_path / "in/empty.wav").write_bytes(b"")
    job = make_job(tmp_path / "in", tmp_path / "out", output=OutputConfig(skip_without_vocals=-5))
    report = run(job)
    assert (report.n_planned, report.n_done, report.n_skipped, report.n_failed) == (3, 0, 2, 1)
    assert (report.n_unsettled, report.exit_code) == (0, 3)
    assert report.failures_by_code == {"EMPTY": 1}
    assert report.audio_s == pytest.approx(0.4)  # it was separated
    assert not list((tmp_path / "out").rglob("*.wav"))
    (tmp_path / "in/empty.wav").unlink()
    again = run(job)
    assert (again.n_planned, again.n_done_before, again.n_skipped_before, again.exit_code) == (0, 0, 2, 0)
    rows = {row["path"]: row for row in view(tmp_path / "out")}
    assert (rows["a.wav"]["status"], rows["a.wav"]["code"]) == ("skipped", "NO_VOCALS")
    stems = pq.read_table(tmp_path / "out/_splitfire/views/stems.parquet")
    assert len(stems) == 0


def test_a_wish_to_skip_is_part_of_the_settings(tmp_path):
    """The stems that a stricter run left out are there after one that wants them."""
    tone(tmp_path / "in/a.wav", 220)
    strict = make_job(tmp_path / "in", tmp_path / "out", output=OutputConfig(skip_without_vocals=-5))
    assert run(strict).n_skipped == 1
    lenient = make_job(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"skip_without_vocals was -5\.0 and is now None"):
        run(lenient)
    assert run(replace(lenient, replace=True)).n_done == 1
    check_stems(tmp_path / "out", 1)


def test_silent_stems_that_are_not_wanted_have_an_entry_and_no_file(tmp_path):
    tone(tmp_path / "in/a.wav", 220)  # its vocals peak at 0.075, -22.5 dB
    job = make_job(tmp_path / "in", tmp_path / "out", output=OutputConfig(skip_silent_stems=-20))
    assert run(job).n_done == 1
    assert [path.name for path in (tmp_path / "out").rglob("*.wav")] == ["a_accompaniment.wav"]
    (row,) = view(tmp_path / "out")
    assert [(stem["stem"], stem["path"] is None) for stem in row["stems"]] == [
        ("vocals", True),
        ("accompaniment", False),
    ]
    kept, _ = soundfile.read(tmp_path / "out" / row["stems"][1]["path"], dtype="int16")
    assert np.array_equal(kept, soundfile.read(tmp_path / "in/a.wav", dtype="int16")[0])
    assert run(job).n_planned == 0


def test_a_model_without_vocals_cannot_judge_by_them(tmp_path, monkeypatch):
    tone(tmp_path / "in/a.wav", 220)
    card = replace(find_card("passthrough"), stems=("drums", "other"))
    monkeypatch.setattr(story, "find_card", lambda _: card)
    job = make_job(tmp_path / "in", tmp_path / "out", output=OutputConfig(skip_without_vocals=-30))
    with pytest.raises(ConfigError, match="needs a model with vocals; it gives drums, other"):
        story.check(job)
