"""The commit protocol as a state machine: whatever runs do in whatever order, the manifest tells the truth.

Hypothesis lets runs begin, store stems, commit, commit twice (an answer was lost), die, wake up late, run at
the same time, and objects of the source change; ledger snapshots are written and a vacuum removes what no row
names. Stems of two attempts at one track differ, as those of a GPU may. After each step the library's reading
of the manifest is compared with a list of what was committed, resolved by the tests' own rules.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from fsspec import filesystem
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from splitfire_batch.config import OutputConfig, SeparationConfig
from splitfire_batch.identity import settings as job_settings
from splitfire_batch.lease import unheld
from splitfire_batch.manifest.holdings import choose_holding, record_holding
from splitfire_batch.manifest.ledger import current_rows, read_ledger, refresh_views, write_part
from splitfire_batch.manifest.schema import RunContext, to_table
from splitfire_batch.manifest.snapshots import write_snapshot
from splitfire_batch.records import AudioFormat, StemFile, Track, TrackRow
from splitfire_batch.runs import new_run_id
from splitfire_batch.storage import open_store
from splitfire_batch.vacuum import vacuum
from tests.invariants import resolve

TRACKS = ("a", "b", "c")
_STEMS = ("vocals", "accompaniment")
_numbers = count()


@dataclass
class SomeRun:
    """One run as the machine drives it; nothing says that it is alive, or alone."""

    run_id: str
    todo: dict[str, str]
    """By track, the source_id that was listed."""
    pending: list[TrackRow] = field(default_factory=list)
    last: list[TrackRow] = field(default_factory=list)
    """What was committed last."""


class Protocol(RuleBasedStateMachine):
    """Immutable names, no lease: the hard case."""

    def __init__(self) -> None:
        super().__init__()
        self.store = open_store(f"memory://protocol-{next(_numbers)}/out", {})
        self.versions = dict.fromkeys(TRACKS, 0)
        self.runs: list[SomeRun] = []
        self.committed: list[dict[str, Any]] = []
        self.clock = count(1_000_000)

    def teardown(self) -> None:
        """All memory stores are one: what is left there would make the next machines slower and slower."""
        memory, root = filesystem("memory"), self.store.url.removeprefix("memory://")
        if memory.exists(root):
            memory.rm(root, recursive=True)

    @initialize()
    def settings_are_recorded(self) -> None:
        values = job_settings(SeparationConfig(model="passthrough"), OutputConfig(), "w")
        holding = choose_holding(self.store, values, is_immutable=True, replace=False)
        record_holding(self.store, holding)
        self.settings_id = holding.settings_id

    @rule()
    def a_run_begins(self) -> None:
        """It plans what the ledger does not call done, whoever else is at work."""
        ledger = read_ledger(self.store, self.settings_id)
        settled = {*ledger.done.to_pylist(), *ledger.failed.to_pylist()}
        listed = {track: f"{track}{version}" for track, version in self.versions.items()}
        todo = {track: source for track, source in listed.items() if source not in settled}
        self.runs.append(SomeRun(new_run_id(after=ledger.newest_run), todo))

    @precondition(lambda self: any(run.todo for run in self.runs))
    @rule(
        data=st.data(), attempt=st.integers(0, 2), code=st.sampled_from([None, None, "EMPTY", "STORE_WRITE"])
    )
    def a_track_is_separated(self, data: st.DataObject, attempt: int, code: str | None) -> None:
        run = data.draw(st.sampled_from([run for run in self.runs if run.todo]))
        track = data.draw(st.sampled_from(sorted(run.todo)))
        stems = () if code else self._put_stems(run.todo[track], attempt)
        run.pending.append(self._row(track, run.todo[track], code, stems))

    @precondition(lambda self: any(run.pending for run in self.runs))
    @rule(data=st.data())
    def a_run_commits(self, data: st.DataObject) -> None:
        """However late it is: nobody can tell a frozen process from a dead one."""
        run = data.draw(st.sampled_from([run for run in self.runs if run.pending]))
        run.last, run.pending = run.pending, []
        self._commit(run)
        for row in run.last:
            run.todo.pop(row.track.track_id, None)

    @precondition(lambda self: any(run.last for run in self.runs))
    @rule(data=st.data())
    def a_commit_is_put_again(self, data: st.DataObject) -> None:
        """Its answer was lost, so the worker tries once more."""
        run = data.draw(st.sampled_from([run for run in self.runs if run.last]))
        write_part(self.store, to_table(run.last, self._context(run), "shard"))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def a_run_dies(self, data: st.DataObject) -> None:
        self.runs.remove(data.draw(st.sampled_from(self.runs)))

    @rule(track=st.sampled_from(TRACKS))
    def an_object_of_the_source_changes(self, track: str) -> None:
        self.versions[track] += 1

    @rule()
    def a_snapshot_is_written(self) -> None:
        write_snapshot(self.store, max_loose=0)

    @precondition(lambda self: self.committed)
    @rule()
    def a_vacuum_runs(self) -> None:
        """It holds the destination, so no run is alive; what those had put is garbage."""
        self.runs.clear()
        vacuum(self.store, unheld(), older_than_s=0.0, is_dry=False)
        stems = {found.path for found in self.store.list() if not found.path.startswith("_splitfire/")}
        assert stems == {stem["path"] for row in resolve(self.committed) for stem in row["stems"]}

    @rule()
    def a_run_does_everything(self) -> None:
        """One that nothing disturbs; after it nothing is left to do."""
        self.a_run_begins()
        run = self.runs.pop()
        for track, source in run.todo.items():
            run.last.append(self._row(track, source, None, self._put_stems(source, 0)))
        if run.last:
            self._commit(run)
        refresh_views(self.store, run.run_id)
        self.a_run_begins()
        assert self.runs.pop().todo == {}

    @invariant()
    def the_manifest_tells_what_was_committed_and_every_stem_is_what_its_row_says(self) -> None:
        names = ("track_id", "run_id", "source_id", "status", "code")
        rows = current_rows(self.store).to_pylist()
        wanted = resolve(self.committed)
        assert sorted(str([row[name] for name in names]) for row in rows) == sorted(
            str([row[name] for name in names]) for row in wanted
        )
        ledger = read_ledger(self.store, self.settings_id)
        done = {row["source_id"] for row in wanted if row["status"] == "done"}
        assert set(ledger.done.to_pylist()) == done
        assert ledger.newest_run == max((row["run_id"] for row in self.committed), default="")
        for row in rows:
            for stem in row["stems"]:
                assert hashlib.sha256(self.store.read(stem["path"])).hexdigest() == stem["sha256"]

    def _put_stems(self, source: str, attempt: int) -> tuple[StemFile, ...]:
        stems = []
        for name in _STEMS:
            data = f"{name} of {source}, attempt {attempt}".encode()
            digest = hashlib.sha256(data).hexdigest()
            path = f"passthrough/{source}_{name}-{digest[:16]}.wav"
            self.store.write(path, data)
            stems.append(StemFile(name, path, "WAV", "PCM_16", 44_100, 2, 9, len(data), digest, "md5"))
        return tuple(stems)

    def _row(self, track: str, source: str, code: str | None, stems: tuple[StemFile, ...]) -> TrackRow:
        at = float(next(self.clock))
        listed = Track(track, source, f"/in/{track}.wav", f"{track}.wav", 9, "e", f"{track}_{{stem}}.{{ext}}")
        status = "failed" if code else "done"
        found = AudioFormat("WAV", "PCM_16", 44_100, 2, 9)
        return TrackRow(listed, status, code, source=found, stems=stems, started_at=at, finished_at=at)

    def _commit(self, run: SomeRun) -> None:
        table = to_table(run.last, self._context(run), "shard")
        write_part(self.store, table)
        self.committed += table.to_pylist()

    def _context(self, run: SomeRun) -> RunContext:
        return RunContext(run.run_id, self.settings_id, "/in", "passthrough", "w", "fp32")


_ANY = {"deadline": None, "suppress_health_check": list(HealthCheck)}


class TestProtocol(Protocol.TestCase):  # type: ignore[name-defined,misc]
    """The same steps each time."""

    settings = settings(max_examples=8, stateful_step_count=20, derandomize=True, database=None, **_ANY)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
class TestProtocolAtLength(Protocol.TestCase):  # type: ignore[name-defined,misc]
    """Other steps each time."""

    settings = settings(max_examples=400, stateful_step_count=40, database=None, print_blob=True, **_ANY)
