"""What the config repository says of a release: `release.json` and, while releases are held, `hold.json`."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fl.errors import SettingsError
from pipeline.image_name import ImageName, parse_image

if TYPE_CHECKING:
    from collections.abc import Mapping

SIDES = ("server", "client")
"""The two images of a release."""

_LARGEST = 100_000
_RELEASE = re.compile(r"\d{4}(-\d\d){5}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

SCHEMA = 1
"""The format's number."""


def release_name(moment: datetime) -> str:
    """Return the name of a release that is made at a time: the time, UTC; the images' tag."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d-%H-%M-%S")


@dataclass(frozen=True)
class ReleaseRecord:
    """One release: a commit's pair of images.

    Attributes:
        release: its name, the time it was made, UTC, such as 2026-01-31-14-05-09; the images' tag.
        commit: the source commit.
        subject: the first line of its message.
        committed: when it was committed, ISO 8601.
        protocol: the number of the protocol both images speak.
        images: by side; each with tag and digest.
        contents: by side, the digest of what the image was built from.
        smoke: how the trial federation ended, such as "passed in 21 s"; "not run" without it.
        by: who released it.
        previous: the release that it took the place of; empty for the first.
        promoted_from: the environment that it came from; empty where it was built for this one.
    """

    release: str
    commit: str
    subject: str
    committed: str
    protocol: int
    images: Mapping[str, ImageName]
    contents: Mapping[str, str]
    smoke: str
    by: str
    previous: str = ""
    promoted_from: str = ""

    def to_json(self) -> bytes:
        """Write it out."""
        values = {"schema": SCHEMA, **asdict(replace(self, images={}))}
        values["images"] = {
            side: {"image": str(image), "digest": image.digest, "content": self.contents.get(side, "")}
            for side, image in self.images.items()
        }
        del values["contents"]
        return _json(values)


@dataclass(frozen=True)
class Hold:
    """Automatic releases are paused.

    Attributes:
        reason: why.
        by: who said so.
        since: ISO 8601.
        left: the release that was taken back; empty where none was.
    """

    reason: str
    by: str
    since: str
    left: str = ""

    def to_json(self) -> bytes:
        """Write it out."""
        return _json({"schema": SCHEMA, **asdict(self)})


def read_release(content: bytes | None, file: str) -> ReleaseRecord | None:
    """Read `release.json`; None where there is none, or none was made yet (`{}`).

    Raises:
        SettingsError: it is no such record; names file and key.
    """
    values = _object(content, file)
    if not values:
        return None
    texts = {key: _text(values, key, file) for key in ("release", "commit", "subject", "committed", "smoke", "by")}
    optional = {key: _text(values, key, file) for key in ("previous", "promoted_from") if key in values}
    protocol, images = values.get("protocol"), values.get("images")
    if isinstance(protocol, bool) or not isinstance(protocol, int):
        raise SettingsError(f"{file}: protocol: {protocol!r}: a whole number is needed")
    for key, pattern, what in (
        ("release", _RELEASE, "a time such as 2026-01-31-14-05-09"),
        ("commit", _COMMIT, "a commit's whole id"),
    ):
        if not pattern.fullmatch(texts[key]):
            raise SettingsError(f"{file}: {key}: {texts[key]!r}: {what} is needed")
    named, contents = {}, {}
    for side in SIDES:
        image = images.get(side) if isinstance(images, dict) else None
        if not isinstance(image, dict):
            raise SettingsError(f"{file}: images.{side}: an object is needed")
        try:
            named[side] = parse_image(_text(image, "image", file))
        except SettingsError as error:
            raise SettingsError(f"{file}: images.{side}: {error}") from error
        if not (named[side].tag and named[side].digest):
            raise SettingsError(f"{file}: images.{side}: '{named[side]}': tag and digest are needed")
        contents[side] = str(image.get("content", ""))
    return ReleaseRecord(**texts, **optional, protocol=protocol, images=named, contents=contents)


def read_hold(content: bytes | None, file: str) -> Hold | None:
    """Read `hold.json`; None where there is none. One that cannot be read is a hold nevertheless.

    Raises:
        SettingsError: it is no such record.
    """
    values = _object(content, file)
    if content is None:
        return None
    texts = {key: _text(values, key, file) for key in ("reason", "by", "since")}
    return Hold(**texts, left=str(values.get("left", "")))


def _json(values: Mapping[str, Any]) -> bytes:
    """Write a file's values, which may hold what no encoding knows."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode(errors="replace")


def _object(content: bytes | None, file: str) -> dict[str, Any]:
    if content is None or not content.strip():
        return {}
    if len(content) > _LARGEST:
        raise SettingsError(f"{file}: has {len(content)} bytes, and no such file has more than {_LARGEST}")
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise SettingsError(f"{file}: is nested too deeply") from error
    except ValueError as error:
        raise SettingsError(f"{file}: is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{file}: a JSON object is needed")
    if values and values.get("schema") != SCHEMA:
        raise SettingsError(
            f"{file}: schema {values.get('schema')!r} is not known here, {SCHEMA} is; a newer FLOps wrote it"
        )
    return values


def _text(values: Mapping[str, Any], key: str, file: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise SettingsError(f"{file}: {key}: {value!r}: a text is needed")
    # Shown in one line, whoever wrote it.
    return " ".join(value.encode(errors="replace").decode().split())
