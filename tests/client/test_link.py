"""How a node reaches a server, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client.link import Link, ServerGone
from server.certificates import CA_CERTIFICATE, make_certificates

if TYPE_CHECKING:
    from pathlib import Path

KEY = ec.generate_private_key(ec.SECP384R1())


@pytest.fixture
def torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's certificates cannot be read, as while a package renews them."""
    torn = tmp_path / "ca-certificates.crt"
    torn.write_text("-----BEGIN CERTIFICATE-----\nMIIH0zCCBbu")
    monkeypatch.setenv("SSL_CERT_FILE", str(torn))


@pytest.mark.usefixtures("torn")
def test_with_a_ca_of_its_own_a_link_needs_none_of_the_systems(tmp_path: Path) -> None:
    make_certificates(tmp_path / "tls", ("localhost",), 1)
    link = Link("127.0.0.1:1", KEY, (tmp_path / "tls" / CA_CERTIFICATE).read_bytes())
    with pytest.raises(ServerGone, match="refused"):
        link.join()
    link.leave()


@pytest.mark.usefixtures("torn")
def test_the_systems_certificates_that_cannot_be_read_now_are_a_reason_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise OSError("torn")

    monkeypatch.setattr("client.link.ssl.create_default_context", fail)
    with pytest.raises(ServerGone, match="the system's certificates cannot be read: torn"):
        Link("127.0.0.1:1", KEY, None)
