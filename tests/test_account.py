"""What the driver keeps of a run's events: limits to failures, suspicions that outlive it, its own rows."""

from __future__ import annotations

import json
import secrets

import pytest

from splitfire_batch.account import Account
from splitfire_batch.config import RuntimeConfig, configure
from splitfire_batch.errors import AccessDenied, ConfigError
from splitfire_batch.failure_limit import allowed_failures
from splitfire_batch.manifest.ledger import read_parts
from splitfire_batch.manifest.schema import RunContext
from splitfire_batch.records import (
    Committed,
    DeviceSeconds,
    Outcome,
    Quarantined,
    Shard,
    ShardDone,
    StageSeconds,
    Status,
    Suspected,
    Track,
)
from splitfire_batch.report import Tally
from splitfire_batch.storage import Store, open_store


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://account-{secrets.token_hex(8)}", {})


def context(run_id: str = "run1", settings_id: str = "settings") -> RunContext:
    return RunContext(run_id, settings_id, "catalogue", "passthrough", "weights", "fp32")


def account(store: Store, run_id: str = "run1", max_failures: str | None = None) -> Account:
    """That of a run with ten tracks."""
    return Account(store, context(run_id), Tally(10, 0.0), max_failures)


def track(name: str, attempts: int = 0) -> Track:
    return Track(name, f"source of {name}", f"mem://{name}", name, 1, "", "{stem}.{ext}", attempts=attempts)


def settled(*names: str, status: Status = "done", code: str | None = None) -> Committed:
    return Committed("s", tuple(Outcome(name, name, status, code, code, 1.0, 1) for name in names))


def marked(account: Account, *names: str) -> dict[str, int]:
    """Attempts that a plan's tracks are sent with."""
    (shard,) = account.suspicions.mark([Shard("s", tuple(track(name) for name in names))])
    return {track.track_id: track.attempts for track in shard.tracks}


def test_a_run_that_was_killed_leaves_its_suspicions_to_the_next(store: Store) -> None:
    account(store).take(Suspected((track("a", 1), track("b", 1)), "killed"))
    assert marked(account(store, "run2"), "a", "b", "c") == {"a": 1, "b": 1, "c": 0}


def test_a_suspect_that_is_settled_is_none_any_more(store: Store) -> None:
    first = account(store)
    first.take(Suspected((track("a", 1), track("b", 1)), "killed"))
    first.take(settled("a", "other"))
    assert marked(account(store, "run2"), "a", "b") == {"a": 0, "b": 1}


def suspects(store: Store) -> dict[str, dict[str, int]]:
    """What is written down, by run."""
    listed = [found.path for found in store.list_under("_splitfire/runs") if "suspects" in found.path]
    return {path.split("/")[2]: json.loads(store.read(path))["attempts"] for path in listed}


def test_what_an_earlier_run_charged_ends_with_the_row_of_a_later_one(store: Store) -> None:
    account(store).take(Suspected((track("a", 1), track("b", 1)), "killed"))
    second = account(store, "run2")
    assert marked(second, "a", "c") == {"a": 1, "c": 0}
    second.take(Suspected((track("a", 2),), "killed"))
    second.take(settled("a", "c"))
    assert suspects(store) == {"run1": {"source of b": 1}}
    third = account(store, "run3")
    assert marked(third, "a", "b") == {"a": 0, "b": 1}
    third.take(settled("b"))
    assert suspects(store) == {}


def test_a_run_that_may_not_delete_leaves_a_file_that_charges_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise AccessDenied(path, "no right to delete")

    monkeypatch.setattr(store, "delete", refuse)
    first = account(store)
    first.take(Suspected((track("a", 1),), "killed"))
    first.take(settled("a"))
    assert suspects(store) == {"run1": {}}
    first.take(Suspected((track("b", 1),), "killed"))
    assert suspects(store) == {"run1": {"source of b": 1}}


