"""May the account push? Asked by beginning an upload and taking it back: nothing is left in the registry."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import requests

from fl.errors import FlopsError, SettingsError

if TYPE_CHECKING:
    from pipeline.settings import Settings

_SECONDS = 15
_FIELD = re.compile(r'(\w+)="([^"]*)"')
TRUSTED = Path("/etc/docker/certs.d")
"""Where Docker Engine keeps the CAs that it trusts for one registry."""


def check_push(settings: Settings, side: str) -> str:
    """Begin an upload of a side's image and take it back; returns what was found.

    The protocol is that of the OCI distribution specification, with a token or basic authentication, as the registry
    asks for it.

    Raises:
        SettingsError: the account may not push there.
        FlopsError: the registry does not answer.
    """
    address = f"https://{settings.registry}/v2/{settings.project}/{side}/blobs/uploads/"
    with requests.Session() as session:
        # Not what ~/.netrc says, which requests would take.
        session.trust_env = False
        certificate = TRUSTED / settings.registry / "ca.crt"
        session.verify = str(certificate) if certificate.exists() else True
        try:
            answer = session.post(address, timeout=_SECONDS)
            if answer.status_code == 401:
                _authenticate(session, answer.headers.get("WWW-Authenticate", ""), settings)
                answer = session.post(address, timeout=_SECONDS)
            if answer.status_code == 202:
                upload = urljoin(address, answer.headers.get("Location", ""))
                session.delete(upload, timeout=_SECONDS)
                return f"may push to {settings.image(side)}"
        except requests.RequestException as error:
            raise FlopsError(f"registry {settings.registry}: does not answer: {type(error).__name__}") from error
    if answer.status_code in (401, 403):
        raise SettingsError(f"the account may not push to {settings.image(side)}; give the robot that right")
    if answer.status_code == 404:
        raise SettingsError(f"registry {settings.registry} has no project '{settings.project}'; make it there")
    raise FlopsError(f"registry {settings.registry}: answers an upload with HTTP status {answer.status_code}")


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
