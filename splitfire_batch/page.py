"""A run's report as a page for browsers: one file that loads nothing and runs nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence

from splitfire_batch.bottleneck import bottleneck
from splitfire_batch.errors import FAILURE_CODES
from splitfire_batch.escapes import one_line
from splitfire_batch.figures import compared_figures, data_size, duration, stage_figures
from splitfire_batch.report import Report

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:left;"
    "border-bottom:1px solid #ccc}"
)


def report_page(report: Report) -> str:
    """HTML with the counts, forecast and actual figures, seconds by stage, and the failures that are kept."""
    title = f"splitfire: {report.source} to {report.destination}"
    compared = compared_figures(report) or [
        ("audio", "-", duration(report.audio_s)),
        ("stems", "-", data_size(report.n_bytes_out)),
        ("wall time", "-", duration(report.wall_s)),
    ]
    codes = [
        (code, str(n), FAILURE_CODES[code].meaning if code in FAILURE_CODES else "")
        for code, n in sorted(report.failures_by_code.items())
    ]
    failures = [(item.code, item.path, item.message) for item in report.failures]
    more = report.n_failed - len(failures)
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(_counts(report))}</p>",
        f"<p>model {_text(report.model)}, settings {report.settings_id}, run {report.run_id}</p>",
        _table(("", "forecast", "actual"), compared),
        f"<p>{_text(bottleneck(report.device, report.worker_s))}</p>",
        f"<p>All tracks together, waiting included: {_text(stage_figures(report))}.</p>",
        *([_table(("failure", "tracks", "meaning"), codes)] if codes else []),
        *([_table(("failure", "track", "why"), failures)] if failures else []),
        *([f"<p>{more:,} more are in failures.parquet.</p>"] if more > 0 else []),
    ]
    head = f'<meta charset="utf-8"><title>{_text(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _counts(report: Report) -> str:
    """Numbers of tracks, of this run and before."""
    numbers = {
        "listed": report.n_listed,
        "planned": report.n_planned,
        "done": report.n_done,
        "skipped": report.n_skipped,
        "failed": report.n_failed,
        "left": report.n_unsettled,
        "done before": report.n_done_before,
        "of these missing or refused now": report.n_unseen,
        "others that lost stems": report.n_taken_back,
        "skipped before": report.n_skipped_before,
        "failed before": report.n_failed_before,
    }
    return ", ".join(f"{n:,} {name}" for name, n in numbers.items() if n) or "nothing to do"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    names = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{names}</tr>{body}</table>"


def _text(text: str) -> str:
    return html.escape(one_line(text))
