"""A CA of one's own, and certificates from it that TLS accepts."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest

from fl.errors import SettingsError
from server.certificates import check_pair


def shake_hands(tls, name):
    """Return what a client that trusts the CA says to a server with the certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls / "server.pem", tls / "server.key")
    client = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    ours, theirs = socket.socketpair()

    def serve():
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as secure:
            return secure.version()
    except ssl.SSLCertVerificationError as error:
        ours.close()
        return error.verify_message
    finally:
        thread.join(5)


def test_the_certificate_is_accepted_under_its_names_alone(flops, here):
    ended = flops("server", "certificate", "--host", "flops.example.org", "--host", "10.1.2.3", "--json")

    assert ended.json["ca"] == "tls/ca.pem"
    assert shake_hands(here / "tls", "flops.example.org").startswith("TLSv1.")
    assert shake_hands(here / "tls", "10.1.2.3").startswith("TLSv1.")
    assert "Hostname mismatch" in shake_hands(here / "tls", "other.example.org")


def test_made_again_it_comes_from_the_same_ca(flops, here):
    flops("server", "certificate", "--host", "a")
    before = {f.name: f.read_bytes() for f in (here / "tls").iterdir()}
    ended = flops("server", "certificate", "--host", "b")
    after = {f.name: f.read_bytes() for f in (here / "tls").iterdir()}

    assert ended.code == 0
    assert {name for name in before if before[name] != after[name]} == {"server.pem", "server.key"}
    assert shake_hands(here / "tls", "b").startswith("TLSv1.")


def test_keys_are_for_their_owner_alone(flops, here):
    flops("server", "certificate", "--host", "a")

    assert {f.name: oct(f.stat().st_mode & 0o777) for f in (here / "tls").iterdir()} == {
        "ca.pem": "0o644",
        "ca.key": "0o600",
        "server.pem": "0o644",
        "server.key": "0o600",
    }


@pytest.mark.parametrize("host", ["https://a", "a:8080", "a b", "", "a..b", "ü.example.org", "x" * 300])
def test_a_host_that_is_none_is_refused_and_nothing_is_written(flops, here, host):
    ended = flops("server", "certificate", "--host", host)

    assert ended.code == 2
    assert "neither a host name nor an IP address" in ended.line
    assert not (here / "tls").exists()


def test_half_a_ca_is_not_replaced(flops, here):
    flops("server", "certificate", "--host", "a")
    (here / "tls" / "ca.key").unlink()
    before = (here / "tls" / "ca.pem").read_bytes()

    ended = flops("server", "certificate", "--host", "a")

    assert ended.code == 2
    assert "must both be there" in ended.line
    assert (here / "tls" / "ca.pem").read_bytes() == before


def test_a_key_of_another_ca_is_noticed(flops, here):
    flops("server", "certificate", "--host", "a", "--out", "one")
    flops("server", "certificate", "--host", "a", "--out", "two")
    (here / "two" / "ca.key").replace(here / "one" / "ca.key")

    assert "is not the key of" in flops("server", "certificate", "--host", "a", "--out", "one").line


def test_a_folder_that_is_a_file_is_named(flops, here):
    (here / "tls").write_text("")

    assert flops("server", "certificate", "--host", "a").code == 2


def made(here, name, starts, ends):
    """Make a certificate of one's own kind and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1)
        .not_valid_before(now + timedelta(days=starts))
        .not_valid_after(now + timedelta(days=ends))
        .sign(key, hashes.SHA256())
    )
    files = here / f"{name}.pem", here / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return files


def locked(here, key):
    from cryptography.hazmat.primitives import serialization

    found = serialization.load_pem_private_key(key.read_bytes(), None)
    file = here / "locked.key"
    secret = serialization.BestAvailableEncryption(b"secret")
    file.write_bytes(found.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    return file


def test_a_pair_that_cannot_serve_is_named(here):
    certificate, key = made(here, "good", -1, 1)
    junk, missing = here / "junk", here / "missing"
    junk.write_text("junk")
    check_pair(certificate, key)
    for pair, problem in (
        ((missing, key), "--tls-cert .*missing: cannot be read: No such file"),
        ((here, key), "--tls-cert .*: cannot be read: Is a directory"),
        ((junk, key), "--tls-cert .*junk: holds no certificate in PEM format"),
        ((certificate, junk), "--tls-key .*junk: holds no private key in PEM format"),
        ((certificate, locked(here, key)), "--tls-key .*locked.key: has a passphrase"),
        ((certificate, made(here, "other", -1, 1)[1]), "--tls-key .*other.key: is not the key of .*good.pem"),
        (made(here, "old", -3, -2), "--tls-cert .*old.pem: expired on 20"),
        (made(here, "early", 1, 2), "--tls-cert .*early.pem: is not valid before 20"),
    ):
        with pytest.raises(SettingsError, match=problem):
            check_pair(*pair)


def test_a_ca_that_has_expired_signs_nothing(flops, here):
    certificate, key = made(here, "ca", -3, -2)
    ended = flops("server", "certificate", "--host", "a", "--out", here)

    assert ended.code == 2
    assert "ca.pem: the CA's certificate ends on 20" in ended.line
    assert {f.name for f in here.iterdir()} == {certificate.name, key.name}


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
def test_what_another_ca_has_made_is_kept(name, flops, here):
    (here / name).write_text("somebody's")
    ended = flops("server", "certificate", "--host", "a", "--out", here)

    assert ended.code == 2
    assert f"{name} is there, and no CA that made it" in ended.line
    assert [f.read_text() for f in here.iterdir()] == ["somebody's"]
