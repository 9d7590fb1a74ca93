"""YAML of Kubernetes objects as text with places: what a file says, and in which line.

This is the only module that imports ruamel.yaml.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.events import AliasEvent

from fl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

# YAML allows it; where it matters, what refers to an anchor is looked at.
warnings.simplefilter("ignore", ReusedAnchorWarning)

_BOM = "\ufeff"
_SPACE = re.compile(r"(?<![ \t])[ \t]+(?=#|\r?$)", re.MULTILINE)
_LARGEST = 1_000_000


class ManifestError(SettingsError):
    """A manifest that cannot be read or changed; names file and, where there is one, line."""


def decode(content: bytes, file: str) -> str:
    """Return a manifest's text.

    Raises:
        ManifestError: it is too large, or no text in UTF-8.
    """
    if len(content) > _LARGEST:
        raise ManifestError(f"{file}: has {len(content)} bytes, and no manifest has more than {_LARGEST}")
    try:
        return content.decode().removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file}: is not text in UTF-8") from error


def compose(text: str, file: str) -> list[Any]:
    """Return the root node of each document.

    Raises:
        ManifestError: it is not YAML, or a mapping has a key twice.
    """
    try:
        nodes = [node for node in YAML(pure=True).compose_all(_readable(text)) if node is not None]
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}" if mark else ""
        tab = "; YAML wants spaces there, not tabs" if "'\\t'" in str(error.problem) else ""
        raise ManifestError(f"{file}{place}: is not YAML: {error.problem or error.context}{tab}") from error
    except RecursionError as error:
        raise ManifestError(f"{file}: is nested too deeply") from error
    except (YAMLError, ValueError, AssertionError) as error:
        raise ManifestError(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
    _check_keys(nodes, file)
    return nodes


def _readable(text: str) -> str:
    """Replace tabs before a comment and at a line's end: YAML allows them, ruamel.yaml does not."""
    return _SPACE.sub(lambda found: " " * len(found[0]), text)


def _check_keys(nodes: list[Any], file: str) -> None:
    """Refuse keys that a mapping has twice: some programs would take the first, some the last."""
    seen: set[int] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.id == "scalar" or id(node) in seen:
            continue
        seen.add(id(node))
        if node.id == "sequence":
            waiting += node.value
            continue
        keys: set[str] = set()
        for key, value in node.value:
            if key.id == "scalar" and key.value in keys:
                raise ManifestError(f"{file}, line {key.start_mark.line + 1}: the key '{key.value}' is there twice")
            keys.add(key.value if key.id == "scalar" else "")
            waiting += [key, value]


def aliases(text: str) -> set[str]:
    """Return the anchors that something refers to."""
    return {str(event.anchor) for event in YAML(pure=True).parse(_readable(text)) if isinstance(event, AliasEvent)}


def child(node: Any, key: str) -> Any:
    """Return the node of a key; None where there is none."""
    if node.id != "mapping":
        return None
    return next((value for name, value in node.value if name.id == "scalar" and name.value == key), None)


def value(node: Any, key: str) -> str:
    """Return the scalar of a key as text; an empty one where there is none."""
    found = child(node, key)
    return str(found.value) if found is not None and found.id == "scalar" else ""


def events(text: str) -> list[tuple[Any, ...]]:
    """Return what a file says in order, without where it says it."""
    what = ("anchor", "tag", "style", "flow_style", "value")
    return [
        (type(e).__name__, *(getattr(e, name, None) for name in what)) for e in YAML(pure=True).parse(_readable(text))
    ]


def load(text: str, file: str) -> list[Any]:
    """Return each document as plain values; empty ones are left out.

    Raises:
        ManifestError: it is not YAML.
    """
    try:
        return [found for found in YAML(typ="safe", pure=True).load_all(_readable(text)) if found is not None]
    except (YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"{file}: is not YAML: {' '.join(str(error).split())}") from error


def line_of(node: Any, path: Sequence[str | int]) -> int:
    """Return the line, counted from 1, of the last part of a path that is there."""
    line: int = node.start_mark.line + 1
    for key in path:
        if node.id == "sequence" and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
            continue
        found = next(((k, v) for k, v in node.value if k.value == key), None) if node.id == "mapping" else None
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line
