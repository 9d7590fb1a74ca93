"""Everything a release needs, looked at before it is needed: a line each, with the mend."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl.checks import Check, Skip, check
from fl.errors import FlopsError, SettingsError
from pipeline.config_repo import ConfigRepo, hold_file, manifest_file, release_file
from pipeline.engine import RegistryRefused, TransferFailed, engine, log_in, remote_digest
from pipeline.git_environment import by_ssh
from pipeline.git_words import HostRefused, KeyRefused, public
from pipeline.model_registry import count_versions, model_name
from pipeline.record import SIDES
from pipeline.registry_http import check_push, own_certificates, speaks_tls
from pipeline.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.engine import DockerClient
    from pipeline.settings import Settings

_LEAST_FREE = 10
"""GB that both images, their layers and the build's cache want."""


def diagnose(settings: Settings, source: Path) -> list[Check]:
    """Make all checks, in the order of a release."""
    return [
        check("source", lambda: _source(source)),
        *_engine_checks(settings),
        *_config_checks(settings),
        check("runner", _runner),
    ]


def _source(folder: Path) -> str:
    found = Source.open(folder)
    more = "; the working tree holds changes that are not committed" if found.dirty else ""
    more += "; its history is cut off, and may not tell which commit is newer" if found.shallow else ""
    return f"commit {found.commit[:12]}, protocol {found.protocol}{more}"


def _engine_checks(settings: Settings) -> list[Check]:
    names = ("engine", "disk", "base image", "build", "registry", "CA", "login", "push right")
    try:
        with engine() as client:
            return [
                check("engine", lambda: f"Docker Engine {client.version()['Version']}"),
                check("disk", lambda: _disk(client)),
                check("base image", lambda: _base(client, settings)),
                check("build", lambda: _build(client, settings)),
                *_registry_checks(client, settings),
            ]
    except FlopsError as error:
        reason = str(error)
        return [check("engine", _raises(error)), *(_skipped(name, reason) for name in names[1:])]


def _disk(client: DockerClient) -> str:
    root = Path(client.info()["DockerRootDir"])
    if not root.exists():
        raise Skip(f"{root} is not on this machine")
    free = shutil.disk_usage(root).free / 1e9
    if free < _LEAST_FREE:
        raise FlopsError(
            f"{root} has {free:.1f} GB free, and {_LEAST_FREE} are wanted; old releases go with docker image prune "
            "--all --filter label=io.flops.protocol --filter until=168h"
        )
    return f"{root} has {free:.0f} GB free"


def _base(client: DockerClient, settings: Settings) -> str:
    name = settings.base_image
    if client.images.list(name):
        return f"{name} is here"
    host, path, _ = name.partition("/")
    named = bool(path) and ("." in host or ":" in host or host == "localhost")
    ours = settings.secrets if host == settings.registry else None
    found = remote_digest(client, name, host if named else "docker.io", ours)
    if found is None:
        raise SettingsError(f"build.base_image: {name} is neither here nor in its registry")
    return f"{name} is not here yet, and can be pulled"


def _build(client: DockerClient, settings: Settings) -> str:
    """Look at what only a build would find out."""
    network, wheels = settings.network, settings.wheels
    if network not in ("", "default", "host", "none") and not client.networks.list(names=[network]):
        raise SettingsError(f"build.network: the engine has no network '{network}'")
    found = [] if wheels is None else list(wheels.glob("*.whl"))
    if wheels is not None and not found:
        raise SettingsError(f"build.wheels: {wheels} holds no wheels")
    more = f"; {len(found)} wheels of {wheels}" if wheels else ""
    return f"network {network or 'of the engine'}{more}"


def _registry_checks(client: DockerClient, settings: Settings) -> list[Check]:
    """Tell apart what one attempt to log in says: no answer, no trust, no account."""
    names = ("registry", "CA", "login", "push right")
    host = settings.registry
    try:
        logged_in = log_in(client, host, settings.secrets)
        if not logged_in:
            remote_digest(client, f"{settings.image('server')}:none", host, settings.secrets)
    except TransferFailed as error:
        return [
            check("registry", _raises(error)),
            *(_skipped(name, "the registry does not answer") for name in names[1:]),
        ]
    except RegistryRefused as error:
        reachable = check("registry", lambda: f"{host} answers")
        if "certificate" in str(error) or "TLS" in str(error):
            rest = (_skipped(name, "the registry is not trusted") for name in names[2:])
            return [reachable, check("CA", _raises(error)), *rest]
        return [
            reachable,
            check("CA", lambda: _trust(settings)),
            check("login", _raises(error)),
            _skipped("push right", "the account is not accepted"),
        ]
    except FlopsError as error:  # Half an account.
        return [
            _skipped("registry", "there is no account to ask with"),
            _skipped("CA", "likewise"),
            check("login", _raises(error)),
            _skipped("push right", "likewise"),
        ]

    def push() -> str:
        for side in SIDES:
            found = check_push(settings, side)
        return found.replace("/client", "/{server,client}")

    who = settings.secrets.username
    return [
        check("registry", lambda: f"{host} answers"),
        check("CA", lambda: _trust(settings)),
        check("login", lambda: f"as {who}" if logged_in else "with what docker login has stored"),
        check("push right", push)
        if logged_in
        else _skipped("push right", "no account in the environment to ask with"),
    ]


