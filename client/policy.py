"""A hospital's policy: what it takes part in, a TOML file that only the hospital writes.

::

    tasks = ["tabular"]                  # absent: any task
    releases = ["sha256:…", "0ab35c0"]   # images' digests or commits of the server; absent or "any": any
    min_examples = 200                   # with fewer training examples the hospital does not take part
    max_rounds_a_day = 100               # rounds trained on one UTC day; absent: no limit
    evaluation_only = false              # true: the hospital evaluates models and never trains

A method returns why something is refused, one line that names the key and both values, or None.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from fl.console import count
from fl.errors import SettingsError, nearest

if TYPE_CHECKING:
    from pathlib import Path

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class Policy:
    """What a hospital takes part in; the defaults allow everything.

    Attributes:
        tasks: the names of the tasks that are allowed; None allows any.
        releases: the server images' digests and commits (or their beginnings) that are allowed; None allows any.
        min_examples: the least number of training examples for taking part.
        max_rounds_a_day: how many train messages are carried out on one UTC day; None sets no limit.
        evaluation_only: whether the hospital evaluates models but never trains.
    """

    tasks: tuple[str, ...] | None = None
    releases: tuple[str, ...] | None = None
    min_examples: int = 0
    max_rounds_a_day: int | None = None
    evaluation_only: bool = False

    def refuse_join(self, task: str, commit: str, image: str, examples: int) -> str | None:
        """Tell why a federation is not joined, or return None.

        Args:
            task: the task's name.
            commit: the commit that the server says it was built from; empty where it does not know.
            image: the server's image, a digest or a name that ends with one; empty where it does not know.
            examples: how many training examples the hospital has.
        """
        refused = self.refuse_task(task)
        if refused is not None:
            return refused
        if self.releases is not None and not self._released(commit, image):
            told = [f"{word} {value!r}" for word, value in (("commit", commit), ("image", image)) if value]
            server = f"a server of {' and '.join(told)}" if told else "a server that names neither commit nor image"
            return f"policy: {server} is not allowed here (releases = {_toml(self.releases)})"
        return self.refuse_examples(examples)

    def refuse_examples(self, examples: int) -> str | None:
        """Tell why so few training examples take no part, or return None."""
        if examples < self.min_examples:
            return f"policy: {examples} training examples are too few (min_examples = {self.min_examples})"
        return None

    def refuse_task(self, task: str) -> str | None:
        """Tell why a task is not taken part in, or return None."""
        if self.tasks is not None and task not in self.tasks:
            return f"policy: task {task!r} is not allowed here (tasks = {_toml(self.tasks)})"
        return None

    def describe(self) -> str:
        """Say in a line what is allowed."""
        parts = [
            "any task" if self.tasks is None else f"tasks {', '.join(self.tasks)}",
            "any release" if self.releases is None else count(len(self.releases), "release"),
            *([f"at least {count(self.min_examples, 'example')}"] if self.min_examples else []),
            *([f"up to {count(self.max_rounds_a_day, 'round')} a day"] if self.max_rounds_a_day else []),
            *(["evaluation only"] if self.evaluation_only else []),
        ]
        return ", ".join(parts)

    def refuse_training(self, rounds_today: int) -> str | None:
        """Tell why a train message is not carried out, or return None.

        Args:
            rounds_today: how many train messages have been carried out on this UTC day.
        """
        if self.evaluation_only:
            return "policy: training is not allowed here (evaluation_only = true)"
        if self.max_rounds_a_day is not None and rounds_today >= self.max_rounds_a_day:
            return (
                f"policy: {count(rounds_today, 'round')} trained today, more are not allowed before midnight UTC "
                f"(max_rounds_a_day = {self.max_rounds_a_day})"
            )
        return None

    def _released(self, commit: str, image: str) -> bool:
        digest = image.rpartition("@")[2]
        # A commit with a mark behind it, such as "-dirty", is not that commit, whatever it begins with.
        known = commit if _COMMIT.fullmatch(commit) else ""
        return any(
            digest == release if release.startswith("sha256:") else known.startswith(release)
            for release in self.releases or ()
        )


def read_policy(path: Path) -> Policy:
    """Read a policy from a TOML file.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or a key or value is wrong; the message names it.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"policy {path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"policy {path}: cannot be read: not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"policy {path}: {error}") from error
    try:
        return _policy(raw)
    except SettingsError as error:
        raise SettingsError(f"policy {path}: {error}") from error


def _policy(raw: dict[str, Any]) -> Policy:
    allowed = [field.name for field in fields(Policy)]
    for key in raw:
        if key not in allowed:
            raise SettingsError(f"{key}: unknown key{nearest(key, allowed)}; known: {', '.join(allowed)}")
    only = raw.get("evaluation_only", False)
    if not isinstance(only, bool):
        raise SettingsError(f"evaluation_only: true or false is needed, got {only!r}")
    return Policy(
        _words(raw, "tasks"),
        _releases(raw),
        _whole(raw, "min_examples", least=0) or 0,
        _whole(raw, "max_rounds_a_day", least=1),
        only,
    )


def _words(raw: dict[str, Any], key: str) -> tuple[str, ...] | None:
    if key not in raw:
        return None
    value = raw[key]
    if not isinstance(value, list) or not value or not all(isinstance(word, str) and word for word in value):
        raise SettingsError(f"{key}: a list of at least one text is needed, got {value!r}; absent allows any")
    return tuple(value)


def _releases(raw: dict[str, Any]) -> tuple[str, ...] | None:
    if raw.get("releases") == "any":
        return None
    releases = _words(raw, "releases")
    for release in releases or ():
        if not (_DIGEST.fullmatch(release) or _COMMIT.fullmatch(release)):
            raise SettingsError(
                f"releases: {release!r} is neither an image's digest (sha256: and 64 hex digits) nor a commit "
                "(7 to 40 hex digits), in small letters"
            )
    return releases


def _whole(raw: dict[str, Any], key: str, *, least: int) -> int | None:
    if key not in raw:
        return None
    value = raw[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingsError(f"{key}: a whole number of at least {least} is needed, got {value!r}")
    return value


def _toml(words: tuple[str, ...]) -> str:
    return json.dumps(words, ensure_ascii=False)
