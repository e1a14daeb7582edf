"""Manifest columns from what a source carries: a title, a code, tempo, key and loop, and who says so.

A tag was set by somebody on purpose and wins over what an editor left in a chunk, and that over a name.
"""

from __future__ import annotations

import re
from typing import TypeVar

from splitfire_batch.metadata.keys import parse_key
from splitfire_batch.metadata.names import read_name
from splitfire_batch.metadata.sampler import as_bpm, sampler_facts
from splitfire_batch.metadata.source import SourceMetadata
from splitfire_batch.metadata.tags import Tags, first, parse_isrc
from splitfire_batch.observations import Description

Value = TypeVar("Value", float, str)

_BPM_TAGS, _KEY_TAGS = ("BPM", "TBPM", "TEMPO", "IBPM"), ("INITIALKEY", "KEY", "TKEY", "INITIAL KEY")
_ISRC_IN_XML = re.compile(rb"ISRC:\s*([A-Z]{2}-?[A-Z0-9]{3}-?[0-9]{2}-?[0-9]{5})\b")


def describe(metadata: SourceMetadata, path: str, n_frames: int) -> Description:
    """What a track's chunks, tags and name say of it; None where none of them does for certain.

    Args:
        metadata: of the file.
        path: of the track; its last part may hold tempo and key.
        n_frames: of the file, which loop points must lie in.
    """
    tags, name = metadata.tags, read_name(path)
    facts = sampler_facts(metadata.chunks, n_frames)
    chunk = "acid" if any(chunk.name == b"acid" for chunk in metadata.chunks) else "basc"
    bpm, bpm_source = _chosen(("tag", _tag_bpm(tags)), (chunk, facts.bpm), ("filename", name.bpm))
    key, key_source = _chosen(
        ("tag", parse_key(first(tags, *_KEY_TAGS))), (chunk, facts.key), ("filename", name.key)
    )
    return Description(
        title=first(tags, "TITLE"),
        artist=first(tags, "ARTIST"),
        album=first(tags, "ALBUM"),
        isrc=_isrc(metadata),
        bpm=bpm,
        bpm_source=bpm_source,
        key=key,
        key_source=key_source,
        sample_type=facts.sample_type or name.sample_type,
        beats=facts.beats,
        root_note=facts.root_note,
        loop_start=facts.loop_start,
        loop_end=facts.loop_end,
    )


def _chosen(*sayings: tuple[str, Value | None]) -> tuple[Value | None, str | None]:
    """The first value that there is, and who says so."""
    return next(((value, source) for source, value in sayings if value is not None), (None, None))


def _tag_bpm(tags: Tags) -> float | None:
    text = first(tags, *_BPM_TAGS) or ""
    return as_bpm(float(text.replace(",", "."))) if re.fullmatch(r"\s*\d{1,4}([.,]\d*)?\s*", text) else None


def _isrc(metadata: SourceMetadata) -> str | None:
    """From a tag, or from `axml`, where broadcasters keep it (EBU R 140, EBU Tech 3352)."""
    codes = [parse_isrc(value) for name, value in metadata.tags if name == "ISRC"]
    for chunk in metadata.chunks:
        if chunk.name == b"axml" and (match := _ISRC_IN_XML.search(chunk.data)):
            codes.append(parse_isrc(match[1].decode()))
    return next((code for code in codes if code), None)
