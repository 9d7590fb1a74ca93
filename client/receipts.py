"""Receipts: what this hospital's node was asked, what it received, what it sent. Only ever appended to.

``receipts.jsonl`` holds one entry a message, chained by checksums (`client/receipt_chain.py`);
``receipts.jsonl.head`` holds the last entry's number and hash, so that entries cut off at the end are missed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from client.receipt_chain import BROKEN, FIRST, TORN, canonical, check, checksum, disagreement, parse, seal
from client.receipt_files import backwards, beside, forwards, opened, read_head, sync_folder, whole, write_new
from fl.errors import FlopsError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from client.receipt_chain import Receipt


@dataclass(frozen=True)
class Verification:
    """What checking a file of receipts found.

    Attributes:
        entries: how many receipts the file holds.
        problems: what is wrong, a line each; none where the chain is whole.
    """

    entries: int
    problems: list[str] = field(default_factory=list)


def _now() -> datetime:
    return datetime.now(UTC)


class Receipts:
    """A file of receipts that is open for more.

    Several processes may append to one file: each entry is written under the file's lock.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime] = _now) -> None:
        """Open a file, or begin one, and mend its end where a power cut left half a line.

        Args:
            path: the file; its folder is made where it is missing.
            clock: tells the time, with its zone.

        Raises:
            FlopsError: the file cannot be written.
        """
        self.path, self._clock = path, clock
        with self._locked() as descriptor:
            self._mend(descriptor)

    def append(self, entry: Mapping[str, Any]) -> Receipt:
        """Add an entry and have it on the disk before the call returns.

        Args:
            entry: plain data; numbers that are not finite are stored as texts.

        Returns:
            The entry with what was added: ``number``, ``time``, ``previous`` and ``hash``.

        Raises:
            FlopsError: the file cannot be written; the entry is not in it.
        """
        with self._locked() as descriptor:
            number, previous = self._mend(descriptor)
            return self._write(descriptor, entry, number + 1, previous)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise FlopsError(
                f"receipts {self.path}: cannot be written: {error.strerror or error}; free space, or let this user "
                "write there"
            ) from error

    def _write(self, descriptor: int, entry: Mapping[str, Any], number: int, previous: str) -> Receipt:
        receipt, line = seal(entry, number, self._time(), previous)
        before = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
            draft = beside(self.path, "head.new")
            write_new(draft, canonical({"number": number, "hash": receipt["hash"]}) + b"\n", os.O_TRUNC)
            draft.replace(beside(self.path, "head"))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
        sync_folder(self.path.parent)
        return receipt

    def _mend(self, descriptor: int) -> tuple[int, str]:
        """Return the last entry's number and its line's checksum; what is found wrong becomes an entry first."""
        notes = [{"kind": TORN, "reason": reason} for reason in self._set_aside(descriptor)]
        line, head = next(backwards(descriptor), None), read_head(self.path)
        receipt = None if line is None else parse(line)
        if receipt is not None:
            number = receipt["number"]
        else:  # No line, or one that cannot be read: the head file knows its number, or its place must do.
            number = head[0] if line is not None and head is not None else sum(1 for _ in backwards(descriptor))
        previous = FIRST if line is None else checksum(line)
        wrong = disagreement(head, number, {} if receipt is None else {number: receipt["hash"]})
        if wrong is not None:
            notes.append({"kind": BROKEN, "reason": wrong})
        if head is not None:  # Numbers of entries that went missing are not given out again.
            number = max(number, head[0])
        for note in notes:
            made = self._write(descriptor, note, number + 1, previous)
            number, previous = made["number"], checksum(canonical(made))
        return number, previous

    def _set_aside(self, descriptor: int) -> Iterator[str]:
        """Move what stands behind the last line's end to a file of its own, and say so."""
        end = whole(descriptor)
        torn = os.pread(descriptor, os.fstat(descriptor).st_size - end, end)
        if torn:
            aside = beside(self.path, f"torn-{self._time().translate({ord(c): None for c in '-:'})}")
            write_new(aside, torn, os.O_EXCL)
            os.ftruncate(descriptor, end)
            yield f"the last line was torn, as by a power cut: {len(torn)} bytes moved to {aside.name}"

    def _time(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def read(path: Path) -> Iterator[Receipt]:
    """Yield a file's entries, oldest first; half a line at the end is no entry.

    Raises:
        SettingsError: there is no such file, or a line is no receipt; the message names the line.
    """
    with opened(path) as file:
        for place, line in enumerate(forwards(file, whole(file.fileno())), start=1):
            receipt = parse(line)
            if receipt is None:
                raise SettingsError(
                    f"receipts {path}, line {place}: no receipt can be read from it; "
                    "flops client receipts --verify checks the whole file"
                )
            yield receipt


def newest(path: Path, count: int) -> list[Receipt]:
    """Return a file's last entries, oldest first; lines that are no receipts are passed over.

    Raises:
        SettingsError: there is no such file.
    """
    with opened(path) as file:
        found = (parse(line) for line in backwards(file.fileno()))
        return list(islice((receipt for receipt in found if receipt is not None), count))[::-1]


def trained_today(path: Path, now: datetime | None = None) -> int:
    """Count the train messages that were carried out on the current UTC day; 0 where there is no file yet.

    Args:
        path: the file.
        now: the time, with its zone; by default the clock's.
    """
    today = (now or _now()).astimezone(UTC).date().isoformat()
    if not path.exists():
        return 0
    count = 0
    with opened(path) as file:
        for line in backwards(file.fileno()):
            receipt = parse(line) or {}
            if receipt.get("time", today)[:10] < today:
                break
            count += (
                receipt.get("kind") == "train"
                and receipt.get("result") == "done"
                and receipt["time"].startswith(today)
            )
    return count


def verify(path: Path) -> Verification:
    """Check that no entry of a file was changed, moved, doubled, torn or taken away.

    A head file that is one entry behind is no problem: the node was stopped between its two writes.

    Raises:
        SettingsError: there is no such file.
    """
    head = beside(path, "head")
    if not path.exists() and head.exists():
        return Verification(0, [f"the file is missing, but {head.name} is there"])
    with opened(path) as file:
        # The lock makes lines and head one moment's; what is appended later is not looked at.
        fcntl.flock(file, fcntl.LOCK_SH)
        end, size, last = whole(file.fileno()), os.fstat(file.fileno()).st_size, read_head(path)
        fcntl.flock(file, fcntl.LOCK_UN)
        chain = check(forwards(file, end))
    problems = list(chain.problems)
    if size > end:
        problems.append(
            f"the end is torn: {size - end} bytes without a line end; the node's next start sets them aside"
        )
    wrong = disagreement(last, chain.last, chain.hashes)
    return Verification(chain.entries, problems if wrong is None else [*problems, f"at the end: {wrong}"])


def describe_arrays(arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    """Return what a receipt says of arrays, in their order.

    Returns:
        For each array its ``name``, ``shape``, ``dtype``, ``bytes`` and ``norm``, the L2 norm in float64; None where
        the array holds no numbers.
    """
    return [
        {
            "name": name,
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "bytes": array.nbytes,
            "norm": _norm(array) if array.dtype.kind in "biufc" else None,
        }
        for name, array in arrays.items()
    ]


def _norm(array: np.ndarray[Any, Any]) -> float:
    values = np.abs(array.ravel().astype(np.complex128 if array.dtype.kind == "c" else np.float64))
    largest = float(values.max(initial=0.0))
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    # Scaled, so that the squares of very large and very small values stay within float64.
    return largest * float(np.linalg.norm(values / largest))
