"""Settings of the release pipeline: `flops.toml`, and the environment that goes before it."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl.errors import SettingsError
from fl.settings_file import SettingsFile
from pipeline.image_name import ImageName, parse_image
from pipeline.options import OPTIONS, TABLES, Option

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = Path("flops.toml")
"""Where the settings stand if nobody names a file."""

_FOLDER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_AUTHOR = re.compile(r"(?=.*[^\W_].* <|.*[^\x00-\x7f].* <)([^<>]*[^<>\s]) +<([^<>\s]+@[^<>\s]+)>")
_ADDRESS = re.compile(r"(?!ext::|fd::)[^\x00-\x1f\x7f]+")
_BRANCH = re.compile(r"(?![-./]|.*(?:\.\.|@\{|//|/\.|\.lock(?:/|$)))[^\s~^:?*\[\\\x00-\x1f\x7f]+(?<![./])")
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?")


@dataclass(frozen=True)
class Secrets:
    """What only the environment holds; never shown.

    Attributes:
        username: the registry's robot account.
        password: its token.
        ssh_key: a deploy key's text; empty where a file or ssh itself has it.
        known_hosts: the text of a known-hosts file; empty likewise.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    ssh_key: str = field(default="", repr=False)
    known_hosts: str = field(default="", repr=False)


@dataclass(frozen=True)
class Settings:
    """The pipeline's settings, checked.

    Attributes:
        registry: the registry's host and port.
        project: the project in it.
        repository: the config repository's address.
        branch: its branch.
        key: the deploy key's file, or None.
        known_hosts: the file with the git server's host key, or None.
        environment: the folder that a release goes to.
        container: the container's name in the manifest.
        author: name and mail address of the commits.
        base_image: what both images start from.
        pip_flags: further words for pip.
        wheels: a folder of wheels, or None.
        network: the network of a build's steps; empty for the engine's own choice.
        smoke: whether the trial federation runs.
        smoke_seconds: how long each of its steps may take.
        tracking: the model registry in use; empty where none is named.
        namespace: an environment's namespace, with ENV for its name.
        secrets: from the environment.
    """

    registry: str
    project: str
    repository: str
    branch: str
    key: Path | None
    known_hosts: Path | None
    environment: str
    container: str
    author: tuple[str, str]
    base_image: str
    pip_flags: str
    wheels: Path | None
    network: str
    smoke: bool
    smoke_seconds: int
    tracking: str
    namespace: str
    secrets: Secrets

    def image(self, side: str) -> str:
        """Return the repository of a side's image."""
        return f"{self.registry}/{self.project}/{side}"


