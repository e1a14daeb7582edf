"""What `splitfire models list` and `show` say of a model, as lines for people and as records for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from splitfire_batch.escapes import one_line, shell_word
from splitfire_batch.models import ENSEMBLE, ModelCard, find_card, weights_id, with_members
from splitfire_batch.models.strides import OVERLAPS
from splitfire_batch.models.weights import is_cached

EXTRAS = {"htdemucs": "demucs", "bs_roformer": "roformer", "mel_band_roformer": "roformer"}
"""By architecture: the extra of this package whose networks it needs."""

_COLUMNS = ("name", "architecture", "stems", "code", "weights", "commercial", "cached")
_WIDTH = 18
_INDENT = " " * (_WIDTH + 1)


def list_record(card: ModelCard) -> dict[str, Any]:
    """A row of the list."""
    return {
        "name": card.name,
        "architecture": card.architecture,
        "stems": list(card.stems),
        "sample_rate": card.sample_rate,
        "license": card.weights_license,
        "code_license": card.code_license,
        "weights_license": card.weights_license,
        "is_commercial_ok": is_commercial(card),
        "weights": weights_state(card),
    }


def list_lines(cards: Sequence[ModelCard]) -> Iterator[str]:
    """The list as a table."""
    rows = [_COLUMNS]
    for card in cards:
        record = list_record(card)
        rows.append(
            (
                *(card.name, card.architecture, ", ".join(card.stems), card.code_license),
                *(card.weights_license, "yes" if record["is_commercial_ok"] else "no", record["weights"]),
            )
        )
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def is_commercial(card: ModelCard) -> bool:
    """Whether a model and all its members are cleared."""
    return all(part.is_commercial_ok for part in with_members(card))


def weights_state(card: ModelCard) -> str:
    """Where a model's weights are, in a word or two."""
    parts = [part for part in with_members(card) if part.files]
    if not parts:
        return "none needed"
    if any(part.open_files for part in parts):
        return "bring your own"
    return "yes" if all(is_cached(part) for part in parts) else "no"


def pull_command(name: str, registry: str | None = None) -> str:
    """What fetches a model's weights; `registry` is the one that was named on the command line."""
    return f"splitfire models pull {name}" + (f" --registry {shell_word(registry)}" if registry else "")


def condition_line(record: Mapping[str, str]) -> str:
    """How a cached file is, and what to do about it."""
    how, path = record["condition"], record["path"]
    text = how if how == "whole" or not path else f"damaged, {how}"
    remedy = f"; to get it: {record['remedy']}" if record["remedy"] else ""
    return one_line(f"{record['model']}: {text}{remedy}  {path}".rstrip())


def show_record(card: ModelCard) -> dict[str, Any]:
    """All that is known of a model; of a bag also its members' records."""
    return {
        **asdict(card),
        "is_commercial_ok": is_commercial(card),
        "weights_id": weights_id(card),
        "weights": weights_state(card),
        "extra": _extra(card),
        "parts": [show_record(part) for part in _members(card)],
    }


def show_lines(card: ModelCard, registry: str | None = None) -> Iterator[str]:
    """All that is known of a model, a fact a line; `registry` as in `pull_command`."""
    kind = card.architecture + (f", of {len(card.members)} models" if card.members else "")
    extra = _extra(card)
    facts = {
        "model": card.name,
        "architecture": kind,
        "needs": f"pip install 'splitfire-batch[{extra}]'" if extra else "",
        "stems": ", ".join(card.stems),
        "sample rate": f"{card.sample_rate} Hz, {card.n_channels} channels",
        "segment": _segment(card),
        "planned speed": _speed(card),
        "code licence": f"{card.code_license}  {card.code_url}".rstrip(),
        "weights licence": f"{card.weights_license}  {card.license_url}".rstrip(),
        "": card.license_note,
        "commercial use": _commercial_use(card),
        "training data": card.training_data or "not stated",
        "citation": card.citation or "none",
        "weights": _WEIGHTS[weights_state(card)].format(pull=pull_command(card.name, registry)),
    }
    for name, fact in facts.items():
        if fact:
            yield one_line(f"{name:{_WIDTH}} {fact}").rstrip()
    yield from _made_of(card)
    yield from _figures(card)


_WEIGHTS = {
    "yes": "in the cache",
    "no": "not in the cache; to get them: {pull}",
    "bring your own": "bring your own: a hash is not known here, so say it in a registry of yours",
    "none needed": "none needed",
}


def _extra(card: ModelCard) -> str:
    """Extras of this package that a model and its members need, as pip wants them."""
    found = {EXTRAS[part.architecture] for part in with_members(card) if part.architecture in EXTRAS}
    return ",".join(sorted(found))


def _segment(card: ModelCard) -> str:
    """A segment's length, as far as it is known before the weights are there, and its stride."""
    overlap = OVERLAPS.get(card.architecture)
    if card.architecture == ENSEMBLE:
        return "each member's own"
    if overlap is None:
        return f"{card.segment_s:.3f} s from one to the next"
    if not card.options and card.files:
        return f"as its config says; planned with {card.segment_s:.3f} s from one to the next"
    return f"{card.segment_s / (1 - overlap(card)):.3f} s, {card.segment_s:.3f} s from one to the next"


def _speed(card: ModelCard) -> str:
    """What shards are made by, and where that is from."""
    return f"{card.x_real_time:g} x real time, {card.x_real_time_from or 'assumed, not measured'}"


def _commercial_use(card: ModelCard) -> str:
    refused = [part.name for part in with_members(card) if not part.is_commercial_ok]
    if not refused:
        return "cleared"
    return "not cleared" if not card.is_commercial_ok else f"not cleared: {', '.join(refused)}"


def _members(card: ModelCard) -> list[ModelCard]:
    return [find_card(member.model) for member in card.members]


def _made_of(card: ModelCard) -> Iterator[str]:
    yield from _files(card)
    for member, part in zip(card.members, _members(card), strict=True):
        weights = ", ".join(f"{stem} {weight:g}" for stem, weight in member.weights.items()) or "all stems 1"
        yield one_line(f"{'member':{_WIDTH}} {member.model}: {weights}")
        yield from _made_of(part)


def _files(card: ModelCard) -> Iterator[str]:
    for file in card.files:
        size = "size not known" if file.n_bytes is None else f"{file.n_bytes:,} bytes"
        yield f"{'file':{_WIDTH}} {file.name}, {size}"
        yield f"{_INDENT}sha256 {file.sha256 or 'not known'}"
        for source in file.sources:
            yield f"{_INDENT}from {one_line(source)}"
    if card.provenance:
        yield f"{'hashes':{_WIDTH}} {one_line(card.provenance)}"


def _figures(card: ModelCard) -> Iterator[str]:
    if not card.published_sdr:
        yield f"{'published SDR':{_WIDTH}} none known"
    for sdr in card.published_sdr:
        source = f"; {sdr.source}" if sdr.source else ""
        yield f"{'published SDR':{_WIDTH}} {sdr.stem} {sdr.sdr_db:.2f} dB ({one_line(sdr.metric + source)})"
    if not card.parity:
        yield f"{'our parity':{_WIDTH}} not measured on these weights"
    for parity in card.parity:
        yield f"{'our parity':{_WIDTH}} {one_line(parity.result)}, against {one_line(parity.reference)}"
        yield f"{_INDENT}measured by {parity.command}"
