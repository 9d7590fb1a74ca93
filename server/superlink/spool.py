"""Flower's object store with its large objects in a file: memory does not grow with the hospitals.

Replies arrive in pieces and all at once; in memory they would take hospitals times model. The file has no name, so
nothing is left of it however the process ends.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = 16 * 1024
"""Objects up to this many bytes stay in memory: there are many, and they are soon gone."""


class Spool:
    """Byte strings in an unnamed file; the room of those that are gone is used again by others of the same size."""

    def __init__(self, folder: str | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the spool
        self._lock = threading.Lock()
        self._free: dict[int, list[int]] = defaultdict(list)
        self._end = 0

    def write(self, content: bytes) -> tuple[int, int]:
        """Store bytes; returns where they are: offset and size.

        Raises:
            OSError: the disk is full.
        """
        size = len(content)
        with self._lock:
            if self._free[size]:
                offset = self._free[size].pop()
            else:
                offset, self._end = self._end, self._end + size
        view, position = memoryview(content), offset
        try:
            while view:
                written = os.pwrite(self._file.fileno(), view, position)
                view, position = view[written:], position + written
        except OSError:
            self.free((offset, size))
            raise
        return offset, size

    def read(self, place: tuple[int, int]) -> bytes:
        """Return the bytes that are at a place."""
        offset, size = place
        return os.pread(self._file.fileno(), size, offset)

    def free(self, place: tuple[int, int]) -> None:
        """Give a place back."""
        offset, size = place
        with self._lock:
            self._free[size].append(offset)

    def close(self) -> None:
        """Give all of it back."""
        self._file.close()


class SpooledObjectStore(InMemoryObjectStore):
    """Flower's store; whatever is larger than `SMALL` is in a `Spool`."""

    def __init__(self, folder: str | None = None, on_change: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.folder = folder or tempfile.gettempdir()
        self._on_change = on_change
        self._spool = Spool(folder)
        self._places: dict[str, tuple[int, int]] = {}
        self._failures: dict[str, OSError] = {}

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store an object's bytes; see Flower's store for the errors.

        Raises:
            OSError: the disk is full; the object is not there.
        """
        super().put(object_id, object_content)
        if len(object_content) > SMALL:
            with self.lock_store:
                if object_id not in self._places:
                    entry = self.store[object_id]
                    entry.content = b""
                    try:
                        self._places[object_id] = self._spool.write(object_content)
                    except OSError as error:
                        entry.is_available = False
                        self._failures[object_id] = error  # Flower keeps it to itself.
                        raise
        self._on_change()

    def failure(self, object_id: str) -> OSError | None:
        """Return why an object could not be stored, and forget it."""
        return self._failures.pop(object_id, None)

    def is_there(self, object_id: str) -> bool:
        """Tell whether an object's bytes have come."""
        with self.lock_store:
            entry = self.store.get(object_id)
            return entry is not None and entry.is_available

    def begins_with(self, object_id: str, begin: bytes) -> bool:
        """Tell whether an object's bytes begin so, without reading all of them."""
        with self.lock_store:
            place = self._places.get(object_id)
            if place is None:
                return (super().get(object_id) or b"").startswith(begin)
            return self._spool.read((place[0], len(begin))) == begin

    def size(self, object_id: str) -> int:
        """Return how many bytes an object has; none where it is unknown or on its way."""
        with self.lock_store:
            if object_id in self._places:
                return self._places[object_id][1]
            return len(self.store[object_id].content) if object_id in self.store else 0

    def get(self, object_id: str) -> bytes | None:
        """Return an object's bytes; empty while they are on their way, None where it is unknown."""
        with self.lock_store:
            place = self._places.get(object_id)
            return super().get(object_id) if place is None else self._spool.read(place)

    def delete(self, object_id: str) -> None:
        """Remove an object and what it alone refers to."""
        with self.lock_store:
            super().delete(object_id)
            if object_id not in self.store and object_id in self._places:
                self._spool.free(self._places.pop(object_id))

    def clear(self) -> None:
        """Remove all."""
        with self.lock_store:
            super().clear()
            for place in self._places.values():
                self._spool.free(place)
            self._places.clear()

    def close(self) -> None:
        """Remove all and give the file back."""
        with self.lock_store:
            self.clear()
            self._spool.close()
