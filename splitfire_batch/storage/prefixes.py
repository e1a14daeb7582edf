"""Listing a bucket with several readers at once, each a prefix at a time.

S3 gives a thousand keys an answer, and each answer takes a round trip: a million keys one after the other
take minutes. Prefixes divide the keys whatever order a store lists them in; ranges of keys would not, since
servers that keep folders sort by folder. A prefix is divided only while readers have nothing else to do, and
only if its first page shows few folders: what is spread over many small ones would take a request for each.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from splitfire_batch.storage.folder import StoredObject
from splitfire_batch.storage.listings import Pages

N_READERS = 8
_FEW_FOLDERS = 2
"""With two in a page of a thousand, dividing at most doubles the requests."""
_MAX_FOLDERS = 10_000
_N_AHEAD = 32
"""Pages that wait for whoever reads the listing."""
_LOOK_S = 0.5

Page = Sequence[StoredObject]


class _Todo(NamedTuple):
    """A prefix to list, and what was read of it."""

    pages: Pages
    first: Page | None = None


def read_side_by_side(root: Pages, first: Page, ask: Callable[[Pages], Page | None]) -> Iterator[Page]:
    """The pages of everything below a prefix, in no order; where one page is all, nothing more is asked.

    Args:
        root: of the prefix.
        first: what it gave when it was called once.
        ask: the next page, tried again as long as that makes sense; called by several threads.

    Raises:
        Exception: what `ask` raised.
    """
    return iter([first]) if root.is_over else _Readers(ask).read(_Todo(root, first))


class _Readers:
    """Threads that share the prefixes which are still to be listed."""

    def __init__(self, ask: Callable[[Pages], Page | None]) -> None:
        self._ask = ask
        self._todo: queue.SimpleQueue[_Todo | None] = queue.SimpleQueue()
        self._found: queue.Queue[Page | Exception | None] = queue.Queue(_N_AHEAD)
        self._lock, self._n_open = threading.Lock(), 0
        self._is_closing = threading.Event()

    def read(self, root: _Todo) -> Iterator[Page]:
        """Every page below the root."""
        self._open([root])
        for number in range(N_READERS):
            # a daemon, so that nobody who gives up waits for an answer
            threading.Thread(target=self._work, name=f"listing-{number}", daemon=True).start()
        try:
            while (found := self._found.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            self._is_closing.set()
            for _ in range(N_READERS):
                self._todo.put(None)

    def _work(self) -> None:
        while (todo := self._todo.get()) is not None and not self._is_closing.is_set():
            try:
                self._read(*todo)
            except Exception as error:  # noqa: BLE001 - raised by whoever reads the listing
                self._put(error)
            self._close()

    def _read(self, pages: Pages, page: Page | None) -> None:
        page = self._ask(pages) if page is None else page
        if page is not None and self._is_worth_dividing(pages, page) and self._divide(pages):
            return
        while page is not None and not self._is_closing.is_set():
            self._put(page)
            page = self._ask(pages)

    def _is_worth_dividing(self, pages: Pages, page: Page) -> bool:
        is_idle = self._n_open < N_READERS
        return is_idle and not pages.is_over and 1 <= pages.n_folders(page) <= _FEW_FOLDERS

    def _divide(self, whole: Pages) -> bool:
        """Whether what lies below the prefix is told or to be listed now; not if it has too many folders."""
        pages = whole.of(whole.prefix, has_folders=True)
        objects: list[StoredObject] = []
        while (page := self._ask(pages)) is not None:
            objects += page
            if len(objects) + len(pages.folders) > _MAX_FOLDERS:
                return False
        self._put(objects)
        self._open([_Todo(whole.of(folder)) for folder in pages.folders])
        return True

    def _open(self, todos: Sequence[_Todo]) -> None:
        with self._lock:
            self._n_open += len(todos)
        for todo in todos:
            self._todo.put(todo)

    def _close(self) -> None:
        with self._lock:
            self._n_open -= 1
            is_last = self._n_open == 0
        if is_last:
            self._put(None)

    def _put(self, found: Page | Exception | None) -> None:
        """Hand over, unless nobody reads any more."""
        while not self._is_closing.is_set():
            with suppress(queue.Full):
                self._found.put(found, timeout=_LOOK_S)
                return
