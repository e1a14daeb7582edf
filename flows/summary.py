"""A run's report in words: for a terminal, and as markdown for Prefect's page."""

from __future__ import annotations

from splitfire_batch.bottleneck import bottleneck
from splitfire_batch.errors import FAILURE_CODES
from splitfire_batch.escapes import markdown, one_line, shell_word
from splitfire_batch.figures import aligned, compared_figures, duration, stage_figures
from splitfire_batch.report import Report


def summary_lines(report: Report) -> list[str]:
    """What an operator wants to know, most important first."""
    skipped = f", {report.n_skipped} skipped" if report.n_skipped else ""
    lines = [
        f"{report.n_done} done{skipped}, {report.n_failed} failed"
        + (f", {report.n_unsettled} left (run the same command again)" if report.n_unsettled else "")
        if report.n_planned
        else f"nothing to do: {report.n_done_before} of {report.n_listed} tracks are done",
    ]
    if report.n_duplicates:
        lines.append(f"{report.n_duplicates} of them have the stems of another track with the same audio")
    if report.n_unchanged:
        lines.append(f"{report.n_unchanged} were uploaded or touched again, with the bytes they had")
    if report.n_planned and report.n_done_before:
        lines.append(f"{report.n_done_before} were done before")
    if report.n_unseen:
        lines.append(f"{report.n_unseen} of these are missing or refused at the source now; their stems stay")
    if report.n_taken_back:
        lines.append(f"{report.n_taken_back} others lost stems, removed or written over: run them again")
    if report.n_skipped_before:
        lines.append(f"{report.n_skipped_before} were skipped before, as the settings wish")
    if report.n_failed_before:
        again = f"not tried again, unless by: splitfire retry {shell_word(report.destination)}"
        lines.append(f"{report.n_failed_before} failed before and are unchanged; {again}")
    if report.ignored:
        lines.append("ignored: " + ", ".join(f"{n} {reason}" for reason, n in sorted(report.ignored.items())))
    if report.n_done or report.n_skipped:
        lines.append(
            f"{duration(report.audio_s)} of audio in {duration(report.wall_s)} "
            f"({report.audio_s / report.wall_s:.1f} x real time), "
            f"{report.n_bytes_out / 2**20:,.1f} MiB of stems"
        )
        lines.append(bottleneck(report.device, report.worker_s))
    return lines


def figure_lines(report: Report) -> list[str]:
    """What the run was expected to take and what it took, and where the seconds went; empty without work."""
    compared = compared_figures(report)
    if not compared:
        return []
    return [*aligned([("", "planned", "actual"), *compared]), f"seconds: {stage_figures(report)}"]


def failure_lines(report: Report) -> list[str]:
    """Failures by code, one line per failed track up to a hundred, and where the others are told."""
    lines = [f"  {failure.code}  {one_line(failure.message)}" for failure in report.failures]
    hidden = report.n_failed - len(report.failures)
    codes = ", ".join(f"{n} {code}" for code, n in sorted(report.failures_by_code.items()))
    return [
        *([f"failed: {codes}; see: splitfire failures {shell_word(report.destination)}"] if codes else []),
        *lines,
        *([f"  ... and {hidden} more"] if hidden > 0 else []),
    ]


def summary_markdown(report: Report) -> str:
    """The report as a page: counts, failures by code, where things are and what to do."""
    codes = "".join(
        f"| {code} | {n} | {FAILURE_CODES[code].meaning if code in FAILURE_CODES else ''} |\n"
        for code, n in sorted(report.failures_by_code.items())
    )
    compared = "".join(f"| {' | '.join(row)} |\n" for row in compared_figures(report))
    figures = ["", "| | planned | actual |", "|---|---|---|", compared]
    head = ["", "| failure | tracks | meaning |", "|---|---|---|", codes]
    hint = f"- which ones: `{_code(f'splitfire failures {shell_word(report.destination)}')}`"
    return "\n".join(
        [
            f"# {markdown(report.source)} → {markdown(report.destination)}",
            "",
            *(f"- {markdown(line)}" for line in summary_lines(report)),
            f"- model `{_code(report.model)}`, settings `{report.settings_id}`, run `{report.run_id}`",
            f"- manifest `{_code(report.destination)}/_splitfire/views/tracks.parquet`",
            *(figures if compared else []),
            *([hint, *head] if codes else []),
        ]
    )


def _code(text: str) -> str:
    """A text that stays in its code span."""
    return one_line(text).replace("`", "'")
