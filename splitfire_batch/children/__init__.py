"""Codecs in processes of their own, so that what a hostile or damaged file does to them costs one track.

`Codecs` is what a pipeline asks for; `Inline` does it in the caller's process, `InChildren` in children that
are forked from a small process which knows neither the model nor the stores nor any credentials. The worker
talks with them over sockets (`wire`), holds them to limits (`limits`), and outlives whatever becomes of them.
"""

from splitfire_batch.children.chances import CodecLimits
from splitfire_batch.children.codecs import Codecs, OpenAudio
from splitfire_batch.children.inline import Inline
from splitfire_batch.children.remote import InChildren

__all__ = ["CodecLimits", "Codecs", "InChildren", "Inline", "OpenAudio"]
