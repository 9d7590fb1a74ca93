"""The errors that FLOps expects, and the exit code of each.

::

    FlopsError                  1  something failed; nobody's mistake in particular
    ├── ClientFailure           1  a hospital answered with an error
    └── UserError               2  the input is wrong; the message says where and what to do
        ├── SettingsError       2  an option or a settings file
        ├── DataError           2  a data file: names file, row and column
        ├── RegistryUnreachable 2  the model registry named by the settings does not answer
        └── DivergenceError     2  training left the finite numbers; names the hospital

The command line prints the message as one line and ends with the exit code. Anything else that is raised is a
bug, and says so.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class FlopsError(Exception):
    """An expected failure. The message is one line, fit to be shown to the user as it is."""

    exit_code = 1


class ClientFailure(FlopsError):  # noqa: N818 - the field's word for it
    """A hospital answered a message with an error instead of a result."""


class UserError(FlopsError):
    """The input is wrong. The message says what, where, and what to do."""

    exit_code = 2


class SettingsError(UserError):
    """An option or a settings file holds something that cannot be used."""


class RegistryUnreachable(UserError):  # noqa: N818 - a state, not a mistake
    """The model registry that the settings name does not answer."""


class DivergenceError(UserError):
    """Training produced a loss or weights that are not finite."""


class DataError(UserError):
    """A data file does not fit its schema.

    Args:
        problem: what is wrong and, where it is not obvious, what to do.
        file: the file's path.
        row: the row as a spreadsheet counts it: the header is row 1, the first patient row 2.
        column: the column's name.
        unseen: the problem told without the value that is wrong, where the problem shows it: it belongs to a patient,
            and not everywhere may it be read.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        row: int | None = None,
        column: str | None = None,
        unseen: str | None = None,
    ) -> None:
        self.problem, self.file, self.row, self.column = problem, file, row, column
        self.unseen = problem if unseen is None else unseen
        place = [
            str(file) if file is not None else "",
            f"row {row}" if row is not None else "",
            f"column '{column}'" if column is not None else "",
        ]
        where = ", ".join(part for part in place if part)
        super().__init__(f"{where}: {problem}" if where else problem)


def interruption(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interruption that an error hides, or None.

    A signal may arrive anywhere, in a lock's own code too, which then fails over its half-done work.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__cause__ or found.__context__
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known word, or an empty string."""
    match = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> SettingsError:
    """Make the error for a word that is not in a list: it suggests the nearest and names all."""
    known = list(known)
    return SettingsError(f"unknown {kind} '{word}'{nearest(word, known)}; known: {', '.join(known)}")
