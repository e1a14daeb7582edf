"""Whole jobs from store to store through a proxy that fails them: right tables, or exit 75 and a next run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from splitfire_batch.manifest.parts import read_parts
from splitfire_batch.storage import open_store
from tests.crash_points import read_journal
from tests.fault_proxy import FaultProxy, Rule
from tests.forks import Forks, has_ended
from tests.in_process_job import JobOrder
from tests.s3_server import S3Server
from tests.small_library import Library
from tests.test_store_faults import NOT_A_LISTING
from tests.trials import SETTLED, Trial

SEED = 6
TEMPORARY = 75
ONE_IN_TEN = (
    Rule("status", chance=0.02, status=503, code="SlowDown"),
    Rule("status", "^PUT", chance=0.02, status=409, code="ConditionalRequestConflict"),
    Rule("reset", chance=0.02),
    Rule("lostack", chance=0.02),
    Rule("truncate", "^GET", chance=0.02),
    Rule("flip", NOT_A_LISTING, chance=0.02),
    Rule("flipsent", "^PUT", chance=0.01),
    Rule("latency", chance=0.02, seconds=0.3),
)
AWAY = Rule("reset")
EXPIRED = Rule("status", status=400, code="ExpiredToken")


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint, seed=SEED) as running:
        yield running


@pytest.fixture
def trial(forks: Forks, one_shot_library: Library, bucket: str, proxy: FaultProxy, tmp_path: Path) -> Trial:
    """A job whose source and destination are behind the proxy; the tests look past it."""
    source = open_store(f"{bucket}/library", {})
    for file in one_shot_library.folder.iterdir():
        source.write(file.name, file)
    order = JobOrder(
        source=source.url,
        destination=f"{bucket}/out",
        journal=str(tmp_path / "job.jsonl"),
        names="immutable",
        expire_s=3.0,
        environment={"AWS_ENDPOINT_URL": proxy.endpoint},
    )
    return Trial(forks, one_shot_library, order)


def start_and_wait_for_a_part(trial: Trial) -> int:
    """A run that has committed something and has more to do."""
    pid = trial.start()
    journal = Path(trial.order.journal)
    while not any(event.get("ended") and event["step"] == "part" for event in read_journal(journal)):
        assert not has_ended(pid, within_s=0.005), trial.told()
    return pid


def run_under_faults(trial: Trial, proxy: FaultProxy, n_runs: int) -> int:
    """Run the job until it is done, at most so often; then once more without faults. The number of faults."""
    proxy.set_rules(*ONE_IN_TEN)
    for _ in range(n_runs):
        pid = trial.start()
        code = trial.forks.wait(pid)
        assert code in (*SETTLED, TEMPORARY), trial.told()
        trial.look(pid)
        if code in SETTLED:
            break
    proxy.set_rules()
    trial.resume()
    trial.idle()
    return sum(proxy.faults().values())


@pytest.mark.slow
def test_a_job_over_a_store_that_fails_one_request_in_ten_ends_right(trial: Trial, proxy: FaultProxy) -> None:
    assert run_under_faults(trial, proxy, n_runs=3) >= 5


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_many_jobs_over_failing_stores_end_right(
    trial: Trial, proxy: FaultProxy, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    n_faults = n_jobs = 0
    while n_faults < 1000:
        trial.order = replace(trial.order, destination=f"{bucket}/out{n_jobs}")
        trial.before = set()
        proxy.log.clear()
        n_faults += run_under_faults(trial, proxy, n_runs=5)
        n_jobs += 1
    with capsys.disabled():
        print(f"\nfaulty store: {n_jobs} jobs, {n_faults} faults, {trial.counts}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("away_s", [5.0, pytest.param(120.0, marks=pytest.mark.chaos)])
def test_a_store_that_is_away_is_waited_for_or_ends_the_run_to_be_resumed(
    away_s: float, trial: Trial, proxy: FaultProxy
) -> None:
    pid = start_and_wait_for_a_part(trial)
    proxy.set_rules(AWAY)
    time.sleep(away_s)
    proxy.set_rules()
    code = trial.forks.wait(pid, timeout_s=300)
    print(f"exit code after {away_s:g} s: {code}")
    assert code in (*SETTLED, TEMPORARY), trial.told()
    codes = read_parts(open_store(trial.order.destination, {}), columns=["code"])["code"].to_pylist()
    assert set(codes) <= {None, "NOT_AUDIO"}, codes  # an outage that is waited for costs no track
    assert code == TEMPORARY or len(codes) == len(trial.library.wanted)
    trial.look(pid)
    trial.resume()
    trial.idle()


@pytest.mark.slow
def test_credentials_that_expire_end_the_run_soon_and_in_clear_words(trial: Trial, proxy: FaultProxy) -> None:
    pid = start_and_wait_for_a_part(trial)
    proxy.set_rules(EXPIRED)
    begin = time.monotonic()
    code = trial.forks.wait(pid)
    waited_s = time.monotonic() - begin
    assert code not in SETTLED, trial.told()
    (said,) = [line for line in trial.told().splitlines() if line.startswith("splitfire: ")]
    assert "ExpiredToken" in said or "refuses" in said
    assert waited_s < 30, trial.told()
    proxy.set_rules()
    trial.look(pid)
    trial.resume()
    trial.idle()
