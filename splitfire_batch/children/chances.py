"""What follows from a lost child: one more chance, or a failed track and what its row says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from splitfire_batch.children.child import ChildLost
from splitfire_batch.children.codecs import Made
from splitfire_batch.children.limits import SAMPLES_PER_CPU_S
from splitfire_batch.errors import TrackError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CodecLimits:
    """What one job of a child may take."""

    memory_mb: int
    """Of 2^20 bytes."""
    codec_s: float
    """Seconds without a word; and of computing, beside those that its samples and bytes allow."""


def may_try_again(error: ChildLost, what: str) -> bool:
    """Whether the same job would not meet the same end for certain; the loss is logged either way."""
    _log.warning("codec_lost track=%s why=%r", what, str(error))
    return error.limit in (None, "silence")


def twice(attempt: Callable[[], Made], what: str) -> Made:
    """What `attempt` returns; it is called once more if that may help.

    Raises:
        ChildLost: it could not help, or did not.
    """
    try:
        return attempt()
    except ChildLost as error:
        if not may_try_again(error, what):
            raise
    return attempt()


def decode_error(error: ChildLost, where: str, limits: CodecLimits) -> TrackError:
    """What the row of a track says whose decoder was lost; `where` tells how far it had come."""
    if error.limit:
        return TrackError("DECODE_LIMIT", f"{_told(error, limits)} {where}; {_remedy(error)}leave it out")
    return TrackError(
        "DECODE_CRASH",
        f"its decoder {error} {where}, as it had before; convert it to FLAC elsewhere, or leave it out",
    )


def encode_error(error: ChildLost, limits: CodecLimits) -> TrackError:
    """What the row of a track says whose encoder was lost."""
    if error.limit:
        return TrackError(
            "ENCODE_CRASH", f"encoding: {_told(error, limits)}; {_remedy(error)}set another format"
        )
    return TrackError(
        "ENCODE_CRASH", f"the encoder of its stems {error}, as it had before; set another format"
    )


def _told(error: ChildLost, limits: CodecLimits) -> str:
    return {
        "memory": f"it needed more than the {limits.memory_mb} MB that a codec may allocate",
        "cpu": f"it computed for more than {limits.codec_s:g} s, and 1 s for {SAMPLES_PER_CPU_S} samples",
        "silence": f"its codec said nothing for {limits.codec_s:g} s, twice",
        "size": "a temporary file or a stem grew longer than its samples allow, 1.25 times over",
    }[error.limit or ""]


def _remedy(error: ChildLost) -> str:
    return {
        "memory": "raise codec_mb, or ",
        "cpu": "raise codec_s, or ",
        "silence": "raise codec_s, or ",
    }.get(error.limit or "", "")