def _trust(settings: Settings) -> str:
    if not speaks_tls(settings):
        raise Skip(f"{settings.registry} speaks no TLS, which the engine lets one on this machine do")
    found = own_certificates(settings.registry)
    return ", ".join(str(file) for file in found) or "one that this machine trusts for all"


def _config_checks(settings: Settings) -> list[Check]:
    names = ("config repository", "paths", "write right", "model registry")
    try:
        with ConfigRepo.open(settings) as repo:
            return [
                check("deploy key", lambda: _key(settings)),
                check("known hosts", lambda: _known(settings)),
                check("config repository", lambda: f"{public(settings.repository)}, commit {repo.head[:12]}"),
                check("paths", lambda: _paths(repo, settings)),
                check("write right", repo.try_push),
                check("model registry", lambda: _tracking(repo, settings)),
            ]
    except FlopsError as error:
        at_key, at_host = isinstance(error, KeyRefused), isinstance(error, HostRefused)
        rest = [_skipped(name, "the config repository cannot be read") for name in names[1:]]
        return [
            check("deploy key", _raises(error)) if at_key else check("deploy key", lambda: _key(settings)),
            check("known hosts", _raises(error)) if at_host else check("known hosts", lambda: _known(settings)),
            _skipped(names[0], "no way there") if at_key or at_host else check(names[0], _raises(error)),
            *rest,
        ]


def _needs_ssh(settings: Settings) -> None:
    if not by_ssh(settings.repository):
        raise Skip("no SSH leads to the config repository")


def _key(settings: Settings) -> str:
    _needs_ssh(settings)
    if settings.key is not None:
        return str(settings.key)
    if settings.secrets.ssh_key:
        return "from SSH_PRIVATE_KEY"
    raise Skip("none is named; ssh looks for one itself")


def _known(settings: Settings) -> str:
    _needs_ssh(settings)
    if settings.known_hosts is not None:
        return str(settings.known_hosts)
    if settings.secrets.known_hosts:
        return "from SSH_KNOWN_HOSTS"
    raise Skip("none are named; ssh looks for them itself")


def _paths(repo: ConfigRepo, settings: Settings) -> str:
    name = settings.environment
    file = manifest_file(name)
    image = repo.server_image(name)
    record, hold = repo.release(name), repo.hold(name)
    more = f"; {release_file(name)}: {record.release if record else 'no release yet'}"
    if record is not None and image != record.images["server"]:
        more += "; the manifest was changed by hand, and the next release sets it"
    more += f"; {hold_file(name)}: held by {hold.by}: {hold.reason}" if hold else ""
    return f"{file} names {image.tag or image.digest[:19] or 'no tag'}{more}"


def _tracking(repo: ConfigRepo, settings: Settings) -> str:
    """Ask the model registry that the trial tries the new server with."""
    file = f"{settings.environment}/federation.toml"
    if not settings.tracking:
        raise Skip("MLFLOW_TRACKING_URI names none: a release does not try the model in use")
    model = model_name(repo.read(file), file)
    found = count_versions(settings.tracking, model, None, os.environ)
    return f"has {found} versions of {model}"


def _runner() -> str:
    """Look for GitHub's runner as a service of systemd, which is where a machine's start brings it back."""
    program = shutil.which("systemctl")
    if program is None:
        raise Skip("no systemd here to ask")
    ended = _ask_systemd(
        program, "list-units", "--type=service", "--all", "--no-legend", "--plain", "actions.runner.*"
    )
    units = [line.split() for line in ended.stdout.splitlines() if line.strip()]
    if ended.returncode != 0 or not units:
        raise Skip(
            "no service actions.runner.* here; a release by hand needs none, a runner does: ./svc.sh install && "
            "./svc.sh start in its folder"
        )
    for unit in units:
        if len(unit) > 3 and unit[2] != "active":
            raise FlopsError(f"{unit[0]} is {unit[2]}; systemctl start {unit[0]}")
        asked = _ask_systemd(program, "is-enabled", unit[0])
        if asked.returncode != 0:
            said = asked.stdout.strip() or "not enabled"
            raise FlopsError(
                f"{unit[0]} is {said}, and gone with the machine's next start; systemctl enable {unit[0]}"
            )
    return ", ".join(unit[0] for unit in units)


def _ask_systemd(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise Skip("systemd does not answer") from None


def _raises(error: FlopsError) -> Callable[[], str]:
    def look() -> Any:
        raise error

    return look


def _skipped(name: str, reason: str) -> Check:
    def look() -> Any:
        raise Skip(reason)

    return check(name, look)