def read_settings(file: Path | None, environment: Mapping[str, str], *, needs: tuple[str, ...] = ()) -> Settings:
    """Read the settings.

    Args:
        file: the settings file; None for `flops.toml` here, which may be missing.
        environment: the process's variables.
        needs: the options that the command cannot do without, such as ``registry.host``.

    Raises:
        SettingsError: a key is unknown, a value cannot be used, or one that is needed is missing.
    """
    path = file or FILE
    source = SettingsFile.read(path) if file is not None or path.exists() else SettingsFile(str(path), {})
    tables = {name: source.table(name) for name in TABLES}
    found = {option.name: _value(option, tables[option.table], environment) for option in OPTIONS}
    source.finish()
    for option in OPTIONS:
        if option.name in needs and not found[option.name][0]:
            place = f"{path}: '{option.name}' is missing; write it there"
            if file is None and not path.exists():
                place = f"'{option.name}' is missing, and there is no {path} in this folder; write it into one"
            raise SettingsError(f"{place} (flops init makes an example), or set {option.variable}")
    value: dict[str, Any] = {name: v for name, (v, _) in found.items()}
    where = {name: place for name, (_, place) in found.items()}
    for name, pattern, example in (
        (
            "registry.host",
            _HOST,
            "a host with a port if it has one, such as harbor.example.org:8443, without https://",
        ),
        ("config.branch", _BRANCH, "a branch's name, such as main,"),
        ("config.environment", _FOLDER, "a folder's name in small letters, such as dev"),
        ("config.container", _FOLDER, "a container's name in small letters, such as global-server"),
        ("config.author", _AUTHOR, "a name and an address, such as FLOps <flops@example.org>,"),
    ):
        if value[name] and not pattern.fullmatch(value[name]):
            raise SettingsError(f"{where[name]}: '{value[name]}': {example} is needed")
    if value["config.repository"] and not _ADDRESS.fullmatch(value["config.repository"]):
        raise SettingsError(f"{where['config.repository']}: is no repository's address; git@… or ssh://… is needed")
    host = value["registry.host"]
    if host and not re.search(r"[.:]|^localhost$", host):
        raise SettingsError(
            f"{where['registry.host']}: '{host}': Docker takes a name without a dot and a port for a user of Docker "
            f"Hub; write {host}.example.org or {host}:443"
        )
    if value["registry.host"] and value["registry.project"]:
        try:
            named = parse_image(f"{value['registry.host']}/{value['registry.project']}/server")
        except SettingsError:
            named = ImageName("", "wrong")
        if named.tag:
            raise SettingsError(
                f"{where['registry.project']}: '{value['registry.project']}': a project's name in small letters is "
                "needed, such as flops"
            )
    try:
        parse_image(value["build.base_image"])
    except SettingsError as error:
        raise SettingsError(f"{where['build.base_image']}: {error}") from error
    author = _AUTHOR.fullmatch(value["config.author"])
    return Settings(
        registry=value["registry.host"] or "",
        project=value["registry.project"] or "",
        repository=value["config.repository"] or "",
        branch=value["config.branch"],
        key=_path(value["config.key"], where["config.key"], variable="SSH_PRIVATE_KEY"),
        known_hosts=_path(value["config.known_hosts"], where["config.known_hosts"], variable="SSH_KNOWN_HOSTS"),
        environment=value["config.environment"],
        container=value["config.container"],
        author=(author[1], author[2]) if author else ("", ""),
        base_image=value["build.base_image"],
        pip_flags=value["build.pip_flags"],
        wheels=_path(value["build.wheels"], where["build.wheels"], folder=True),
        network=value["build.network"],
        smoke=value["smoke.enabled"],
        smoke_seconds=value["smoke.seconds"],
        tracking=value["smoke.tracking"],
        namespace=value["cluster.namespace"],
        secrets=Secrets(
            username=environment.get("HARBOR_USERNAME", ""),
            password=environment.get("HARBOR_PASSWORD", ""),
            ssh_key=environment.get("SSH_PRIVATE_KEY", ""),
            known_hosts=environment.get("SSH_KNOWN_HOSTS", ""),
        ),
    )


def check_text(text: str) -> None:
    """Find out whether a settings file could be used.

    Raises:
        SettingsError: a value cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FILE
        file.write_text(text, encoding="utf-8")
        try:
            read_settings(file, {})
        except SettingsError as error:
            raise SettingsError(str(error).replace(f"{file}: ", "")) from error


def check_environment(name: str) -> str:
    """Return an environment's name.

    Raises:
        SettingsError: it cannot be a folder of the config repository.
    """
    if not _FOLDER.fullmatch(name):
        raise SettingsError(f"'{name}' is no environment: a folder's name in small letters is needed, such as dev")
    return name


def _value(option: Option, table: SettingsFile, environment: Mapping[str, str]) -> tuple[Any, str]:
    """Return an option's value and where it stands; an empty variable counts as none, as workflows set them."""
    written: Any = option.default
    if table.has(option.key):
        if isinstance(option.default, bool):
            written = table.truth(option.key)
        elif isinstance(option.default, int):
            written = table.whole(option.key, least=1)
        else:
            written = table.text(option.key).strip()
    if text := environment.get(option.variable, "").strip():
        return _from_text(option, text), option.variable
    return written, f"{table.where}: {option.name}"


def _from_text(option: Option, text: str) -> str | int | bool:
    if isinstance(option.default, bool):
        if text.lower() in ("1", "true", "yes"):
            return True
        if text.lower() in ("0", "false", "no"):
            return False
        raise SettingsError(f"{option.variable}: '{text}': true or false is needed")
    if isinstance(option.default, int):
        if not (text.isascii() and text.isdigit() and int(text) >= 1):
            raise SettingsError(f"{option.variable}: '{text}': a whole number of at least 1 is needed")
        return int(text)
    return text


def _path(text: str, where: str, *, folder: bool = False, variable: str = "") -> Path | None:
    """Return the path of what is there; a variable is where the text itself goes, which is not shown."""
    if not text:
        return None
    what = "folder" if folder else "file"
    if "\n" in text or "-----BEGIN" in text:
        hint = f"; the text itself goes to {variable}" if variable else ""
        raise SettingsError(f"{where}: holds a text, and a {what}'s name is needed{hint}")
    try:
        path = Path(text).expanduser()
        there = path.is_dir() if folder else path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # Too long, or in the home of somebody who is not there.
        raise SettingsError(f"{where}: what stands there is no {what}'s name") from error
    if not there:
        raise SettingsError(f"{where}: {path}: no such {what}")
    return path
