"""What a file carries besides samples: read once from the source, written into every stem.

`read_metadata` takes chunks and tags from a file, `describe` makes manifest columns of them and of the
file's name, `make_inserts` gives what one stem's file is to hold. None of them fails a track: whatever is
damaged is left out, and named in a warning. Tags are read by tinytag, chunks by ourselves, because no
permissive library copies them.
"""

from splitfire_batch.metadata.describe import describe
from splitfire_batch.metadata.source import SourceMetadata, read_metadata
from splitfire_batch.metadata.writing import lost_warnings, make_inserts

__all__ = ["SourceMetadata", "describe", "lost_warnings", "make_inserts", "read_metadata"]
