"""The flow on a real Prefect server and a real local Ray, with the model that needs no weights."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pyarrow.parquet
import pytest
import soundfile
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterName,
)
from prefect.client.schemas.objects import State
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.separate_catalogue import separate_catalogue
from flows.server_process import start_server
from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.job import Job
from splitfire_batch.report import Report
from tests.prefect_server import make_prefect_home
from tests.small_library import COMMAND, environment, run_main, tree, write_bad_track, write_tracks
from tests.test_job import here
from tests.webhook_receiver import KEY, SECRET, WebhookReceiver

QUICK = SeparationConfig(model="passthrough")
TWO = RuntimeConfig(workers=2)
N_TRACKS = 8
TRACK_S = 12.0  # a little more than a unit of cost: for two workers each track is a shard


@pytest.fixture(scope="module", autouse=True)
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Prefect API of this module's own."""
    home = make_prefect_home(tmp_path_factory.mktemp("prefect") / "home")
    url = start_server({"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}, within_s=120)
    with temporary_settings({PREFECT_API_URL: url}):
        yield url
        APILogWorker.instance().drain()
        EventsWorker.drain_all()  # its socket would stay, and draw random numbers in the midst of tests


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `source` (8 tracks, 1 bad, 1 cover); stems go to `out` beside it."""
    root = tmp_path_factory.mktemp("library")
    write_bad_track(write_tracks(root / "source", N_TRACKS, TRACK_S))
    (root / "source" / "cover.jpg").write_bytes(b"x")
    return root


@pytest.fixture(scope="module")
def preview(library: Path) -> dict[str, Any]:
    """What `splitfire plan` says before the first run."""
    args = ["plan", "source", "out", "--model", "passthrough", "--workers", "2", "--json"]
    done = subprocess.run([*COMMAND, *args], cwd=library, capture_output=True, text=True, check=True)
    numbers: dict[str, Any] = json.loads(done.stdout)
    return numbers


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    """What the first run's webhook leads to."""
    with WebhookReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def first_run(preview: dict[str, Any], library: Path, receiver: WebhookReceiver) -> State[Report]:
    """The state in which the first run over the library ended."""
    assert preview["done_before"] == 0
    assert tree(library / "out") == {}
    Secret(value=receiver.url).save("splitfire-webhook-url", _sync=True)  # type: ignore[call-arg]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITFIRE_WEBHOOK_SECRET", SECRET)
        return separate(library)


def separate(library: Path, **changes: Any) -> State[Report]:
    places = {"source": str(library / "source"), "destination": str(library / "out")}
    state: State[Report] = separate_catalogue(
        **{**places, "separation": QUICK, "runtime": TWO, **changes}, return_state=True
    )
    return state


def report_of(state: State[Report]) -> Report:
    return state.result(raise_on_failure=False)


def flow_run_id(state: State[Report]) -> UUID:
    assert state.state_details.flow_run_id
    return state.state_details.flow_run_id


def artifacts(client: SyncPrefectClient, run_id: UUID) -> dict[str, Any]:
    """Data of a flow run's artifacts by key."""
    by_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    return {str(found.key): found.data for found in client.read_artifacts(artifact_filter=by_run)}


def task_names(run_id: UUID, api_url: str) -> list[str]:
    """Names of the tasks of a flow run, in the order they began; they reach the API a little later."""
    body = {"flow_runs": {"id": {"any_": [str(run_id)]}}}
    deadline = time.monotonic() + 20
    while True:
        found = httpx.post(f"{api_url}/task_runs/filter", json=body).json()
        ends = [run for run in found if run["state_type"] == "COMPLETED"]
        if len(ends) >= 3 or time.monotonic() > deadline:
            begun = sorted(found, key=lambda run: run["start_time"] or "")
            return [run["name"].rpartition("-")[0] for run in begun]
        time.sleep(0.2)


def test_a_run_with_a_bad_track_completes_and_says_so(first_run: State[Report]) -> None:
    assert (first_run.type.value, first_run.name) == ("COMPLETED", "Completed with failures")
    assert first_run.message == f"{N_TRACKS} done, 1 failed, 0 done before"


def test_the_report_agrees_with_the_stems_and_the_source(first_run: State[Report], library: Path) -> None:
    report = report_of(first_run)
    stems = list((library / "out").rglob("*.wav"))
    assert (report.n_planned, report.n_done, report.n_failed, report.n_unsettled) == (
        N_TRACKS + 1,
        N_TRACKS,
        1,
        0,
    )
    assert len(stems) == 2 * N_TRACKS
    assert report.n_bytes_out == sum(stem.stat().st_size for stem in stems)
    assert report.audio_s == pytest.approx(TRACK_S * N_TRACKS)
    assert report.failures_by_code == {"NOT_AUDIO": 1}
    assert report.ignored == {"not audio": 1}


def test_the_plan_shown_before_is_the_plan_that_ran(
    preview: dict[str, Any], first_run: State[Report], library: Path
) -> None:
    report = report_of(first_run)
    plan = library / "out" / "_splitfire" / "runs" / report.run_id / "plan" / "tracks.parquet"
    shards = set(pyarrow.parquet.read_table(plan)["shard"].to_pylist())
    assert preview["todo"] == report.n_planned
    assert preview["shards"] == len(shards) >= N_TRACKS
    assert preview["settings_id"] == report.settings_id
    assert preview["ignored"] == report.ignored


def test_prefect_shows_progress_summary_and_failures(first_run: State[Report]) -> None:
    with get_client(sync_client=True) as client:
        found = artifacts(client, flow_run_id(first_run))
    failures = json.loads(found["failures"])
    assert float(found["progress"]) == 100.0
    assert f"{N_TRACKS} done, 1 failed" in found["summary"]
    assert "| NOT_AUDIO | 1 |" in found["summary"]
    assert [(failure["path"], failure["code"]) for failure in failures] == [("bad.wav", "NOT_AUDIO")]


def test_the_webhook_of_a_secret_block_is_told_of_the_failures(
    first_run: State[Report], receiver: WebhookReceiver, library: Path
) -> None:
    told, *others = [got for got in receiver.received if got.headers["webhook-id"].startswith(_id(first_run))]
    assert others == []
    assert told.is_signed_with(KEY)
    assert told.message["type"] == "run.completed_with_failures"
    assert told.message["data"]["report"]["n_done"] == N_TRACKS
    source, out = library / "source", library / "out"
    assert told.message["text"].splitlines() == [
        f"splitfire: Completed with failures: {source} to {out}",
        f"{N_TRACKS} done, 1 failed, 0 done before",
        f"1 NOT_AUDIO; see: splitfire failures {out}",
        *told.message["text"].splitlines()[3:],  # where the page is, if the server has one
    ]


def _id(state: State[Report]) -> str:
    return str(flow_run_id(state))


def test_prefect_shows_what_the_run_cost(first_run: State[Report]) -> None:
    with get_client(sync_client=True) as client:
        rows = json.loads(artifacts(client, flow_run_id(first_run))["cost"])
    hours = {row["what"]: row["hours per 1,000 tracks"] for row in rows}
    wanted = report_of(first_run).usage.held_s / 3600 / (N_TRACKS + 1) * 1000
    assert hours["devices held"] == pytest.approx(wanted, abs=0.001)
    assert hours["devices held"] > hours["devices busy"] > 0


def test_a_job_is_deployed_as_the_command_says_and_deployed_again_as_it_says_then(
    library: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = (library / "source", library / "out", "--model", "passthrough", "--work-pool", "machines")
    code, out, err = run_main(monkeypatch, capsys, "deploy", *places)
    assert (code, out) == (2, "")
    assert "no pool 'machines'" in err
    assert "prefect work-pool create machines --type process" in err

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="machines", type="process"))
        nightly = ("--cron", "0 2 * * *", "--timezone", "Europe/Berlin", "--max-failures", "5%")
        code, out, err = run_main(monkeypatch, capsys, "deploy", *places, *nightly)
        assert code == 0, err
        assert out.splitlines()[0] == f"deployment separate-catalogue/nightly made at {prefect_api}"
        assert "prefect worker start --pool machines" in out
        made = client.read_deployment_by_name("separate-catalogue/nightly")
        assert made.parameters["separation"] == {"model": "passthrough"}
        assert made.parameters["runtime"] == {"max_failures": "5%", "drain_s": 15.0}
        assert made.concurrency_options is not None
        assert made.concurrency_options.collision_strategy == "CANCEL_NEW"
        assert made.global_concurrency_limit is not None
        assert made.global_concurrency_limit.limit == 1
        (schedule,) = made.schedules
        assert getattr(schedule.schedule, "timezone", None) == "Europe/Berlin"
        # as the server's scheduler does each minute; with SQLAlchemy 2.1 Prefect 3.8 cannot
        httpx.post(f"{prefect_api}/deployments/{made.id}/schedule", json={}).raise_for_status()

        code, out, err = run_main(monkeypatch, capsys, "deploy", *places, "--json")
        assert code == 0, err
        assert json.loads(out)["is_new"] is False
        again = client.read_deployment_by_name("separate-catalogue/nightly")
    assert (again.id, again.schedules) == (made.id, [])
    assert again.parameters["runtime"] == {"drain_s": 15.0}


def test_prefect_shows_four_tasks_in_order(first_run: State[Report], prefect_api: str) -> None:
    assert task_names(flow_run_id(first_run), prefect_api) == ["list", "plan", "separate", "finalise"]


def test_the_flow_run_is_named_after_catalogue_and_run(first_run: State[Report], library: Path) -> None:
    with get_client(sync_client=True) as client:
        name = client.read_flow_run(flow_run_id(first_run)).name
    assert name == f"{library / 'source'} {report_of(first_run).run_id}"


@pytest.mark.usefixtures("first_run")
def test_a_second_run_has_nothing_to_do_and_never_imports_ray(
    library: Path, prefect_api: str, tmp_path: Path
) -> None:
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('ray' in sys.modules, file=sys.stderr))\n"
        "from flows.cli import main\n"
        "main()\n"
    )
    places = [str(library / "source"), str(library / "out")]
    stems_before = {path: data for path, data in tree(library / "out").items() if path.endswith(".wav")}
    done = subprocess.run(
        [sys.executable, "-c", script, "run", *places, "--model", "passthrough", "--json"],
        env=environment(tmp_path, prefect_api),
        capture_output=True,
        text=True,
        timeout=120,
    )
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["False"]
    assert (report["n_planned"], report["n_done_before"], report["n_failed_before"]) == (0, N_TRACKS, 1)
    stems = {path: data for path, data in tree(library / "out").items() if path.endswith(".wav")}
    assert stems == stems_before


