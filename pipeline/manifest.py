"""One scalar of a Kubernetes manifest, changed in its text: nothing else of the file moves.

The file is composed to find where the scalar stands; the new text goes in at that place, and the result is composed
again to make sure that nothing but the scalar has another meaning now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fl.errors import SettingsError
from pipeline.image_name import ImageName, parse_image
from pipeline.yaml_text import ManifestError, aliases, child, compose, decode, events, value

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
    return _find(decode(content, file), file, container, repository)


def set_image(content: bytes, file: str, container: str, image: ImageName) -> bytes:
    """Return the manifest with another image of the same repository; see `find_image` for the errors."""
    text = decode(content, file)
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


def _find(text: str, file: str, container: str, repository: str) -> ImageField:
    found = [
        (document, path)
        for document in compose(text, file)
        for path in _containers(document)
        if value(path[-1], "name") == container
    ]
    if not found:
        names = [n for d in compose(text, file) for p in _containers(d) if (n := value(p[-1], "name"))]
        there = f"there is {', '.join(names)}" if names else "there is none in any pod"
        raise ManifestError(f"{file}: has no container named '{container}'; {there}")
    if len(found) > 1:
        lines = " and ".join(str(path[-1].start_mark.line + 1) for _, path in found)
        raise ManifestError(
            f"{file}: has {len(found)} containers named '{container}', lines {lines}; names must differ"
        )
    ((document, path),) = found
    line = path[-1].start_mark.line + 1
    scalar = child(path[-1], "image")
    if scalar is None or scalar.id != "scalar":
        merged = " of its own; it comes through a merge key (<<)" if child(path[-1], "<<") is not None else ""
        raise ManifestError(f"{file}, line {line}: container '{container}' has no image{merged}; write one: image: …")
    line = scalar.start_mark.line + 1
    referred = aliases(text)
    shared = next((node.anchor for node in (document, *path, scalar) if node.anchor in referred), None)
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


def _containers(document: Any) -> Iterator[list[Any]]:
    """Yield the path of nodes to each container, the container last; lists of objects are looked into."""
    kind = value(document, "kind")
    if kind == "List":
        items = child(document, "items")
        for item in items.value if items is not None and items.id == "sequence" else ():
            yield from ([items, *path] for path in _containers(item))
    path = [document]
    for key in (*_POD.get(kind, ()), "containers"):
        node = child(path[-1], key)
        if node is None:
            return
        path.append(node)
    if kind in _POD and path[-1].id == "sequence":
        yield from ([*path, item] for item in path[-1].value)


def _check_alone(before: str, after: str, file: str, line: int, new: str) -> None:
    """Make sure that one scalar has another value and all else its old one."""
    old, made = events(before), events(after)
    changed = [b for a, b in zip(old, made, strict=False) if a != b]
    if len(old) != len(made) or [value for *_, value in changed] != [new]:
        raise ManifestError(f"{file}, line {line}: the image cannot be changed alone; write it on a line of its own")
