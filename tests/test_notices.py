"""What is told of a run's end, to whom, and in what words; sending is `test_webhook`'s."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

from flows.notices import COMPLETED_WITH_FAILURES, STOPPED, STOPPED_BY_FAILURES, event_of, message_of
from tests.test_summary import REPORT

RUN = FlowRun(
    id=UUID(int=7),
    flow_id=UUID(int=1),
    name="masters 20260101",
    parameters={"source": "s3://music/<!channel>", "destination": "s3://stems/a&b"},
)


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (Crashed(), "run.crashed"),
        (Failed(), "run.failed"),
        (Failed(name=STOPPED), "run.stopped"),
        (Failed(name=STOPPED_BY_FAILURES), "run.stopped"),
        (Completed(name=COMPLETED_WITH_FAILURES), "run.completed_with_failures"),
        (Completed(), None),
        (Cancelled(), None),
        (Running(), None),
    ],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_what_needs_somebody_is_told_and_nothing_else(state: State[Any], wanted: str | None) -> None:
    assert event_of(state) == wanted


def test_the_text_says_what_happened_where_and_nothing_in_it_is_a_mention_or_a_link() -> None:
    state = Failed(message="LeaseHeld: another run works on <s3://stems>;\ntry again & wait")
    message = message_of("run.failed", RUN, state)
    assert message["text"].splitlines() == [
        "splitfire: Failed: s3://music/&lt;!channel&gt; to s3://stems/a&amp;b",
        "LeaseHeld: another run works on &lt;s3://stems&gt;;",
        "try again &amp; wait",
    ]


def test_programs_get_numbers_and_names_unchanged_but_no_texts_of_tracks() -> None:
    done = replace(REPORT, n_done=4, n_failed=2, failures_by_code={"NOT_AUDIO": 1, "EMPTY": 1})
    state = Completed(name=COMPLETED_WITH_FAILURES, message="8 done, 2 failed", data=done)
    message = message_of("run.completed_with_failures", RUN, state)
    data = message["data"]
    assert (message["type"], data["source"]) == ("run.completed_with_failures", "s3://music/<!channel>")
    assert (data["flow_run_id"], data["flow_run_name"]) == (str(RUN.id), RUN.name)
    assert data["report"]["failures_by_code"] == {"NOT_AUDIO": 1, "EMPTY": 1}
    assert data["report"]["exit_code"] == 3
    assert "failures" not in data["report"]
    assert "1 EMPTY, 1 NOT_AUDIO; see: splitfire failures 's3://stems/a&amp;b'" in message["text"]


def test_secrets_in_an_error_and_endless_errors_stay_here() -> None:
    url = "https://bucket.example/x?X-Amz-Signature=0123456789abcdef&more"
    message = message_of("run.failed", RUN, Failed(message=f"cannot read {url} " + "x" * 5000))
    assert "0123456789abcdef" not in str(message)
    assert len(message["data"]["message"]) == 1000


def test_a_state_from_another_process_has_no_report() -> None:
    assert message_of("run.crashed", RUN, Crashed(message="killed"))["data"]["report"] is None
