"""What the engine does not tell of a registry, asked of it directly: the right to push, and how large layers are.

The protocol is that of the OCI distribution specification, with a token or basic authentication, as the registry
asks.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import ssl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

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
        # As the engine does: an issuer in the middle of a chain may be trusted, and old house CAs are.
        self._context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._context.verify_flags &= ~ssl.VERIFY_X509_STRICT
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


def speaks_tls(settings: Settings) -> bool:
    """Tell whether the registry speaks TLS; one on this machine, and no other, may do without.

    Raises:
        FlopsError: it does not answer.
    """
    with _session(settings) as session:
        return _base(session, settings).startswith("https:")


def check_push(settings: Settings, side: str) -> str:
    """Ask for the right to push a side's image; returns what was found.

    A registry with a token service says what it grants. Of another an upload is begun and taken back.

    Raises:
        SettingsError: the account may not push there.
        FlopsError: the registry does not answer.
    """
    with _session(settings) as session:
        base = _base(session, settings)
        address = f"{base}/v2/{settings.project}/{side}/blobs/uploads/"
        granted = _granted(session, base, f"{settings.project}/{side}", settings)
        if granted is not None:
            if {"pull", "push"} <= granted:
                return f"may push to {settings.image(side)}"
            raise SettingsError(
                f"the account may not push to {settings.image(side)}; give the robot the rights to pull and push, "
                "and make the project if there is none"
            )
        answer = _ask(session, "POST", address, settings)
        if answer.status_code == 202:
            begun = urljoin(address, answer.headers.get("Location", ""))
            if _origin(begun) == _origin(address):
                session.delete(begun, timeout=_SECONDS)
            return f"may push to {settings.image(side)}"
    if answer.status_code in (401, 403):
        raise SettingsError(f"the account may not push to {settings.image(side)}; give the robot that right")
    if answer.status_code == 404:
        raise SettingsError(f"registry {settings.registry} has no project '{settings.project}'; make it there")
    raise FlopsError(f"registry {settings.registry}: answers an upload with HTTP status {answer.status_code}")


def layer_sizes(settings: Settings, image: ImageName) -> list[tuple[str, int]]:
    """Return an image's layers as the registry stores them, digest and bytes, compressed, the lowest first.

    Raises:
        FlopsError: the registry does not answer, or not with one image's manifest.
    """
    path = image.repository.partition("/")[2]
    with _session(settings) as session:
        address = f"{_base(session, settings)}/v2/{path}/manifests/{image.digest}"
        session.headers["Accept"] = ", ".join(_MANIFESTS)
        answer = _ask(session, "GET", address, settings)
        try:
            return [(str(layer["digest"]), int(layer["size"])) for layer in answer.json()["layers"]]
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
        except requests.exceptions.SSLError as error:
            raise FlopsError(
                f"registry {settings.registry}: its certificate is not trusted here, on this machine, whatever the "
                f"engine does; put the CA's certificate to /etc/docker/certs.d/{settings.registry}/ca.crt"
            ) from error
        except requests.RequestException as error:
            raise FlopsError(f"registry {settings.registry}: does not answer: {type(error).__name__}") from error


def _base(session: requests.Session, settings: Settings) -> str:
    """Return the registry's address. One on this machine, and no other, may speak no TLS, as the engine has it."""
    host = settings.registry.rpartition(":")[0].strip("[]") or settings.registry
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if here:
        try:
            session.head(f"https://{settings.registry}/v2/", timeout=_SECONDS)
        except requests.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                return f"http://{settings.registry}"
    return f"https://{settings.registry}"


def _ask(session: requests.Session, method: str, address: str, settings: Settings) -> Any:
    answer = session.request(method, address, timeout=_SECONDS)
    if answer.status_code == 401:
        _authenticate(session, answer.headers.get("WWW-Authenticate", ""), settings)
        answer = session.request(method, address, timeout=_SECONDS)
    return answer


def _authenticate(session: requests.Session, challenge: str, settings: Settings) -> None:
    if challenge.lower().startswith("basic"):
        session.auth = (settings.secrets.username, settings.secrets.password)
        return
    fields = dict(_FIELD.findall(challenge))
    if "realm" in fields and (token := _token(session, fields, fields.get("scope", ""), settings)):
        session.headers["Authorization"] = f"Bearer {token}"


def _granted(session: requests.Session, base: str, name: str, settings: Settings) -> set[str] | None:
    """Return what a token service lets the account do with an image; None where there is none that says it."""
    answer = session.get(f"{base}/v2/", timeout=_SECONDS)
    challenge = answer.headers.get("WWW-Authenticate", "")
    fields = dict(_FIELD.findall(challenge))
    if answer.status_code != 401 or not challenge.lower().startswith("bearer") or "realm" not in fields:
        return None
    token = _token(session, fields, f"repository:{name}:pull,push", settings)
    try:
        middle = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return {
            str(action) for one in claims["access"] or () if one["name"] == name for action in one["actions"] or ()
        }
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def _token(session: requests.Session, fields: dict[str, str], scope: str, settings: Settings) -> str:
    """Ask a token service, which the registry has named, with the account; an empty text where it says no."""
    realm = fields["realm"]
    if not realm.startswith("https://"):
        raise SettingsError(
            f"registry {settings.registry}: sends to {realm} for a token, which is without TLS, and the password "
            "does not go there; its administrator must set its external address to https://"
        )
    words = {"service": fields.get("service", ""), "scope": scope}
    account = (settings.secrets.username, settings.secrets.password) if settings.secrets.username else None
    answer = session.get(realm, params={k: v for k, v in words.items() if v}, auth=account, timeout=_SECONDS)
    if not answer.ok:
        return ""
    try:
        told = answer.json()
        return str(told.get("token") or told.get("access_token") or "")
    except (ValueError, AttributeError):
        return ""


def _origin(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    return parts.scheme, parts.netloc