@pytest.mark.usefixtures("first_run")
def test_other_settings_are_refused_with_the_difference(
    library: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = tree(library / "out")
    places = (library / "source", library / "out", "--model", "passthrough", "--depth", "24")
    code, out, err = run_main(monkeypatch, capsys, "plan", *places)
    assert (code, out) == (2, "")
    assert "depth was 'source' and is now '24'" in err
    assert "--replace" in err
    code, out, _ = run_main(monkeypatch, capsys, "plan", *places, "--replace", "--json")
    assert (code, json.loads(out)["todo"]) == (0, N_TRACKS + 1)
    assert tree(library / "out") == before


@pytest.mark.usefixtures("first_run")
def test_the_flow_fails_with_our_error_for_other_settings_although_its_webhook_is_none(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITFIRE_WEBHOOK_URL", "gopher://nowhere")
    state = separate(library, output=OutputConfig(depth="24"))
    assert state.is_failed()
    assert isinstance(state.result(raise_on_failure=False), ConfigError)


@pytest.mark.slow
@pytest.mark.usefixtures("first_run")
def test_replace_writes_over_the_stems(library: Path, tmp_path: Path) -> None:
    copy = tmp_path / "library"
    shutil.copytree(library, copy)
    state = separate(copy, source=str(library / "source"), output=OutputConfig(depth="24"), replace=True)
    stems = list((copy / "out").rglob("*.wav"))
    assert report_of(state).n_done == N_TRACKS
    assert len(stems) == 2 * N_TRACKS
    assert {soundfile.info(stem).subtype for stem in stems} == {"PCM_24"}


@pytest.mark.slow
def test_failed_tracks_run_again_through_the_flow_and_no_name_reaches_a_page_unescaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b[2J[red]<img src=x>|`\n=1+1.wav"
    source, out = write_tracks(tmp_path / "sou<b>rce", 1), tmp_path / "o`<b>ut"
    repaired = write_bad_track(source)
    (source / hostile).write_bytes(b"no audio")
    job = Job(str(source), str(out), QUICK)
    run_here(job)
    write_tracks(source, 1)  # as it was
    shutil.copy(source / "tone 00.wav", repaired)
    stems = {path: data for path, data in tree(out).items() if path.endswith(".wav")}

    code, text, err = run_main(monkeypatch, capsys, "retry", out, "--workers", "1", "--code", "NOT_AUDIO")
    assert code == 3, err
    assert text.splitlines()[0] == "1 done, 1 failed"
    assert all(line.isprintable() for line in [*text.splitlines(), *err.splitlines()])
    after = {path: data for path, data in tree(out).items() if path.endswith(".wav")}
    assert {path: after[path] for path in stems} == stems
    assert len(after) == len(stems) + 2

    with get_client(sync_client=True) as client:
        (flow_run,) = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_=str(source))), limit=2
        )
        found = artifacts(client, flow_run.id)
    assert flow_run.parameters["retry"] == ["NOT_AUDIO"]
    page = found["summary"].replace("\\`", "")
    around_code = re.sub(r"`[^`\n]*`", "", page)  # what is in code spans is shown as it is
    assert not set("<>`\x1b") & set(around_code), around_code
    (failure,) = json.loads(found["failures"])
    assert failure["path"] == hostile.replace("\x1b", "\\x1b").replace("\n", "\\n")
    assert all(value.isprintable() for value in failure.values())
    run_here(job)
    assert run_main(monkeypatch, capsys, "failures", out, "--json", "--code", "EMPTY")[:2] == (0, "")


