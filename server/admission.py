"""Who may take part: the allow-list, a folder of public keys, one ``NAME.pub`` a hospital."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.errors import SettingsError
from fl.keys import fingerprint, identity, name_problem, read_public

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Hospital:
    """A hospital on the allow-list.

    Attributes:
        name: what reports and metrics call it: the key file's name without ``.pub``.
        identity: its public key as Flower knows it, PEM.
        fingerprint: its public key's fingerprint, ``SHA256:…``.
    """

    name: str
    identity: bytes
    fingerprint: str


def read_allow_list(folder: Path) -> tuple[Hospital, ...]:
    """Read the hospitals that may take part, sorted by name.

    Files without the ending ``.pub`` and hidden ones are passed over: a README may lie beside the keys, and
    Kubernetes mounts a ConfigMap with ``..data`` beside them.

    Raises:
        SettingsError: the folder is missing or holds no key, a file is no public key, a name cannot be used, or two
            files have the same name or key; the message names the files.
    """
    try:
        files = sorted(f for f in folder.iterdir() if f.suffix.lower() == ".pub" and not f.name.startswith("."))
    except FileNotFoundError as error:
        raise SettingsError(
            f"allow-list {folder}: there is no such folder; make it and put each hospital's NAME.pub in it"
        ) from error
    except OSError as error:
        raise SettingsError(f"allow-list {folder}: cannot be read: {error.strerror or error}") from error
    if not files:
        raise SettingsError(f"allow-list {folder}: holds no key; put each hospital's NAME.pub in it")
    taken: dict[tuple[str, object], Path] = {}
    hospitals = []
    for file in files:
        # macOS spells é with two characters; whoever compares names must not notice.
        name = unicodedata.normalize("NFC", file.stem)
        problem = name_problem(name)
        if problem is not None:
            raise SettingsError(f"allow-list {folder}: {file.name!r}: {problem}; rename the file")
        public = read_public(file)
        for what in (("name", name), ("key", identity(public))):
            other = taken.setdefault(what, file)
            if other is not file:
                raise SettingsError(
                    f"allow-list {folder}: {other.name} and {file.name} have the same {what[0]}; remove one of them"
                )
        hospitals.append(Hospital(name, identity(public), fingerprint(public)))
    return tuple(sorted(hospitals, key=lambda hospital: hospital.name))
