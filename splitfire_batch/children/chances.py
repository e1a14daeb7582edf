"""What follows from a lost child: one more chance, or a failed track and what its row says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from splitfire_batch.children.child import ChildLost
from splitfire_batch.children.codecs import Made
from splitfire_batch.children.limits import SAMPLES_PER_CPU_S
from splitfire_batch.errors import TrackError

_LIMITS, _OTHERS = {"memory", "cpu", "silence", "size"}, {"kill", "parent"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CodecLimits:
    """What one job of a child may take."""

    memory_mb: int
    """Of 2^20 bytes."""
    codec_s: float
    """Seconds without a word; and of computing, beside those that its samples and bytes allow."""


class Chances:
    """How often one job may be begun again: once for each way to be lost that a second time may tell from
    bad luck; a few times more where it was the end of another process, and not at all for what it would
    meet again for certain.

    Args:
        what: names the job to a reader of the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._n_left: dict[str | None, int] = {None: 1, "silence": 1, "kill": 1, "parent": 4}

    def take(self, error: ChildLost) -> bool:
        """Whether there is one after this loss, which is logged either way."""
        _log.warning("codec_lost track=%s why=%r", self._what, str(error))
        n_left = self._n_left.get(error.limit, 0)
        self._n_left[error.limit] = n_left - 1
        return n_left > 0


def twice(attempt: Callable[[], Made], what: str) -> Made:
    """What `attempt` returns; it is called again where that may help.

    Raises:
        ChildLost: it could not help, or did not.
    """
    chances = Chances(what)
    while True:
        try:
            return attempt()
        except ChildLost as error:
            if not chances.take(error):
                raise


def decode_error(error: ChildLost, where: str, limits: CodecLimits) -> TrackError:
    """What the row of a track says whose decoder was lost; `where` tells how far it had come."""
    if error.limit in _OTHERS:
        return _killed("its decoder", f" {where}")
    if error.limit in _LIMITS:
        return TrackError("DECODE_LIMIT", f"{_told(error, limits)} {where}; {_remedy(error)}leave it out")
    return TrackError(
        "DECODE_CRASH",
        f"its decoder {error} {where}, as it had before; convert it to FLAC elsewhere, or leave it out",
    )


def encode_error(error: ChildLost, limits: CodecLimits) -> TrackError:
    """What the row of a track says whose encoder was lost."""
    if error.limit in _OTHERS:
        return _killed("the encoder of its stems")
    if error.limit in _LIMITS:
        return TrackError(
            "ENCODE_CRASH", f"encoding: {_told(error, limits)}; {_remedy(error)}set another format"
        )
    return TrackError(
        "ENCODE_CRASH", f"the encoder of its stems {error}, as it had before; set another format"
    )


def _killed(who: str, where: str = "") -> TrackError:
    """No codec does that to itself: it says more of the machine than of the track."""
    return TrackError(
        "OOM",
        f"{who} was killed from outside (SIGKILL){where}, and before too, as the system does when memory is "
        "full; give the machine more, or lower open_tracks or codec_mb",
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