def run_here(job: Job) -> None:
    """A run in this process, without Prefect and Ray."""
    planned = story.make_plan(job, story.list_tracks(job))
    story.save_plan(planned)
    story.finalise(planned, story.separate(planned, here, lambda _: None))


def test_duplicates_of_what_is_done_need_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tracks(tmp_path / "source", 1, 0.2)
    run_here(Job(str(source), str(tmp_path / "out"), QUICK))
    shutil.copy(source / "tone 00.wav", source / "too.wav")
    monkeypatch.setitem(sys.modules, "cluster.on_ray", None)  # to import it is an error
    state = separate(tmp_path, catalogue=CatalogueConfig(dedupe=True))
    assert (state.name, report_of(state).n_duplicates) == ("Completed", 1)


@pytest.mark.slow
def test_a_run_with_too_many_failures_stops_says_so_and_can_be_gone_on_with(tmp_path: Path) -> None:
    source = write_tracks(tmp_path / "source", 30, 0.2)
    for number in range(12):
        (source / f"bad {number}.wav").write_bytes(b"this is no audio at all")
    runtime = RuntimeConfig(workers=1, open_tracks=1, max_failures="10%")
    state = separate(tmp_path, runtime=runtime)
    report = report_of(state)
    assert (state.type.value, state.name) == ("FAILED", "Stopped by max_failures")
    assert report.exit_code == 4
    assert report.stopped_by is not None
    assert "max_failures is 10% (4 tracks); most of them: NOT_AUDIO" in report.stopped_by
    assert report.stopped_by in str(state.message)
    assert report.n_failed > 4
    (kept,) = (tmp_path / "out").glob("_splitfire/runs/*/run.json")
    assert json.loads(kept.read_text())["stopped_by"] == report.stopped_by
    again = report_of(separate(tmp_path, runtime=TWO))
    assert again.n_done_before + again.n_done == 30
    assert again.n_unsettled == 0


