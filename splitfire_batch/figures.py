"""Forecast and report as lines of labelled figures, for terminals and pages alike."""

from __future__ import annotations

from dataclasses import asdict

from splitfire_batch.forecast import Forecast
from splitfire_batch.report import Report

_KNOWN_BY = {
    "catalogue": "told by the catalogue",
    "header": "read from headers",
    "sample": "from headers of tracks like them",
    "size": "guessed from sizes",
}


def forecast_figures(forecast: Forecast) -> list[tuple[str, str]]:
    """What a plan will take, each figure with its name."""
    margin = f", give or take {duration(forecast.audio_error_s)}" if forecast.audio_error_s >= 0.05 else ""
    known = [f"{n:,} {_KNOWN_BY[name]}" for name, n in forecast.durations.items() if n]
    workers = f"{forecast.n_workers} worker{'s' if forecast.n_workers > 1 else ''}"
    found = [
        ("audio", f"{duration(forecast.audio_s)}{margin}"),
        ("durations", ", ".join(known)),
        ("bytes in", data_size(forecast.n_bytes_in)),
        ("stems", f"about {data_size(forecast.n_bytes_out)}"),
        ("device time", f"{duration(forecast.device_s)}{_speed(forecast.audio_s, forecast.device_s)}"),
        ("speed", forecast.throughput),
        ("wall time", f"{duration(forecast.wall_s)} with {workers}"),
        ("scratch space", f"at most {data_size(forecast.scratch_bytes)}"),
    ]
    if forecast.cost is not None:
        each = f", {forecast.cost_per_1000_tracks:,.2f} per 1,000 tracks" if forecast.n_tracks else ""
        held = f"{forecast.held_s / 3600:,.2f} device hours at {forecast.gpu_hourly:g}"
        found.append(("cost", f"{forecast.cost:,.2f}{each} ({held})"))
    return found


def compared_figures(report: Report) -> list[tuple[str, str, str]]:
    """What a run was expected to take and what it took, each with its name; empty without a forecast."""
    before, after = report.forecast, report
    if before is None:
        return []
    found = [
        ("tracks", f"{before.n_tracks:,}", f"{after.n_done - after.n_duplicates:,}"),
        ("audio", duration(before.audio_s), duration(after.audio_s)),
        ("stems", data_size(before.n_bytes_out), data_size(after.n_bytes_out)),
        ("device time", duration(before.device_s), duration(after.device_s)),
        ("wall time", duration(before.wall_s), duration(after.wall_s)),
        ("workers", f"{before.n_workers:,}", f"{after.usage.n_workers:,}"),
        ("device hours held", f"{before.held_s / 3600:,.2f}", f"{after.usage.held_s / 3600:,.2f}"),
    ]
    if before.cost is not None and after.cost is not None:
        found.append(("cost", f"{before.cost:,.2f}", f"{after.cost:,.2f}"))
        each = _price(before.cost_per_1000_tracks), _price(after.cost_per_1000_tracks)
        found.append(("cost per 1,000 tracks", *each))
    return found


def stage_figures(report: Report) -> str:
    """Seconds of all tracks by stage, those that took most first."""
    seconds = sorted(asdict(report.seconds).items(), key=lambda item: -item[1])
    return ", ".join(f"{name.replace('_', ' for ')} {value:,.1f} s" for name, value in seconds)


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines with columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return lines


def duration(seconds: float) -> str:
    """Seconds for people: `3 h 05 min`, `12 min 03 s`, `4.2 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def data_size(n_bytes: float) -> str:
    """Bytes for people: `91.7 MiB`."""
    size, units = float(n_bytes), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:,.0f} bytes" if units[0] == "bytes" else f"{size:,.1f} {units[0]}"


def _price(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _speed(audio_s: float, device_s: float) -> str:
    return f" ({audio_s / device_s:.1f} x real time)" if device_s else ""
