"""Docker Engine, through its SDK: the only module that imports it, and what its errors mean.

A build or a push that fails is a line in its stream and no exception; `read_stream` makes it one.
"""

from __future__ import annotations

import contextlib
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import docker
from docker import DockerClient as DockerClient
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container as Container
from requests.exceptions import ConnectionError as ConnectionLost
from requests.exceptions import ReadTimeout, RequestException
from urllib3.exceptions import HTTPError

from fl.errors import FlopsError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pipeline.settings import Secrets

SECONDS = 900
"""The engine may be silent for so long, as a step of a build is."""

_ANSWERS = 15
"""In so many seconds it must answer at all."""


ENGINE_ERRORS: tuple[type[Exception], ...] = (DockerException, RequestException, HTTPError)
"""What the library raises, itself or from below; the last in the middle of a stream."""

ENGINE_TIMEOUTS: tuple[type[Exception], ...] = (ReadTimeout, ConnectionLost)
"""What it raises where an answer does not come in time."""


EngineRefused = APIError
"""What it raises where the engine answers that it will not."""


class EngineUnreachable(FlopsError):  # noqa: N818 - a state, not a mistake
    """Docker Engine does not answer."""


class RegistryRefused(SettingsError):  # noqa: N818 - a state, not a mistake
    """The registry is not trusted, or does not let this account do what is wanted."""


class TransferFailed(FlopsError):  # noqa: N818 - a state, not a mistake
    """The registry could not be reached, or the transfer broke."""


class StreamFailed(FlopsError):  # noqa: N818 - a state, not a mistake
    """A build or push failed; the message is the engine's."""


@contextmanager
def engine(seconds: int = SECONDS) -> Iterator[DockerClient]:
    """Yield a connection to the engine that the environment names (DOCKER_HOST), by default the local one.

    Args:
        seconds: how long it may be silent.

    Raises:
        EngineUnreachable: it does not answer, or ends meanwhile.
    """
    try:
        with contextlib.closing(docker.from_env(timeout=_ANSWERS)) as first:
            first.ping()
        client = docker.from_env(timeout=seconds)
    except ENGINE_ERRORS as error:
        text = no_engine(error)
        raise (SettingsError if text.startswith(_NO_ADDRESS) else EngineUnreachable)(text) from error
    except ValueError as error:  # A port that is no number.
        raise SettingsError(f"{_NO_ADDRESS}: {error}") from error
    try:
        yield client
    except APIError as error:  # Which is one of those below, too.
        raise FlopsError(f"Docker Engine: {said(error)}") from error
    except (RequestException, HTTPError) as error:
        raise EngineUnreachable(no_engine(error)) from error
    except DockerException as error:  # A credential helper that is missing, say.
        raise FlopsError(f"Docker's library: {' '.join(str(error).split())}") from error
    finally:
        client.close()


def account(secrets: Secrets) -> dict[str, str] | None:
    """Return the registry's account as the engine takes it; None for what `docker login` has stored.

    Raises:
        SettingsError: half of it is missing.
    """
    if bool(secrets.username) != bool(secrets.password):
        there, missing = ("HARBOR_USERNAME", "HARBOR_PASSWORD")[:: 1 if secrets.username else -1]
        raise SettingsError(f"{there} is set and {missing} is not; a robot account has both")
    return {"username": secrets.username, "password": secrets.password} if secrets.username else None


def log_in(client: DockerClient, registry: str, secrets: Secrets) -> bool:
    """Prove the account to a registry; False where there is none to prove.

    Raises:
        RegistryRefused: the account or the registry's certificate is not accepted.
        TransferFailed: the registry does not answer.
    """
    known = account(secrets)
    if known is None:
        return False
    with _about(registry, only_account=True):
        # Kept in this process alone: no file of the user's is written. What is stored for other registries stays.
        client.api.login(**known, registry=registry, reauth=True)
    return True


def remote_digest(client: DockerClient, image: str, registry: str, secrets: Secrets | None) -> str | None:
    """Return the digest behind an image's name in its registry; None where it is not there.

    Raises:
        RegistryRefused: the account or the registry's certificate is not accepted.
        TransferFailed: the registry does not answer.
    """
    known = account(secrets) if secrets else None
    with _about(registry, image, logged_in=known is not None):
        try:
            found = client.api.inspect_distribution(image, auth_config=known)
        except APIError as error:
            missing = isinstance(error, NotFound) or re.search("manifest unknown|name unknown|not found", said(error))
            if missing and not re.search(_NO_PROJECT, said(error)):
                return None
            raise
    return str(found["Descriptor"]["digest"])


def pull(client: DockerClient, image: str, registry: str, secrets: Secrets) -> None:
    """Have an image here, by a name with a digest.

    Raises:
        RegistryRefused: the account or the registry's certificate is not accepted.
        TransferFailed: the registry does not answer, or has no such image.
    """
    try:
        client.images.get(image)
    except NotFound:
        known = account(secrets)
        with _about(registry, image, logged_in=known is not None):
            read_stream(client.api.pull(image, stream=True, decode=True, auth_config=known), lambda _: None)


def read_stream(lines: Iterable[dict[str, Any]], each: Callable[[dict[str, Any]], None]) -> None:
    """Hand on each line of a build's or push's stream.

    Raises:
        StreamFailed: a line says that it failed.
    """
    failed = ""
    for line in lines:  # To its end, so that the connection is given back.
        if not failed and ("error" in line or "errorDetail" in line):
            detail = line.get("errorDetail") or {}
            failed = " ".join(str(detail.get("message") or line.get("error")).split())
        each(line)
    if failed:
        raise StreamFailed(failed)


