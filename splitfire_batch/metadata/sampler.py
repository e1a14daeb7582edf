"""What chunks tell a sampler: loop points, root note, tempo, beats.

Layouts as in `damage`; `acid` and `basc` (Apple Loops) were never published and are read as libsndfile
reads them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from splitfire_batch.audio import Insert
from splitfire_batch.metadata.damage import markers

NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
LEAST_BPM, GREATEST_BPM = 20.0, 400.0

_ONE_SHOT, _ROOT_IS_SET = 1, 2
_MINOR, _MAJOR = 1, 2
_MAX_BEATS = 2**15


@dataclass(frozen=True, slots=True)
class SamplerFacts:
    """None for what the chunks do not say; names as in `records.Description`."""

    bpm: float | None = None
    key: str | None = None
    sample_type: str | None = None
    beats: int | None = None
    root_note: int | None = None
    loop_start: int | None = None
    loop_end: int | None = None


def sampler_facts(chunks: Sequence[Insert], n_frames: int) -> SamplerFacts:
    """What sound chunks of WAV or AIFF say of a recording of so many frames."""
    by_name = {chunk.name: chunk.data for chunk in reversed(chunks)}
    start, end = _loop(by_name, n_frames)
    root = _root(by_name)
    if b"acid" in by_name:
        return _acid(by_name[b"acid"], root, start, end)
    if b"basc" in by_name:
        return _basc(by_name[b"basc"], root, start, end)
    return SamplerFacts(root_note=root, loop_start=start, loop_end=end)


def as_bpm(value: float) -> float | None:
    """A tempo, to the hundredth; None for what cannot be one, such as the 0 of empty fields."""
    return round(value, 2) if math.isfinite(value) and LEAST_BPM <= value <= GREATEST_BPM else None


def _loop(chunks: dict[bytes, bytes], n_frames: int) -> tuple[int | None, int | None]:
    """First and last frame of the first loop, if they lie in the recording."""
    found = None
    if b"smpl" in chunks and int.from_bytes(chunks[b"smpl"][28:32], "little"):
        found = struct.unpack_from("<II", chunks[b"smpl"], 44)
    elif b"INST" in chunks and b"MARK" in chunks:
        mode, first, last = struct.unpack_from(">HHH", chunks[b"INST"], 8)
        at = {number: position for number, position, _ in markers(chunks[b"MARK"]) or ()}
        if mode and first in at and last in at:
            found = at[first], at[last] - 1  # AIFF marks lie between two frames
    if found and 0 <= found[0] <= found[1] <= n_frames:  # some writers give the frame behind the last one
        return found
    return None, None


def _root(chunks: dict[bytes, bytes]) -> int | None:
    """The MIDI note at which the recording plays unchanged."""
    note = None
    if b"smpl" in chunks:
        note = int.from_bytes(chunks[b"smpl"][12:16], "little")
    elif b"inst" in chunks:
        note = chunks[b"inst"][0]
    elif b"INST" in chunks:
        note = chunks[b"INST"][0]
    return note if note is not None and note <= 127 else None


def _acid(data: bytes, root: int | None, start: int | None, end: int | None) -> SamplerFacts:
    flags, note, _, _, beats, _, _, tempo = struct.unpack_from("<IHHfIHHf", data)
    is_root = bool(flags & _ROOT_IS_SET) and note <= 127
    facts = SamplerFacts(root_note=note if is_root and root is None else root, loop_start=start, loop_end=end)
    if flags & _ONE_SHOT:
        return replace(facts, sample_type="one-shot")  # its tempo and beats are leftovers of a default
    if not 0 < beats < _MAX_BEATS:
        return facts
    key = NOTES[note % 12] if is_root else None
    return replace(facts, bpm=as_bpm(tempo), key=key, sample_type="loop", beats=beats)


def _basc(data: bytes, root: int | None, start: int | None, end: int | None) -> SamplerFacts:
    """Whether it is a loop stays open: of the flag for that, readers contradict each other."""
    _, beats, note, scale = struct.unpack_from(">IIHH", data)
    is_note = 0 < note <= 127
    key = (
        NOTES[note % 12] + ("m" if scale == _MINOR else "") if is_note and scale in (_MINOR, _MAJOR) else None
    )
    return SamplerFacts(
        key=key,
        beats=beats if 0 < beats < _MAX_BEATS else None,
        root_note=note if is_note and root is None else root,
        loop_start=start,
        loop_end=end,
    )
