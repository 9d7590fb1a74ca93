"""Settings files: TOML in which every key is known, and every wrong value is named with its key."""

from __future__ import annotations

import math
import tomllib
from typing import TYPE_CHECKING, Any

from fl.errors import SettingsError, nearest

if TYPE_CHECKING:
    from pathlib import Path


class SettingsFile:
    """A table of a settings file. Each value is asked for once; what nobody asked for is unknown."""

    def __init__(self, where: str, values: dict[str, Any], prefix: str = "") -> None:
        self.where, self._values, self._prefix = where, values, prefix
        self._known: list[str] = []
        self._tables: list[SettingsFile] = []

    @classmethod
    def read(cls, path: Path) -> SettingsFile:
        """Read a file.

        Raises:
            SettingsError: it cannot be read, or is not TOML.
        """
        try:
            return cls(str(path), tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise SettingsError(f"{path}: no such file") from error
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path}: is not text in UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path}: is not TOML: {error}") from error

    def wrong(self, key: str, problem: str) -> SettingsError:
        """Make the error for a key's value."""
        return SettingsError(f"{self.where}: {self._prefix}{key}: {problem}")

    def has(self, key: str) -> bool:
        """Tell whether a key is there."""
        self._known.append(key)
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; without a default the key must be there."""
        value = self._value(key, default)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, f"{value!r}: a text is needed")
        return value

    def whole(self, key: str, default: int | None = None, *, least: int = 0, most: int = 2**31 - 1) -> int:
        """Return a whole number within bounds."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(key, f"{value!r}: a whole number of at least {least} is needed")
        if value > most:
            raise self.wrong(key, f"{value}: a whole number of at most {most} is needed")
        return value

    def number(
        self,
        key: str,
        default: float | None = None,
        *,
        least: float = -math.inf,
        above: float = -math.inf,
        most: float = math.inf,
    ) -> float:
        """Return a finite number within bounds; the lower one of `above` is not allowed itself."""
        value = self._value(key, default)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not (least <= value <= most and value > above):
            bounds = [f"above {above:g}"] if above > -math.inf else []
            bounds += [f"at least {least:g}"] if least > -math.inf else []
            bounds += [f"at most {most:g}"] if most < math.inf else []
            raise self.wrong(key, f"{value!r}: a number {' and '.join(bounds)} is needed".replace("  ", " "))
        return float(value)

    def truth(self, key: str, default: bool | None = None) -> bool:
        """Return true or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, f"{value!r}: true or false is needed")
        return value

    def table(self, key: str) -> SettingsFile:
        """Return a table within this one; empty where it is not there."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, f"{value!r}: a table is needed, [{self._prefix}{key}]")
        inner = SettingsFile(self.where, value, f"{self._prefix}{key}.")
        self._tables.append(inner)
        return inner

    def items(self) -> dict[str, Any]:
        """Return all values, for a table whose keys others know."""
        self._known += list(self._values)
        return dict(self._values)

    def finish(self) -> None:
        """Check that every key was asked for.

        Raises:
            SettingsError: one was not; suggests the nearest that is known.
        """
        for key in self._values:
            if key not in self._known:
                raise SettingsError(
                    f"{self.where}: unknown key '{self._prefix}{key}'{nearest(key, self._known)}; "
                    f"known: {', '.join(sorted(set(self._known)))}"
                )
        for inner in self._tables:
            inner.finish()

    def _value(self, key: str, default: Any) -> Any:
        self._known.append(key)
        value = self._values.get(key, default)
        if value is None:
            raise SettingsError(f"{self.where}: the key '{self._prefix}{key}' is missing")
        return value
