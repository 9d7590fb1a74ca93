"""How receipts hang together: each entry holds the checksum of the line before it.

An entry is a line of canonical JSON: keys sorted, no spaces, UTF-8. Its ``hash`` is the SHA-256 of that line without
``hash``; its ``previous`` is the SHA-256 of the whole line before it, so ``sha256sum`` alone can check the chain.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Receipt = dict[str, Any]

FIRST = "0" * 64
"""What the first entry holds in place of a checksum."""

OWN = ("number", "time", "previous", "hash")
"""The keys that the chain itself fills in."""

TORN, BROKEN = "torn", "broken"
"""Kinds of the entries that tell of a line cut off by a power cut, and of entries that were found missing."""


def seal(entry: Mapping[str, Any], number: int, time: str, previous: str) -> tuple[Receipt, bytes]:
    """Complete an entry and return it with its line, line end included."""
    clash = [key for key in OWN if key in entry]
    if clash:
        raise ValueError(f"the key '{clash[0]}' of a receipt is not the caller's to set")
    receipt = {**plain(entry), "number": number, "time": time, "previous": previous}
    receipt["hash"] = checksum(canonical(receipt))
    return receipt, canonical(receipt) + b"\n"


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the one way to write an entry."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def checksum(line: bytes) -> str:
    """Return the hex SHA-256 of a line, which comes without its end."""
    return hashlib.sha256(line).hexdigest()


def parse(line: bytes) -> Receipt | None:
    """Return a line's entry, or None where it holds none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in OWN[1:]):
        return None
    number = found.get("number")
    return found if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None


def intact(line: bytes, receipt: Receipt) -> bool:
    """Tell whether an entry is as it was written."""
    try:
        rest = canonical({key: value for key, value in receipt.items() if key != "hash"})
        return canonical(receipt) == line and checksum(rest) == receipt["hash"]
    except ValueError:  # NaN, or half a surrogate pair: neither was written by us.
        return False


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are not finite become texts."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):  # File names may hold bytes that are not UTF-8.
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    return value


@dataclass
class Chain:
    """What checking a file's lines against each other found.

    Attributes:
        entries: how many receipts can be read.
        last: the highest number.
        hashes: the ``hash`` of each receipt that is as it was written, by number.
        problems: what is wrong, a line each, naming the file's lines.
    """

    entries: int = 0
    last: int = 0
    hashes: dict[int, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check(lines: Iterable[bytes]) -> Chain:
    """Check the lines of a file, from the first and without their ends, against each other."""
    chain = Chain()
    found: list[tuple[int, str]] = []  # Line and problem.
    places: dict[int, int] = {}  # Where each number was first met, or should have been.
    above, above_number, bad = FIRST, 0, 0  # The line above; the last good number; how many bad lines since.
    for place, line in enumerate(lines, start=1):
        receipt = parse(line)
        chain.entries += receipt is not None
        if receipt is None or not intact(line, receipt):
            what = "no receipt can be read from it" if receipt is None else f"receipt {receipt['number']} was changed"
            found.append((place, what))
            bad += 1
            places.setdefault(above_number + bad, place)  # Its own number is not to be trusted.
            above = checksum(line)
            continue
        number = receipt["number"]
        if number in chain.hashes:
            found.append((place, f"receipt {number} is there already, in line {places[number]}"))
        elif number < above_number:
            found.append((place, f"receipt {number} stands behind receipt {above_number}"))
        elif number == above_number + 1 and not bad and receipt["previous"] != above:
            found.append((place, f"receipt {number} does not continue the line above, or what was there"))
        if receipt.get("kind") == BROKEN:
            found.append((place, f"the node found: {receipt.get('reason')}"))
        if number not in chain.hashes:
            chain.hashes[number], places[number] = receipt["hash"], place
        above, above_number, bad = checksum(line), number, 0
    chain.last = max(places, default=0)
    before = 0
    for number in sorted(places):
        if number > before + 1:
            found.append((places[number], f"{missing(before + 1, number - 1)} above it"))
        before = number
    chain.problems = [f"line {place}: {problem}" for place, problem in sorted(found)]
    return chain


def disagreement(head: tuple[int, str] | None, last: int, hashes: Mapping[int, str]) -> str | None:
    """Tell how the head file contradicts the entries, or return None.

    Args:
        head: the number and hash that it holds; None where there is none.
        last: the last entry's number, 0 where there is none.
        hashes: the entries' hashes by number, as far as they are known.
    """
    if head is None:
        return (
            None
            if last <= 1
            else "the head file is missing or cannot be read, so nobody can tell whether receipts are missing too"
        )
    number, hash_ = head
    if number > last:
        return f"{missing(last + 1, number)}, the head file knows of more than there are"
    if number < last - 1:
        return f"the head file knows of {number} receipts alone, but there are {last}"
    if hashes.get(number, hash_) != hash_:
        return f"receipt {number} is not the one that the head file knows of"
    return None


def missing(first: int, last: int) -> str:
    """Say that receipts are missing."""
    return f"receipt {first} is missing" if first == last else f"receipts {first} to {last} are missing"
