"""What the engine does not tell of a registry, asked of it directly: the right to push, and how large layers are.

The protocol is that of the OCI distribution specification, with a token or basic authentication, as the registry
asks.
"""

from __future__ import annotations

import re
import ssl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter

from fl.errors import FlopsError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.image_name import ImageName
    from pipeline.settings import Settings

_SECONDS = 15
_FIELD = re.compile(r'(\w+)="([^"]*)"')
_MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
TRUSTED = Path("/etc/docker/certs.d")
"""Where Docker Engine keeps the CAs that it trusts for one registry."""


def own_certificates(registry: str) -> list[Path]:
    """Return the files of the CAs that are put down for a registry."""
    return sorted((TRUSTED / registry).glob("*.crt"))


class _Trusting(HTTPAdapter):
    """Trusts whom Docker Engine trusts for a registry: the machine's CAs, and those that are put down for it."""

    def __init__(self, registry: str) -> None:
        self._context = ssl.create_default_context()
        for certificate in own_certificates(registry):
            try:
                self._context.load_verify_locations(certificate)
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(f"{certificate}: no CA's certificate in PEM format can be read there") from error
        super().__init__()

    def build_connection_pool_key_attributes(self, *words: Any, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Hand the trust on to the connections."""
        host, tls = super().build_connection_pool_key_attributes(*words, **more)
        return host, {**tls, "ssl_context": self._context}

    def cert_verify(self, *_: Any) -> None:
        """Leave it to the context; the library would add a bundle of CAs of its own."""


def check_push(settings: Settings, side: str) -> str:
    """Begin an upload of a side's image and take it back, which leaves nothing there; returns what was found.

    Raises:
        SettingsError: the account may not push there.
        FlopsError: the registry does not answer.
    """
    address = f"https://{settings.registry}/v2/{settings.project}/{side}/blobs/uploads/"
    with _session(settings) as session:
        answer = _ask(session, "POST", address, settings)
        if answer.status_code == 202:
            session.delete(urljoin(address, answer.headers.get("Location", "")), timeout=_SECONDS)
            return f"may push to {settings.image(side)}"
    if answer.status_code in (401, 403):
        raise SettingsError(f"the account may not push to {settings.image(side)}; give the robot that right")
    if answer.status_code == 404:
        raise SettingsError(f"registry {settings.registry} has no project '{settings.project}'; make it there")
    raise FlopsError(f"registry {settings.registry}: answers an upload with HTTP status {answer.status_code}")


def layer_sizes(settings: Settings, image: ImageName) -> list[int]:
    """Return the bytes of an image's layers as the registry stores them, compressed, the lowest first.

    Raises:
        FlopsError: the registry does not answer, or not with one image's manifest.
    """
    path = image.repository.partition("/")[2]
    address = f"https://{settings.registry}/v2/{path}/manifests/{image.digest}"
    with _session(settings) as session:
        session.headers["Accept"] = ", ".join(_MANIFESTS)
        answer = _ask(session, "GET", address, settings)
        try:
            return [int(layer["size"]) for layer in answer.json()["layers"]]
        except (ValueError, KeyError, TypeError) as error:
            raise FlopsError(
                f"registry {settings.registry}: HTTP status {answer.status_code}, no manifest"
            ) from error


@contextmanager
def _session(settings: Settings) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False  # What ~/.netrc says is not about this account.
        session.mount("https://", _Trusting(settings.registry))
        try:
            yield session
        except requests.RequestException as error:
            raise FlopsError(f"registry {settings.registry}: does not answer: {type(error).__name__}") from error


def _ask(session: requests.Session, method: str, address: str, settings: Settings) -> Any:
    answer = session.request(method, address, timeout=_SECONDS)
    if answer.status_code == 401:
        _authenticate(session, answer.headers.get("WWW-Authenticate", ""), settings)
        answer = session.request(method, address, timeout=_SECONDS)
    return answer


def _authenticate(session: requests.Session, challenge: str, settings: Settings) -> None:
    account = (settings.secrets.username, settings.secrets.password)
    if challenge.lower().startswith("basic"):
        session.auth = account
        return
    fields = dict(_FIELD.findall(challenge))
    if "realm" not in fields:
        return
    words = {name: fields[name] for name in ("service", "scope") if name in fields}
    answer = session.get(fields["realm"], params=words, auth=account, timeout=_SECONDS)
    if answer.ok:
        told = answer.json()
        session.headers["Authorization"] = f"Bearer {told.get('token') or told.get('access_token')}"