def test_the_most_that_any_run_charged_counts(store: Store) -> None:
    account(store, "run1").take(Suspected((track("a", 3),), "killed"))
    account(store, "run2").take(Suspected((track("a", 1),), "killed"))
    assert marked(account(store, "run3"), "a") == {"a": 3}


def test_suspicions_of_other_settings_do_not_count(store: Store) -> None:
    other = Account(store, context(settings_id="other"), Tally(1, 0.0), None)
    other.take(Suspected((track("a", 1),), "killed"))
    assert marked(account(store, "run2"), "a") == {"a": 0}


def test_shards_without_suspects_are_passed_on_as_they_are(store: Store) -> None:
    shard = Shard("s", (track("a"),))
    assert [found is shard for found in account(store).suspicions.mark([shard])] == [True]


def test_a_track_that_is_given_up_gets_its_row_from_the_driver_and_is_no_suspect(
    store: Store,
) -> None:
    driver = account(store)
    driver.take(Suspected((track("a", 1),), "killed"))
    driver.take(Quarantined(track("a", 2), "hung twice", "WORKER_HUNG"))
    (row,) = read_parts(store).to_pylist()
    found = {name: row[name] for name in ("track_id", "status", "code", "message", "attempts")}
    assert found == {
        "track_id": "a",
        "status": "failed",
        "code": "WORKER_HUNG",
        "message": "a: hung twice",
        "attempts": 2,
    }
    assert driver.tally.codes == {"WORKER_HUNG": 1}
    assert suspects(store) == {}


@pytest.mark.parametrize(
    ("limit", "n_planned", "allowed"),
    [("0", 10, 0), ("7", 10, 7), ("5%", 1000, 50), ("5%", 39, 1), ("0%", 10, 0), ("0.1%", 10_000, 10)],
)
def test_a_limit_is_a_number_or_a_part_of_the_planned(limit: str, n_planned: int, allowed: int) -> None:
    assert allowed_failures(limit, n_planned) == allowed


@pytest.mark.parametrize("limit", ["many", "-1", "101%", "5 %", "%", "1.5", "", True])
def test_what_is_no_limit_is_refused_in_words_that_help(limit: object) -> None:
    with pytest.raises(ConfigError, match=r"max_failures: .*such as 20, or a part of them, such as 5%"):
        configure(RuntimeConfig, {"max_failures": limit})


@pytest.mark.parametrize("limit", [20, "20", "5%", "12.5%", "100%", None])
def test_numbers_and_percentages_are_limits(limit: object) -> None:
    assert configure(RuntimeConfig, {"max_failures": limit}).max_failures == (limit and str(limit))


def test_a_run_has_had_enough_with_the_first_failure_beyond_the_limit(store: Store) -> None:
    driver = account(store, max_failures="20%")
    driver.take(settled("a", "b", status="failed", code="NOT_AUDIO"))
    driver.take(settled("c"))
    assert driver.tally.stopped_by is None
    driver.take(settled("d", status="failed", code="EMPTY"))
    assert driver.tally.stopped_by is not None
    assert driver.tally.stopped_by.startswith(
        "3 of 10 tracks failed, max_failures is 20% (2 tracks); most of them: NOT_AUDIO 2, EMPTY 1"
    )


def test_a_shard_is_one_line_of_keys_and_values(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    told = account(store)
    with caplog.at_level("INFO", "splitfire_batch.account"):
        told.take(Committed("s1", (Outcome("t", "t.wav", "done", None, None, 30.0, 1),)))
        told.take(ShardDone("s1", 12.34, StageSeconds(fetch=1.0, device=8.0), DeviceSeconds(busy=8.0)))
    (line,) = caplog.messages
    event, *pairs = line.split()
    assert event == "shard_done"
    found = dict(pair.split("=") for pair in pairs)
    wanted = {"run": "run1", "shard": "s1", "wall_s": "12.3", "busy_s": "8.0", "fetch_s": "1.0"}
    assert wanted.items() <= found.items()
    assert (found["device_s"], found["run_settled"]) == ("8.0", "1")
