"""One scalar of a Kubernetes manifest, changed in its text: nothing else of the file moves.

The file is composed to find where the scalar stands; the new text goes in at that place, and the result is composed
again to make sure that nothing but the scalar has another meaning now. This is the only module that imports
ruamel.yaml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from fl.errors import SettingsError
from pipeline.image_name import ImageName, parse_image

if TYPE_CHECKING:
    from collections.abc import Iterator

_POD = {
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
    "DaemonSet": ("spec", "template", "spec"),
    "Deployment": ("spec", "template", "spec"),
    "Job": ("spec", "template", "spec"),
    "Pod": ("spec",),
    "StatefulSet": ("spec", "template", "spec"),
}
"""Where each kind of object keeps its containers."""

_BOM = "\ufeff"
_SPACE = re.compile(r"(?<![ \t])[ \t]+(?=#|\r?$)", re.MULTILINE)
_LARGEST = 1_000_000


class ManifestError(SettingsError):
    """A manifest that cannot be read or changed; names file and, where there is one, line."""


@dataclass(frozen=True)
class ImageField:
    """Where a container's image stands in a manifest.

    Attributes:
        image: the image now.
        line: counted from 1.
        start: the scalar's first character, counted from 0.
        end: the character behind its last one.
    """

    image: ImageName
    line: int
    start: int
    end: int


def find_image(content: bytes, file: str, container: str, repository: str) -> ImageField:
    """Find the image of a container by the container's name.

    Args:
        content: the manifest, one or several YAML documents in UTF-8.
        file: its name, for messages.
        container: the container's name.
        repository: what the image's repository must be: another one means another program.

    Raises:
        ManifestError: it is no YAML, or not exactly one container has the name, or its image is another program's,
            or is shared with other places in the file.
    """
    return _find(_decode(content, file), file, container, repository)


def set_image(content: bytes, file: str, container: str, image: ImageName) -> bytes:
    """Return the manifest with another image of the same repository; see `find_image` for the errors."""
    text = _decode(content, file)
    field = _find(text, file, container, image.repository)
    old, new = str(field.image), str(image)
    if old == new:
        return content
    scalar = text[field.start : field.end]
    if scalar.count(old) != 1:
        raise ManifestError(f"{file}, line {field.line}: the image is written with escapes; write {old} out plainly")
    made = text[: field.start] + scalar.replace(old, new) + text[field.end :]
    _check_alone(text, made, file, field.line, new)
    return content[: len(content) - len(text.encode())] + made.encode()


def _decode(content: bytes, file: str) -> str:
    if len(content) > _LARGEST:
        raise ManifestError(f"{file}: has {len(content)} bytes, and no manifest has more than {_LARGEST}")
    try:
        return content.decode().removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file}: is not text in UTF-8") from error


def _find(text: str, file: str, container: str, repository: str) -> ImageField:
    found = [
        (document, path)
        for document in _compose(text, file)
        for path in _containers(document)
        if _value(path[-1], "name") == container
    ]
    if not found:
        names = [n for d in _compose(text, file) for p in _containers(d) if (n := _value(p[-1], "name"))]
        there = f"there is {', '.join(names)}" if names else "there is none in any pod"
        raise ManifestError(f"{file}: has no container named '{container}'; {there}")
    if len(found) > 1:
        lines = " and ".join(str(path[-1].start_mark.line + 1) for _, path in found)
        raise ManifestError(
            f"{file}: has {len(found)} containers named '{container}', lines {lines}; names must differ"
        )
    ((document, path),) = found
    line = path[-1].start_mark.line + 1
    scalar = _child(path[-1], "image")
    if scalar is None or scalar.id != "scalar":
        merged = " of its own; it comes through a merge key (<<)" if _child(path[-1], "<<") is not None else ""
        raise ManifestError(f"{file}, line {line}: container '{container}' has no image{merged}; write one: image: …")
    line = scalar.start_mark.line + 1
    aliases = _aliases(text)
    shared = next((node.anchor for node in (document, *path, scalar) if node.anchor in aliases), None)
    if shared is not None:
        raise ManifestError(
            f"{file}, line {line}: the image of '{container}' is shared through the anchor &{shared}, and a change "
            "would reach all who use it; write it out"
        )
    try:
        image = parse_image(str(scalar.value))
    except SettingsError as error:
        raise ManifestError(f"{file}, line {line}: {error}") from error
    if image.repository != repository:
        raise ManifestError(
            f"{file}, line {line}: container '{container}' runs {image.repository}, and {repository} is released; "
            "name the right container, registry or project"
        )
    return ImageField(image, line, scalar.start_mark.index, scalar.end_mark.index)


def _compose(text: str, file: str) -> list[Any]:
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


def _aliases(text: str) -> set[str]:
    """Return the anchors that something refers to."""
    return {str(event.anchor) for event in YAML(pure=True).parse(_readable(text)) if isinstance(event, AliasEvent)}


def _containers(document: Any) -> Iterator[list[Any]]:
    """Yield the path of nodes to each container, the container last; lists of objects are looked into."""
    kind = _value(document, "kind")
    if kind == "List":
        items = _child(document, "items")
        for item in items.value if items is not None and items.id == "sequence" else ():
            yield from ([items, *path] for path in _containers(item))
    path = [document]
    for key in (*_POD.get(kind, ()), "containers"):
        node = _child(path[-1], key)
        if node is None:
            return
        path.append(node)
    if kind in _POD and path[-1].id == "sequence":
        yield from ([*path, item] for item in path[-1].value)


def _child(node: Any, key: str) -> Any:
    if node.id != "mapping":
        return None
    return next((value for name, value in node.value if name.id == "scalar" and name.value == key), None)


def _value(node: Any, key: str) -> str:
    child = _child(node, key)
    return str(child.value) if child is not None and child.id == "scalar" else ""


def _check_alone(before: str, after: str, file: str, line: int, new: str) -> None:
    """Make sure that one scalar has another value and all else its old one."""
    old, made = _events(before), _events(after)
    changed = [b for a, b in zip(old, made, strict=False) if a != b]
    if len(old) != len(made) or [value for *_, value in changed] != [new]:
        raise ManifestError(f"{file}, line {line}: the image cannot be changed alone; write it on a line of its own")


def _events(text: str) -> list[tuple[Any, ...]]:
    """Return what a file says in order, without where it says it."""
    what = ("anchor", "tag", "style", "flow_style", "value")
    return [
        (type(e).__name__, *(getattr(e, name, None) for name in what)) for e in YAML(pure=True).parse(_readable(text))
    ]