def test_a_source_with_nothing_audible_fails_before_ray(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    state = separate(tmp_path)
    assert state.is_failed()
    assert isinstance(state.result(raise_on_failure=False), ConfigError)
    assert tree(tmp_path) == {}


def test_the_form_for_a_run_describes_every_field_and_offers_the_choices() -> None:
    schema = separate_catalogue.parameters.model_dump()
    assert schema["required"] == ["source", "destination"]
    assert all(found.get("description") for found in schema["properties"].values())
    for name in ("SeparationConfig", "OutputConfig", "CatalogueConfig", "RuntimeConfig"):
        fields = schema["definitions"][name]["properties"]
        assert all(found.get("description") for found in fields.values()), name
    output = schema["definitions"]["OutputConfig"]["properties"]
    assert output["format"]["enum"] == ["source", "wav", "flac", "aiff", "ogg", "opus", "mp3"]


def test_parameters_of_a_form_become_settings_and_unknown_keys_are_refused() -> None:
    given = {"source": "a", "destination": "b", "catalogue": {"limit": 2, "include": ["*.wav"]}}
    made = separate_catalogue.validate_parameters(given)
    assert made["catalogue"] == CatalogueConfig(limit=2, include=("*.wav",))
    with pytest.raises(Exception, match="limmit"):
        separate_catalogue.validate_parameters({**given, "catalogue": {"limmit": 2}})
