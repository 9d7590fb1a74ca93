"""Secrets of a loop: files that the user put into its folder, and what the loop makes for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fl.errors import SettingsError
from pipeline.loop.state import SECRETS

if TYPE_CHECKING:
    from pathlib import Path


def read_secrets(state: Path) -> dict[str, dict[str, str]]:
    """Return the files by name, by the secret's name.

    Raises:
        SettingsError: one cannot be read.
    """
    found: dict[str, dict[str, str]] = {}
    root = state / SECRETS
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not folder.is_dir():
            raise SettingsError(f"{folder}: is a file; a secret is a folder with a file for each key")
        found[folder.name] = {}
        for path in sorted(folder.iterdir()):
            try:
                found[folder.name][path.name] = path.read_text(encoding="utf-8")
            except OSError as error:
                raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
            except UnicodeDecodeError as error:
                raise SettingsError(f"{path}: is not text in UTF-8") from error
    return found
