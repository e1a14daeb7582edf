"""Records as JSON and back, each value checked against its annotation: what a child says may be forged."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from splitfire_batch.audio.decode import MAX_CHANNELS, MAX_RATE, MIN_RATE
from splitfire_batch.audio.insert import Insert
from splitfire_batch.children.wire import Message, WireError
from splitfire_batch.metadata.source import SourceMetadata
from splitfire_batch.metadata.tags import Cover
from splitfire_batch.records import AudioFormat

Record = TypeVar("Record")


def made(cls: type[Record], values: Any) -> Record:
    """A dataclass of plain values (numbers, strings, tuples of strings, None) from a JSON object.

    Raises:
        WireError: another field, or a value of another type.
    """
    hints = get_type_hints(cls)
    if not isinstance(values, dict) or values.keys() - hints.keys():
        raise WireError(f"found {values!r:.200}, wanted {cls.__name__}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in given.items():
        if not _is_a(value, hints[name]):
            raise WireError(f"found {name} = {value!r:.200}, wanted {hints[name]}")
    try:
        return cls(**given)
    except TypeError as error:
        raise WireError(f"found {values!r:.200}: {error}") from error


def audio_format(values: Any) -> AudioFormat:
    """A format that `open_audio` can have found.

    Raises:
        WireError: it cannot.
    """
    found = made(AudioFormat, values)
    has_rate = MIN_RATE <= found.sample_rate <= MAX_RATE
    if not has_rate or not 1 <= found.n_channels <= MAX_CHANNELS or found.n_frames < 0:
        raise WireError(f"found {found}")
    return found


def packed_inserts(inserts: Mapping[str, Sequence[Insert]]) -> tuple[list[list[Any]], bytes]:
    """Chunks by stem as a list (stem, name, length) and their data in a row."""
    flat = [(stem, insert) for stem, chunks in inserts.items() for insert in chunks]
    listed = [[stem, insert.name.decode("latin-1"), len(insert.data)] for stem, insert in flat]
    return listed, b"".join(insert.data for _, insert in flat)


def unpacked_inserts(listed: Any, data: bytes) -> dict[str, list[Insert]]:
    """Undo `packed_inserts`.

    Raises:
        WireError: the lengths are not those of the data.
    """
    found: dict[str, list[Insert]] = {}
    position = 0
    try:
        for stem, name, n_bytes in listed:
            chunk = data[position : position + n_bytes]
            found.setdefault(str(stem), []).append(Insert(name.encode("latin-1"), chunk))
            position += len(chunk)
            if len(chunk) != n_bytes:
                raise WireError(f"found {len(chunk)} bytes of a chunk, wanted {n_bytes}")
    except (TypeError, ValueError, AttributeError) as error:
        raise WireError(f"found a list of chunks that is none: {error}") from error
    if position != len(data):
        raise WireError(f"found {len(data)} bytes of chunks, wanted {position}")
    return found


def packed_metadata(found: SourceMetadata) -> tuple[dict[str, Any], bytes]:
    """Fields and body of a message."""
    cover = found.cover
    pictures = () if cover is None else (Insert(b"cover", cover.data),)
    mime = None if cover is None else cover.mime_type
    told = {"family": found.family, "warnings": found.warnings, "tags": found.tags, "mime_type": mime}
    texts = (Insert(b"told", json.dumps(told).encode()),)  # too long for a header, perhaps
    chunks, data = packed_inserts({"chunks": found.chunks, "cover": pictures, "told": texts})
    return {"chunks": chunks}, data


def unpacked_metadata(message: Message) -> SourceMetadata:
    """Undo `packed_metadata`.

    Raises:
        WireError: it is none.
    """
    inserts = unpacked_inserts(message.fields.get("chunks"), message.body.tobytes())
    try:
        told = json.loads(inserts["told"][0].data)
        tags, mime = told.pop("tags"), told.pop("mime_type")
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"found metadata that are none: {error}") from error
    is_pairs = isinstance(tags, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in tags
    )
    if not set(told) <= {"family", "warnings"} or not is_pairs:
        raise WireError("found metadata that are none")
    plain = made(SourceMetadata, told)
    pictures = inserts.get("cover", [])
    return SourceMetadata(
        family=plain.family,
        chunks=tuple(inserts.get("chunks", ())),
        tags=tuple((name, text) for name, text in tags),
        cover=Cover(mime, pictures[0].data) if isinstance(mime, str) and pictures else None,
        warnings=plain.warnings,
    )


def plain(record: Any) -> dict[str, Any]:
    """A dataclass as JSON can hold it."""
    return asdict(record) if fields(record) else {}


def _is_a(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_a(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))
