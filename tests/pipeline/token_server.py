"""A token service as Harbor has one: the registry sends there, and what it signs says what an account may do."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from server.certificates import CERTIFICATE, KEY

if TYPE_CHECKING:
    from pathlib import Path

SERVICE, ISSUER = "harbor-registry", "harbor-token-issuer"


class TokenServer:
    """One that runs until it is closed.

    Attributes:
        accounts: for each name its password, and what it may do in the one project that there is.
        asked: what it was asked for, without secrets.
    """

    def __init__(self, tls: Path, host: str, address: str, project: str) -> None:
        self.project, self.accounts, self.asked = project, dict[str, tuple[str, set[str]]](), list[str]()
        key = serialization.load_pem_private_key((tls / KEY).read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        self._key = key
        certificate = x509.load_pem_x509_certificate((tls / CERTIFICATE).read_bytes())
        self._chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, told = outer.answer(self.path, self.headers.get("Authorization", ""))
                content = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((address, 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / CERTIFICATE, tls / KEY)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.realm = f"https://{host}:{self._server.server_address[1]}/service/token"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        """Say who comes, and sign what of the wanted is granted; nothing is granted to nobody."""
        words, may = parse_qs(urlsplit(path).query), set[str]()
        user = ""
        if authorization:
            user, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            known = self.accounts.get(user)
            if known is None or known[0] != password:
                return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "unauthorized: wrong credentials"}]}
            may = known[1]
        granted = []
        for scope in " ".join(words.get("scope", [])).split():
            kind, name, actions = scope.split(":")
            there = name.startswith(f"{self.project}/")
            actions_granted = [one for one in actions.split(",") if one in may] if there else []
            granted.append({"type": kind, "name": name, "actions": actions_granted})
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now + 300, "nbf": now - 5, "iat": now}
        token = self._signed({**claims, "jti": str(now), "access": granted})
        return 200, {"token": token, "access_token": "", "expires_in": 300}

    def _signed(self, claims: dict[str, Any]) -> str:
        head = {"typ": "JWT", "alg": "ES256", "x5c": self._chain}
        text = ".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
        numbers = decode_dss_signature(self._key.sign(text.encode(), ECDSA(hashes.SHA256())))
        return f"{text}.{_encoded(b''.join(number.to_bytes(32, 'big') for number in numbers))}"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
