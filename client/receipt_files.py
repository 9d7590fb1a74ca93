"""The bytes of a file of receipts: its lines from either end, and the small head file beside it."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from fl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_CHUNK = 64 * 1024
"""Files are read backwards in pieces of this many bytes."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file of receipts for reading.

    Raises:
        SettingsError: there is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise SettingsError(
            f"receipts {path}: there is no such file; a node makes it when it starts, --file names another"
        ) from error
    except OSError as error:
        raise SettingsError(f"receipts {path}: cannot be read: {error.strerror or error}") from error


def forwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    """Yield the lines up to a position, first one first, without their ends."""
    file.seek(0)
    position = 0
    while position < end:
        line = file.readline()
        if not line.endswith(b"\n"):
            return
        position += len(line)
        yield line[:-1]


def backwards(descriptor: int) -> Iterator[bytes]:
    """Yield the whole lines, last one first, without their ends; half a line at the end is left out."""
    position, rest = whole(descriptor), b""
    inside = position > 0  # The very last line end stands behind a line, not before one.
    while position > 0:
        size = min(_CHUNK, position)
        position -= size
        piece = os.pread(descriptor, size, position)
        if inside:
            piece, inside = piece[:-1], False
        rest, *lines = (piece + rest).split(b"\n")
        yield from reversed(lines)
        if position == 0:
            yield rest


def whole(descriptor: int) -> int:
    """Return the position behind the last line end: what stands there is half a line."""
    position = os.fstat(descriptor).st_size
    while position > 0:
        size = min(_CHUNK, position)
        found = os.pread(descriptor, size, position - size).rfind(b"\n")
        if found >= 0:
            return position - size + found + 1
        position -= size
    return 0


def beside(path: Path, ending: str) -> Path:
    """Return the path with a dot and an ending more."""
    return path.with_name(f"{path.name}.{ending}")


def read_head(path: Path) -> tuple[int, str] | None:
    """Return the number and hash that the head file beside a file of receipts holds; None where it holds none."""
    try:
        head = json.loads(beside(path, "head").read_bytes())
        number, hash_ = head["number"], head["hash"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return (number, hash_) if isinstance(number, int) and isinstance(hash_, str) else None


def write_new(path: Path, content: bytes, flags: int) -> None:
    """Write a file for its owner alone and have it on the disk before the call returns.

    Args:
        path: the file.
        content: all it shall hold.
        flags: ``os.O_EXCL`` where it must not be there yet, ``os.O_TRUNC`` where it is replaced.
    """
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
