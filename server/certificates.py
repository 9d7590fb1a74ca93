"""A CA of one's own and a server certificate from it, for those who have no PKI: X.509, ECDSA P-256.

The CA's key signs again when the server's certificate ends; hospitals hold the CA's certificate and notice nothing.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl.errors import SettingsError
from fl.files import write_new

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CA_CERTIFICATE, CA_KEY, CERTIFICATE, KEY = "ca.pem", "ca.key", "server.pem", "server.key"

CA_DAYS = 3650


def make_certificates(folder: Path, hosts: Sequence[str], days: int) -> None:
    """Make a server's certificate and key, and the CA where the folder has none.

    Args:
        folder: where ``ca.pem``, ``ca.key``, ``server.pem`` and ``server.key`` are.
        hosts: names and addresses that hospitals reach the server under.
        days: how long the server's certificate is valid.

    Raises:
        SettingsError: a host is none, or the CA in the folder cannot be used.
        OSError: the folder cannot be written.
    """
    names = [_subject(host) for host in hosts]
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(hosts[0][:64]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # Clocks differ.
        .not_valid_after(min(now + timedelta(days=days), ca.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    for name in (KEY, CERTIFICATE):
        if (folder / name).is_dir():
            raise SettingsError(f"{folder / name}: is a folder; move it away")
    write_new(folder / KEY, _private(key), 0o600, replace=True)
    write_new(folder / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM), 0o644, replace=True)


def check_pair(certificate: Path, key: Path) -> None:
    """Find out whether a server can use a certificate chain and a private key, PEM files.

    Raises:
        SettingsError: one cannot be read, they do not belong together, or the certificate is not valid today.
    """
    contents = []
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"{option} {path}: cannot be read: {error.strerror}") from error
    try:
        own = x509.load_pem_x509_certificates(contents[0])[0]
    except ValueError as error:
        raise SettingsError(f"--tls-cert {certificate}: holds no certificate in PEM format") from error
    try:
        private = serialization.load_pem_private_key(contents[1], None)
    except TypeError as error:  # What cryptography raises where a passphrase is needed and none is given.
        raise SettingsError(
            f"--tls-key {key}: has a passphrase, and a job starts unattended; remove it with openssl pkey"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"--tls-key {key}: holds no private key in PEM format") from error
    if private.public_key() != own.public_key():
        raise SettingsError(f"--tls-key {key}: is not the key of the first certificate in {certificate}")
    now = datetime.now(UTC)
    if now > own.not_valid_after_utc:
        raise SettingsError(
            f"--tls-cert {certificate}: expired on {own.not_valid_after_utc:%Y-%m-%d}, and no hospital would come; "
            "make a new one from the same CA"
        )
    if now < own.not_valid_before_utc:
        raise SettingsError(
            f"--tls-cert {certificate}: is not valid before {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; is this "
            "machine's clock right?"
        )


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_file, key_file = folder / CA_CERTIFICATE, folder / CA_KEY
    if certificate_file.exists() or key_file.exists():
        try:
            found = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        except OSError as error:
            raise SettingsError(
                f"{folder}: {CA_CERTIFICATE} and {CA_KEY} must both be there and readable: {error.strerror}"
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SettingsError(
                f"{folder}: {CA_CERTIFICATE} must be a certificate and {CA_KEY} its private key without a "
                "passphrase, both in PEM format; name another --out for a new CA"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or found.public_key() != key.public_key():
            raise SettingsError(f"{key_file}: is not the key of {certificate_file}")
        if datetime.now(UTC) + timedelta(days=1) > found.not_valid_after_utc:
            raise SettingsError(
                f"{certificate_file}: the CA's certificate ends on {found.not_valid_after_utc:%Y-%m-%d}; name "
                "another --out for a new CA, and give its ca.pem to the hospitals"
            )
        return found, key
    foreign = [name for name in (CERTIFICATE, KEY) if (folder / name).exists()]
    if foreign:
        raise SettingsError(
            f"{folder}: {' and '.join(foreign)} is there, and no CA that made it; name another --out, or move it away"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    now, name = datetime.now(UTC), _name("FLOps federation CA")
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_new(key_file, _private(key), 0o600)
    write_new(certificate_file, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return made, key


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _subject(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
    if len(host) > 253 or not all(
        label and len(label) < 64 and label.replace("-", "").isalnum() and label.isascii() for label in labels
    ):
        raise SettingsError(f"--host '{host}': neither a host name nor an IP address")
    return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
