"""Whole jobs over a real S3 server that damages, denies and disappears: every track ends done, once."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from splitfire_batch import workbench, worker
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.errors import TransientError
from splitfire_batch.job import Job
from splitfire_batch.storage import open_store
from tests.fault_proxy import FaultProxy, Rule
from tests.s3_server import S3Server
from tests.test_job import run, tone

N_TRACKS = 4
ROUGH = (
    Rule("status", chance=0.1, status=503, code="SlowDown"),
    Rule("reset", chance=0.08),
    Rule("lostack", chance=0.1),
    Rule("status", "^PUT", chance=0.05, status=500, code="InternalError", is_done=True),
    Rule("truncate", chance=0.1),
    Rule("flipsent", "^PUT", chance=0.1),
)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint, seed=3) as running:
        yield running


@pytest.fixture
def job(bucket: str, proxy: FaultProxy, tmp_path: Path) -> Job:
    """Some tones in a bucket, to be separated into it through the proxy."""
    source = open_store(f"{bucket}/in", {})
    for n in range(N_TRACKS):
        source.write(f"tone {n}.wav", tone(tmp_path / "x.wav", 110 * (n + 1)))
    options = {"s3://": {"endpoint_url": proxy.endpoint}}
    runtime = RuntimeConfig(open_tracks=2, storage=options)
    return Job(f"{bucket}/in", f"{bucket}/out", SeparationConfig(model="passthrough"), runtime=runtime)


def check_whole(job: Job) -> None:
    """One done row for each track, and under each stem's name the bytes that its row says; nothing else."""
    store = open_store(job.destination, {})
    rows = pq.read_table(io.BytesIO(store.read("_splitfire/views/tracks.parquet"))).to_pylist()
    assert sorted(row["path"] for row in rows) == [f"tone {n}.wav" for n in range(N_TRACKS)]
    assert {row["status"] for row in rows} == {"done"}
    stems = {stem["path"]: stem["sha256"] for row in rows for stem in row["stems"]}
    found = {each.path for each in store.list() if not each.path.startswith("_splitfire/")}
    assert {path: hashlib.sha256(store.read(path)).hexdigest() for path in found} == stems


@pytest.mark.slow
def test_a_job_over_a_rough_network_loses_nothing(job: Job, proxy: FaultProxy) -> None:
    proxy.set_rules(*ROUGH)

    report = run(job)

    proxy.set_rules()
    assert report.n_done == N_TRACKS
    assert len(proxy.log) >= 15
    check_whole(job)


@pytest.mark.slow
def test_a_job_waits_for_a_store_that_is_away(job: Job, proxy: FaultProxy) -> None:
    def go_away() -> None:
        while not any(request.startswith("PUT") and "/out/" in request for request in proxy.requests):
            time.sleep(0.01)
        proxy.set_rules(Rule("reset"))
        time.sleep(8)  # five tries take less
        proxy.set_rules()

    absence = threading.Thread(target=go_away)
    absence.start()
    report = run(job)
    absence.join()

    assert report.n_done == N_TRACKS
    assert proxy.faults()["reset"] > 0
    check_whole(job)


@pytest.mark.slow
def test_a_job_whose_store_stays_away_ends_and_resumes(
    job: Job, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench, "OUTAGE_S", 0.5)
    monkeypatch.setattr(worker, "COMMIT_PAUSES_S", (0.1,))
    proxy.set_rules(Rule("status", "^PUT .*/out/_splitfire/parts/", status=503))  # away when a part is due

    with pytest.raises(TransientError, match="is the store up"):
        run(job)

    proxy.set_rules()
    assert run(job).n_done == N_TRACKS
    assert run(job).n_planned == 0
    check_whole(job)
