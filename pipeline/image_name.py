"""Names of images: ``host[:port]/path[:tag][@digest]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fl.errors import SettingsError

_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"(?:[A-Za-z0-9.-]+(?::\d+)?/)?{_PART}(?:/{_PART})*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageName:
    """An image's name in its parts.

    Attributes:
        repository: host, port and path.
        tag: empty where none is named.
        digest: ``sha256:…``; empty where none is named.
    """

    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """Return the name as manifests and the engine write it."""
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_image(text: str) -> ImageName:
    """Take a name apart.

    Raises:
        SettingsError: it is no image's name.
    """
    rest, at, digest = text.partition("@")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    name = ImageName(head + slash + last, tag, digest)
    if (
        not _REPOSITORY.fullmatch(name.repository)
        or (colon and not _TAG.fullmatch(tag))
        or (at and not _DIGEST.fullmatch(digest))
    ):
        raise SettingsError(f"'{text}' is no image's name; host/project/name:tag@sha256:… is one")
    return name
