"""What a task expects as input: arrays of one shape, or the columns of a table.

A table's schema is a TOML file; docs/data.md describes it. Reading it names the key of whatever is wrong.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fl.errors import SettingsError, nearest

if TYPE_CHECKING:
    from pathlib import Path

Missing = str | float
"""How a missing value is filled: "refuse", "mean", "most-frequent", "category", or a value of the column."""


@dataclass(frozen=True)
class ArraySchema:
    """Inputs that are arrays of one shape, such as images.

    Attributes:
        shape: the shape of one example.
        low: the least value an element may take.
        high: the greatest.
        classes: the names of the classes, by index; none where the task is no classification.
    """

    shape: tuple[int, ...]
    low: float
    high: float
    classes: tuple[str, ...] = ()
    kind: Literal["array"] = "array"


@dataclass(frozen=True)
class Column:
    """One feature column of a table."""

    name: str
    kind: Literal["numeric", "categorical"]
    missing: Missing = "refuse"
    min: float | None = None
    max: float | None = None
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many input features the column becomes: one a category, and one more for "category"."""
        if self.kind == "numeric":
            return 1
        return len(self.categories) + (self.missing == "category")


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table, its target and, where one file holds several hospitals, the site column."""

    columns: tuple[Column, ...]
    target: str
    classes: tuple[str, ...]
    site: str | None = None
    missing_values: tuple[str, ...] = ("", "NA", "NaN", "nan", "null")
    kind: Literal["table"] = field(default="table")

    @property
    def width(self) -> int:
        """The number of input features after encoding."""
        return sum(column.width for column in self.columns)


Schema = ArraySchema | TableSchema


def schema_to_dict(schema: Schema) -> dict[str, Any]:
    """Return the schema as plain data, for JSON."""
    return asdict(schema)


def table_schema_from_dict(data: dict[str, Any]) -> TableSchema:
    """Rebuild a table schema from `schema_to_dict`'s output."""
    columns = tuple(Column(**{**c, "categories": tuple(c["categories"])}) for c in data["columns"])
    return TableSchema(
        columns,
        data["target"],
        tuple(data["classes"]),
        data["site"],
        tuple(data["missing_values"]),
    )


_TOP = ("target", "columns", "site", "missing_values")
_TARGET = ("column", "classes")
_NUMERIC = ("kind", "min", "max", "missing")
_CATEGORICAL = ("kind", "categories", "missing")


def read_schema(path: Path) -> TableSchema:
    """Read a table's schema from a TOML file.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or a key or value is wrong; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"schema {path}: cannot be read: {_reason(error)}") from error
    try:
        return _table(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, SettingsError) as error:
        raise SettingsError(f"schema {path}: {error}") from error


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8 text"


def _table(raw: dict[str, Any]) -> TableSchema:
    _known("", raw, _TOP)
    target = _section(raw, "target")
    _known("target", target, _TARGET)
    name = _text(target, "target", "column")
    classes = _words(target, "target", "classes", least=2)
    columns = tuple(_column(key, value) for key, value in _section(raw, "columns").items())
    if not columns:
        raise SettingsError("columns: describe at least one feature column")
    site = raw.get("site")
    if site is not None and not (isinstance(site, str) and site):
        raise SettingsError("site: the name of the column that holds the hospital's name")
    for special, key in ((name, "target.column"), (site, "site")):
        if any(column.name == special for column in columns):
            raise SettingsError(f"{key}: '{special}' is also a feature column; remove it from columns")
    if site == name:
        raise SettingsError(f"site: '{site}' is the target column")
    missing = raw.get("missing_values", list(TableSchema.missing_values))
    if not (isinstance(missing, list) and all(isinstance(word, str) for word in missing)):
        raise SettingsError("missing_values: a list of texts that stand for a missing value")
    words = {f"columns.{c.name}.categories": c.categories for c in columns} | {"target.classes": classes}
    for key, known in words.items():
        both = sorted(set(known) & set(missing))
        if both:
            raise SettingsError(f"{key}: '{both[0]}' also means a missing value; set missing_values without it")
    return TableSchema(columns, name, classes, site, tuple(missing))


def _column(name: str, raw: Any) -> Column:
    where = f"columns.{name}"
    if not isinstance(raw, dict):
        raise SettingsError(f"{where}: expected a table such as {{ kind = 'numeric' }}")
    kind = _text(raw, where, "kind") if "kind" in raw else None
    if kind not in ("numeric", "categorical"):
        if kind is None:  # A typo in the key 'kind' itself is the likely cause.
            _known(where, raw, (*_NUMERIC, *_CATEGORICAL))
            raise SettingsError(f"{where}.kind: missing; 'numeric' or 'categorical'")
        raise SettingsError(
            f"{where}.kind: unknown kind '{kind}'{nearest(kind, ('numeric', 'categorical'))}; "
            "known: numeric, categorical"
        )
    missing = raw.get("missing", "refuse")
    if kind == "numeric":
        _known(where, raw, _NUMERIC)
        low, high = _number(raw, where, "min"), _number(raw, where, "max")
        if low is not None and high is not None and low > high:
            raise SettingsError(f"{where}: min {low:g} is above max {high:g}")
        if missing not in ("refuse", "mean") and not _is_number(missing):
            raise SettingsError(f"{where}.missing: 'refuse', 'mean' or a number, got {missing!r}")
        if _is_number(missing):
            missing = float(missing)
            if (low is not None and missing < low) or (high is not None and missing > high):
                raise SettingsError(f"{where}.missing: {missing:g} is outside the column's own range")
        return Column(name, "numeric", missing, low, high)
    _known(where, raw, _CATEGORICAL)
    categories = _words(raw, where, "categories", least=1)
    if missing not in ("refuse", "most-frequent", "category", *categories):
        raise SettingsError(
            f"{where}.missing: 'refuse', 'most-frequent', 'category' or one of the categories, got {missing!r}"
        )
    return Column(name, "categorical", missing, categories=categories)


def _known(where: str, raw: dict[str, Any], allowed: tuple[str, ...]) -> None:
    for key in raw:
        if key not in allowed:
            known = ", ".join(dict.fromkeys(allowed))
            path = f"{where}.{key}" if where else key
            raise SettingsError(f"{path}: unknown key{nearest(key, allowed)}; known: {known}")


def _section(raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    if not isinstance(value, dict):
        raise SettingsError(f"{key}: the table [{key}] is missing")
    return value


def _text(raw: dict[str, Any], where: str, key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value:
        raise SettingsError(f"{where}.{key}: a text is needed")
    return value


def _words(raw: dict[str, Any], where: str, key: str, least: int) -> tuple[str, ...]:
    value = raw.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str | int) for v in value):
        raise SettingsError(f"{where}.{key}: a list of texts is needed")
    words = tuple(str(v) for v in value)
    if len(set(words)) != len(words):
        raise SettingsError(f"{where}.{key}: a value stands twice")
    if len(words) < least:
        raise SettingsError(f"{where}.{key}: at least {least} are needed")
    return words


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(raw: dict[str, Any], where: str, key: str) -> float | None:
    if key not in raw:
        return None
    if not _is_number(raw[key]):
        raise SettingsError(f"{where}.{key}: a number is needed, got {raw[key]!r}")
    return float(raw[key])