_RIGHTS = (
    "the account may not do this in project '{project}'; give the robot the rights to pull and push there, and make "
    "the project if there is none"
)
_ACCOUNT = "it does not accept the account; check HARBOR_USERNAME and HARBOR_PASSWORD"
_NO_PROJECT = r"project \S+ not found"
_NO_ACCOUNT = "it wants an account; set HARBOR_USERNAME and HARBOR_PASSWORD"

_NO_ADDRESS = "DOCKER_HOST is no engine's address"

_MEANINGS: tuple[tuple[str, type[FlopsError], str], ...] = (
    ("manifest unknown|manifest for .* not found", TransferFailed, "it has no such image"),
    (
        "certificate signed by unknown authority",
        RegistryRefused,
        "its certificate is of a CA that the engine does not trust; put the CA's certificate to "
        "/etc/docker/certs.d/{registry}/ca.crt",
    ),
    (
        "is before",
        RegistryRefused,
        "its certificate is not valid yet; is the clock of this machine right?",
    ),
    ("certificate has expired", RegistryRefused, "its certificate has expired; its administrator must renew it"),
    (
        "certificate is (valid for|not valid)",
        RegistryRefused,
        "its certificate is for another name; name it as the certificate does, in registry.host",
    ),
    ("x509:", RegistryRefused, "its certificate is not accepted"),
    ("server gave HTTP response", RegistryRefused, "it speaks no TLS; name its TLS port"),
    # Harbor denies what is too large for a project's quota.
    (
        "exceed the configured upper limit|quota",
        TransferFailed,
        "the quota of project '{project}' is used up; raise it, or remove old images there",
    ),
    (
        _NO_PROJECT,
        RegistryRefused,
        "it has no project '{project}'; make it there, or mend registry.project",
    ),
    ("read.only mode", TransferFailed, "it is in read-only mode just now; its administrator knows for how long"),
    ("unauthorized to access|denied|insufficient.scope", RegistryRefused, _RIGHTS),
    ("no basic auth credentials", RegistryRefused, _NO_ACCOUNT),
    ("unauthorized|authentication required|401 Unauthorized", RegistryRefused, _ACCOUNT),
    ("no space left", TransferFailed, "it has no space left; its administrator must make some"),
    ("no such host", TransferFailed, "its host's name is not known to the engine"),
    ("connection refused", TransferFailed, "nothing listens there (connection refused)"),
    ("i/o timeout|Client.Timeout|context deadline exceeded", TransferFailed, "it does not answer (timed out)"),
    (
        r"HTTP status:? 50[0-9]|Internal Server Error|Bad Gateway|Service Unavailable",
        TransferFailed,
        "it failed inside ({text}): most often it has no space left or is just starting; its log says why",
    ),
    (
        "EOF|broken pipe|connection reset|closed network connection",
        TransferFailed,
        "the connection broke in the middle of the transfer; release again",
    ),
)
"""What a registry's words, as the engine repeats them, mean: the first that is found counts."""


def explain(text: str, registry: str, project: str, *, logged_in: bool) -> FlopsError:
    """Say in a line what the engine's words about a registry mean, and what to do.

    Args:
        text: the engine's words.
        registry: the registry's name.
        project: the project in it.
        logged_in: whether the account was accepted before, so that only a right can be missing.
    """
    for sign, kind, meaning in _MEANINGS:
        if re.search(sign, text):
            told = _RIGHTS if meaning == _ACCOUNT and logged_in else meaning
            return kind(f"registry {registry}: {told.format(registry=registry, project=project, text=text)}")
    return TransferFailed(f"registry {registry}: {text}")


@contextmanager
def _about(registry: str, image: str = "", *, logged_in: bool = False, only_account: bool = False) -> Iterator[None]:
    try:
        yield
    except (APIError, StreamFailed) as error:
        if only_account and re.search("denied|forbidden", said(error)):  # Some registries say it so.
            raise RegistryRefused(f"registry {registry}: {_ACCOUNT}") from error
        project = image.partition("/")[2].rpartition("/")[0]
        raise explain(said(error), registry, project, logged_in=logged_in) from error


def said(error: Exception) -> str:
    """Return what the engine answered, in a line."""
    if (response := getattr(error, "response", None)) is not None:
        response.close()  # One that was to be a stream would keep its connection.
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def no_engine(error: Exception) -> str:
    """Say in a line why the engine does not answer, and what to do."""
    if isinstance(error, APIError):
        return f"Docker Engine: {said(error)}"
    text = str(error)
    if "invalid bind address" in text or "Invalid" in text or "bad format" in text:
        return f"{_NO_ADDRESS}: {' '.join(text.split())}"
    if "Permission denied" in text or "PermissionError" in text:
        return "Docker Engine does not let this user in; add the user to the group docker"
    broke = "Connection aborted" in text or "IncompleteRead" in text or "Connection broken" in text
    reason = "it ended or broke the connection" if broke and "FileNotFound" not in text else ""
    reason = "it is silent (timed out)" if "timed out" in text.lower() else reason
    return f"Docker Engine does not answer{f': {reason}' if reason else ''}; start it, or name another by DOCKER_HOST"


def labels(client: DockerClient, image: str) -> Mapping[str, str]:
    """Return an image's labels."""
    found: Mapping[str, str] = client.images.get(image).labels
    return found
