"""What a stem's file is to hold before its samples: the source's chunks, or its tags in another form."""

from __future__ import annotations

from fractions import Fraction

from splitfire_batch.audio import VORBIS_COMMENT, Insert, OutputFormat, is_default
from splitfire_batch.metadata.positions import scaled
from splitfire_batch.metadata.source import TEXTS, SourceMetadata
from splitfire_batch.metadata.texts import make_texts, retitled, with_comment

_FAMILIES = {"WAV": "WAV", "WAVEX": "WAV", "RF64": "WAV", "AIFF": "AIFF", "FLAC": "FLAC"}
_ID3 = (b"id3 ", b"ID3 ")
_MASK = "WAVEFORMATEXTENSIBLE_CHANNEL_MASK"
_LOUDNESS = slice(412, 422)
"""Place in `bext` of five loudness values (EBU Tech 3285 v2)."""


def make_inserts(
    metadata: SourceMetadata, out: OutputFormat, stem: str, source_rate: int
) -> tuple[Insert, ...]:
    """Chunks for the file of one stem, in the source's order; its title gets the stem behind it.

    Chunks stay byte for byte as they are, but for titles, for frame positions if the rate is another, and
    for the loudness in `bext`, which is the mix's. Another container gets the tags, as far as it has any.
    FLAC keeps a channel mask that is not the default as a comment.
    """
    inserts = _source_inserts(metadata, out, stem, source_rate)
    mask = out.channel_mask
    is_told = out.container == "FLAC" and mask and not is_default(mask, out.n_channels)
    return with_comment(inserts, f"{_MASK}=0x{mask:04X}") if is_told else inserts


def _source_inserts(
    metadata: SourceMetadata, out: OutputFormat, stem: str, source_rate: int
) -> tuple[Insert, ...]:
    if not metadata.family or metadata.family != _FAMILIES.get(out.container):
        return make_texts(metadata.tags, metadata.cover, out.container, stem)
    ratio, found = Fraction(out.sample_rate, source_rate), []
    for chunk in metadata.chunks:
        own = retitled(scaled(chunk, ratio), stem)
        if own is None:  # an ID3 chunk of a rare kind
            texts = make_texts(metadata.tags, metadata.cover, out.container, stem)
            own = next((text for text in texts if text.name in _ID3), None)
        if own:
            found.append(_without_loudness(own))
    if metadata.family == "FLAC" and all(chunk.name != VORBIS_COMMENT for chunk in found):
        found += make_texts(metadata.tags, None, out.container, stem)
    return tuple(found)


def lost_warnings(metadata: SourceMetadata, out: OutputFormat) -> tuple[str, ...]:
    """A sentence if the stems' container cannot hold what the source carries; nobody need read it else."""
    if metadata.family and metadata.family == _FAMILIES.get(out.container):
        return ()
    lost = [_name(chunk) for chunk in metadata.chunks if not _is_text(chunk)]
    if metadata.cover:
        lost = [name for name in lost if name != "PICTURE"]
    if metadata.tags and not make_texts(metadata.tags, metadata.cover, out.container, ""):
        lost.append("tags")
    names = ", ".join(dict.fromkeys(lost))
    keeps = f'; format = "{metadata.family.lower()}" keeps them' if metadata.family else ""
    return (f"not carried over: {names}; {out.container} stems cannot hold them{keeps}",) if lost else ()


def _is_text(chunk: Insert) -> bool:
    """Whether tags stand for it in another container."""
    return chunk.name in TEXTS and chunk.data[:4] != b"adtl"


def _name(chunk: Insert) -> str:
    return "adtl" if chunk.name == b"LIST" else chunk.name.decode().strip()


def _without_loudness(chunk: Insert) -> Insert:
    if chunk.name != b"bext" or int.from_bytes(chunk.data[346:348], "little") < 2:
        return chunk
    unset = (0x7FFF).to_bytes(2, "little") * 5
    return Insert(chunk.name, chunk.data[: _LOUDNESS.start] + unset + chunk.data[_LOUDNESS.stop :])
