"""Checks that a command makes before anything is at stake: each is one row, and one that fails stops no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.errors import FlopsError

if TYPE_CHECKING:
    from collections.abc import Callable

PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"


@dataclass(frozen=True)
class Check:
    """One check's result.

    Attributes:
        what: what was looked at.
        result: passed, FAILED or skipped.
        found: what was found, or what is wrong and what to do.
    """

    what: str
    result: str
    found: str


class Skip(Exception):  # noqa: N818 - not an error
    """There is nothing to check; the message says why."""


def check(what: str, look: Callable[[], str]) -> Check:
    """Make a check.

    Args:
        what: names it.
        look: returns what was found; an expected error is what failed, and `Skip` that there was nothing to look at.
    """
    try:
        return Check(what, PASSED, look())
    except Skip as reason:
        return Check(what, SKIPPED, str(reason))
    except FlopsError as error:
        return Check(what, FAILED, str(error))
    except OSError as error:
        return Check(what, FAILED, ": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
